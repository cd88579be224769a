/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Flows of pods, as their devices see them: one entry an end, found by one look-up, which holds the verdict.
 * Reads and writes policy_flows4, policy_flows6; writes rule_counters and events.
 *
 * Times are the low 32 bits of jiffies. `direction` is the packet's: POLICY_EGRESS, from the pod.
 */
#ifndef NETACCEL_POLICY_FLOW_H
#define NETACCEL_POLICY_FLOW_H

#include "fragment.h"
#include "parse.h"
#include "peer.h"
#include "policy.h"
#include "policy_entry.h"

#define ICMP_ECHOREPLY 0
#define ICMP_ECHO 8
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129
#define ICMPV6_MLD_QUERY 130 /* RFC 2710, RFC 3810 */
#define ICMPV6_ND_REDIRECT 137
#define ICMPV6_MLD2_REPORT 143

enum policy_known {
	POLICY_ASK,   /* not known, or not by this revision */
	POLICY_KNOWN, /* allowed */
	POLICY_PLAIN, /* allowed, and nothing translates it */
};

/* How policy_known() takes what it finds. */
enum policy_look {
	POLICY_LOOK_PLAIN,      /* before load balancing: only what is known as plain */
	POLICY_LOOK_ANY,        /* nothing translates it in this direction */
	POLICY_LOOK_TRANSLATED, /* the tuple is what a pod device makes of the packet's */
};

/* ------------------------------------------------------------- what is known */

static __noinline int policy_remember(const struct packet *p)
{
	if (p)
		fragment_remember(p);
	return 0;
}

/* What is known of the packet's flow; it is counted and tracked where that is enough. */
static __always_inline enum policy_known
policy_known(struct __sk_buff *skb, int family, const struct packet *p, __u8 direction, enum policy_look look)
{
	struct policy_flow *f = policy_find(family, &p->tuple, direction, pod_device(skb));
	struct policy_revision *current = policy_now();
	__u32 now;

	if (!f || !current || f->revision != current->revision)
		return POLICY_ASK;
	if (look == POLICY_LOOK_PLAIN && !(f->flags & POLICY_FLOW_PLAIN))
		return POLICY_ASK;
	now = jiffies_now();
	if (policy_expired(f, p->tuple.proto, now) || policy_begins_anew(f, p, direction))
		return POLICY_ASK;
	if (f->flags & (POLICY_FLOW_REJECTED | POLICY_FLOW_DENIED))
		return policy_is_answer(f, p, direction) ? POLICY_PLAIN : POLICY_ASK;
	/* A connection of the pod's own has the tuple too, from before: both go the longer way now. */
	if (look == POLICY_LOOK_TRANSLATED && f->flags & POLICY_FLOW_PLAIN)
		f->flags &= ~POLICY_FLOW_PLAIN;
	policy_account(f, direction, skb->gso_segs ?: 1, p->tot_len);
	if (f->seen != now)
		f->seen = now;
	policy_track(f, p, direction);
	if (look != POLICY_LOOK_TRANSLATED && fragment_is_first(p))
		policy_remember(p);
	return f->flags & POLICY_FLOW_PLAIN ? POLICY_PLAIN : POLICY_KNOWN;
}

/* ------------------------------------------------------------------------ ICMP */

/* The opposite of an echo reply or request. */
static __always_inline __u8 icmp_echo_request(int family)
{
	return family == AF_INET ? ICMP_ECHO : ICMPV6_ECHO_REQUEST;
}

static __always_inline int icmp_is_echo(int family, __u8 type)
{
	return type == icmp_echo_request(family) ||
	       type == (family == AF_INET ? ICMP_ECHOREPLY : ICMPV6_ECHO_REPLY);
}

/* Neighbour discovery and multicast listeners: what the link itself lives by. */
static __always_inline int icmp_is_neighbour(int family, __u8 type)
{
	return family == AF_INET6 &&
	       ((type >= ICMPV6_MLD_QUERY && type <= ICMPV6_ND_REDIRECT) || type == ICMPV6_MLD2_REPORT);
}

/* Ports for an ICMP packet's key: an echo's identifier is the pod's port, both ways; any other kind is a flow
 * of its own in each direction. */
static __always_inline void policy_icmp_ports(int family, struct tuple *t, const __u8 *header, __u8 direction)
{
	__be16 pod_port, peer_port = 0;

	if (icmp_is_echo(family, header[0])) {
		pod_port = BYTES(header[4], header[5]);
	} else {
		pod_port = BYTES(header[0], header[1]);
		peer_port = bpf_htons(1 + direction);
	}
	t->sport = direction == POLICY_EGRESS ? pod_port : peer_port;
	t->dport = direction == POLICY_EGRESS ? peer_port : pod_port;
}

/* -------------------------------------------------------------------- the case */

static __always_inline int proto_is_icmp(int family, __u8 proto)
{
	return proto == (family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

/* The destination's port as rules name it; of ICMP type and code, in an echo always the request's. */
static __always_inline void policy_ports(struct __sk_buff *skb, int family, const struct packet *p,
					 __u8 direction, struct policy_case *c)
{
	struct flow_event *e = event_composed();
	__u8 header[2] = {};

	c->pod_port = direction == POLICY_EGRESS ? p->tuple.sport : p->tuple.dport;
	c->peer_port = direction == POLICY_EGRESS ? p->tuple.dport : p->tuple.sport;
	if (!proto_is_icmp(family, p->tuple.proto))
		return;
	if (!(p->flags & PACKET_LATER_FRAGMENT))
		bpf_skb_load_bytes(skb, p->l4, header, sizeof(header));
	if (e) {
		e->sport = 0;
		e->dport = 0;
		e->icmp_type = header[0];
		e->icmp_code = header[1];
	}
	if (c->direction != direction)
		header[0] = icmp_echo_request(family);
	c->pod_port = BYTES(header[0], header[1]);
	c->peer_port = c->pod_port;
}

/* Who may have opened the flow of a packet that nothing is known of: of a TCP segment in the middle the side
 * with the higher port, and perhaps the other. */
static __always_inline void policy_guess(const struct packet *p, __u8 direction, struct policy_case *c)
{
	c->direction = direction;
	c->either = 0;
	if (p->tuple.proto != IPPROTO_TCP || IS_TCP_SYN(p->tcp_flags))
		return;
	c->either = 1;
	if (p->tcp_flags & TCP_SYN || bpf_ntohs(p->tuple.sport) < bpf_ntohs(p->tuple.dport))
		c->direction = !direction;
}

/* The entry of a flow that was just allowed; what is not set here is policy_open()'s. */
static __always_inline void policy_fill(const struct packet *p, __u8 direction, struct policy_case *c,
					__u32 revision, __u32 now)
{
	struct policy_flow *f = &c->flow;

	__builtin_memset(f, 0, sizeof(*f));
	f->revision = revision;
	f->identity = c->identity;
	f->rule = c->verdict.rule;
	f->shadow_rule = c->verdict.shadow_rule;
	f->seen = now;
	f->opened = now;
	f->direction = c->direction;
	f->verdict = policy_verdict_of(c);
	f->flags = c->either ? POLICY_FLOW_EITHER : 0;
	f->state = c->either ? POLICY_FLOW_ESTABLISHED : POLICY_FLOW_NEW;
	policy_track(f, p, direction);
}

/* How what the case's pod sends will travel. */
static __always_inline __u8 policy_path(const struct policy_case *c)
{
	const struct pod_peer *pod;

	if (!settings.peer || !peer_hint(c->peer.w[3]) || !peer_find(&c->peer))
		return PATH_HERE;
	pod = peer_find(&c->pod);
	return pod && pod->ifindex == c->ifindex ? PATH_PEER : PATH_HERE;
}

/* A verdict's event names the opener as its source, whoever sent this packet. */
static __always_inline void policy_tell(const struct policy_case *c, struct flow_event *e)
{
	struct addr source;
	__be16 port = e->sport;

	if (c->from_pod != (c->direction == POLICY_EGRESS)) {
		__builtin_memcpy(&source, e->src, ADDR_LEN);
		__builtin_memcpy(e->src, e->dst, ADDR_LEN);
		__builtin_memcpy(e->dst, &source, ADDR_LEN);
		e->sport = e->dport;
		e->dport = port;
	}
	if (c->from_pod)
		e->path = policy_path(c);
	event_verdict(e);
}

/* An entry that was judged again and not allowed. It stays: else the next segment would be taken for one of a
 * connection that its other end may open. */
static __always_inline void policy_shut(struct policy_flow *f, __u32 revision)
{
	f->flags = (f->flags & ~POLICY_FLOW_PLAIN) | POLICY_FLOW_DENIED;
	f->verdict = VERDICT_DROPPED;
	f->revision = revision;
}

/* Neither allowed once nor known by its opener. */
static __always_inline int policy_is_refusal(const struct policy_flow *f)
{
	return (f->flags & (POLICY_FLOW_REJECTED | POLICY_FLOW_DENIED)) == POLICY_FLOW_REJECTED;
}

/* An entry that was judged again and stays: what this packet needs, and an event where the verdict differs.
 */
static __always_inline void policy_renew(struct policy_flow *f, const struct policy_case *c,
					 struct flow_event *e)
{
	const struct policy_flow *fresh = &c->flow;

	f->identity = fresh->identity;
	f->rule = fresh->rule;
	f->shadow_rule = fresh->shadow_rule;
	f->direction = fresh->direction;
	f->flags &= ~(POLICY_FLOW_PLAIN | POLICY_FLOW_DENIED | POLICY_FLOW_REJECTED); /* policy_open() adds */
	f->seen = fresh->seen;
	f->revision = fresh->revision;
	if (f->verdict == fresh->verdict)
		return;
	f->verdict = fresh->verdict;
	policy_tell(c, e);
}

static __always_inline void policy_answer(const struct policy_case *c, const struct tuple *t)
{
	struct dry_run *dry;
	__u32 zero = 0;

	dry = bpf_map_lookup_elem(&dry_run, &zero);
	if (!dry)
		return;
	dry->judged = 1;
	dry->reason = c->reason;
	dry->identity = c->identity;
	dry->subject = c->subject;
	dry->row = c->row;
	dry->rule = c->verdict.rule;
	dry->shadow_rule = c->verdict.shadow_rule;
	__builtin_memcpy(dry->src, &t->src, 2 * ADDR_LEN);
	dry->sport = t->sport;
	dry->dport = t->dport;
	dry->proto = t->proto;
	dry->direction = c->direction;
	dry->verdict = policy_verdict_of(c);
	dry->action = c->verdict.action;
	dry->shadow = c->verdict.shadow;
}

/* Judges the case's packet, whose flow policy_known() did not know, by its tuple after translation. Returns 0
 * or a drop reason; what is allowed and new policy_open() then stores. */
static __always_inline __u32 policy_ask(struct __sk_buff *skb, int family, __u8 direction)
{
	struct policy_case *c = policy_case();
	struct policy_revision *current = policy_now();
	__u32 now = jiffies_now(), ifindex = policy_device(skb);
	const struct packet *p;
	struct policy_flow *f;
	struct flow_event *e;

	if (!c || !current)
		return DROP_POLICY_INCOMPLETE;
	p = &c->packet;
	e = event_compose(p, ifindex);
	if (!e)
		return DROP_POLICY_INCOMPLETE;
	c->ifindex = ifindex;
	c->strict = current->strict;
	c->pod = direction == POLICY_EGRESS ? p->tuple.src : p->tuple.dst;
	c->peer = direction == POLICY_EGRESS ? p->tuple.dst : p->tuple.src;
	c->proto = p->tuple.proto;
	c->from_pod = direction == POLICY_EGRESS;
	c->subject = 0;
	c->row = 0;
	policy_guess(p, direction, c);
	f = settings.dry_run || p->flags & PACKET_OPENS ? NULL
							: policy_find_case(family, &p->tuple, direction, c);
	if (f && (policy_is_refusal(f) || policy_expired(f, p->tuple.proto, now) ||
		  policy_begins_anew(f, p, direction)))
		f = NULL;
	if (f) {
		c->direction = f->direction;
		c->either = !!(f->flags & POLICY_FLOW_EITHER);
	}
	policy_ports(skb, family, p, direction, c);
	policy_judge_either(c);
	if (settings.dry_run) {
		policy_answer(c, &p->tuple);
		return c->reason;
	}
	policy_fill(p, direction, c, current->revision, now);
	policy_note(c, e);
	if (f && f->revision != current->revision)
		count(COUNTER_POLICY_AGAIN);
	if (f && c->reason)
		policy_shut(f, current->revision);
	if (f && !c->reason) {
		policy_renew(f, c, e);
		policy_account(f, direction, skb->gso_segs ?: 1, p->tot_len);
		policy_track(f, p, direction);
	} else {
		policy_count(c, skb->gso_segs ?: 1, p->tot_len);
	}
	c->store = !f && !c->reason;
	return c->reason;
}

/* Global, with no pointer but the context: the verifier looks at them once (see snat.h). */
__noinline __u32 policy_ask4(struct __sk_buff *skb, __u32 direction)
{
	return policy_ask(skb, AF_INET, direction);
}

__noinline __u32 policy_ask6(struct __sk_buff *skb, __u32 direction)
{
	return policy_ask(skb, AF_INET6, direction);
}

/* After policy_ask() has allowed it and nothing else stops the case's packet: its flow is stored and told, or
 * stays with these `flags`. Its tuple is that under which it will be found: after translation. */
static __always_inline int policy_open(struct __sk_buff *skb, int family, __u8 direction, __u8 flags)
{
	struct policy_case *c = policy_case();
	struct flow_event *e = event_composed();
	const struct packet *p;
	struct policy_flow *f;

	if (!c || !e)
		return 0;
	p = &c->packet;
	if (!c->store) {
		f = policy_find_case(family, &p->tuple, direction, c);
		if (f)
			f->flags |= flags;
		return 0;
	}
	c->flow.flags |= flags;
	c->flow.service = e->service;
	policy_account(&c->flow, direction, skb->gso_segs ?: 1, p->tot_len);
	policy_key(family, &p->tuple, direction, c->ifindex, c->key);
	policy_put(family, c);
	policy_tell(c, e);
	return 0;
}

__noinline int policy_open4(struct __sk_buff *skb, __u32 direction, __u32 flags)
{
	return policy_open(skb, AF_INET, direction, flags);
}

__noinline int policy_open6(struct __sk_buff *skb, __u32 direction, __u32 flags)
{
	return policy_open(skb, AF_INET6, direction, flags);
}

/* Lets the answer to the case's packet, which is refused, come back to its sender: the tuple as it came. */
static __always_inline int policy_refused(struct __sk_buff *skb, int family, __u8 direction)
{
	struct policy_case *c = policy_case();
	struct policy_revision *current = policy_now();
	struct policy_flow *f;

	if (!c || !current)
		return 0;
	c->ifindex = pod_device(skb);
	f = policy_find_case(family, &c->packet.tuple, direction, c);
	if (f && f->flags & POLICY_FLOW_DENIED) {
		f->flags |= POLICY_FLOW_REJECTED;
		return 0;
	}
	__builtin_memset(&c->flow, 0, sizeof(c->flow));
	c->flow.revision = current->revision;
	c->flow.seen = jiffies_now();
	c->flow.opened = c->flow.seen;
	c->flow.state = POLICY_FLOW_CLOSED;
	c->flow.direction = direction;
	c->flow.verdict = VERDICT_DROPPED;
	c->flow.flags = POLICY_FLOW_REJECTED;
	policy_put(family, c);
	return 0;
}

__noinline int policy_refused4(struct __sk_buff *skb, __u32 direction)
{
	return policy_refused(skb, AF_INET, direction);
}

__noinline int policy_refused6(struct __sk_buff *skb, __u32 direction)
{
	return policy_refused(skb, AF_INET6, direction);
}

/* 1 where no program of a pod's device translates the flow's packets, in neither direction. */
static __always_inline int policy_is_plain(int family, const struct packet *p, __u8 direction)
{
	struct tuple t = p->tuple;

	if (flow_find(family, &t, FLOW_REVERSE))
		return 0;
	t.src = p->tuple.dst;
	t.dst = p->tuple.src;
	t.sport = p->tuple.dport;
	t.dport = p->tuple.sport;
	if (flow_find(family, &t, FLOW_REVERSE))
		return 0;
	if (direction == POLICY_EGRESS) /* the load balancer has passed it */
		return 1;
	return !frontend_find(family, &t.dst, t.dport, t.proto) && !frontend_find_wildcard(family, &t.dst);
}

static __noinline int policy_is_plain4(const struct packet *p, __u8 direction)
{
	return p ? policy_is_plain(AF_INET, p, direction) : 0;
}

static __noinline int policy_is_plain6(const struct packet *p, __u8 direction)
{
	return p ? policy_is_plain(AF_INET6, p, direction) : 0;
}

/* 1 where an ICMP error quotes a packet of a flow that is known here. `quoted`: as in the packet, after what
 * a pod device translates. An error goes to the sender of what it quotes, or it is forged. */
static __always_inline int policy_is_related(struct __sk_buff *skb, int family, const struct packet *p,
					     struct packet *quoted, __u8 direction)
{
	__u8 header[8];

	if (quoted->flags & PACKET_LATER_FRAGMENT || !addr_equal(family, &p->tuple.dst, &quoted->tuple.src))
		return 0;
	if (direction == POLICY_EGRESS && !addr_equal(family, &p->tuple.src, &quoted->tuple.dst))
		return 0;
	if (proto_is_icmp(family, quoted->tuple.proto)) {
		if (bpf_skb_load_bytes(skb, quoted->l4, header, sizeof(header)))
			return 0;
		policy_icmp_ports(family, &quoted->tuple, header, !direction);
	}
	return policy_find(family, &quoted->tuple, !direction, pod_device(skb)) != NULL;
}

#endif
