/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The accelerator in front of TC on an uplink: plain TCP and UDP of known and new flows. What it can't
 * finish goes on untouched, and TC, which can do all of it, starts afresh. What a pod would not get by its
 * policy ends here already, where that is sure.
 */
#define SNAT_TRIES 4
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "count.h"
#include "drop.h"
#include "hop.h"
#include "lb.h"
#include "parse.h"
#include "policy_early.h"
#include "rewrite_xdp.h"
#include "traffic.h"

static __always_inline int hand_over(void)
{
	count(COUNTER_XDP_TO_TC);
	return XDP_PASS;
}

static __always_inline int drop(struct xdp_md *ctx, const struct packet *p, __u32 reason)
{
	struct packet copy = *p; /* so that the packet itself stays in registers */

	event_drop_packet(&copy, ctx->ingress_ifindex, reason, PATH_XDP);
	return XDP_DROP;
}

/* 1 where *f has a next hop that is recent and takes a packet of this length. */
static __always_inline int hop_known(const struct flow *f, __u16 length, __u32 now)
{
	return f->hop_ifindex && now - f->hop_seen <= settings.hz && length <= f->hop_mtu;
}

static __always_inline int hop_learn(void *ctx, int family, __u32 ifindex, struct flow *f, __u8 proto,
				     __u16 length)
{
	struct addr src, dst;
	struct hop_query q = {
		.src = &src,
		.dst = &dst,
		.sport = f->new_sport,
		.dport = f->new_dport,
		.proto = proto,
		.length = length,
	};
	struct bpf_fib_lookup fib;

	flow_addresses(family, f, &src, &dst);
	if (hop_ask(ctx, family, ifindex, &q, &fib) != BPF_FIB_LKUP_RET_SUCCESS)
		return -1;
	__builtin_memcpy(f->hop_dst, fib.dmac, sizeof(f->hop_dst));
	__builtin_memcpy(f->hop_src, fib.smac, sizeof(f->hop_src));
	/* Where the kernel gives no MTU (before 5.13) the length that was asked for stands here still: then
	 * a longer packet asks again. */
	f->hop_mtu = fib.mtu_result;
	f->hop_ifindex = fib.ifindex;
	f->hop_seen = jiffies_now();
	return 0;
}

static __noinline int hop_learn4(void *ctx, __u32 ifindex, struct flow *f, __u8 proto, __u16 length)
{
	return hop_learn(ctx, AF_INET, ifindex, f, proto, length);
}

static __noinline int hop_learn6(void *ctx, __u32 ifindex, struct flow *f, __u8 proto, __u16 length)
{
	return hop_learn(ctx, AF_INET6, ifindex, f, proto, length);
}

/* 1 where *f says how to leave by this device. Leaving by another needs its driver's consent: TC's work. */
static __always_inline int has_hop(struct xdp_md *ctx, int family, const struct packet *p, struct flow *f,
				   __u32 now)
{
	if (p->l3 != ETH_HLEN || p->hop_limit <= 1)
		return 0;
	if (!hop_known(f, p->tot_len, now) &&
	    (family == AF_INET ? hop_learn4(ctx, ctx->ingress_ifindex, f, p->tuple.proto, p->tot_len)
			       : hop_learn6(ctx, ctx->ingress_ifindex, f, p->tuple.proto, p->tot_len)))
		return 0;
	return f->hop_ifindex == ctx->ingress_ifindex;
}

/* Everything is known and stored: only the packet is left to change. */
static __always_inline int carry(struct xdp_md *ctx, int family, const struct packet *p, const struct flow *f,
				 __u8 direction)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	int up = f->flags & FLOW_LOCAL, reason;

	count_service(f->service, PATH_XDP, direction, 1, p->tot_len);
	reason = rewrite_xdp(family, p, data, end, f, !up);
	if (!reason && !up)
		reason = rewrite_hop(data, end, f);
	if (reason)
		return drop(ctx, p, reason);
	return up ? XDP_PASS : XDP_TX;
}

/* 1 where policy at a pod's device would drop what opens this flow: it is dropped here, and told. */
static __always_inline int denied(struct xdp_md *ctx, int family, const struct packet *p, const struct lb *lb)
{
	if (!early_is_due(p, lb))
		return 0;
	return family == AF_INET ? early_drop4(ctx, p->tot_len, p->tcp_flags)
				 : early_drop6(ctx, p->tot_len, p->tcp_flags);
}

static __always_inline int uplink(struct xdp_md *ctx, int family, __u16 l3)
{
	struct packet packet = { .l3 = l3 }, *p = &packet;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct lb lb;
	int reason;

	if (parse_plain(family, p, data, end))
		return XDP_PASS;
	switch (lb_decide(family, LB_WIRE, p, &lb)) {
	case LB_FLOW:
		if (!(lb.flow->flags & FLOW_LOCAL) && !has_hop(ctx, family, p, lb.flow, lb.now))
			return hand_over();
		if (flow_track(family, p, lb.direction, lb.flow, lb.now))
			return hand_over();
		return carry(ctx, family, p, lb.flow, lb.direction);
	case LB_OPEN:
		if (!(lb.fresh->flags & FLOW_LOCAL) && !has_hop(ctx, family, p, lb.fresh, lb.now))
			return hand_over();
		if (denied(ctx, family, p, &lb))
			return XDP_DROP;
		reason = lb_open(family, &lb, PATH_XDP);
		if (reason == DROP_FLOW_LIMIT)
			return drop(ctx, p, reason);
		if (reason)
			return hand_over();
		return carry(ctx, family, p, lb.fresh, FLOW_FORWARD);
	case LB_DROP:
		return drop(ctx, p, lb.reason);
	case LB_REFUSE:
		return hand_over();
	default:
		return XDP_PASS;
	}
}

/* Instances of their own: each fits the stack. */
static __always_inline int uplink4(struct xdp_md *ctx, __u16 l3)
{
	return uplink(ctx, AF_INET, l3);
}

static __always_inline int uplink6(struct xdp_md *ctx, __u16 l3)
{
	return uplink(ctx, AF_INET6, l3);
}

SEC("xdp")
int xdp_uplink(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct packet p = {};
	__be16 ethertype;

	if (parse_link(&p, data, end, &ethertype))
		return XDP_PASS;
	switch (ethertype) {
	case bpf_htons(ETH_P_IP):
		return uplink4(ctx, p.l3);
	case bpf_htons(ETH_P_IPV6):
		return uplink6(ctx, p.l3);
	default:
		return XDP_PASS;
	}
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
