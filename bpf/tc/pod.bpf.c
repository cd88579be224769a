/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A pod's device: policy in both directions, and the load balancer for pods whose sockets can't be seen
 * (runtimes with a kernel of their own). Ingress is what the pod sends, egress what it gets. The pod's
 * address stays, so the stack routes and the CNI masquerades as ever; only a pod that reaches itself gets
 * the node's address.
 *
 * What the pod sends is judged by where the load balancer sends it, before it is rewritten; what it gets,
 * as it comes. A flow that nothing translates is known by one look-up, and all else is skipped. What goes to
 * another pod of this node is offered to tc/peer.bpf.c.
 */
#include "peer.h"
#include "pod.h"

/* --------------------------------------------------------------- load balancing */

static __noinline int quick_translated4(struct __sk_buff *skb, const struct packet *p, const struct flow *f)
{
	return p && f ? quick_translated(skb, AF_INET, p, f) : 0;
}

static __noinline int quick_translated6(struct __sk_buff *skb, const struct packet *p, const struct flow *f)
{
	return p && f ? quick_translated(skb, AF_INET6, p, f) : 0;
}

/* Back to the pod that sent it. */
static __always_inline int bounce(struct __sk_buff *skb)
{
	return reply_swap_ethernet(skb) ? TC_ACT_SHOT : bpf_redirect(skb->ifindex, 0);
}

/* 1 where the flow is known to policy by what *f makes of its packets. A pod that reaches itself is seen by
 * its device with the frontend's address, or the node's; what the stack translates comes back translated. */
static __always_inline int is_keyed_by(const struct flow *f)
{
	return !(f->flags & (FLOW_HAIRPIN | FLOW_STACK));
}

/* *p gets the tuple that is judged: where it goes. A pod that reaches itself is its own peer. */
static __always_inline void become(int family, struct packet *p, const struct flow *f)
{
	struct addr src;

	if (f->flags & FLOW_HAIRPIN) {
		p->tuple.dst = p->tuple.src;
		return;
	}
	flow_addresses(family, f, &src, &p->tuple.dst);
	p->tuple.dport = f->new_dport;
	if (!(f->flags & FLOW_STACK))
		p->tuple.sport = f->new_sport;
}

/* Whether policy lets the packet go where *f sends it. 0 or a drop reason; *asked: admit() is due, once
 * nothing else stops it. */
static __always_inline __u32 permit(struct __sk_buff *skb, int family, struct packet *p, const struct flow *f,
				    int *asked)
{
	int keyed = is_keyed_by(f), what = POLICY_ASK;
	struct tuple own = p->tuple;
	struct flow_event *e;
	__u32 reason;

	*asked = 0;
	if (keyed)
		become(family, p, f);
	if (!(p->flags & PACKET_OPENS))
		what = known(skb, family, p, POLICY_EGRESS, keyed ? POLICY_LOOK_TRANSLATED : POLICY_LOOK_ANY);
	if (what != POLICY_ASK) {
		p->tuple = own;
		return 0;
	}
	if (!keyed)
		become(family, p, f);
	reason = ask(skb, family, p, POLICY_EGRESS);
	p->tuple = own;
	*asked = !reason;
	e = event_composed();
	if (e)
		e->service = f->service;
	return reason;
}

/* permit() allowed a flow that was not known. */
static __always_inline void admit(struct __sk_buff *skb, int family, struct packet *p, const struct flow *f)
{
	struct tuple own = p->tuple;

	if (is_keyed_by(f))
		become(family, p, f);
	open(skb, family, p, POLICY_EGRESS, 0);
	p->tuple = own;
}

static __noinline __u32 permit4(struct __sk_buff *skb, struct packet *p, const struct flow *f, int *asked)
{
	return p && f && asked ? permit(skb, AF_INET, p, f, asked) : DROP_POLICY_INCOMPLETE;
}

static __noinline __u32 permit6(struct __sk_buff *skb, struct packet *p, const struct flow *f, int *asked)
{
	return p && f && asked ? permit(skb, AF_INET6, p, f, asked) : DROP_POLICY_INCOMPLETE;
}

static __noinline int admit4(struct __sk_buff *skb, struct packet *p, const struct flow *f)
{
	if (p && f)
		admit(skb, AF_INET, p, f);
	return 0;
}

static __noinline int admit6(struct __sk_buff *skb, struct packet *p, const struct flow *f)
{
	if (p && f)
		admit(skb, AF_INET6, p, f);
	return 0;
}

/* The stack translates it. Where it sends what we know nothing of is not known: then the address that the pod
 * names is judged. */
static __always_inline int to_stack(struct __sk_buff *skb, int family, struct packet *p, struct lb *lb,
				    int action)
{
	__u32 reason = 0;
	int asked = 0, verdict;

	if (settings.policy && action == LB_STACK) {
		reason = family == AF_INET ? permit4(skb, p, lb->flow, &asked)
					   : permit6(skb, p, lb->flow, &asked);
		if (reason)
			return deny(skb, family, p, POLICY_EGRESS, reason);
		if (asked)
			family == AF_INET ? admit4(skb, p, lb->flow) : admit6(skb, p, lb->flow);
	} else if (settings.policy) {
		verdict = family == AF_INET ? pass4(skb, p, POLICY_EGRESS) : pass6(skb, p, POLICY_EGRESS);
		if (verdict != TC_NEXT)
			return verdict;
	}
	return settings.dry_run ? TC_NEXT : tc_stack(family, p, lb, action);
}

/* What a dry run answers where the load balancer alone decides. */
static __always_inline int dry_refuse(__u32 reason)
{
	struct dry_run *dry;
	__u32 zero = 0;

	dry = bpf_map_lookup_elem(&dry_run, &zero);
	if (dry) {
		dry->reason = reason;
		dry->verdict = VERDICT_DROPPED;
	}
	return TC_ACT_SHOT;
}

static __always_inline int dry_translate(struct __sk_buff *skb, int family, struct packet *p,
					 const struct flow *f)
{
	int asked;
	__u32 reason, zero = 0;
	struct dry_run *dry;

	reason = family == AF_INET ? permit4(skb, p, f, &asked) : permit6(skb, p, f, &asked);
	dry = bpf_map_lookup_elem(&dry_run, &zero);
	if (dry) {
		dry->service = f->service;
		dry->backend = f->backend;
	}
	return reason ? TC_ACT_SHOT : TC_NEXT;
}

static __always_inline int balance(struct __sk_buff *skb, int family, struct packet *p)
{
	int action, asked = 0, hairpin, reason, verdict = TC_ACT_SHOT;
	struct flow *f;
	struct lb lb;

	action = lb_decide(family, LB_POD, p, &lb);
	if (action == LB_PASS) {
		if (settings.dry_run && frontend_refuses_others(family, &p->tuple.dst))
			return dry_refuse(DROP_NO_SUCH_PORT);
		verdict = tc_stranger(skb, family, p);
		if (verdict != TC_NEXT || !settings.policy)
			return verdict;
		return family == AF_INET ? pass4(skb, p, POLICY_EGRESS) : pass6(skb, p, POLICY_EGRESS);
	}
	if (action == LB_STACK || action == LB_YIELD)
		return to_stack(skb, family, p, &lb, action);
	if (settings.dry_run && (action == LB_DROP || action == LB_REFUSE))
		return dry_refuse(lb.reason);
	if (action == LB_DROP)
		return tc_drop(skb, p, lb.reason);
	if (action == LB_REFUSE)
		return tc_lb_refuse(skb, family, p, &lb);
	f = action == LB_FLOW ? lb.flow : lb.fresh;
	if (action == LB_OPEN)
		p->flags |= PACKET_OPENS;
	if (settings.dry_run)
		return dry_translate(skb, family, p, f);
	if (settings.policy && !(action == LB_FLOW && (family == AF_INET ? quick_translated4(skb, p, f)
									 : quick_translated6(skb, p, f)))) {
		reason = family == AF_INET ? permit4(skb, p, f, &asked) : permit6(skb, p, f, &asked);
		if (reason)
			return deny(skb, family, p, POLICY_EGRESS, reason);
	}
	f = tc_flow(skb, family, p, &lb, action, &verdict);
	if (!f)
		return verdict;
	if (settings.policy && asked)
		family == AF_INET ? admit4(skb, p, f) : admit6(skb, p, f);
	hairpin = f->flags & FLOW_HAIRPIN;
	reason = tc_rewrite(skb, family, p, f, lb.direction, 0);
	if (reason)
		return tc_drop(skb, p, reason);
	return hairpin ? bounce(skb) : TC_NEXT;
}

/* Frames of their own, after the packet is read: the stack holds either the one or the other. */
static __noinline int balance4(struct __sk_buff *skb, struct packet *p)
{
	return balance(skb, AF_INET, p);
}

static __noinline int balance6(struct __sk_buff *skb, struct packet *p)
{
	return balance(skb, AF_INET6, p);
}

/* ------------------------------------------------------------------ ICMP errors */

static __always_inline int translate_icmp(struct __sk_buff *skb, int family, enum icmp_hook hook,
					  const struct packet *p)
{
	__u32 reason = 0;

	if (settings.dry_run)
		return TC_NEXT;
	switch (icmp_translate(skb, family, hook, p, &reason)) {
	case ICMP_DROP:
		return tc_drop(skb, p, reason);
	case ICMP_BOUNCE:
		return bounce(skb);
	default:
		return TC_NEXT;
	}
}

static __noinline int from_pod_icmp4(struct __sk_buff *skb, const struct packet *p)
{
	return translate_icmp(skb, AF_INET, ICMP_POD_INGRESS, p);
}

static __noinline int from_pod_icmp6(struct __sk_buff *skb, const struct packet *p)
{
	return translate_icmp(skb, AF_INET6, ICMP_POD_INGRESS, p);
}

static __noinline int to_pod_icmp4(struct __sk_buff *skb, const struct packet *p)
{
	return translate_icmp(skb, AF_INET, ICMP_POD_EGRESS, p);
}

static __noinline int to_pod_icmp6(struct __sk_buff *skb, const struct packet *p)
{
	return translate_icmp(skb, AF_INET6, ICMP_POD_EGRESS, p);
}

/* The error's destination is in the packet alone, where it was translated. */
static __always_inline int reload_destination(struct __sk_buff *skb, int family, struct packet *p)
{
	if (family == AF_INET)
		return bpf_skb_load_bytes(skb, p->l3 + offsetof(struct iphdr, daddr), &p->tuple.dst.w[3], 4);
	return bpf_skb_load_bytes(skb, p->l3 + offsetof(struct ipv6hdr, daddr), &p->tuple.dst, ADDR_LEN);
}

/* 1 where it is about a packet of a known flow. */
static __always_inline int is_related(struct __sk_buff *skb, int family, struct packet *p, __u8 direction)
{
	struct packet quoted = { .l3 = p->l4 + ICMP_HEADER };

	if (reload_destination(skb, family, p))
		return 0;
	if (bpf_skb_pull_data(skb, skb->len < ICMP_PULL ? skb->len : ICMP_PULL) ||
	    parse_quoted(family, &quoted, (void *)(long)skb->data, (void *)(long)skb->data_end))
		return 0;
	return policy_is_related(skb, family, p, &quoted, direction);
}

static __noinline int is_related4(struct __sk_buff *skb, struct packet *p, __u8 direction)
{
	return p ? is_related(skb, AF_INET, p, direction) : 0;
}

static __noinline int is_related6(struct __sk_buff *skb, struct packet *p, __u8 direction)
{
	return p ? is_related(skb, AF_INET6, p, direction) : 0;
}

/* An error about a packet of a known flow belongs to it; any other is judged for itself. */
static __always_inline int judge_icmp(struct __sk_buff *skb, int family, struct packet *p, __u8 direction)
{
	if (!settings.policy ||
	    (family == AF_INET ? is_related4(skb, p, direction) : is_related6(skb, p, direction)))
		return TC_NEXT;
	return family == AF_INET ? other4(skb, p, direction) : other6(skb, p, direction);
}

/* Translated first, as policy knows the backend alone. */
static __always_inline int ingress_icmp(struct __sk_buff *skb, int family, struct packet *p)
{
	int verdict = family == AF_INET ? from_pod_icmp4(skb, p) : from_pod_icmp6(skb, p);

	if (verdict != TC_NEXT)
		return verdict;
	return judge_icmp(skb, family, p, POLICY_EGRESS);
}

static __always_inline int egress_icmp(struct __sk_buff *skb, int family, struct packet *p)
{
	int verdict = judge_icmp(skb, family, p, POLICY_INGRESS);

	if (verdict != TC_NEXT)
		return verdict;
	return family == AF_INET ? to_pod_icmp4(skb, p) : to_pod_icmp6(skb, p);
}

/* ------------------------------------------------------------------------ entry */

static __always_inline int ingress(struct __sk_buff *skb, int family, __u16 l3)
{
	enum policy_quick quick = policy_quick(skb, family, l3, POLICY_EGRESS);
	struct packet p;
	int read, reason;

	if (quick == POLICY_QUICK_PASS)
		return TC_NEXT;
	read = family == AF_INET ? tc_read4(skb, l3, &p) : tc_read6(skb, l3, &p);
	p.flags |= PACKET_FROM_POD;
	switch (read) {
	case TC_READ_ICMP:
		return ingress_icmp(skb, family, &p);
	case TC_READ_ORPHAN:
		reason = settings.dry_run ? 0 : fragment_orphan(family, &p);
		return reason ? tc_drop(skb, &p, reason) : blind(skb, &p, POLICY_EGRESS, DROP_FRAGMENT);
	case TC_READ_PORTS:
		if (settings.policy && quick != POLICY_QUICK_ABSENT &&
		    known(skb, family, &p, POLICY_EGRESS, POLICY_LOOK_PLAIN) == POLICY_PLAIN)
			return TC_NEXT;
		return family == AF_INET ? balance4(skb, &p) : balance6(skb, &p);
	case TC_READ_OTHER:
		if (!settings.policy)
			return TC_NEXT;
		return family == AF_INET ? other4(skb, &p, POLICY_EGRESS) : other6(skb, &p, POLICY_EGRESS);
	default:
		return blind(skb, &p, POLICY_EGRESS, DROP_POLICY_UNKNOWN);
	}
}

static __always_inline int egress(struct __sk_buff *skb, int family, __u16 l3)
{
	enum policy_quick quick = policy_quick(skb, family, l3, POLICY_INGRESS);
	enum tc_read read;
	struct packet p;

	if (quick == POLICY_QUICK_PASS)
		return TC_NEXT;
	read = family == AF_INET ? tc_read4(skb, l3, &p) : tc_read6(skb, l3, &p);
	if (read == TC_READ_ICMP)
		return egress_icmp(skb, family, &p);
	if (read == TC_READ_ORPHAN)
		return blind(skb, &p, POLICY_INGRESS, DROP_FRAGMENT);
	return arrive(skb, family, &p, read, quick);
}

static __noinline int ingress4(struct __sk_buff *skb, __u16 l3)
{
	return ingress(skb, AF_INET, l3);
}

static __noinline int ingress6(struct __sk_buff *skb, __u16 l3)
{
	return ingress(skb, AF_INET6, l3);
}

static __noinline int egress4(struct __sk_buff *skb, __u16 l3)
{
	return egress(skb, AF_INET, l3);
}

static __noinline int egress6(struct __sk_buff *skb, __u16 l3)
{
	return egress(skb, AF_INET6, l3);
}

SEC("tc")
int tc_pod_ingress(struct __sk_buff *skb)
{
	__u16 l3;

	int verdict;

	switch (tc_family(skb, &l3)) {
	case AF_INET:
		verdict = ingress4(skb, l3);
		if (verdict == TC_NEXT && peer_is_likely(skb, AF_INET))
			bpf_tail_call(skb, &peer_program, 0);
		return verdict; /* there is none: as if it had left the packet */
	case AF_INET6:
		verdict = ingress6(skb, l3);
		if (verdict == TC_NEXT && peer_is_likely(skb, AF_INET6))
			bpf_tail_call(skb, &peer_program, 0);
		return verdict;
	default:
		return TC_NEXT;
	}
}

SEC("tc")
int tc_pod_egress(struct __sk_buff *skb)
{
	__u16 l3;

	switch (tc_family(skb, &l3)) {
	case AF_INET:
		return egress4(skb, l3);
	case AF_INET6:
		return egress6(skb, l3);
	default:
		return TC_NEXT;
	}
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
