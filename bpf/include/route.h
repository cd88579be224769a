/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Leaving the node from TC: the route is asked before anything is changed, and the packet then goes out by
 * bpf_redirect_neigh, which resolves a neighbour where there is none yet.
 */
#ifndef NETACCEL_ROUTE_H
#define NETACCEL_ROUTE_H

#include <linux/pkt_cls.h>
#include "hop.h"

struct route {
	__u32 ifindex;
	__u32 mtu;                  /* with DROP_TOO_BIG: what would fit */
	struct bpf_redir_neigh via; /* nh_family 0: let the kernel look */
};

/* The length that counts against an MTU: of one segment, where the frame holds several. */
static __always_inline __u16 route_length(struct __sk_buff *skb, const struct packet *p)
{
	__u32 header = sizeof(struct udphdr);
	__u8 offset = 0;

	if (!skb->gso_size)
		return p->tot_len;
	if (p->tuple.proto == IPPROTO_TCP) {
		bpf_skb_load_bytes(skb, p->l4 + 12, &offset, sizeof(offset));
		header = offset >> 4 << 2;
	}
	return p->l4 - p->l3 + header + skb->gso_size;
}

/* Fills *route. 0, DROP_TOO_BIG, or DROP_NO_ROUTE. */
static __always_inline int route_find(struct __sk_buff *skb, int family, const struct hop_query *q,
				      struct route *route)
{
	struct bpf_fib_lookup fib;
	long err = hop_ask(skb, family, skb->ifindex, q, &fib);

	__builtin_memset(route, 0, sizeof(*route));
	route->ifindex = fib.ifindex;
	switch (err) {
	case BPF_FIB_LKUP_RET_SUCCESS:
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		route->via.nh_family = fib.family;
		__builtin_memcpy(route->via.ipv6_nh, fib.ipv6_dst, sizeof(route->via.ipv6_nh));
		return 0;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		/* Before 5.13 the kernel leaves our length there, and says no MTU. */
		route->mtu = fib.mtu_result < q->length ? fib.mtu_result : 0;
		return DROP_TOO_BIG;
	case BPF_FIB_LKUP_RET_FWD_DISABLED:
	case BPF_FIB_LKUP_RET_UNSUPP_LWT:
		route->ifindex = skb->ifindex;
		return 0;
	default:
		return DROP_NO_ROUTE;
	}
}

/* Where packets of *f go. */
static __always_inline int route_flow(struct __sk_buff *skb, int family, const struct packet *p,
				      const struct flow *f, struct route *route)
{
	struct addr src, dst;
	struct hop_query q = {
		.src = &src,
		.dst = &dst,
		.sport = f->new_sport,
		.dport = f->new_dport,
		.proto = p->tuple.proto,
		.length = route_length(skb, p),
	};

	flow_addresses(family, f, &src, &dst);
	return route_find(skb, family, &q, route);
}

/* The verdict that sends the rewritten packet off. */
static __always_inline int route_take(struct __sk_buff *skb, struct route *route)
{
	/* The tag was for the device it came by; the way out has its own, or none. */
	if (skb->vlan_present)
		bpf_skb_vlan_pop(skb);
	if (!route->via.nh_family)
		return bpf_redirect_neigh(route->ifindex, NULL, 0, 0);
	return bpf_redirect_neigh(route->ifindex, &route->via, sizeof(route->via), 0);
}

#endif
