/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Rewriting in XDP: the packet's bytes, checksums by arithmetic on what changes (RFC 1624). Right only for
 * packets whose checksums are complete, as they are on a wire.
 */
#ifndef NETACCEL_REWRITE_XDP_H
#define NETACCEL_REWRITE_XDP_H

#include "flow.h"
#include "packet.h"
#include "parse.h"

static __always_inline __u16 csum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* The checksum after its data changed by `delta`: the sum of all new words and complements of old ones. */
static __always_inline __u16 csum_apply(__u16 check, __u64 delta)
{
	return ~csum_fold((__u16)~check + delta);
}

static __always_inline __u64 csum_replace(__be32 from, __be32 to)
{
	return (__u64)(__u32)~from + to;
}

/* Ports and checksum of TCP or UDP. `addresses` is the delta of the pseudo-header. */
static __always_inline int rewrite_transport(const struct packet *p, void *data, void *end,
					     const struct flow *f, __u64 addresses)
{
	struct ports *ports;
	__u64 delta;

	ports = packet_at(data, p->l4);
	delta = addresses + (__u16)~p->tuple.sport + f->new_sport + (__u16)~p->tuple.dport + f->new_dport;
	if (p->tuple.proto == IPPROTO_TCP) {
		struct tcphdr *tcp = (void *)ports;

		if ((void *)(tcp + 1) > end)
			return DROP_MALFORMED;
		tcp->check = csum_apply(tcp->check, delta);
	} else {
		struct udphdr *udp = (void *)ports;

		if ((void *)(udp + 1) > end)
			return DROP_MALFORMED;
		if (udp->check) {
			__u16 check = csum_apply(udp->check, delta);

			udp->check = check ?: 0xffff; /* 0 would mean: none */
		}
	}
	ports->source = f->new_sport;
	ports->dest = f->new_dport;
	return 0;
}

static __always_inline int rewrite_ip4(const struct packet *p, void *data, void *end, const struct flow *f,
				       int hops)
{
	__be32 src = ((const struct flow4 *)f)->new_src, dst = ((const struct flow4 *)f)->new_dst;
	struct iphdr *ip = packet_at(data, p->l3);
	__u64 delta;

	if ((void *)(ip + 1) > end)
		return DROP_MALFORMED;
	delta = csum_replace(p->tuple.src.w[3], src) + csum_replace(p->tuple.dst.w[3], dst);
	/* The hop limit is the high byte of its word: one less adds one to the complement. */
	ip->check = csum_apply(ip->check, delta + (hops ? (__u16)~bpf_htons(0x0100) : 0));
	ip->ttl = p->hop_limit - hops;
	ip->saddr = src;
	ip->daddr = dst;
	return rewrite_transport(p, data, end, f, delta);
}

static __always_inline int rewrite_ip6(const struct packet *p, void *data, void *end, const struct flow *f,
				       int hops)
{
	const struct addr *src = (const struct addr *)f->new_src, *dst = (const struct addr *)f->new_dst;
	struct ipv6hdr *ip = packet_at(data, p->l3);
	__u64 delta = 0;

	if ((void *)(ip + 1) > end)
		return DROP_MALFORMED;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		delta += csum_replace(p->tuple.src.w[i], src->w[i]);
		delta += csum_replace(p->tuple.dst.w[i], dst->w[i]);
	}
	ip->hop_limit = p->hop_limit - hops;
	__builtin_memcpy(&ip->saddr, src, ADDR_LEN);
	__builtin_memcpy(&ip->daddr, dst, ADDR_LEN);
	return rewrite_transport(p, data, end, f, delta);
}

/* The packet leaves with *f's new tuple, its hop limit less by `hops`. 0 or a drop reason. */
static __always_inline int rewrite_xdp(int family, const struct packet *p, void *data, void *end,
				       const struct flow *f, int hops)
{
	return family == AF_INET ? rewrite_ip4(p, data, end, f, hops) : rewrite_ip6(p, data, end, f, hops);
}

/* Ethernet addresses of the next hop. */
static __always_inline int rewrite_hop(void *data, void *end, const struct flow *f)
{
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return DROP_MALFORMED;
	__builtin_memcpy(eth->h_dest, f->hop_dst, ETH_ALEN);
	__builtin_memcpy(eth->h_source, f->hop_src, ETH_ALEN);
	return 0;
}

#endif
