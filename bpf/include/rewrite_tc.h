/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Rewriting in TC: through the helpers, which know of partial checksums (packets of local senders) and of
 * sums that the device computed. Invalidates pointers into the packet.
 */
#ifndef NETACCEL_REWRITE_TC_H
#define NETACCEL_REWRITE_TC_H

#include <stddef.h>
#include "flow.h"
#include "packet.h"
#include "parse.h"

/* Where the transport header has its checksum, and how it is to be treated. */
static __always_inline __u32 rewrite_check_at(const struct packet *p, __u64 *flags)
{
	if (p->tuple.proto == IPPROTO_TCP) {
		*flags = 0;
		return p->l4 + offsetof(struct tcphdr, check);
	}
	*flags = BPF_F_MARK_MANGLED_0; /* 0 stays 0: none; and none becomes 0 */
	return p->l4 + offsetof(struct udphdr, check);
}

/* Later fragments have neither ports nor a checksum. */
static __always_inline int rewrite_tc_transport(struct __sk_buff *skb, const struct packet *p,
						const struct flow *f, __s64 addresses)
{
	struct ports old = { p->tuple.sport, p->tuple.dport }, new = { f->new_sport, f->new_dport };
	__u32 from, to, at;
	__u64 flags;

	if (p->flags & PACKET_LATER_FRAGMENT)
		return 0;
	__builtin_memcpy(&from, &old, sizeof(from));
	__builtin_memcpy(&to, &new, sizeof(to));
	at = rewrite_check_at(p, &flags);
	if (bpf_l4_csum_replace(skb, at, 0, addresses, flags | BPF_F_PSEUDO_HDR) ||
	    bpf_l4_csum_replace(skb, at, from, to, flags | sizeof(from)) ||
	    bpf_skb_store_bytes(skb, p->l4, &new, sizeof(new), 0))
		return DROP_REWRITE;
	return 0;
}

static __always_inline int rewrite_tc4(struct __sk_buff *skb, const struct packet *p, const struct flow *f,
				       int hops)
{
	__be32 old[2] = { p->tuple.src.w[3], p->tuple.dst.w[3] };
	__be32 new[2] = { ((const struct flow4 *)f)->new_src, ((const struct flow4 *)f)->new_dst };
	__u32 check = p->l3 + offsetof(struct iphdr, check), ttl = p->l3 + offsetof(struct iphdr, ttl);
	__u8 left = p->hop_limit - 1;
	__s64 delta;

	delta = bpf_csum_diff(old, sizeof(old), new, sizeof(new), 0);
	if (delta < 0 || bpf_l3_csum_replace(skb, check, 0, delta, 0) ||
	    bpf_skb_store_bytes(skb, p->l3 + offsetof(struct iphdr, saddr), new, sizeof(new), 0))
		return DROP_REWRITE;
	/* The hop limit is the high byte of its word. */
	if (hops && (bpf_l3_csum_replace(skb, check, bpf_htons(0x0100), 0, sizeof(__be16)) ||
		     bpf_skb_store_bytes(skb, ttl, &left, sizeof(left), 0)))
		return DROP_REWRITE;
	return rewrite_tc_transport(skb, p, f, delta);
}

/* IPv6 has no header checksum that would balance a change of its header: hence BPF_F_RECOMPUTE_CSUM, for
 * sums that the device computed over all of it. */
static __always_inline int rewrite_tc6(struct __sk_buff *skb, const struct packet *p, const struct flow *f,
				       int hops)
{
	__u32 limit = p->l3 + offsetof(struct ipv6hdr, hop_limit);
	__u8 left = p->hop_limit - 1;
	struct addr new[2];
	__s64 delta;

	flow_addresses(AF_INET6, f, &new[0], &new[1]);
	delta = bpf_csum_diff((__be32 *)&p->tuple.src, sizeof(new), (__be32 *)new, sizeof(new), 0);
	if (delta < 0 || bpf_skb_store_bytes(skb, p->l3 + offsetof(struct ipv6hdr, saddr), new, sizeof(new),
					     BPF_F_RECOMPUTE_CSUM))
		return DROP_REWRITE;
	if (hops && bpf_skb_store_bytes(skb, limit, &left, sizeof(left), BPF_F_RECOMPUTE_CSUM))
		return DROP_REWRITE;
	return rewrite_tc_transport(skb, p, f, delta);
}

/* The packet leaves with *f's new tuple, its hop limit less by `hops`. 0 or a drop reason. */
static __always_inline int rewrite_tc(struct __sk_buff *skb, int family, const struct packet *p,
				      const struct flow *f, int hops)
{
	return family == AF_INET ? rewrite_tc4(skb, p, f, hops) : rewrite_tc6(skb, p, f, hops);
}

#endif
