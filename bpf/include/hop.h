/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The next hop of a translated packet, by the kernel's own routes and neighbours. */
#ifndef NETACCEL_HOP_H
#define NETACCEL_HOP_H

#include "flow.h"

/* Asks for a packet of `length` bytes that leaves with *f's new tuple. Returns bpf_fib_lookup's result:
 * BPF_FIB_LKUP_RET_*, or negative. */
static __always_inline long hop_ask(void *ctx, int family, __u32 ifindex, const struct flow *f, __u8 proto,
				    __u16 length, struct bpf_fib_lookup *fib)
{
	__builtin_memset(fib, 0, sizeof(*fib));
	fib->family = family;
	fib->l4_protocol = proto;
	fib->sport = f->new_sport;
	fib->dport = f->new_dport;
	fib->tot_len = length;
	fib->ifindex = ifindex;
	if (family == AF_INET) {
		fib->ipv4_src = ((const struct addr *)f->new_src)->w[3];
		fib->ipv4_dst = ((const struct addr *)f->new_dst)->w[3];
	} else {
		__builtin_memcpy(fib->ipv6_src, f->new_src, ADDR_LEN);
		__builtin_memcpy(fib->ipv6_dst, f->new_dst, ADDR_LEN);
	}
	return bpf_fib_lookup(ctx, fib, sizeof(*fib), 0);
}

/* 1 where *f has a next hop that is recent and takes a packet of this length. */
static __always_inline int hop_known(const struct flow *f, __u16 length, __u32 now)
{
	return f->hop_ifindex && now - f->hop_seen <= settings.hz && length <= f->hop_mtu;
}

static __always_inline int hop_learn(void *ctx, int family, __u32 ifindex, struct flow *f, __u8 proto,
				     __u16 length)
{
	struct bpf_fib_lookup fib;

	if (hop_ask(ctx, family, ifindex, f, proto, length, &fib) != BPF_FIB_LKUP_RET_SUCCESS)
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

#endif
