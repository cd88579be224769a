/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a kernel can do is asked by loading: one program for each feature, loaded alone, never attached
 * (netaccel/datapath/probe.py). A program's name is the feature's.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define ECONNREFUSED 111
#define AF_INET 2

struct bpf_iter__tcp;

SEC("xdp")
int xdp_program(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp")
int xdp_fib_lookup(struct xdp_md *ctx)
{
	struct bpf_fib_lookup fib = { .family = AF_INET, .ifindex = ctx->ingress_ifindex };

	return bpf_fib_lookup(ctx, &fib, sizeof(fib), 0) < 0 ? XDP_DROP : XDP_PASS;
}

SEC("tc")
int tc_redirect_neigh(struct __sk_buff *skb)
{
	return bpf_redirect_neigh(skb->ifindex, NULL, 0, 0);
}

SEC("tc")
int tc_redirect_peer(struct __sk_buff *skb)
{
	return bpf_redirect_peer(skb->ifindex, 0);
}

SEC("cgroup/connect4")
int sock_addr(struct bpf_sock_addr *ctx)
{
	return 1;
}

SEC("cgroup/getpeername4")
int sock_getpeername(struct bpf_sock_addr *ctx)
{
	return 1;
}

SEC("cgroup/connect4")
int sock_netns_cookie(struct bpf_sock_addr *ctx)
{
	return bpf_get_netns_cookie(ctx) != 0;
}

SEC("cgroup/connect4")
int sock_set_retval(struct bpf_sock_addr *ctx)
{
	bpf_set_retval(-ECONNREFUSED);
	return 0;
}

SEC("iter/tcp")
int sock_iterator(struct bpf_iter__tcp *ctx)
{
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
