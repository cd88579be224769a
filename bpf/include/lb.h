/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The load balancer's decision, the same for XDP and TC. Reads maps, writes none: a program that can't
 * carry the decision out leaves no trace, and the next one decides again.
 */
#ifndef NETACCEL_LB_H
#define NETACCEL_LB_H

#include "backend.h"
#include "flow.h"
#include "frontend.h"
#include "snat.h"

enum lb_source {
	LB_WIRE, /* from outside the node */
	LB_POD,  /* from a pod of this node */
};

enum lb_action {
	LB_PASS,   /* not ours */
	LB_DROP,   /* silently, for lb->reason */
	LB_REFUSE, /* answer the client, for lb->reason */
	LB_FLOW,   /* lb->flow translates it, in lb->direction */
	LB_OPEN,   /* lb->fresh will, once lb_open() has stored it; it replaces lb->flow if that is there */
	LB_STACK,  /* the stack translates it: lb->flow says so */
	LB_YIELD,  /* the stack may have it; lb->flow, if that is there, is over */
};

struct lb {
	struct flow *flow;
	const struct frontend *frontend;
	__u32 reason;
	__u32 now;
	__u8 direction;
	struct flow *fresh;
};

static __always_inline const struct addr *node_addr(int family)
{
	__u32 zero = 0;
	struct node *n = bpf_map_lookup_elem(&node, &zero);

	if (!n)
		return NULL;
	return (const struct addr *)(family == AF_INET ? n->addr4 : n->addr6);
}

static __always_inline int addr_is_zero(int family, const struct addr *a)
{
	return family == AF_INET ? !a->w[3] : !(a->w[0] | a->w[1] | a->w[2] | a->w[3]);
}

/* Answers of remote backends, and of a pod to itself, come to a port of the SNAT range of the node. */
static __always_inline struct flow *lb_reply(int family, enum lb_source source, struct tuple *t)
{
	const struct addr *self;
	struct flow *f;

	if (!snat_is_port(t->dport))
		return NULL;
	self = node_addr(family);
	if (!self || !addr_equal(family, self, &t->dst))
		return NULL;
	f = flow_find(family, t, FLOW_REVERSE);
	if (!f || !(f->flags & FLOW_SNAT) || !!(f->flags & FLOW_FROM_POD) != (source == LB_POD))
		return NULL;
	return f;
}

/* A flow that was the stack's before we came. LB_OPEN: its tuple is free for a flow of ours. */
static __always_inline int lb_stack(const struct packet *p, const struct lb *lb)
{
	const struct flow *f = lb->flow;
	int syn = p->tuple.proto == IPPROTO_TCP && IS_TCP_SYN(p->tcp_flags);

	if (p->tuple.proto == IPPROTO_TCP && !syn)
		return LB_STACK;
	if (flow_expired(f, p->tuple.proto, lb->now))
		return LB_OPEN;
	/* A SYN that follows another packet at once is a copy, late on its way; else the client starts anew.
	 */
	if (syn && f->state != FLOW_SYN &&
	    (f->state >= FLOW_FIN_FORWARD || (__s32)(lb->now - f->seen) > (__s32)settings.hz))
		return LB_OPEN;
	return LB_STACK;
}

/* 1 where a packet that no flow is known of goes to the stack: all of them while we drain; while we take over
 * those that may be in the middle of something. A SYN with an ACK answers a connection that the node opened
 * from this port (a masquerade may choose any): nobody sends one to a Service. */
static __always_inline int lb_yields(const struct packet *p, const struct frontend *fe)
{
	int tcp = p->tuple.proto == IPPROTO_TCP;

	if (tcp && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK))
		return 1;
	if (fe->flags & FRONTEND_TAKEOVER)
		return !(tcp && IS_TCP_SYN(p->tcp_flags));
	return fe->flags & FRONTEND_DRAIN;
}

/* What becomes of a packet whose flow is known. LB_OPEN: choose a backend anew. */
static __always_inline int lb_established(const struct packet *p, struct lb *lb)
{
	const struct flow *f = lb->flow;
	struct backend *be = backend_find(f->backend, f->generation);
	int opens = p->tuple.proto != IPPROTO_TCP || IS_TCP_SYN(p->tcp_flags);

	if (!be) {
		if (f->flags & FLOW_STACK) /* such flows name no backend, so that others don't pay for this */
			return lb_stack(p, lb);
		lb->reason = DROP_BACKEND_GONE;
		return opens ? LB_OPEN : LB_REFUSE;
	}
	if (!opens)
		return LB_FLOW;
	if (flow_expired(f, p->tuple.proto, lb->now))
		return LB_OPEN;
	/* A SYN where the last connection has ended, or never began and its backend is leaving. */
	if (p->tuple.proto == IPPROTO_TCP &&
	    (f->state >= FLOW_FIN_FORWARD || (f->state == FLOW_SYN && be->state != BACKEND_ACTIVE)))
		return LB_OPEN;
	return LB_FLOW;
}

static __always_inline struct backend *lb_choose(int family, enum lb_source source, const struct tuple *t,
						 const struct frontend *fe, __u32 *id)
{
	__u32 offset = source == LB_POD ? fe->pod_offset : fe->wire_offset;
	__u32 length = source == LB_POD ? fe->pod_length : fe->wire_length;
	int local_only = fe->flags & (source == LB_POD ? FRONTEND_POD_LOCAL : FRONTEND_WIRE_LOCAL);
	struct backend *be;

	if (!length)
		return NULL;
	if (fe->flags & FRONTEND_AFFINITY) {
		struct affinity_key key = { .service = fe->service };

		__builtin_memcpy(key.client, &t->src, ADDR_LEN);
		be = backend_affine(fe, &key, local_only, id);
		if (be)
			return be;
	}
	return backend_at(offset, length, tuple_hash(family, t), id);
}

#define LB_SAYS(action, reason) ((action) | (reason) << 8)

/* Chooses a backend for packets of the tuple in tuple_scratch, and fills flow_scratch. LB_SAYS(LB_OPEN, 0),
 * or why not. */
static __always_inline __u32 lb_new(int family, enum lb_source source, const struct frontend *fe,
				    __u8 tcp_flags, __u32 now)
{
	int silent = fe->flags & (source == LB_POD ? FRONTEND_POD_DROP : FRONTEND_WIRE_DROP);
	int empty = !(source == LB_POD ? fe->pod_length : fe->wire_length);
	__u32 zero = 0, id = 0;
	const struct tuple *t = bpf_map_lookup_elem(&tuple_scratch, &zero);
	struct flow *fresh = bpf_map_lookup_elem(&flow_scratch, &zero);
	const struct addr *self, *to;
	struct backend *be;

	if (!t || !fresh)
		return LB_SAYS(LB_DROP, DROP_FLOW_TABLE);
	if (empty && silent)
		return LB_SAYS(LB_DROP, DROP_NO_LOCAL_BACKEND);
	be = lb_choose(family, source, t, fe, &id);
	if (!be)
		return LB_SAYS(LB_REFUSE, DROP_NO_BACKEND);
	to = (const struct addr *)be->addr;
	__builtin_memset(fresh, 0, sizeof(*fresh));
	flow_set_addresses(family, fresh, &t->src, to);
	fresh->new_sport = t->sport;
	fresh->new_dport = be->port;
	fresh->service = fe->service;
	fresh->backend = id;
	fresh->generation = be->generation;
	fresh->seen = now;
	fresh->repaired = now;
	fresh->state = flow_first_state(t->proto, tcp_flags);
	fresh->flags = be->flags & BACKEND_LOCAL ? FLOW_LOCAL : 0;
	if (source == LB_POD) {
		fresh->flags |= FLOW_FROM_POD;
		if (!addr_equal(family, to, &t->src))
			return LB_SAYS(LB_OPEN, 0);
		fresh->flags |= FLOW_HAIRPIN;
	} else if (fresh->flags & FLOW_LOCAL) {
		return LB_SAYS(LB_OPEN, 0);
	}
	self = node_addr(family);
	if (!self || addr_is_zero(family, self))
		return LB_SAYS(LB_DROP, DROP_NO_ROUTE);
	flow_set_addresses(family, fresh, self, to);
	fresh->flags |= FLOW_SNAT;
	return LB_SAYS(LB_OPEN, 0);
}

/* Frames of their own: the stack of the way that established flows take stays short. */
static __noinline __u32 lb_new4(enum lb_source source, const struct frontend *fe, __u8 tcp_flags, __u32 now)
{
	return lb_new(AF_INET, source, fe, tcp_flags, now);
}

static __noinline __u32 lb_new6(enum lb_source source, const struct frontend *fe, __u8 tcp_flags, __u32 now)
{
	return lb_new(AF_INET6, source, fe, tcp_flags, now);
}

static __always_inline int lb_renew(int family, enum lb_source source, const struct packet *p, struct lb *lb)
{
	__u32 zero = 0, says;
	struct tuple *t = bpf_map_lookup_elem(&tuple_scratch, &zero);

	lb->fresh = bpf_map_lookup_elem(&flow_scratch, &zero);
	lb->reason = DROP_FLOW_TABLE;
	if (!t || !lb->fresh)
		return LB_DROP;
	*t = p->tuple;
	says = family == AF_INET ? lb_new4(source, lb->frontend, p->tcp_flags, lb->now)
				 : lb_new6(source, lb->frontend, p->tcp_flags, lb->now);
	lb->reason = says >> 8;
	return says & 0xff;
}

/* A TCP or UDP packet with its ports. */
static __always_inline int lb_decide(int family, enum lb_source source, struct packet *p, struct lb *lb)
{
	int action;

	lb->fresh = NULL; /* what is not set, kernels before 6.3 don't let us copy */
	lb->frontend = NULL;
	lb->direction = FLOW_REVERSE;
	lb->flow = lb_reply(family, source, &p->tuple);
	if (lb->flow) {
		lb->now = jiffies_now();
		return LB_FLOW;
	}
	lb->frontend = frontend_find(family, &p->tuple.dst, p->tuple.dport, p->tuple.proto);
	if (!lb->frontend)
		return LB_PASS;
	lb->now = jiffies_now();
	lb->direction = FLOW_FORWARD;
	if (!frontend_admits(lb->frontend, &p->tuple.src)) {
		lb->reason = DROP_SOURCE_RANGE;
		return LB_DROP;
	}
	lb->flow = flow_find(family, &p->tuple, FLOW_FORWARD);
	if (lb->flow) {
		action = lb_established(p, lb);
		if (action != LB_OPEN)
			return action;
	}
	if (lb_yields(p, lb->frontend))
		return LB_YIELD;
	return lb_renew(family, source, p, lb);
}

/* The client of the flow that is in the scratch maps keeps its backend. */
static __noinline int lb_remember(void)
{
	__u32 zero = 0;
	const struct tuple *t = bpf_map_lookup_elem(&tuple_scratch, &zero);
	const struct flow *fresh = bpf_map_lookup_elem(&flow_scratch, &zero);
	struct affinity_key key = {};

	if (!t || !fresh)
		return -1;
	key.service = fresh->service;
	__builtin_memcpy(key.client, &t->src, ADDR_LEN);
	backend_remember(&key, fresh->backend, fresh->generation);
	return 0;
}

/* Stores what lb_decide() chose. 0 or a drop reason. */
static __always_inline int lb_open(int family, struct lb *lb, enum flow_path path)
{
	int reason;

	lb->fresh->path = path;
	reason = family == AF_INET ? flow_open4() : flow_open6();
	if (!reason && lb->frontend->flags & FRONTEND_AFFINITY)
		lb_remember();
	return reason;
}

#endif
