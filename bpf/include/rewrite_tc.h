/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Rewriting in TC: by helpers, since the checksum of a local sender's packet may be pending (partial), and
 * a driver may have summed the whole packet (CHECKSUM_COMPLETE); arithmetic on the bytes would break both.
 */
#ifndef NETACCEL_REWRITE_TC_H
#define NETACCEL_REWRITE_TC_H

#include <stddef.h>
#include "flow.h"
#include "packet.h"
#include "parse.h"

/* Ports and checksum of TCP or UDP. `addresses` is the change of the pseudo-header's sum. */
static __always_inline int rewrite_tc_transport(struct __sk_buff *skb, const struct packet *p,
						const struct flow *f, __u32 addresses)
{
	int udp = p->tuple.proto == IPPROTO_UDP;
	__u32 at = p->l4 + (udp ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check));
	__u64 flags = udp ? BPF_F_MARK_MANGLED_0 : 0;
	struct ports ports = { f->new_sport, f->new_dport };

	if (bpf_l4_csum_replace(skb, at, 0, addresses, flags | BPF_F_PSEUDO_HDR) ||
	    bpf_l4_csum_replace(skb, at, p->tuple.sport, ports.source, flags | 2) ||
	    bpf_l4_csum_replace(skb, at, p->tuple.dport, ports.dest, flags | 2) ||
	    bpf_skb_store_bytes(skb, p->l4, &ports, sizeof(ports), 0))
		return DROP_REWRITE;
	return 0;
}

static __always_inline int rewrite_tc_ip4(struct __sk_buff *skb, const struct packet *p,
					  const struct addr *src, const struct addr *dst, int hops)
{
	__u32 check = p->l3 + offsetof(struct iphdr, check);
	__u8 ttl = p->hop_limit - hops;

	if (bpf_l3_csum_replace(skb, check, p->tuple.src.w[3], src->w[3], 4) ||
	    bpf_l3_csum_replace(skb, check, p->tuple.dst.w[3], dst->w[3], 4) ||
	    bpf_skb_store_bytes(skb, p->l3 + offsetof(struct iphdr, saddr), &src->w[3], 4, 0) ||
	    bpf_skb_store_bytes(skb, p->l3 + offsetof(struct iphdr, daddr), &dst->w[3], 4, 0))
		return DROP_REWRITE;
	if (hops && (bpf_l3_csum_replace(skb, check, bpf_htons(p->hop_limit << 8), bpf_htons(ttl << 8), 2) ||
		     bpf_skb_store_bytes(skb, p->l3 + offsetof(struct iphdr, ttl), &ttl, 1, 0)))
		return DROP_REWRITE;
	return 0;
}

/*
 * BPF_F_PSEUDO_HDR takes the change of the checksum field into a complete sum, as IPv4 needs it, where the
 * IP header's own checksum makes up for the addresses. IPv6 has none: the addresses are stored with
 * BPF_F_RECOMPUTE_CSUM, which does. (Linux 6.16 has BPF_F_IPV6 for the same, older ones refuse that.)
 */
static __always_inline int rewrite_tc_ip6(struct __sk_buff *skb, const struct packet *p,
					  const struct addr *src, const struct addr *dst, int hops)
{
	const __u64 recompute = BPF_F_RECOMPUTE_CSUM;
	__u8 limit = p->hop_limit - hops;

	if (bpf_skb_store_bytes(skb, p->l3 + offsetof(struct ipv6hdr, saddr), src, ADDR_LEN, recompute) ||
	    bpf_skb_store_bytes(skb, p->l3 + offsetof(struct ipv6hdr, daddr), dst, ADDR_LEN, recompute))
		return DROP_REWRITE;
	if (hops &&
	    bpf_skb_store_bytes(skb, p->l3 + offsetof(struct ipv6hdr, hop_limit), &limit, 1, recompute))
		return DROP_REWRITE;
	return 0;
}

/* The packet takes *f's new tuple, its hop limit less by `hops`; a later fragment has addresses only. 0 or
 * a drop reason. */
static __always_inline int rewrite_tc(struct __sk_buff *skb, int family, const struct packet *p,
				      const struct flow *f, int hops)
{
	struct tuple old = p->tuple, new; /* both on the stack: a map's value may change meanwhile */
	__u32 addresses;

	__builtin_memcpy(&new.src, f->new_src, ADDR_LEN);
	__builtin_memcpy(&new.dst, f->new_dst, ADDR_LEN);
	if (!(p->flags & PACKET_LATER_FRAGMENT)) {
		addresses = bpf_csum_diff((__be32 *)&old, 2 * ADDR_LEN, (__be32 *)&new, 2 * ADDR_LEN, 0);
		if (rewrite_tc_transport(skb, p, f, addresses))
			return DROP_REWRITE;
	}
	return family == AF_INET ? rewrite_tc_ip4(skb, p, &new.src, &new.dst, hops)
				 : rewrite_tc_ip6(skb, p, &new.src, &new.dst, hops);
}

#endif
