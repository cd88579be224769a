/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Conntrack: the two halves of a translated flow. Reads and writes flows4, flows6, limiter.
 *
 * Each half says what its packets become, so either rebuilds the other: the halves live in an LRU map,
 * which may evict one of them. Times are the low 32 bits of jiffies.
 */
#ifndef NETACCEL_FLOW_H
#define NETACCEL_FLOW_H

#include <stddef.h>
#include "backend.h"
#include "count.h"
#include "maps.h"
#include "packet.h"
#include "parse.h"
#include "settings.h"

/* 0 where both are the same; no branches, which the verifier would follow one by one. */
static __always_inline __u32 addr_differs(int family, const struct addr *a, const struct addr *b)
{
	if (family == AF_INET)
		return a->w[3] ^ b->w[3];
	return (a->w[0] ^ b->w[0]) | (a->w[1] ^ b->w[1]) | (a->w[2] ^ b->w[2]) | (a->w[3] ^ b->w[3]);
}

static __always_inline int addr_equal(int family, const struct addr *a, const struct addr *b)
{
	return !addr_differs(family, a, b);
}

/* -------------------------------------------------------------------- entries */

/* Key of flows4: the words of struct flow4_key. */
#define FLOW4_KEY(t, direction)                                                                              \
	{                                                                                                    \
		(t)->src.w[3], (t)->dst.w[3], HALVES((t)->sport, (t)->dport),                                \
			HALVES(BYTES((t)->proto, direction), 0)                                              \
	}
_Static_assert(sizeof(struct flow4_key) == 4 * sizeof(__u32), "key of flows4");
_Static_assert(sizeof(struct flow6_key) == sizeof(struct tuple), "key of flows6");

static __always_inline struct flow *flow_find(int family, struct tuple *t, __u8 direction)
{
	__u32 key[] = FLOW4_KEY(t, direction);

	if (family == AF_INET)
		return bpf_map_lookup_elem(&flows4, key);
	tuple_set_direction(t, direction);
	return bpf_map_lookup_elem(&flows6, t);
}

/* bpf_map_update_elem's result; counts what BPF_NOEXIST added. */
static __always_inline long flow_store(int family, struct tuple *t, __u8 direction, const struct flow *f,
				       __u64 flags)
{
	__u32 key[] = FLOW4_KEY(t, direction);
	long err;

	if (family == AF_INET) {
		err = bpf_map_update_elem(&flows4, key, f, flags);
	} else {
		tuple_set_direction(t, direction);
		err = bpf_map_update_elem(&flows6, t, f, flags);
	}
	if (!err && flags == BPF_NOEXIST)
		count(family == AF_INET ? COUNTER_FLOW4_INSERT : COUNTER_FLOW6_INSERT);
	return err;
}

static __always_inline void flow_delete(int family, struct tuple *t, __u8 direction)
{
	__u32 key[] = FLOW4_KEY(t, direction);
	long err;

	if (family == AF_INET) {
		err = bpf_map_delete_elem(&flows4, key);
	} else {
		tuple_set_direction(t, direction);
		err = bpf_map_delete_elem(&flows6, t);
	}
	if (!err)
		count(family == AF_INET ? COUNTER_FLOW4_DELETE : COUNTER_FLOW6_DELETE);
}

/* ------------------------------------------------------------- the other half */

_Static_assert(offsetof(struct flow, new_src) == offsetof(struct flow4, new_src), "flow4 is no flow");
_Static_assert(sizeof(struct flow4) == 64, "flow4 is more than a cache line");

#define FLOW_SIZE(family) ((family) == AF_INET ? sizeof(struct flow4) : sizeof(struct flow))

/* The addresses that packets of *f get. */
static __always_inline void flow_addresses(int family, const struct flow *f, struct addr *src,
					   struct addr *dst)
{
	if (family == AF_INET) {
		addr_from_v4(src, ((const struct flow4 *)f)->new_src);
		addr_from_v4(dst, ((const struct flow4 *)f)->new_dst);
	} else {
		__builtin_memcpy(src, f->new_src, ADDR_LEN);
		__builtin_memcpy(dst, f->new_dst, ADDR_LEN);
	}
}

static __always_inline void flow_set_addresses(int family, struct flow *f, const struct addr *src,
					       const struct addr *dst)
{
	if (family == AF_INET) {
		((struct flow4 *)f)->new_src = src->w[3];
		((struct flow4 *)f)->new_dst = dst->w[3];
	} else {
		__builtin_memcpy(f->new_src, src, ADDR_LEN);
		__builtin_memcpy(f->new_dst, dst, ADDR_LEN);
	}
}

/* The key of the other half: packets that answer what *t is translated to. */
static __always_inline void flow_other_tuple(int family, const struct tuple *t, const struct flow *f,
					     struct tuple *other)
{
	flow_addresses(family, f, &other->dst, &other->src);
	other->sport = f->new_dport;
	other->dport = f->new_sport;
	other->proto = t->proto;
	other->direction = 0;
	other->pad = 0;
}

/* Turns the value of the half that is found under *t into the value of the other half, whose packets become
 * answers to *t. Done again with the other half's tuple, it turns back. */
static __always_inline void flow_turn(int family, const struct tuple *t, struct flow *f)
{
	flow_set_addresses(family, f, &t->dst, &t->src);
	f->new_sport = t->dport;
	f->new_dport = t->sport;
}

/* 1 where `other`, found under the key of the other half, answers *t and nothing else. */
static __always_inline int flow_is_pair(int family, const struct tuple *t, const struct flow *other)
{
	const struct flow4 *other4 = (const struct flow4 *)other;
	__u32 differs = (other->new_sport ^ t->dport) | (other->new_dport ^ t->sport);

	if (family == AF_INET)
		return !(differs | (other4->new_src ^ t->dst.w[3]) | (other4->new_dst ^ t->src.w[3]));
	return !(differs | addr_differs(family, (const struct addr *)other->new_src, &t->dst) |
		 addr_differs(family, (const struct addr *)other->new_dst, &t->src));
}

/* ----------------------------------------------------------- states and times */

/* Jiffies without a packet after which the entry means nothing. */
static __always_inline __u32 flow_timeout(__u8 state, __u8 proto)
{
	__u32 seconds = state >= FLOW_CLOSED ? settings.closed_timeout : settings.closing_timeout;

	if (state == FLOW_ESTABLISHED)
		seconds = proto == IPPROTO_TCP ? settings.established_timeout : settings.udp_timeout;
	else if (state < FLOW_ESTABLISHED)
		seconds = state == FLOW_SYN ? settings.syn_timeout : settings.unreplied_timeout;
	return seconds * settings.hz;
}

static __always_inline int flow_expired(const struct flow *f, __u8 proto, __u32 now)
{
	/* Signed: another CPU may have seen a packet a jiffy later than this one read its clock. */
	return (__s32)(now - f->seen) > (__s32)flow_timeout(f->state, proto);
}

/* The state of a flow whose first packet this is. A flow that was forgotten starts in the middle. */
static __always_inline __u8 flow_first_state(__u8 proto, __u8 tcp_flags)
{
	if (proto != IPPROTO_TCP)
		return FLOW_UNREPLIED;
	if (tcp_flags & TCP_RST)
		return FLOW_RESET;
	if (tcp_flags & TCP_FIN)
		return FLOW_FIN_FORWARD;
	return tcp_flags & TCP_SYN ? FLOW_SYN : FLOW_ESTABLISHED;
}

static __always_inline __u8 flow_state_after_fin(__u8 state, __u8 direction)
{
	__u8 own = direction == FLOW_FORWARD ? FLOW_FIN_FORWARD : FLOW_FIN_REVERSE;

	if (state < FLOW_FIN_FORWARD || state == own)
		return own;
	return state < FLOW_CLOSED ? FLOW_CLOSED : state;
}

static __always_inline __u8 flow_next_state(__u8 state, const struct packet *p, __u8 direction)
{
	if (p->tuple.proto != IPPROTO_TCP)
		return direction == FLOW_REVERSE && state == FLOW_UNREPLIED ? FLOW_ESTABLISHED : state;
	if (p->tcp_flags & (TCP_RST | TCP_FIN | TCP_SYN)) {
		if (p->tcp_flags & TCP_RST)
			return FLOW_RESET;
		return p->tcp_flags & TCP_FIN ? flow_state_after_fin(state, direction) : state;
	}
	return direction == FLOW_FORWARD && state == FLOW_SYN ? FLOW_ESTABLISHED : state;
}

/* The other half hears of a new state and of recent traffic, and comes back if it was evicted. */
static __always_inline int flow_sync(int family, struct tuple *t, __u8 direction, struct flow *f, __u8 state,
				     __u32 now)
{
	struct flow *found, lost;
	struct tuple other;

	flow_other_tuple(family, t, f, &other);
	found = flow_find(family, &other, !direction);
	if (found) {
		if (!flow_is_pair(family, t, found))
			return DROP_FLOW_CLASH; /* evicted, and its tuple given to another flow */
		found->state = state;
		found->seen = now;
	} else {
		__builtin_memcpy(&lost, f, FLOW_SIZE(family));
		flow_turn(family, t, &lost);
		lost.hop_ifindex = 0;
		lost.state = state;
		lost.repaired = now;
		if (flow_store(family, &other, !direction, &lost, BPF_NOEXIST))
			return 0; /* next time */
		count(COUNTER_FLOW_REPAIRED);
	}
	f->state = state;
	f->repaired = now;
	return 0;
}

static __noinline int flow_sync4(struct tuple *t, __u8 direction, struct flow *f, __u8 state, __u32 now)
{
	if (!t || !f)
		return 0;
	return flow_sync(AF_INET, t, direction, f, state, now);
}

static __noinline int flow_sync6(struct tuple *t, __u8 direction, struct flow *f, __u8 state, __u32 now)
{
	if (!t || !f)
		return 0;
	return flow_sync(AF_INET6, t, direction, f, state, now);
}

/* For each packet of a known flow: its time and state, and the other half where that changes or once a
 * second. 0 or a drop reason. */
static __always_inline int flow_track(int family, struct packet *p, __u8 direction, struct flow *f, __u32 now)
{
	__u8 state = flow_next_state(f->state, p, direction);

	if (f->seen != now)
		f->seen = now;
	if (state == f->state && now - f->repaired <= settings.hz)
		return 0;
	if (family == AF_INET) {
		struct tuple t = p->tuple; /* a copy, so that the packet itself stays in registers */

		return flow_sync4(&t, direction, f, state, now);
	}
	return flow_sync6(&p->tuple, direction, f, state, now);
}

/* A reset that we answer ourselves: the pair stays for a while, so that late packets are reset too. */
static __always_inline void flow_end(int family, struct tuple *t, __u8 direction, struct flow *f)
{
	struct tuple other;
	struct flow *found;

	f->state = FLOW_RESET;
	flow_other_tuple(family, t, f, &other);
	found = flow_find(family, &other, !direction);
	if (found && flow_is_pair(family, t, found))
		found->state = FLOW_RESET;
}

/* -------------------------------------------------------------------- opening */

/* 1 where this CPU may open one more flow in this jiffy. */
static __always_inline int flow_admitted(__u32 now)
{
	__u32 zero = 0;
	struct limiter *l;

	if (!settings.new_flows_per_tick)
		return 1;
	l = bpf_map_lookup_elem(&limiter, &zero);
	if (!l)
		return 0;
	if (l->tick != now) {
		l->tick = now;
		l->admitted = 0;
	}
	return l->admitted++ < settings.new_flows_per_tick;
}

#endif
