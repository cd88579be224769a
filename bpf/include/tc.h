/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the TC entry programs have in common: reading a frame, answering, giving up on it. */
#ifndef NETACCEL_TC_H
#define NETACCEL_TC_H

#include <linux/pkt_cls.h>
#include "count.h"
#include "packet.h"
#include "parse.h"
#include "reply.h"

#define TC_NEXT TC_ACT_UNSPEC /* not ours, or done: the next program decides; TCX_NEXT is the same */

/* Sets *ethertype and p->l3. Frames may have their headers in fragments: what is looked at is pulled. */
static __always_inline int tc_parse_link(struct __sk_buff *skb, struct packet *p, __be16 *ethertype)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	return parse_link(p, data, end, ethertype);
}

/* *p with l3 set, all else zero. PARSE_*. */
static __always_inline int tc_parse_ip(struct __sk_buff *skb, int family, struct packet *p)
{
	__u16 l3 = p->l3;
	int err;

	err = parse_ip(family, p, (void *)(long)skb->data, (void *)(long)skb->data_end, skb->len);
	if (err != PARSE_SHORT)
		return err;
	if (bpf_skb_pull_data(skb, skb->len < HEADERS_MAX ? skb->len : HEADERS_MAX))
		return PARSE_SHORT;
	__builtin_memset(p, 0, sizeof(*p));
	p->l3 = l3;
	return parse_ip(family, p, (void *)(long)skb->data, (void *)(long)skb->data_end, skb->len);
}

/* Packets on the wire that this frame stands for. */
static __always_inline __u32 tc_segments(const struct __sk_buff *skb)
{
	return skb->gso_segs ?: 1;
}

static __always_inline int tc_drop(const struct __sk_buff *skb, __u32 reason)
{
	count_drop(reason, skb->len);
	return TC_ACT_SHOT;
}

static __noinline int tc_refuse4(struct __sk_buff *skb, const struct packet *p)
{
	return p ? reply_refuse(skb, p, AF_INET) : TC_ACT_SHOT;
}

static __noinline int tc_refuse6(struct __sk_buff *skb, const struct packet *p)
{
	return p ? reply_refuse(skb, p, AF_INET6) : TC_ACT_SHOT;
}

/* The packet is not carried, and its sender is told. */
static __always_inline int tc_refuse(struct __sk_buff *skb, int family, const struct packet *p, __u32 reason)
{
	count_drop(reason, skb->len);
	return family == AF_INET ? tc_refuse4(skb, p) : tc_refuse6(skb, p);
}

#endif
