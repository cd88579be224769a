/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A packet generator without special hardware: run with BPF_F_TEST_XDP_LIVE_FRAMES (kernel 5.18), each frame
 * gets the source port of the next flow, with its checksum put right, and is redirected into a device. The
 * frames are UDP over IPv4 with a checksum of 0, so that only the port changes.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Set before load. */
const volatile __u32 generator_ifindex = 0;
const volatile __u32 generator_port_mask = 0;

#define GENERATOR_HEADERS 48 /* Ethernet, IPv4, UDP, and what fills the last word */

/* The frame's beginning. Writer: user space, after load; reader: this program. */
struct generator {
	__u64 headers[GENERATOR_HEADERS / 8];
};
struct generator generator SEC(".data.generator") = {};

/* The next flow; each CPU's own, as one CPU runs the test. Writer, reader: this program. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} generator_next SEC(".maps");

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct udphdr *udp = data + sizeof(struct ethhdr) + sizeof(struct iphdr);
	__u32 zero = 0, *next = bpf_map_lookup_elem(&generator_next, &zero);

	if (data + GENERATOR_HEADERS > end || (void *)(udp + 1) > end || !next)
		return XDP_DROP;
#pragma unroll
	for (int i = 0; i < GENERATOR_HEADERS / 8; i++)
		((__u64 *)data)[i] = generator.headers[i];
	udp->source = bpf_htons(1024 + ((*next)++ & generator_port_mask));
	return bpf_redirect(generator_ifindex, 0);
}

/* Counts what arrives and drops it. Attached where the flow ends. Writer: this program; reader: user space.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} sink_packets SEC(".maps");

SEC("xdp")
int sink(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + sizeof(struct ethhdr);
	__u32 zero = 0;
	__u64 *n;

	if ((void *)(ip + 1) > end || ((struct ethhdr *)data)->h_proto != bpf_htons(ETH_P_IP) ||
	    ip->protocol != 17)
		return XDP_PASS;
	n = bpf_map_lookup_elem(&sink_packets, &zero);
	if (n)
		(*n)++;
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
