/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The load balancer of a pod device, for pods whose sockets can't be seen (runtimes with a kernel of their
 * own). Ingress is what the pod sends, egress what it gets. The pod's address stays, so the stack routes
 * and the CNI masquerades as ever; only a pod that reaches itself gets the node's address.
 */
#include "tc.h"

/* Back to the pod that sent it. */
static __always_inline int bounce(struct __sk_buff *skb)
{
	return reply_swap_ethernet(skb) ? TC_ACT_SHOT : bpf_redirect(skb->ifindex, 0);
}

static __always_inline int balance(struct __sk_buff *skb, int family, struct packet *p)
{
	int action, hairpin, reason, verdict = TC_ACT_SHOT;
	struct flow *f;
	struct lb lb;

	action = lb_decide(family, LB_POD, p, &lb);
	if (action == LB_PASS)
		return tc_stranger(skb, family, p);
	if (action == LB_STACK || action == LB_YIELD)
		return tc_stack(family, p, &lb, action);
	if (action == LB_DROP)
		return tc_drop(p, lb.reason);
	if (action == LB_REFUSE)
		return tc_lb_refuse(skb, family, p, &lb);
	f = tc_flow(skb, family, p, &lb, action, &verdict);
	if (!f)
		return verdict;
	hairpin = f->flags & FLOW_HAIRPIN;
	reason = tc_rewrite(skb, family, p, f, lb.direction, 0);
	if (reason)
		return tc_drop(p, reason);
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

static __always_inline int icmp(struct __sk_buff *skb, int family, enum icmp_hook hook,
				const struct packet *p)
{
	__u32 reason = 0;

	switch (icmp_translate(skb, family, hook, p, &reason)) {
	case ICMP_DROP:
		return tc_drop(p, reason);
	case ICMP_BOUNCE:
		return bounce(skb);
	default:
		return TC_NEXT;
	}
}

static __noinline int ingress_icmp4(struct __sk_buff *skb, const struct packet *p)
{
	return icmp(skb, AF_INET, ICMP_POD_INGRESS, p);
}

static __noinline int ingress_icmp6(struct __sk_buff *skb, const struct packet *p)
{
	return icmp(skb, AF_INET6, ICMP_POD_INGRESS, p);
}

static __noinline int egress_icmp4(struct __sk_buff *skb, const struct packet *p)
{
	return icmp(skb, AF_INET, ICMP_POD_EGRESS, p);
}

static __noinline int egress_icmp6(struct __sk_buff *skb, const struct packet *p)
{
	return icmp(skb, AF_INET6, ICMP_POD_EGRESS, p);
}

static __always_inline int ingress(struct __sk_buff *skb, int family, __u16 l3)
{
	struct packet p;

	switch (family == AF_INET ? tc_read4(skb, l3, &p) : tc_read6(skb, l3, &p)) {
	case TC_READ_ICMP:
		return family == AF_INET ? ingress_icmp4(skb, &p) : ingress_icmp6(skb, &p);
	case TC_READ_ORPHAN:
		return tc_orphan(family, &p);
	case TC_READ_PORTS:
		return family == AF_INET ? balance4(skb, &p) : balance6(skb, &p);
	default:
		return TC_NEXT;
	}
}

static __always_inline int egress(struct __sk_buff *skb, int family, __u16 l3)
{
	struct packet p;

	switch (family == AF_INET ? tc_read4(skb, l3, &p) : tc_read6(skb, l3, &p)) {
	case TC_READ_ICMP:
		return family == AF_INET ? egress_icmp4(skb, &p) : egress_icmp6(skb, &p);
	case TC_READ_PORTS:
		return tc_reply(skb, family, &p, FLOW_FROM_POD, FLOW_HAIRPIN);
	default:
		return TC_NEXT;
	}
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

	switch (tc_family(skb, &l3)) {
	case AF_INET:
		return ingress4(skb, l3);
	case AF_INET6:
		return ingress6(skb, l3);
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
