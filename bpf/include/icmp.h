/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * ICMP errors that quote a translated packet: the receiver must find its own packet in the quote (RFC 5508
 * section 4, RFC 2663 4.3). TC only. Reads flows4 and flows6; changes nothing but the packet.
 *
 * The flow is found by the quoted tuple turned round, which is the tuple of a packet that answers it; what
 * such a packet would become is what the error becomes, and its quote the same turned round again.
 */
#ifndef NETACCEL_ICMP_H
#define NETACCEL_ICMP_H

#include <stddef.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include "count.h"
#include "flow.h"
#include "packet.h"
#include "parse.h"

#define ICMP_HEADER 8
#define ICMP_PULL 512 /* bytes of the frame in which the quoted headers have to be */

enum icmp_hook {
	ICMP_UPLINK_INGRESS,
	ICMP_UPLINK_EGRESS,
	ICMP_POD_INGRESS, /* from the pod */
	ICMP_POD_EGRESS,  /* to the pod */
};

enum icmp_action {
	ICMP_LEAVE,    /* not ours, or another hook's: untouched */
	ICMP_CONTINUE, /* translated: goes on as it was going */
	ICMP_FORWARD,  /* translated: out of this node, one hop less */
	ICMP_BOUNCE,   /* translated: back to the pod that sent it */
	ICMP_DROP,     /* for *reason */
};

/* All words that may change and that the checksum of the ICMP message covers. Two of them and
 * bpf_csum_diff() give its change. */
struct icmp_words {
	struct addr outer_src; /* pseudo-header of ICMPv6; zero for IPv4 */
	struct addr outer_dst;
	struct addr src; /* of the quoted packet */
	struct addr dst;
	__be16 sport;
	__be16 dport;
	__sum16 ip_check;
	__sum16 check; /* of the quoted transport header, zero where the quote ends before it */
};

/* Where the quoted transport header has its checksum, from the start of the frame; 0: not quoted, or none. */
static __always_inline __u32 icmp_check_at(struct __sk_buff *skb, const struct packet *p,
					   const struct packet *q)
{
	__u32 within = q->tuple.proto == IPPROTO_TCP ? offsetof(struct tcphdr, check)
						     : offsetof(struct udphdr, check);
	__u32 at = q->l4 + within;
	__sum16 check;

	if (q->l4 - q->l3 + within + 2 > q->tot_len || at + 2 > (__u32)p->l3 + p->tot_len)
		return 0;
	if (q->tuple.proto == IPPROTO_UDP && (bpf_skb_load_bytes(skb, at, &check, 2) || !check))
		return 0;
	return at;
}

/* The flow of the error's quote, and which half of it the error follows. An error goes to the sender of
 * what it quotes, or it is forged. */
static __always_inline struct flow *icmp_find(int family, const struct packet *p, const struct packet *q,
					      __u8 *direction)
{
	struct tuple answer = {
		.src = q->tuple.dst,
		.dst = q->tuple.src,
		.sport = q->tuple.dport,
		.dport = q->tuple.sport,
		.proto = q->tuple.proto,
	};
	struct flow *f;

	if (q->flags & PACKET_LATER_FRAGMENT || !addr_equal(family, &p->tuple.dst, &q->tuple.src))
		return NULL;
	if (answer.proto != IPPROTO_TCP && answer.proto != IPPROTO_UDP)
		return NULL;
	*direction = FLOW_REVERSE;
	f = flow_find(family, &answer, FLOW_REVERSE);
	if (f)
		return f;
	*direction = FLOW_FORWARD;
	return flow_find(family, &answer, FLOW_FORWARD);
}

/* Each error is translated once: where a packet of the flow in that direction would be. */
static __always_inline int icmp_action_of(enum icmp_hook hook, const struct flow *f, __u8 direction)
{
	int from_pod = f->flags & FLOW_FROM_POD, local = f->flags & FLOW_LOCAL;

	switch (hook) {
	case ICMP_UPLINK_INGRESS:
		if (from_pod)
			return ICMP_LEAVE;
		if (direction == FLOW_FORWARD)
			return local ? ICMP_CONTINUE : ICMP_FORWARD;
		return local ? ICMP_LEAVE : ICMP_FORWARD;
	case ICMP_UPLINK_EGRESS:
		return !from_pod && local && direction == FLOW_REVERSE ? ICMP_CONTINUE : ICMP_LEAVE;
	case ICMP_POD_INGRESS:
		if (f->flags & FLOW_HAIRPIN)
			return ICMP_BOUNCE;
		return from_pod && direction == FLOW_FORWARD ? ICMP_CONTINUE : ICMP_LEAVE;
	case ICMP_POD_EGRESS:
		if (f->flags & FLOW_HAIRPIN)
			return ICMP_LEAVE;
		return from_pod && direction == FLOW_REVERSE ? ICMP_CONTINUE : ICMP_LEAVE;
	}
	return ICMP_LEAVE;
}

/* Addresses of the quoted packet. */
static __always_inline int icmp_store_addresses(struct __sk_buff *skb, int family, __u32 l3,
						const struct addr *src, const struct addr *dst)
{
	if (family == AF_INET)
		return bpf_skb_store_bytes(skb, l3 + offsetof(struct iphdr, saddr), &src->w[3], 4, 0) ||
		       bpf_skb_store_bytes(skb, l3 + offsetof(struct iphdr, daddr), &dst->w[3], 4, 0);
	return bpf_skb_store_bytes(skb, l3 + offsetof(struct ipv6hdr, saddr), src, ADDR_LEN, 0) ||
	       bpf_skb_store_bytes(skb, l3 + offsetof(struct ipv6hdr, daddr), dst, ADDR_LEN, 0);
}

static __always_inline __u32 icmp_diff(const void *from, const void *to, __u32 len)
{
	return bpf_csum_diff((__be32 *)from, len, (__be32 *)to, len, 0);
}

/* The quoted headers take *new's addresses and ports; its checksums follow and are noted in *old and *new. */
static __always_inline int icmp_rewrite_quote(struct __sk_buff *skb, int family, const struct packet *p,
					      const struct packet *q, struct icmp_words *old,
					      struct icmp_words *new)
{
	__u32 addresses = icmp_diff(&old->src, &new->src, 2 * ADDR_LEN), all;
	__u32 at = icmp_check_at(skb, p, q);

	if (family == AF_INET) {
		__u32 check_at = q->l3 + offsetof(struct iphdr, check);

		if (bpf_skb_load_bytes(skb, check_at, &old->ip_check, 2) ||
		    bpf_l3_csum_replace(skb, check_at, 0, addresses, 0) ||
		    bpf_skb_load_bytes(skb, check_at, &new->ip_check, 2))
			return -1;
	}
	if (at) {
		__u64 flags = q->tuple.proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;

		all = bpf_csum_diff((__be32 *)&old->sport, 4, (__be32 *)&new->sport, 4, addresses);
		if (bpf_skb_load_bytes(skb, at, &old->check, 2) ||
		    bpf_l4_csum_replace(skb, at, 0, all, flags) ||
		    bpf_skb_load_bytes(skb, at, &new->check, 2))
			return -1;
	}
	if (bpf_skb_store_bytes(skb, q->l4, &new->sport, 4, 0))
		return -1;
	return icmp_store_addresses(skb, family, q->l3, &new->src, &new->dst);
}

/* The header of the error itself. */
static __always_inline int icmp_rewrite_outer(struct __sk_buff *skb, int family, const struct packet *p,
					      const struct addr *src, const struct addr *dst, int hops)
{
	if (family == AF_INET) {
		__u32 check_at = p->l3 + offsetof(struct iphdr, check);
		__u32 ttl_at = p->l3 + offsetof(struct iphdr, ttl);
		__u8 ttl = p->hop_limit - hops;

		if (bpf_l3_csum_replace(skb, check_at, p->tuple.src.w[3], src->w[3], 4) ||
		    bpf_l3_csum_replace(skb, check_at, p->tuple.dst.w[3], dst->w[3], 4) ||
		    bpf_l3_csum_replace(skb, check_at, bpf_htons(p->hop_limit << 8), bpf_htons(ttl << 8),
					2) ||
		    bpf_skb_store_bytes(skb, ttl_at, &ttl, 1, 0))
			return -1;
	} else if (hops) {
		__u8 limit = p->hop_limit - hops;

		if (bpf_skb_store_bytes(skb, p->l3 + offsetof(struct ipv6hdr, hop_limit), &limit, 1,
					BPF_F_RECOMPUTE_CSUM))
			return -1;
	}
	return icmp_store_addresses(skb, family, p->l3, src, dst);
}

/* 0 or a drop reason. */
static __always_inline int icmp_rewrite(struct __sk_buff *skb, int family, const struct packet *p,
					const struct packet *q, const struct flow *f, __u8 direction,
					int hops)
{
	struct icmp_words old = { .src = q->tuple.src, .dst = q->tuple.dst };
	struct icmp_words new = {};
	struct addr src = p->tuple.src, dst;

	__builtin_memcpy(&new.src, f->new_dst, ADDR_LEN);
	__builtin_memcpy(&new.dst, f->new_src, ADDR_LEN);
	old.sport = q->tuple.sport;
	old.dport = q->tuple.dport;
	new.sport = f->new_dport;
	new.dport = f->new_sport;
	dst = new.src;
	/* The client knows the frontend alone, and a backend's network the node: what lies behind them has
	 * no route there, or fails its reverse path filter. */
	if (direction == FLOW_REVERSE || f->flags & FLOW_SNAT)
		src = new.dst;
	if (family == AF_INET6) {
		old.outer_src = p->tuple.src;
		old.outer_dst = p->tuple.dst;
		new.outer_src = src;
		new.outer_dst = dst;
	}
	if (icmp_rewrite_quote(skb, family, p, q, &old, &new) ||
	    icmp_rewrite_outer(skb, family, p, &src, &dst, hops) ||
	    bpf_l4_csum_replace(skb, p->l4 + 2, 0, icmp_diff(&old, &new, sizeof(old)), 0))
		return DROP_REWRITE;
	return 0;
}

/* *p is an ICMP error (PACKET_ICMP_ERROR). Returns an icmp_action, translates the packet accordingly. */
static __always_inline int icmp_translate(struct __sk_buff *skb, int family, enum icmp_hook hook,
					  const struct packet *p, __u32 *reason)
{
	struct packet q = { .l3 = p->l4 + ICMP_HEADER };
	struct flow *f;
	__u8 direction;
	int action;

	if (bpf_skb_pull_data(skb, skb->len < ICMP_PULL ? skb->len : ICMP_PULL) ||
	    parse_quoted(family, &q, (void *)(long)skb->data, (void *)(long)skb->data_end))
		return ICMP_LEAVE;
	/* What is quoted has to lie in the message, not in an Ethernet trailer. */
	if (q.l4 + 8 > p->l3 + p->tot_len)
		return ICMP_LEAVE;
	f = icmp_find(family, p, &q, &direction);
	if (!f)
		return ICMP_LEAVE;
	action = icmp_action_of(hook, f, direction);
	if (action == ICMP_LEAVE)
		return action;
	if (action == ICMP_FORWARD && p->hop_limit <= 1)
		*reason = DROP_HOP_LIMIT;
	else
		*reason = icmp_rewrite(skb, family, p, &q, f, direction, action == ICMP_FORWARD);
	if (*reason)
		return ICMP_DROP;
	count(COUNTER_ICMP_TRANSLATED);
	return action;
}

#endif
