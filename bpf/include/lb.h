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

/* What becomes of a packet whose flow is known. LB_OPEN: choose a backend anew. */
static __always_inline int lb_established(const struct packet *p, struct lb *lb)
{
	const struct flow *f = lb->flow;
	struct backend *be = backend_find(f->backend, f->generation);
	int opens = p->tuple.proto != IPPROTO_TCP || IS_TCP_SYN(p->tcp_flags);

	if (!be) {
		lb->reason = DROP_BACKEND_GONE;
		return opens ? LB_OPEN : LB_REFUSE;
	}
	if (!opens)
		return LB_FLOW;
	if (flow_expired(f, p->tuple.proto, lb->now))
		return LB_OPEN;
	/* A SYN where the last connection has ended, or never began and its backend is leaving. */
	if (p->tuple.proto == IPPROTO_TCP &&
	    (f->state >= FLOW_CLOSING || (f->state == FLOW_SYN && be->state != BACKEND_ACTIVE)))
		return LB_OPEN;
	return LB_FLOW;
}

static __always_inline struct backend *lb_choose(int family, enum lb_source source, const struct packet *p,
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

		__builtin_memcpy(key.client, &p->tuple.src, ADDR_LEN);
		be = backend_affine(fe, &key, local_only, id);
		if (be)
			return be;
	}
	return backend_at(offset, length, tuple_hash(family, &p->tuple), id);
}

/* Fills lb->fresh-> LB_OPEN, or why not. */
static __always_inline int lb_new(int family, enum lb_source source, const struct packet *p, struct lb *lb)
{
	const struct frontend *fe = lb->frontend;
	int silent = fe->flags & (source == LB_POD ? FRONTEND_POD_DROP : FRONTEND_WIRE_DROP);
	int empty = !(source == LB_POD ? fe->pod_length : fe->wire_length);
	const struct addr *self, *to;
	struct backend *be;
	struct flow *fresh;
	__u32 id = 0;

	if (empty && silent) {
		lb->reason = DROP_NO_LOCAL_BACKEND;
		return LB_DROP;
	}
	be = lb_choose(family, source, p, fe, &id);
	if (!be) {
		lb->reason = DROP_NO_BACKEND;
		return LB_REFUSE;
	}
	fresh = bpf_map_lookup_elem(&flow_scratch, &(__u32){ 0 });
	if (!fresh) {
		lb->reason = DROP_FLOW_TABLE;
		return LB_DROP;
	}
	lb->fresh = fresh;
	to = (const struct addr *)be->addr;
	__builtin_memset(fresh, 0, sizeof(*fresh));
	flow_set_addresses(family, fresh, &p->tuple.src, to);
	fresh->new_sport = p->tuple.sport;
	fresh->new_dport = be->port;
	fresh->service = fe->service;
	fresh->backend = id;
	fresh->generation = be->generation;
	fresh->seen = lb->now;
	fresh->repaired = lb->now;
	fresh->state = flow_first_state(p);
	fresh->flags = be->flags & BACKEND_LOCAL ? FLOW_LOCAL : 0;
	if (source == LB_POD) {
		fresh->flags |= FLOW_FROM_POD;
		if (!addr_equal(family, to, &p->tuple.src))
			return LB_OPEN;
		fresh->flags |= FLOW_HAIRPIN;
	} else if (fresh->flags & FLOW_LOCAL) {
		return LB_OPEN;
	}
	self = node_addr(family);
	if (!self || addr_is_zero(family, self)) {
		lb->reason = DROP_NO_ROUTE;
		return LB_DROP;
	}
	flow_set_addresses(family, fresh, self, to);
	fresh->flags |= FLOW_SNAT;
	return LB_OPEN;
}

/* A TCP or UDP packet with its ports. */
static __always_inline int lb_decide(int family, enum lb_source source, struct packet *p, struct lb *lb)
{
	int action;

	lb->now = jiffies_now();
	lb->direction = FLOW_REVERSE;
	lb->flow = lb_reply(family, source, &p->tuple);
	if (lb->flow)
		return LB_FLOW;
	lb->frontend = frontend_find(family, &p->tuple.dst, p->tuple.dport, p->tuple.proto);
	if (!lb->frontend)
		return LB_PASS;
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
	return lb_new(family, source, p, lb);
}

/* Stores what lb_decide() chose. 0 or a drop reason. */
static __always_inline int lb_open(int family, struct packet *p, struct lb *lb, enum flow_path path)
{
	__u32 zero = 0;
	struct tuple *t = bpf_map_lookup_elem(&tuple_scratch, &zero);
	int reason;

	if (!t)
		return DROP_FLOW_TABLE;
	*t = p->tuple;
	lb->fresh->path = path;
	reason = family == AF_INET ? flow_open4() : flow_open6();
	if (!reason && lb->frontend->flags & FRONTEND_AFFINITY) {
		struct affinity_key key = { .service = lb->fresh->service };

		__builtin_memcpy(key.client, &p->tuple.src, ADDR_LEN);
		backend_remember(&key, lb->fresh->backend, lb->fresh->generation);
	}
	return reason;
}

#endif
