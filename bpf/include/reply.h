/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Answers: a TC program turns the packet that it can't carry into the reply, and sends it back out of the
 * device it came from. Reads node; writes limiter and reply_scratch. docs/packets.md says what is answered.
 *
 * The packet must be as it arrived: the quotation of an ICMP error is what the sender sent. Each function
 * returns the verdict: TC_ACT_REDIRECT, or TC_ACT_SHOT where no answer is due or a helper refused.
 */
#ifndef NETACCEL_REPLY_H
#define NETACCEL_REPLY_H

#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include "frontend.h"
#include "maps.h"
#include "packet.h"
#include "settings.h"

/* RFC 792. Not from <linux/icmp.h>, which needs the C library's headers of another machine. */
#define ICMP_DEST_UNREACH 3
#define ICMP_PORT_UNREACH 3 /* codes */
#define ICMP_FRAG_NEEDED 4
#define ICMP_PKT_FILTERED 13 /* administratively prohibited: RFC 1812 5.2.7.1 */
#define ICMP_TIME_EXCEEDED 11
#define ICMP_EXC_TTL 0

#define IPV6_MTU_MIN 1280
#define REPLY_HOP_LIMIT 64
#define REPLY_ICMP_TOS 0xc0        /* precedence 6: RFC 1812 4.3.2.5 */
#define REPLY_ICMP_PER_SECOND 1000 /* per CPU: RFC 4443 2.4 (f), RFC 1812 4.3.2.8 */
#define REPLY_QUOTE4_MAX (576 - sizeof(struct iphdr) - sizeof(struct reply_icmp)) /* RFC 1812 4.3.2.3 */
#define REPLY_QUOTE6_MAX                                                                                     \
	(IPV6_MTU_MIN - sizeof(struct ipv6hdr) - sizeof(struct reply_icmp)) /* RFC 4443 2.4 (c) */
#define REPLY_CSUM_CHUNK 512 /* bpf_csum_diff takes no more before Linux 6.13 */

/* The first bytes of an ICMP error; the same for both families. */
struct reply_icmp {
	__u8 type;
	__u8 code;
	__sum16 check;
	__be32 info; /* ICMPv6: MTU; ICMPv4: unused, next-hop MTU (RFC 1191) */
};

static __always_inline __sum16 reply_csum_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__sum16)~sum;
}

/* 1 where the address names one host (RFC 1122 3.2.2, RFC 4443 2.4 (e)). */
static __always_inline int reply_unicast(const struct addr *a, int family)
{
	if (family == AF_INET) {
		__u32 host = bpf_ntohl(a->w[3]);

		return host >> 24 != 0 && host >> 24 != 127 && host >> 28 < 0xe;
	}
	if ((bpf_ntohl(a->w[0]) >> 24) == 0xff)
		return 0;
	return a->w[0] || a->w[1] || a->w[2] || bpf_ntohl(a->w[3]) > 1;
}

/* An answer is due: never to an ICMP error, a later fragment, an RST, a group or no one. */
static __always_inline int reply_due(struct __sk_buff *skb, const struct packet *p, int family)
{
	__u8 first;

	if (p->flags & (PACKET_LATER_FRAGMENT | PACKET_ICMP_ERROR))
		return 0;
	if (p->tuple.proto == IPPROTO_TCP && p->tcp_flags & TCP_RST)
		return 0;
	if (bpf_skb_load_bytes(skb, 0, &first, 1) || first & 1)
		return 0;
	return reply_unicast(&p->tuple.src, family) && reply_unicast(&p->tuple.dst, family);
}

static __always_inline int reply_icmp_admitted(void)
{
	__u32 which = LIMIT_REPLIES, now = (__u32)(bpf_jiffies64() / settings.hz);
	struct limiter *l = bpf_map_lookup_elem(&limiter, &which);

	if (!l)
		return 0;
	if (l->tick != now) {
		l->tick = now;
		l->admitted = 0;
	}
	return l->admitted++ < REPLY_ICMP_PER_SECOND;
}

/*
 * Make the packet l3 + `len` bytes long, content undefined beyond the Ethernet header.
 *
 * change_tail linearises and ends GSO, but leaves a local sender's partial checksum pending: the device
 * would later write a sum into the middle of the reply. Pulling the place of that pending sum (it is at the
 * transport header) out of the packet makes the kernel forget it (__skb_postpull_rcsum). adjust_room also
 * takes back CHECKSUM_UNNECESSARY, so that the receiver verifies what is written here.
 */
static __always_inline int reply_resize(struct __sk_buff *skb, const struct packet *p, __u32 len)
{
	__u32 pull = p->l4 + 2;

	if (bpf_skb_change_tail(skb, p->l3 + len + pull, 0))
		return -1;
	return bpf_skb_adjust_room(skb, -(__s32)pull, BPF_ADJ_ROOM_MAC, 0);
}

static __always_inline int reply_store(struct __sk_buff *skb, __u32 at, const void *from, __u32 len)
{
	return bpf_skb_store_bytes(skb, at, from, len, BPF_F_RECOMPUTE_CSUM);
}

static __always_inline int reply_swap_ethernet(struct __sk_buff *skb)
{
	__u8 mac[2 * ETH_ALEN];

	if (bpf_skb_load_bytes(skb, 0, mac, sizeof(mac)) || reply_store(skb, 0, mac + ETH_ALEN, ETH_ALEN))
		return -1;
	return reply_store(skb, ETH_ALEN, mac, ETH_ALEN);
}

/* The IP header of a reply from `src` to the packet's sender, `len` bytes of transport behind it. */
static __always_inline int reply_ip(struct __sk_buff *skb, const struct packet *p, int family,
				    const struct addr *src, __u8 proto, __u32 len)
{
	if (family == AF_INET) {
		struct iphdr ip = {
			.version = 4,
			.ihl = 5,
			.tos = proto == IPPROTO_ICMP ? REPLY_ICMP_TOS : 0,
			.tot_len = bpf_htons(sizeof(ip) + len),
			.frag_off = bpf_htons(0x4000), /* DF: the identification may then be 0, RFC 6864 */
			.ttl = REPLY_HOP_LIMIT,
			.protocol = proto,
			.saddr = src->w[3],
			.daddr = p->tuple.src.w[3],
		};

		ip.check = reply_csum_fold(bpf_csum_diff(NULL, 0, (__be32 *)&ip, sizeof(ip), 0));
		return reply_store(skb, p->l3, &ip, sizeof(ip));
	}
	struct ipv6hdr ip = {
		.version = 6,
		.payload_len = bpf_htons(len),
		.nexthdr = proto,
		.hop_limit = REPLY_HOP_LIMIT,
	};

	__builtin_memcpy(&ip.saddr, src, sizeof(*src));
	__builtin_memcpy(&ip.daddr, &p->tuple.src, sizeof(*src));
	return reply_store(skb, p->l3, &ip, sizeof(ip));
}

static __always_inline __u32 reply_pseudo_sum(const struct packet *p, int family, const struct addr *src,
					      __u8 proto, __u32 len)
{
	__be32 tail = bpf_htonl(len + proto);
	__u32 sum = bpf_csum_diff(NULL, 0, &tail, sizeof(tail), 0);

	if (family == AF_INET) {
		sum = bpf_csum_diff(NULL, 0, (__be32 *)&src->w[3], 4, sum);
		return bpf_csum_diff(NULL, 0, (__be32 *)&p->tuple.src.w[3], 4, sum);
	}
	sum = bpf_csum_diff(NULL, 0, (__be32 *)src->w, ADDR_LEN, sum);
	return bpf_csum_diff(NULL, 0, (__be32 *)p->tuple.src.w, ADDR_LEN, sum);
}

/* RFC 9293 3.10.7.1: the reset takes its sequence number from the segment's ACK; without one it is 0 and
 * the reset acknowledges the segment. */
static __always_inline void reply_reset_header(struct tcphdr *rst, const struct tcphdr *seg,
					       const struct packet *p)
{
	__u32 header = p->l4 - p->l3 + seg->doff * 4;
	__u32 len = (p->tot_len > header ? p->tot_len - header : 0) + seg->syn + seg->fin;

	rst->source = seg->dest;
	rst->dest = seg->source;
	rst->doff = sizeof(*rst) / 4;
	rst->rst = 1;
	if (seg->ack) {
		rst->seq = seg->ack_seq;
	} else {
		rst->ack = 1;
		rst->ack_seq = bpf_htonl(bpf_ntohl(seg->seq) + len);
	}
}

static __always_inline int reply_reset(struct __sk_buff *skb, const struct packet *p, int family)
{
	const __u32 ip_len = family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	struct tcphdr seg, rst = {};
	__u32 sum;

	if (bpf_skb_load_bytes(skb, p->l4, &seg, sizeof(seg)))
		return TC_ACT_SHOT;
	reply_reset_header(&rst, &seg, p);
	sum = reply_pseudo_sum(p, family, &p->tuple.dst, IPPROTO_TCP, sizeof(rst));
	rst.check = reply_csum_fold(bpf_csum_diff(NULL, 0, (__be32 *)&rst, sizeof(rst), sum));
	if (reply_resize(skb, p, ip_len + sizeof(rst)) || reply_swap_ethernet(skb) ||
	    reply_ip(skb, p, family, &p->tuple.dst, IPPROTO_TCP, sizeof(rst)) ||
	    reply_store(skb, p->l3 + ip_len, &rst, sizeof(rst)))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

/* Bytes of the packet to quote: all, up to the family's bound. Not an Ethernet trailer. */
static __always_inline __u32 reply_quote_len(const struct __sk_buff *skb, const struct packet *p, int family)
{
	const __u32 max = family == AF_INET ? REPLY_QUOTE4_MAX : REPLY_QUOTE6_MAX;
	__u32 len = skb->len - p->l3;

	if (p->tot_len && p->tot_len < len)
		len = p->tot_len;
	return len < max ? len : max;
}

static __always_inline int reply_icmp(struct __sk_buff *skb, const struct packet *p, int family,
				      const struct addr *src, struct reply_icmp icmp)
{
	const __u32 ip_len = family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	const __u8 proto = family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6;
	__u32 quote = reply_quote_len(skb, p, family), zero = 0, sum = 0, len;
	__u8 *message = bpf_map_lookup_elem(&reply_scratch, &zero);

	if (!message || !reply_icmp_admitted())
		return TC_ACT_SHOT;
	/* The verifier bounds the register that is used, and older ones follow no range check that the
	 * compiler made of both. */
	asm volatile("" : "+r"(quote));
	if (quote < ip_len)
		return TC_ACT_SHOT;
	asm volatile("" : "+r"(quote));
	if (quote > REPLY_QUOTE6_MAX)
		return TC_ACT_SHOT;
	*(__u32 *)(message + sizeof(icmp) + (quote & ~3U)) = 0; /* the sum is over whole words */
	if (bpf_skb_load_bytes(skb, p->l3, message + sizeof(icmp), quote))
		return TC_ACT_SHOT;
	__builtin_memcpy(message, &icmp, sizeof(icmp));
	len = sizeof(icmp) + quote;
	if (family == AF_INET6)
		sum = reply_pseudo_sum(p, family, src, proto, len);
#pragma clang loop unroll(full)
	for (__u32 at = 0; at < sizeof(icmp) + REPLY_QUOTE6_MAX; at += REPLY_CSUM_CHUNK) {
		__u32 rest = len > at ? (len - at + 3) & ~3U : 0;

		asm volatile("" : "+r"(rest));
		if (rest > REPLY_CSUM_CHUNK)
			rest = REPLY_CSUM_CHUNK;
		sum = bpf_csum_diff(NULL, 0, (__be32 *)(message + at), rest, sum);
	}
	((struct reply_icmp *)message)->check = reply_csum_fold(sum);
	asm volatile("" : "+r"(len));
	if (len < sizeof(icmp) || len > sizeof(icmp) + REPLY_QUOTE6_MAX)
		return TC_ACT_SHOT;
	if (reply_resize(skb, p, ip_len + len) || reply_swap_ethernet(skb) ||
	    reply_ip(skb, p, family, src, proto, len) || reply_store(skb, p->l3 + ip_len, message, len))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

/* The node's own address; the packet's destination where the node has none of the family. */
static __always_inline void reply_node_address(const struct packet *p, int family, struct addr *out)
{
	__u32 zero = 0;
	struct node *n = bpf_map_lookup_elem(&node, &zero);

	*out = p->tuple.dst;
	if (!n)
		return;
	const struct addr *own = (const struct addr *)(family == AF_INET ? n->addr4 : n->addr6);

	if (own->w[0] || own->w[1] || own->w[2] || own->w[3])
		*out = *own;
}

/* A reset for TCP, else "unreachable" with the family's code, both in the name of the address that was asked
 * for. */
static __always_inline int reply_unreachable(struct __sk_buff *skb, const struct packet *p, int family,
					     __u8 code4, __u8 code6)
{
	struct reply_icmp icmp = { .type = ICMP_DEST_UNREACH, .code = code4 };

	if (!reply_due(skb, p, family))
		return TC_ACT_SHOT;
	if (p->tuple.proto == IPPROTO_TCP)
		return reply_reset(skb, p, family);
	if (family == AF_INET6) {
		icmp.type = ICMPV6_DEST_UNREACH;
		icmp.code = code6;
	}
	return reply_icmp(skb, p, family, &p->tuple.dst, icmp);
}

/* Nobody serves it. */
static __always_inline int reply_refuse(struct __sk_buff *skb, const struct packet *p, int family)
{
	return reply_unreachable(skb, p, family, ICMP_PORT_UNREACH, ICMPV6_PORT_UNREACH);
}

/* A policy rejects it: administratively prohibited. */
static __always_inline int reply_forbid(struct __sk_buff *skb, const struct packet *p, int family)
{
	return reply_unreachable(skb, p, family, ICMP_PKT_FILTERED, ICMPV6_ADM_PROHIBITED);
}

/* Larger than the MTU towards the other end, which the sender learns. IPv4 gets it without DF too: a
 * translated packet is not fragmented here, and silence would be a black hole. */
static __always_inline int reply_too_big(struct __sk_buff *skb, const struct packet *p, int family, __u32 mtu)
{
	struct reply_icmp icmp = { .type = ICMP_DEST_UNREACH, .code = ICMP_FRAG_NEEDED };
	struct addr src;

	if (!reply_due(skb, p, family))
		return TC_ACT_SHOT;
	if (family == AF_INET6) {
		icmp.type = ICMPV6_PKT_TOOBIG;
		icmp.code = 0;
		if (mtu < IPV6_MTU_MIN)
			mtu = IPV6_MTU_MIN; /* not known, before Linux 5.13; every link has that */
	}
	icmp.info = bpf_htonl(family == AF_INET && mtu > 0xffff ? 0xffff : mtu);
	reply_node_address(p, family, &src);
	return reply_icmp(skb, p, family, &src, icmp);
}

/* The hop limit ends here. */
static __always_inline int reply_time_exceeded(struct __sk_buff *skb, const struct packet *p, int family)
{
	struct reply_icmp icmp = { .type = ICMP_TIME_EXCEEDED, .code = ICMP_EXC_TTL };
	struct addr src;

	if (!reply_due(skb, p, family))
		return TC_ACT_SHOT;
	if (family == AF_INET6) {
		icmp.type = ICMPV6_TIME_EXCEED;
		icmp.code = ICMPV6_EXC_HOPLIMIT;
	}
	reply_node_address(p, family, &src);
	return reply_icmp(skb, p, family, &src, icmp);
}

#endif
