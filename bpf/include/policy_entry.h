/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Entries of flows at pods' devices: by their keys, and what packets make of them. Reads and writes
 * policy_flows4, policy_flows6.
 */
#ifndef NETACCEL_POLICY_ENTRY_H
#define NETACCEL_POLICY_ENTRY_H

#include "parse.h"
#include "policy.h"

#define POLICY_KEY4_WORDS 5
#define POLICY_KEY6_WORDS 11
_Static_assert(sizeof(struct policy_flow4_key) == POLICY_KEY4_WORDS * sizeof(__u32), "key of policy_flows4");
_Static_assert(sizeof(struct policy_flow6_key) == POLICY_KEY6_WORDS * sizeof(__u32), "key of policy_flows6");

/* Written in whole words, as struct tuple says why. */
static __always_inline void policy_key(int family, const struct tuple *t, __u8 direction, __u32 ifindex,
				       __u32 *key)
{
	const struct addr *pod = direction == POLICY_EGRESS ? &t->src : &t->dst;
	const struct addr *peer = direction == POLICY_EGRESS ? &t->dst : &t->src;
	__be16 pod_port = direction == POLICY_EGRESS ? t->sport : t->dport;
	__be16 peer_port = direction == POLICY_EGRESS ? t->dport : t->sport;

	if (family == AF_INET) {
		key[0] = pod->w[3];
		key[1] = peer->w[3];
		key += 2;
	} else {
		__builtin_memcpy(key, pod, ADDR_LEN);
		__builtin_memcpy(key + 4, peer, ADDR_LEN);
		key += 8;
	}
	key[0] = HALVES(pod_port, peer_port);
	key[1] = HALVES(BYTES(t->proto, 0), 0);
	key[2] = ifindex;
}

static __always_inline struct policy_flow *policy_find(int family, const struct tuple *t, __u8 direction,
						       __u32 ifindex)
{
	if (family == AF_INET) {
		__u32 key[POLICY_KEY4_WORDS];

		policy_key(family, t, direction, ifindex, key);
		return bpf_map_lookup_elem(&policy_flows4, key);
	}
	__u32 key[POLICY_KEY6_WORDS];

	policy_key(family, t, direction, ifindex, key);
	return bpf_map_lookup_elem(&policy_flows6, key);
}

/* As policy_find(); the key stays in the case, for which stacks are too short. */
static __always_inline struct policy_flow *policy_find_case(int family, const struct tuple *t, __u8 direction,
							    struct policy_case *c)
{
	void *map = family == AF_INET ? (void *)&policy_flows4 : (void *)&policy_flows6;

	policy_key(family, t, direction, c->ifindex, c->key);
	return bpf_map_lookup_elem(map, c->key);
}

/* Puts c->flow under the case's key. */
static __always_inline void policy_put(int family, const struct policy_case *c)
{
	void *map = family == AF_INET ? (void *)&policy_flows4 : (void *)&policy_flows6;

	if (!bpf_map_update_elem(map, c->key, &c->flow, BPF_NOEXIST))
		count(family == AF_INET ? COUNTER_POLICY4_INSERT : COUNTER_POLICY6_INSERT);
	else
		bpf_map_update_elem(map, c->key, &c->flow, BPF_ANY);
}

/* ----------------------------------------------------------- states and times */

/* Jiffies without a packet after which the entry means nothing. */
static __always_inline __u32 policy_timeout(const struct policy_flow *f, __u8 proto)
{
	__u32 seconds = f->state == POLICY_FLOW_CLOSING ? settings.closing_timeout : settings.closed_timeout;

	if (f->state == POLICY_FLOW_ESTABLISHED)
		seconds = proto == IPPROTO_TCP ? settings.established_timeout : settings.udp_timeout;
	else if (f->state == POLICY_FLOW_NEW)
		seconds = proto == IPPROTO_TCP ? settings.syn_timeout : settings.unreplied_timeout;
	return seconds * settings.hz;
}

static __always_inline int policy_expired(const struct policy_flow *f, __u8 proto, __u32 now)
{
	__s32 age = now - f->seen; /* signed, as another CPU's clock may be a jiffy ahead */

	return age > (__s32)settings.hz && age > (__s32)policy_timeout(f, proto);
}

/* A SYN that is not a copy of the one that opened it: another connection, to be judged as such. */
static __always_inline int policy_begins_anew(const struct policy_flow *f, const struct packet *p,
					      __u8 direction)
{
	return IS_TCP_SYN(p->tcp_flags) && (direction != f->direction || f->state >= POLICY_FLOW_CLOSING ||
					    f->flags & (POLICY_FLOW_EITHER | POLICY_FLOW_DENIED));
}

/* The answer of a Reject, on its way. */
static __always_inline int policy_is_answer(const struct policy_flow *f, const struct packet *p,
					    __u8 direction)
{
	return f->flags & POLICY_FLOW_REJECTED && p->tcp_flags & TCP_RST &&
	       (direction != f->direction || f->flags & POLICY_FLOW_DENIED);
}

static __always_inline void policy_track(struct policy_flow *f, const struct packet *p, __u8 direction)
{
	__u8 both = POLICY_FLOW_FIN_POD | POLICY_FLOW_FIN_PEER;

	if (p->tcp_flags & TCP_RST) {
		f->state = POLICY_FLOW_CLOSED;
	} else if (p->tcp_flags & TCP_FIN) {
		f->flags |= direction == POLICY_EGRESS ? POLICY_FLOW_FIN_POD : POLICY_FLOW_FIN_PEER;
		if (f->state < POLICY_FLOW_CLOSED)
			f->state = (f->flags & both) == both ? POLICY_FLOW_CLOSED : POLICY_FLOW_CLOSING;
	} else if (f->state == POLICY_FLOW_NEW && direction != f->direction) {
		f->state = POLICY_FLOW_ESTABLISHED;
	}
}

static __always_inline void policy_account(struct policy_flow *f, __u8 direction, __u32 packets, __u32 bytes)
{
	if (direction == POLICY_EGRESS) {
		__sync_fetch_and_add(&f->sent_packets, packets);
		__sync_fetch_and_add(&f->sent_bytes, bytes);
	} else {
		__sync_fetch_and_add(&f->received_packets, packets);
		__sync_fetch_and_add(&f->received_bytes, bytes);
	}
}

#endif
