/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The load balancer of an uplink: all of it on ingress (what XDP in front passed on, or everything where
 * XDP can't attach); on egress the replies of this node's backends get their frontend's address back.
 */
#include "tc.h"

static __always_inline void tc_before_answer(struct __sk_buff *skb, int family, const struct packet *p)
{
}

static __noinline int route_flow4(struct __sk_buff *skb, const struct packet *p, const struct flow *f,
				  struct route *route)
{
	return route_flow(skb, AF_INET, p, f, route);
}

static __noinline int route_flow6(struct __sk_buff *skb, const struct packet *p, const struct flow *f,
				  struct route *route)
{
	return route_flow(skb, AF_INET6, p, f, route);
}

static __noinline int too_big4(struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
	return reply_too_big(skb, p, AF_INET, mtu);
}

static __noinline int too_big6(struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
	return reply_too_big(skb, p, AF_INET6, mtu);
}

static __noinline int exceeded4(struct __sk_buff *skb, const struct packet *p)
{
	return reply_time_exceeded(skb, p, AF_INET);
}

static __noinline int exceeded6(struct __sk_buff *skb, const struct packet *p)
{
	return reply_time_exceeded(skb, p, AF_INET6);
}

/* It can't leave: counted, and the sender hears why. */
static __always_inline int undeliverable(struct __sk_buff *skb, int family, const struct packet *p,
					 __u32 reason, __u32 mtu)
{
	event_drop_packet(p, skb->ifindex, reason, PATH_TC);
	if (reason == DROP_TOO_BIG)
		return family == AF_INET ? too_big4(skb, p, mtu) : too_big6(skb, p, mtu);
	if (reason == DROP_HOP_LIMIT)
		return family == AF_INET ? exceeded4(skb, p) : exceeded6(skb, p);
	return TC_ACT_SHOT;
}

/* The route first, then the flow, then the packet: what fails leaves the packet as it came. */
static __always_inline int balance(struct __sk_buff *skb, int family, struct packet *p)
{
	int action, local, reason, verdict = TC_ACT_SHOT;
	struct route route = {};
	struct flow *f;
	struct lb lb;

	action = lb_decide(family, LB_WIRE, p, &lb);
	if (action == LB_PASS)
		return tc_stranger(skb, family, p);
	if (action == LB_STACK || action == LB_YIELD)
		return tc_stack(family, p, &lb, action);
	if (action == LB_DROP)
		return tc_drop(skb, p, lb.reason);
	if (action == LB_REFUSE)
		return tc_lb_refuse(skb, family, p, &lb);
	f = action == LB_FLOW ? lb.flow : lb.fresh;
	local = f->flags & FLOW_LOCAL;
	if (!local) {
		if (p->l3 != ETH_HLEN)
			return TC_NEXT; /* an inner VLAN's: the program of its own device sees it untagged */
		reason = p->hop_limit <= 1   ? DROP_HOP_LIMIT
			 : family == AF_INET ? route_flow4(skb, p, f, &route)
					     : route_flow6(skb, p, f, &route);
		if (reason)
			return undeliverable(skb, family, p, reason, route.mtu);
	}
	f = tc_flow(skb, family, p, &lb, action, &verdict);
	if (!f)
		return verdict;
	reason = tc_rewrite(skb, family, p, f, lb.direction, !local);
	if (reason)
		return tc_drop(skb, p, reason);
	return local ? TC_NEXT : route_take(skb, &route);
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

static __always_inline int ingress_icmp(struct __sk_buff *skb, int family, struct packet *p)
{
	struct hop_query q = { .proto = p->tuple.proto, .length = p->tot_len };
	struct route route;
	__u32 reason = 0;

	switch (icmp_translate(skb, family, ICMP_UPLINK_INGRESS, p, &reason)) {
	case ICMP_FORWARD:
		break;
	case ICMP_DROP:
		return tc_drop(skb, p, reason);
	default:
		return TC_NEXT;
	}
	/* Its new addresses are in the packet alone. */
	if (family == AF_INET) {
		if (bpf_skb_load_bytes(skb, p->l3 + offsetof(struct iphdr, saddr), &p->tuple.src.w[3], 4) ||
		    bpf_skb_load_bytes(skb, p->l3 + offsetof(struct iphdr, daddr), &p->tuple.dst.w[3], 4))
			return tc_drop(skb, p, DROP_REWRITE);
	} else if (bpf_skb_load_bytes(skb, p->l3 + offsetof(struct ipv6hdr, saddr), &p->tuple.src,
				      2 * ADDR_LEN)) {
		return tc_drop(skb, p, DROP_REWRITE);
	}
	q.src = &p->tuple.src;
	q.dst = &p->tuple.dst;
	reason = route_find(skb, family, &q, &route);
	return reason ? tc_drop(skb, p, reason) : route_take(skb, &route);
}

static __noinline int ingress_icmp4(struct __sk_buff *skb, struct packet *p)
{
	return ingress_icmp(skb, AF_INET, p);
}

static __noinline int ingress_icmp6(struct __sk_buff *skb, struct packet *p)
{
	return ingress_icmp(skb, AF_INET6, p);
}

static __always_inline int ingress(struct __sk_buff *skb, int family, __u16 l3)
{
	struct packet p;

	switch (family == AF_INET ? tc_read4(skb, l3, &p) : tc_read6(skb, l3, &p)) {
	case TC_READ_ICMP:
		return family == AF_INET ? ingress_icmp4(skb, &p) : ingress_icmp6(skb, &p);
	case TC_READ_ORPHAN:
		return tc_orphan(skb, family, &p);
	case TC_READ_PORTS:
		return family == AF_INET ? balance4(skb, &p) : balance6(skb, &p);
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

SEC("tc")
int tc_uplink_ingress(struct __sk_buff *skb)
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

static __always_inline int egress_icmp(struct __sk_buff *skb, int family, const struct packet *p)
{
	__u32 reason = 0;

	if (icmp_translate(skb, family, ICMP_UPLINK_EGRESS, p, &reason) == ICMP_DROP)
		return tc_drop(skb, p, reason);
	return TC_NEXT;
}

static __noinline int egress_icmp4(struct __sk_buff *skb, const struct packet *p)
{
	return egress_icmp(skb, AF_INET, p);
}

static __noinline int egress_icmp6(struct __sk_buff *skb, const struct packet *p)
{
	return egress_icmp(skb, AF_INET6, p);
}

static __always_inline int egress(struct __sk_buff *skb, int family, __u16 l3)
{
	struct packet p;

	switch (family == AF_INET ? tc_read4(skb, l3, &p) : tc_read6(skb, l3, &p)) {
	case TC_READ_ICMP:
		return family == AF_INET ? egress_icmp4(skb, &p) : egress_icmp6(skb, &p);
	case TC_READ_PORTS:
		return tc_reply(skb, family, &p, FLOW_LOCAL, FLOW_FROM_POD);
	default:
		return TC_NEXT;
	}
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
int tc_uplink_egress(struct __sk_buff *skb)
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
