/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The next hop of a translated packet, by the kernel's own routes and neighbours. */
#ifndef NETACCEL_HOP_H
#define NETACCEL_HOP_H

#include "flow.h"

/* What the route is asked for. */
struct hop_query {
	const struct addr *src;
	const struct addr *dst;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u16 length; /* of the IP packet */
};

/* Returns bpf_fib_lookup's result: BPF_FIB_LKUP_RET_*, or negative. */
static __always_inline long hop_ask(void *ctx, int family, __u32 ifindex, const struct hop_query *q,
				    struct bpf_fib_lookup *fib)
{
	__builtin_memset(fib, 0, sizeof(*fib));
	fib->family = family;
	fib->l4_protocol = q->proto;
	fib->sport = q->sport;
	fib->dport = q->dport;
	fib->tot_len = q->length;
	fib->ifindex = ifindex;
	if (family == AF_INET) {
		fib->ipv4_src = q->src->w[3];
		fib->ipv4_dst = q->dst->w[3];
	} else {
		__builtin_memcpy(fib->ipv6_src, q->src, ADDR_LEN);
		__builtin_memcpy(fib->ipv6_dst, q->dst, ADDR_LEN);
	}
	return bpf_fib_lookup(ctx, fib, sizeof(*fib), 0);
}

#endif
