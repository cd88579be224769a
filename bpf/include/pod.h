/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Policy at a pod's device, for the programs that are there (tc/pod.bpf.c) and the one that judges in their
 * place what goes past them (tc/peer.bpf.c): what is known, judged, refused, and given to the pod.
 */
#ifndef NETACCEL_POD_H
#define NETACCEL_POD_H

#include "tc.h"
#include "policy_flow.h"
#include "policy_quick.h"

/* ------------------------------------------------------- instances of a family */

static __noinline int known4(struct __sk_buff *skb, const struct packet *p, __u8 direction,
			     enum policy_look look)
{
	return p ? policy_known(skb, AF_INET, p, direction, look) : POLICY_ASK;
}

static __noinline int known6(struct __sk_buff *skb, const struct packet *p, __u8 direction,
			     enum policy_look look)
{
	return p ? policy_known(skb, AF_INET6, p, direction, look) : POLICY_ASK;
}

static __always_inline int known(struct __sk_buff *skb, int family, const struct packet *p, __u8 direction,
				 enum policy_look look)
{
	if (settings.dry_run)
		return POLICY_ASK;
	return family == AF_INET ? known4(skb, p, direction, look) : known6(skb, p, direction, look);
}

static __always_inline __u32 ask(struct __sk_buff *skb, int family, const struct packet *p, __u8 direction)
{
	if (!policy_case_of(p))
		return DROP_POLICY_INCOMPLETE;
	return family == AF_INET ? policy_ask4(skb, direction) : policy_ask6(skb, direction);
}

static __always_inline void open(struct __sk_buff *skb, int family, const struct packet *p, __u8 direction,
				 __u8 flags)
{
	if (settings.dry_run || !policy_case_of(p))
		return;
	if (family == AF_INET)
		policy_open4(skb, direction, flags);
	else
		policy_open6(skb, direction, flags);
}

static __always_inline int is_plain(int family, const struct packet *p, __u8 direction)
{
	return family == AF_INET ? policy_is_plain4(p, direction) : policy_is_plain6(p, direction);
}

/* -------------------------------------------------------------------- refusals */

static __always_inline void refused(struct __sk_buff *skb, int family, const struct packet *p, __u8 direction)
{
	if (!policy_case_of(p))
		return;
	if (family == AF_INET)
		policy_refused4(skb, direction);
	else
		policy_refused6(skb, direction);
}

static __always_inline void tc_before_answer(struct __sk_buff *skb, int family, const struct packet *p)
{
	if (settings.policy)
		refused(skb, family, p, POLICY_EGRESS);
}

/* Back to who sent the case's packet: to the pod out of the device, or into it, as if the pod had answered.
 */
static __always_inline int reject(struct __sk_buff *skb, int family, __u8 direction)
{
	struct policy_case *c = policy_case();
	int verdict;

	if (!c)
		return TC_ACT_SHOT;
	verdict = reply_forbid(skb, &c->packet, family);
	if (verdict != TC_ACT_REDIRECT || direction == POLICY_EGRESS)
		return verdict;
	return bpf_redirect(pod_device(skb), BPF_F_INGRESS);
}

__noinline int reject4(struct __sk_buff *skb, __u32 direction)
{
	return reject(skb, AF_INET, direction);
}

__noinline int reject6(struct __sk_buff *skb, __u32 direction)
{
	return reject(skb, AF_INET6, direction);
}

/* What ask() did not allow; *p as it came, its event composed. */
static __always_inline int deny(struct __sk_buff *skb, int family, const struct packet *p, __u8 direction,
				__u32 reason)
{
	if (settings.dry_run)
		return TC_ACT_SHOT;
	count_drop(reason, p->tot_len);
	event_drop();
	if (reason != DROP_POLICY_REJECTED)
		return TC_ACT_SHOT;
	refused(skb, family, p, direction);
	return family == AF_INET ? reject4(skb, direction) : reject6(skb, direction);
}

/* What can't be judged, for `reason`: let through where no policy is in force. */
static __always_inline int blind(struct __sk_buff *skb, struct packet *p, __u8 direction, __u32 reason)
{
	if (!settings.policy)
		return TC_NEXT;
	reason = policy_blind(policy_device(skb), direction, reason);
	if (!reason)
		return TC_NEXT;
	if (settings.dry_run)
		return TC_ACT_SHOT;
	if (!p->tot_len)
		p->tot_len = skb->len - p->l3;
	return tc_drop(skb, p, reason);
}

/* --------------------------------------------------------------- as the packet is */

/* A packet of which nothing is known. *plain: nothing translates its flow. */
static __always_inline int judge(struct __sk_buff *skb, int family, const struct packet *p, __u8 direction,
				 int *plain)
{
	__u32 reason;

	*plain = 0;
	reason = ask(skb, family, p, direction);
	if (reason)
		return deny(skb, family, p, direction, reason);
	if (settings.dry_run)
		return TC_NEXT;
	*plain = is_plain(family, p, direction);
	open(skb, family, p, direction, *plain ? POLICY_FLOW_PLAIN : 0);
	if (fragment_is_first(p))
		policy_remember(p);
	return TC_NEXT;
}

/* TCP and UDP that the load balancer passes, and all other protocols. */
static __always_inline int pass(struct __sk_buff *skb, int family, const struct packet *p, __u8 direction)
{
	int plain;

	if (direction == POLICY_EGRESS)
		hint_set(p, 0);
	if (known(skb, family, p, direction, POLICY_LOOK_ANY) != POLICY_ASK)
		return TC_NEXT;
	return judge(skb, family, p, direction, &plain);
}

static __noinline int pass4(struct __sk_buff *skb, const struct packet *p, __u8 direction)
{
	return p ? pass(skb, AF_INET, p, direction) : TC_ACT_SHOT;
}

static __noinline int pass6(struct __sk_buff *skb, const struct packet *p, __u8 direction)
{
	return p ? pass(skb, AF_INET6, p, direction) : TC_ACT_SHOT;
}

/* 1 where a later fragment has the ports of its first one, or the protocol has none. */
static __always_inline int has_ports(int family, struct packet *p)
{
	if (!(p->flags & PACKET_LATER_FRAGMENT))
		return 1;
	if (p->tuple.proto != IPPROTO_SCTP && !proto_is_icmp(family, p->tuple.proto))
		return 1;
	return !fragment_ports(p);
}

/* Neither TCP nor UDP. */
static __always_inline int other(struct __sk_buff *skb, int family, struct packet *p, __u8 direction)
{
	__u8 header[8];

	if (!has_ports(family, p))
		return blind(skb, p, direction, DROP_FRAGMENT);
	if (proto_is_icmp(family, p->tuple.proto) && !(p->flags & PACKET_LATER_FRAGMENT)) {
		if (bpf_skb_load_bytes(skb, p->l4, header, sizeof(header)))
			return blind(skb, p, direction, DROP_POLICY_UNKNOWN);
		if (icmp_is_neighbour(family, header[0]))
			return TC_NEXT;
		policy_icmp_ports(family, &p->tuple, header, direction);
	}
	return family == AF_INET ? pass4(skb, p, direction) : pass6(skb, p, direction);
}

static __noinline int other4(struct __sk_buff *skb, struct packet *p, __u8 direction)
{
	return p ? other(skb, AF_INET, p, direction) : TC_ACT_SHOT;
}

static __noinline int other6(struct __sk_buff *skb, struct packet *p, __u8 direction)
{
	return p ? other(skb, AF_INET6, p, direction) : TC_ACT_SHOT;
}

/* ---------------------------------------------------------------- to the pod */

/* What the pod gets: as it comes, and then its frontend's address back. `what`: enum policy_known. */
static __always_inline int deliver(struct __sk_buff *skb, int family, struct packet *p, int what)
{
	int plain, verdict;

	if (settings.policy && what == POLICY_ASK) {
		verdict = judge(skb, family, p, POLICY_INGRESS, &plain);
		if (verdict != TC_NEXT || plain || settings.dry_run)
			return verdict;
	}
	return tc_reply(skb, family, p, FLOW_FROM_POD, FLOW_HAIRPIN);
}

static __noinline int deliver4(struct __sk_buff *skb, struct packet *p, int what)
{
	return deliver(skb, AF_INET, p, what);
}

static __noinline int deliver6(struct __sk_buff *skb, struct packet *p, int what)
{
	return deliver(skb, AF_INET6, p, what);
}

/* TCP, UDP, and any other protocol, as tc_read() said; `quick`: what policy_quick() did. */
static __always_inline int arrive(struct __sk_buff *skb, int family, struct packet *p, enum tc_read read,
				  enum policy_quick quick)
{
	int what = POLICY_ASK;

	switch (read) {
	case TC_READ_PORTS:
		if (settings.policy && quick != POLICY_QUICK_ABSENT)
			what = known(skb, family, p, POLICY_INGRESS, POLICY_LOOK_ANY);
		if (what == POLICY_PLAIN)
			return TC_NEXT;
		return family == AF_INET ? deliver4(skb, p, what) : deliver6(skb, p, what);
	case TC_READ_OTHER:
		if (!settings.policy)
			return TC_NEXT;
		return family == AF_INET ? other4(skb, p, POLICY_INGRESS) : other6(skb, p, POLICY_INGRESS);
	default:
		return blind(skb, p, POLICY_INGRESS, DROP_POLICY_UNKNOWN);
	}
}

#endif
