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

/* The checksums inside a quote, which are data to the checksum of the ICMP message: as one word of its sum.
 */
struct icmp_checks {
	__sum16 ip;        /* zero for IPv6 */
	__sum16 transport; /* zero where the quote ends before it */
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

	if (f->flags & FLOW_STACK)
		return ICMP_LEAVE; /* the kernel's conntrack does it */
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

static __always_inline __u32 icmp_diff(const void *from, const void *to, __u32 len, __u32 sum)
{
	return bpf_csum_diff((__be32 *)from, len, (__be32 *)to, len, sum);
}

/* Changes a checksum inside the quote by `delta`; what it was goes to *old, what it is to *new. */
static __always_inline int icmp_change_check(struct __sk_buff *skb, __u32 at, __u32 delta, __u64 flags,
					     __sum16 *old, __sum16 *new)
{
	return bpf_skb_load_bytes(skb, at, old, 2) || bpf_l4_csum_replace(skb, at, 0, delta, flags) ||
	       bpf_skb_load_bytes(skb, at, new, 2);
}

/* The quoted headers take addresses `to` (source, destination) and *ports. *sum: the change of the sum of
 * the message. */
static __always_inline int icmp_rewrite_quote(struct __sk_buff *skb, int family, const struct packet *p,
					      const struct packet *q, const struct addr *to,
					      const struct ports *ports, __u32 *sum)
{
	__u64 flags = q->tuple.proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	struct icmp_checks old = {}, new = {};
	__u32 addresses = icmp_diff(&q->tuple.src, to, 2 * ADDR_LEN, 0);
	__u32 all = icmp_diff(&q->tuple.sport, ports, sizeof(*ports), addresses);
	__u32 at = icmp_check_at(skb, p, q), ip_at = q->l3 + offsetof(struct iphdr, check);

	if (family == AF_INET && icmp_change_check(skb, ip_at, addresses, 0, &old.ip, &new.ip))
		return -1;
	if (at && icmp_change_check(skb, at, all, flags, &old.transport, &new.transport))
		return -1;
	*sum = icmp_diff(&old, &new, sizeof(old), all);
	return bpf_skb_store_bytes(skb, q->l4, ports, sizeof(*ports), 0) ||
	       icmp_store_addresses(skb, family, q->l3, to, to + 1);
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
	struct ports ports = { f->new_dport, f->new_sport };
	struct addr
		to[3]; /* source of the error; its destination and source of the quote; quote's destination */
	__u32 sum;

	flow_addresses(family, f, to + 2, to + 1);
	/* The client knows the frontend alone, and a backend's network the node: what lies behind them has
	 * no route there, or fails its reverse path filter. */
	to[0] = direction == FLOW_REVERSE || f->flags & FLOW_SNAT ? to[2] : p->tuple.src;
	if (icmp_rewrite_quote(skb, family, p, q, to + 1, &ports, &sum))
		return DROP_REWRITE;
	if (family == AF_INET6) /* the pseudo-header */
		sum = icmp_diff(&p->tuple.src, to, 2 * ADDR_LEN, sum);
	if (icmp_rewrite_outer(skb, family, p, to, to + 1, hops) ||
	    bpf_l4_csum_replace(skb, p->l4 + 2, 0, sum, 0))
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

	if (p->flags & PACKET_FRAGMENT) /* its later fragments would not follow */
		return ICMP_LEAVE;
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
