/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Lets every frame pass. On the far end of a veth it makes XDP_TX of the near end arrive. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int xdp_pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
