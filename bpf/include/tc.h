/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the TC programs share: reading a packet, carrying out a decision, answering. Functions return
 * verdicts; TC_NEXT lets the packet go on as it was going, to other programs and then up or out.
 */
#ifndef NETACCEL_TC_H
#define NETACCEL_TC_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include "count.h"
#include "device.h"
#include "drop.h"
#include "fragment.h"
#include "icmp.h"
#include "lb.h"
#include "parse.h"
#include "reply.h"
#include "rewrite_tc.h"
#include "route.h"
#include "stack.h"
#include "traffic.h"

#define TC_NEXT (-1) /* TC_ACT_UNSPEC and TCX_NEXT */
#define TC_PULL 256  /* bytes of headers to have in one piece, where they are not */

enum tc_read {
	TC_READ_LEAVE,  /* not understood */
	TC_READ_PORTS,  /* TCP or UDP, ports known */
	TC_READ_ICMP,   /* an ICMP error */
	TC_READ_ORPHAN, /* a later fragment of TCP or UDP whose first was not seen */
	TC_READ_OTHER,  /* any other protocol; a later fragment has no ports yet */
};

/* AF_INET or AF_INET6 and where the IP header starts; 0: not IP. */
static __always_inline int tc_family(struct __sk_buff *skb, __u16 *l3)
{
	struct packet p = {};
	__be16 ethertype;

	if (parse_link(&p, (void *)(long)skb->data, (void *)(long)skb->data_end, &ethertype))
		return 0;
	*l3 = p.l3;
	if (ethertype == bpf_htons(ETH_P_IP))
		return AF_INET;
	return ethertype == bpf_htons(ETH_P_IPV6) ? AF_INET6 : 0;
}

static __always_inline enum tc_read tc_read(struct __sk_buff *skb, int family, __u16 l3, struct packet *p)
{
	int err = PARSE_SHORT;

#pragma nounroll
	for (int i = 0; i < 2 && err == PARSE_SHORT; i++) {
		if (i && bpf_skb_pull_data(skb, skb->len < TC_PULL ? skb->len : TC_PULL))
			return TC_READ_LEAVE;
		__builtin_memset(p, 0, sizeof(*p));
		p->l3 = l3;
		err = parse_ip(family, p, (void *)(long)skb->data, (void *)(long)skb->data_end, skb->len);
	}
	if (err)
		return TC_READ_LEAVE;
	if (p->flags & PACKET_ICMP_ERROR)
		return TC_READ_ICMP;
	if (p->tuple.proto != IPPROTO_TCP && p->tuple.proto != IPPROTO_UDP)
		return TC_READ_OTHER;
	return p->flags & PACKET_LATER_FRAGMENT && fragment_ports(p) ? TC_READ_ORPHAN : TC_READ_PORTS;
}

static __noinline enum tc_read tc_read4(struct __sk_buff *skb, __u16 l3, struct packet *p)
{
	return tc_read(skb, AF_INET, l3, p);
}

static __noinline enum tc_read tc_read6(struct __sk_buff *skb, __u16 l3, struct packet *p)
{
	return tc_read(skb, AF_INET6, l3, p);
}

static __always_inline int tc_drop(struct __sk_buff *skb, const struct packet *p, __u32 reason)
{
	event_drop_packet(p, pod_device(skb), reason, PATH_HERE);
	return TC_ACT_SHOT;
}

static __noinline int tc_refuse4(struct __sk_buff *skb, const struct packet *p)
{
	return reply_refuse(skb, p, AF_INET);
}

static __noinline int tc_refuse6(struct __sk_buff *skb, const struct packet *p)
{
	return reply_refuse(skb, p, AF_INET6);
}

/* Each entry program's own: what it has to note for an answer to reach who sent *p. */
static void tc_before_answer(struct __sk_buff *skb, int family, const struct packet *p);

/* Counted, and answered by a reset or an ICMP error. */
static __always_inline int tc_refuse(struct __sk_buff *skb, int family, const struct packet *p, __u32 reason)
{
	event_drop_packet(p, pod_device(skb), reason, PATH_HERE);
	tc_before_answer(skb, family, p);
	return family == AF_INET ? tc_refuse4(skb, p) : tc_refuse6(skb, p);
}

/* No frontend: another port of an address that is a Service's alone is refused. */
static __always_inline int tc_stranger(struct __sk_buff *skb, int family, const struct packet *p)
{
	if (!frontend_refuses_others(family, &p->tuple.dst))
		return TC_NEXT;
	return tc_refuse(skb, family, p, DROP_NO_SUCH_PORT);
}

static __always_inline int tc_orphan(struct __sk_buff *skb, int family, const struct packet *p)
{
	int reason = fragment_orphan(family, p);

	return reason ? tc_drop(skb, p, reason) : TC_NEXT;
}

/* lb_decide() said LB_STACK or LB_YIELD. */
static __always_inline int tc_stack(int family, struct packet *p, struct lb *lb, int action)
{
	count(COUNTER_TO_STACK);
	if (fragment_is_first(p))
		fragment_remember(p); /* so that the later ones follow it */
	if (action == LB_STACK)
		stack_track(family, p, lb);
	else
		stack_yield(family, p, lb);
	return TC_NEXT;
}

/* lb_decide() said LB_REFUSE. */
static __always_inline int tc_lb_refuse(struct __sk_buff *skb, int family, struct packet *p, struct lb *lb)
{
	if (lb->reason == DROP_BACKEND_GONE && lb->flow)
		flow_end(family, &p->tuple, FLOW_FORWARD, lb->flow);
	if (lb->frontend)
		count_refused(lb->frontend->service);
	return tc_refuse(skb, family, p, lb->reason);
}

/* Makes the flow ready for this packet: LB_FLOW is tracked, LB_OPEN opened. NULL: *verdict says. */
static __always_inline struct flow *tc_flow(struct __sk_buff *skb, int family, struct packet *p,
					    struct lb *lb, int action, int *verdict)
{
	int reason;

	if (action == LB_FLOW) {
		if (!flow_track(family, p, lb->direction, lb->flow, lb->now))
			return lb->flow;
		flow_delete(family, &p->tuple, lb->direction);
		*verdict = tc_drop(skb, p, DROP_FLOW_CLASH);
		return NULL;
	}
	reason = lb_open(family, lb, PATH_TC);
	if (!reason)
		return lb->fresh;
	*verdict =
		reason == DROP_SNAT_EXHAUSTED ? tc_refuse(skb, family, p, reason) : tc_drop(skb, p, reason);
	return NULL;
}

/* Counts and rewrites. 0 or a drop reason. */
static __always_inline int tc_rewrite(struct __sk_buff *skb, int family, const struct packet *p,
				      const struct flow *f, __u8 direction, int hops)
{
	count_service(f->service, PATH_TC, direction, skb->gso_segs ?: 1, p->tot_len);
	if (fragment_is_first(p))
		fragment_remember(p);
	return rewrite_tc(skb, family, p, f, hops);
}

/* A packet that answers one which a program of the other side of the stack translated: its flow, if it has
 * all of `with` and none of `without`, gives it back the frontend's address. */
static __always_inline int tc_reply(struct __sk_buff *skb, int family, struct packet *p, __u8 with,
				    __u8 without)
{
	struct flow *f = flow_find(family, &p->tuple, FLOW_REVERSE);
	int reason;

	if (!f || (f->flags & (with | without)) != with)
		return TC_NEXT;
	reason = flow_track(family, p, FLOW_REVERSE, f, jiffies_now());
	if (reason) {
		flow_delete(family, &p->tuple, FLOW_REVERSE);
		return tc_drop(skb, p, reason);
	}
	reason = tc_rewrite(skb, family, p, f, FLOW_REVERSE, 0);
	return reason ? tc_drop(skb, p, reason) : TC_NEXT;
}

#endif
