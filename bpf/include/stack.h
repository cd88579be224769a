/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Flows that the node's stack translates (FLOW_STACK), for TC: kept up while their packets pass, learned
 * where a packet is left to the stack that may be in the middle of a flow. Reads and writes flows4, flows6.
 * The agent imports the others from the kernel's conntrack; docs/decisions/0012-taking-over.md says how.
 */
#ifndef NETACCEL_STACK_H
#define NETACCEL_STACK_H

#include "lb.h"

/* Both halves hear of a packet: the reverse one keeps our own flows off the tuple of the answers. */
static __always_inline void stack_touch(int family, struct tuple *t, struct flow *f, __u8 state, __u32 now)
{
	struct tuple other;
	struct flow *found;

	f->state = state;
	f->repaired = now;
	flow_other_tuple(family, t, f, &other);
	found = flow_find(family, &other, FLOW_REVERSE);
	if (found && flow_is_pair(family, t, found)) {
		found->state = state;
		found->seen = now;
	}
}

static __noinline int stack_touch4(struct tuple *t, struct flow *f, __u8 state, __u32 now)
{
	if (!t || !f)
		return 0;
	stack_touch(AF_INET, t, f, state, now);
	return 0;
}

static __noinline int stack_touch6(struct tuple *t, struct flow *f, __u8 state, __u32 now)
{
	if (!t || !f)
		return 0;
	stack_touch(AF_INET6, t, f, state, now);
	return 0;
}

/* For each packet of a known flow of the stack, in the forward direction; the other one is not seen. */
static __always_inline void stack_track(int family, struct packet *p, struct lb *lb)
{
	struct flow *f = lb->flow;
	__u8 state = flow_next_state(f->state, p, FLOW_FORWARD);

	if (p->tuple.proto == IPPROTO_TCP && IS_TCP_SYN(p->tcp_flags))
		return; /* so that SYNs alone don't keep it */
	f->seen = lb->now;
	if (state == f->state && lb->now - f->repaired <= settings.hz)
		return;
	if (family == AF_INET)
		stack_touch4(&p->tuple, f, state, lb->now);
	else
		stack_touch6(&p->tuple, f, state, lb->now);
}

/* The stack takes the packet: a flow of ours that has ended must not catch those that follow. What is neither
 * a SYN nor in the middle of a TCP connection is remembered as the stack's, for as long as it sends. */
static __always_inline void stack_begin(int family, struct tuple *t, const struct frontend *fe,
					__u8 tcp_flags, __u32 now)
{
	struct flow *old = flow_find(family, t, FLOW_FORWARD), *fresh;
	struct tuple other;
	__u32 zero = 0;

	if (old) {
		flow_evict_other(family, t, FLOW_FORWARD, old, &other);
		flow_delete(family, t, FLOW_FORWARD);
	}
	if (fe->flags & FRONTEND_DRAIN || (t->proto == IPPROTO_TCP && !(tcp_flags & TCP_SYN)))
		return;
	fresh = bpf_map_lookup_elem(&flow_scratch, &zero);
	if (!fresh || !flow_admitted(now))
		return;
	__builtin_memset(fresh, 0, sizeof(*fresh));
	flow_set_addresses(family, fresh, &t->src, &t->dst); /* what the stack makes of it isn't known */
	fresh->new_sport = t->sport;
	fresh->new_dport = t->dport;
	fresh->service = fe->service;
	fresh->seen = now;
	fresh->repaired = now;
	fresh->state = flow_first_state(t->proto, tcp_flags);
	fresh->flags = FLOW_STACK;
	fresh->path = PATH_STACK;
	flow_store(family, t, FLOW_FORWARD, fresh, BPF_NOEXIST);
}

static __noinline int stack_begin4(struct tuple *t, const struct frontend *fe, __u8 tcp_flags, __u32 now)
{
	if (!t || !fe)
		return 0;
	stack_begin(AF_INET, t, fe, tcp_flags, now);
	return 0;
}

static __noinline int stack_begin6(struct tuple *t, const struct frontend *fe, __u8 tcp_flags, __u32 now)
{
	if (!t || !fe)
		return 0;
	stack_begin(AF_INET6, t, fe, tcp_flags, now);
	return 0;
}

static __always_inline void stack_yield(int family, struct packet *p, struct lb *lb)
{
	if (family == AF_INET)
		stack_begin4(&p->tuple, lb->frontend, p->tcp_flags, lb->now);
	else
		stack_begin6(&p->tuple, lb->frontend, p->tcp_flags, lb->now);
}

#endif
