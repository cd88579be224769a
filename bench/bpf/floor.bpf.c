/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The least that a connection-tracking NAT load balancer can do for a packet of an established flow: parse,
 * look up Service (hash), flow (LRU) and backend (array), rewrite destination and Ethernet addresses with
 * their checksums, count packets and bytes for the Service and for the backend. No states, no expiry, no
 * SNAT, no next hop. And what rejecting a packet costs at least: parse and one absent look-up.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct service_key4 {
	__be32 addr;
	__be16 port;
	__u8 proto;
	__u8 pad;
};

struct service_key6 {
	__u8 addr[16];
	__be16 port;
	__u8 proto;
	__u8 pad;
};

struct flow_key4 {
	__be32 src;
	__be32 dst;
	__be32 ports;
	__u32 proto;
};

struct flow_key6 {
	__u8 src[16];
	__u8 dst[16];
	__be32 ports;
	__u32 proto;
};

struct target {
	__u8 addr[16];
	__u8 mac[6];
	__be16 port;
};

struct tally {
	__u64 packets;
	__u64 bytes;
};

#define TABLE(name, kind, size, key_type, value_type)                                                        \
	struct {                                                                                             \
		__uint(type, kind);                                                                          \
		__uint(max_entries, size);                                                                   \
		__type(key, key_type);                                                                       \
		__type(value, value_type);                                                                   \
	} name SEC(".maps")

/* All written by user space before the run; the tallies by the programs. */
TABLE(floor_services4, BPF_MAP_TYPE_HASH, 4096, struct service_key4, __u32);
TABLE(floor_services6, BPF_MAP_TYPE_HASH, 4096, struct service_key6, __u32);
TABLE(floor_flows4, BPF_MAP_TYPE_LRU_HASH, 262144, struct flow_key4, __u32);
TABLE(floor_flows6, BPF_MAP_TYPE_LRU_HASH, 262144, struct flow_key6, __u32);
TABLE(floor_targets, BPF_MAP_TYPE_ARRAY, 4096, __u32, struct target);
TABLE(floor_tallies, BPF_MAP_TYPE_PERCPU_ARRAY, 8192, __u32, struct tally);

static __always_inline void tally(__u32 which, __u64 bytes)
{
	struct tally *t = bpf_map_lookup_elem(&floor_tallies, &which);

	if (t) {
		t->packets++;
		t->bytes += bytes;
	}
}

/* RFC 1624, equation 3, for one 32-bit word. */
static __always_inline void replace32(__sum16 *check, __be32 old, __be32 new)
{
	__u32 sum = (__u16) ~*check;

	sum += (__u16)~old + (__u16)(~old >> 16) + (__u16) new + (__u16)(new >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	*check = ~sum;
}

static __always_inline void steer(struct ethhdr *eth, const struct target *to)
{
	__builtin_memcpy(eth->h_source, eth->h_dest, 6);
	__builtin_memcpy(eth->h_dest, to->mac, 6);
}

static __always_inline int reject4(void *data, void *end, __u32 **service)
{
	struct iphdr *ip = data + sizeof(struct ethhdr);
	struct tcphdr *tcp = (void *)(ip + 1);

	if ((void *)(tcp + 1) > end || ip->ihl != 5 || ip->frag_off & bpf_htons(0x3fff) ||
	    ip->protocol != IPPROTO_TCP)
		return 1;
	struct service_key4 key = { .addr = ip->daddr, .port = tcp->dest, .proto = ip->protocol };

	*service = bpf_map_lookup_elem(&floor_services4, &key);
	return !*service;
}

static __always_inline int balance4(void *data, void *end, __u32 service)
{
	struct ethhdr *eth = data;
	struct iphdr *ip = data + sizeof(*eth);
	struct tcphdr *tcp = (void *)(ip + 1);
	__be32 to_addr;
	__u32 *flow;
	struct target *to;

	if ((void *)(tcp + 1) > end)
		return XDP_PASS;
	struct flow_key4 key = {
		.src = ip->saddr, .dst = ip->daddr, .ports = *(__be32 *)tcp, .proto = ip->protocol
	};

	flow = bpf_map_lookup_elem(&floor_flows4, &key);
	if (!flow)
		return XDP_PASS;
	to = bpf_map_lookup_elem(&floor_targets, flow);
	if (!to)
		return XDP_PASS;
	tally(service, bpf_ntohs(ip->tot_len));
	tally(*flow + 4096, bpf_ntohs(ip->tot_len));
	to_addr = *(__be32 *)(to->addr + 12);
	replace32(&ip->check, ip->daddr, to_addr);
	replace32(&tcp->check, ip->daddr, to_addr);
	replace32(&tcp->check, tcp->dest, to->port);
	ip->daddr = to_addr;
	tcp->dest = to->port;
	steer(eth, to);
	return XDP_TX;
}

static __always_inline int reject6(void *data, void *end, __u32 **service)
{
	struct ipv6hdr *ip = data + sizeof(struct ethhdr);
	struct tcphdr *tcp = (void *)(ip + 1);

	if ((void *)(tcp + 1) > end || ip->nexthdr != IPPROTO_TCP)
		return 1;
	struct service_key6 key = { .port = tcp->dest, .proto = ip->nexthdr };

	__builtin_memcpy(key.addr, &ip->daddr, 16);
	*service = bpf_map_lookup_elem(&floor_services6, &key);
	return !*service;
}

static __always_inline int balance6(void *data, void *end, __u32 service)
{
	struct ethhdr *eth = data;
	struct ipv6hdr *ip = data + sizeof(*eth);
	struct tcphdr *tcp = (void *)(ip + 1);
	__u32 *flow;
	struct target *to;

	if ((void *)(tcp + 1) > end)
		return XDP_PASS;
	struct flow_key6 key = { .ports = *(__be32 *)tcp, .proto = ip->nexthdr };

	__builtin_memcpy(key.src, &ip->saddr, 16);
	__builtin_memcpy(key.dst, &ip->daddr, 16);
	flow = bpf_map_lookup_elem(&floor_flows6, &key);
	if (!flow)
		return XDP_PASS;
	to = bpf_map_lookup_elem(&floor_targets, flow);
	if (!to)
		return XDP_PASS;
	tally(service, bpf_ntohs(ip->payload_len));
	tally(*flow + 4096, bpf_ntohs(ip->payload_len));
#pragma unroll
	for (int i = 0; i < 4; i++) {
		__be32 word = ((__be32 *)to->addr)[i];

		replace32(&tcp->check, ip->daddr.s6_addr32[i], word);
		ip->daddr.s6_addr32[i] = word;
	}
	replace32(&tcp->check, tcp->dest, to->port);
	tcp->dest = to->port;
	steer(eth, to);
	return XDP_TX;
}

static __always_inline int floor_program(void *data, void *end)
{
	struct ethhdr *eth = data;
	__u32 *service = NULL;

	if ((void *)(eth + 1) > end)
		return XDP_PASS;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return reject4(data, end, &service) ? XDP_PASS : balance4(data, end, *service);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return reject6(data, end, &service) ? XDP_PASS : balance6(data, end, *service);
	return XDP_PASS;
}

SEC("xdp")
int floor_xdp(struct xdp_md *ctx)
{
	return floor_program((void *)(long)ctx->data, (void *)(long)ctx->data_end);
}

SEC("tc")
int floor_tc(struct __sk_buff *skb)
{
	return floor_program((void *)(long)skb->data, (void *)(long)skb->data_end);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
