/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The decision about a new flow at a pod's device: four look-ups (policy_maps.h), the same for both families.
 * Reads policy maps, writes none but the scratch. docs/packets.md says what is judged, and what passes.
 */
#ifndef NETACCEL_POLICY_H
#define NETACCEL_POLICY_H

#include "device.h"
#include "drop.h"
#include "flow.h"
#include "policy_maps.h"

/* What is asked and answered; both addresses in 16-byte form. User space never reads it. */
struct policy_case {
	struct packet packet; /* asked: with the tuple that is judged, or stored; ... */
	struct addr pod;
	struct addr peer;
	__u32 ifindex;
	__u32 strict;
	__be16 pod_port; /* as a destination; of ICMP type and code */
	__be16 peer_port;
	__u8 proto;
	__u8 direction; /* enum policy_direction: who opened it; ... */
	__u8 either;    /* ... 1: or the other one */
	__u8 from_pod;  /* the packet is */
	__u32 store;    /* 1: policy_open() has an entry to make */
	__u32 reason;   /* answered: 0 or enum drop_reason */
	__u32 identity; /* the peer's */
	__u32 subject;
	__u32 row;
	struct policy_verdict verdict;
	__u32 key[sizeof(struct policy_flow6_key) / sizeof(__u32)]; /* of policy_flows4 or 6 */
	struct policy_flow flow;                                    /* for policy_open() */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct policy_case));
} policy_scratch SEC(".maps");

/* What a dry run is asked and answers; not shared: each instance that is loaded with settings.dry_run has its
 * own, as it has its own of every map whose name ends in _scratch. It takes all others from the agent's
 * (reuse_fd), and writes none of them. Writer, reader: both sides. Never full. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct dry_run);
} dry_run SEC(".maps");

static __always_inline struct policy_case *policy_case(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&policy_scratch, &zero);
}

/* The case about *p, for functions that get no pointer to it. */
static __always_inline struct policy_case *policy_case_of(const struct packet *p)
{
	struct policy_case *c = policy_case();

	if (c)
		c->packet = *p;
	return c;
}

static __always_inline struct policy_revision *policy_now(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&policy_revision, &zero);
}

/* The pod's device. */
static __always_inline __u32 policy_device(struct __sk_buff *skb)
{
	struct dry_run *dry;
	__u32 zero = 0;

	if (!settings.dry_run)
		return pod_device(skb);
	dry = bpf_map_lookup_elem(&dry_run, &zero);
	return dry ? dry->ifindex : 0;
}

static __always_inline __u32 policy_flag(__u8 direction)
{
	return direction == POLICY_EGRESS ? ENDPOINT_EGRESS : ENDPOINT_INGRESS;
}

/* fe80::/10 */
static __always_inline int addr_is_link_local(const struct addr *a)
{
	return (a->w[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline int policy_is_own(const struct policy_endpoint *ep, const struct addr *a)
{
	const struct addr *own = (const struct addr *)(addr_is_v4(a) ? ep->addr4 : ep->addr6);

	return addr_equal(AF_INET6, own, a);
}

/* What the row says of the destination's port. NULL: nothing, which is a defect of the tables. */
static __always_inline const struct policy_verdict *policy_look_up(struct policy_case *c,
								   const struct policy_endpoint *ep)
{
	struct policy_peer_key peer = {
		.subject = ep->subject,
		.identity = c->identity,
		.direction = c->direction,
	};
	int ingress = c->direction == POLICY_INGRESS;
	struct policy_row_key key = { .prefix_length = 64, .proto = c->proto };
	__u32 *row = bpf_map_lookup_elem(&policy_peers, &peer);

	c->subject = ep->subject;
	c->row = row ? *row : ingress ? ep->ingress_row : ep->egress_row;
	key.row = c->row;
	key.port = ingress ? c->pod_port : c->peer_port;
	return bpf_map_lookup_elem(&policy_rows, &key);
}

/* The identity of the peer; returns its flags. */
static __always_inline __u32 policy_identify(struct policy_case *c)
{
	struct identity_key key = { .prefix_length = 128 };
	const struct identity *found;

	__builtin_memcpy(key.addr, &c->peer, ADDR_LEN);
	found = bpf_map_lookup_elem(&identities, &key);
	c->identity = found ? found->identity : 0;
	return found ? found->flags : 0;
}

static __always_inline __u32 policy_reason(const struct policy_verdict *v)
{
	if (v->action == POLICY_ALLOW)
		return DROP_NONE;
	if (v->action == POLICY_REJECT)
		return DROP_POLICY_REJECTED;
	return v->isolated ? DROP_POLICY_ISOLATED : DROP_POLICY_DENIED;
}

static __always_inline __u32 policy_decide(struct policy_case *c)
{
	const struct policy_endpoint *ep = bpf_map_lookup_elem(&policy_endpoints, &c->ifindex);
	__u32 flags = policy_identify(c);
	const struct policy_verdict *v;

	__builtin_memset(&c->verdict, 0, sizeof(c->verdict));
	if (!ep)
		return c->strict ? DROP_POLICY_UNREADY : DROP_NONE;
	if (c->from_pod && ep->flags && !policy_is_own(ep, &c->pod) && !addr_is_link_local(&c->pod))
		return DROP_POLICY_SPOOFED;
	if (c->direction == POLICY_INGRESS && flags & IDENTITY_HOST)
		return DROP_NONE;
	if (policy_is_own(ep, &c->peer) || addr_equal(AF_INET6, &c->pod, &c->peer))
		return DROP_NONE;
	v = policy_look_up(c, ep);
	if (!v)
		return ep->flags & policy_flag(c->direction) ? DROP_POLICY_INCOMPLETE : DROP_NONE;
	c->verdict = *v;
	return policy_reason(v);
}

/* The case in policy_scratch. Returns 0 or a drop reason, which is c->reason too. Global, without arguments:
 * the verifier looks at it once (see snat.h). */
__noinline int policy_judge(void)
{
	struct policy_case *c = policy_case();

	if (!c)
		return DROP_POLICY_INCOMPLETE;
	c->reason = policy_decide(c);
	return c->reason;
}

/* As policy_judge(). In the middle of a connection either side may have opened it: what one of them may open
 * is allowed, or else a change of agents would cut what nobody forbids. Who sends such a segment without a
 * connection learns nothing by it, and moves nothing: no socket takes it. */
static __always_inline __u32 policy_judge_either(struct policy_case *c)
{
	__u32 reason = policy_judge();

	if (!reason || !c->either || reason == DROP_POLICY_SPOOFED || reason == DROP_POLICY_UNREADY)
		return reason;
	c->direction = !c->direction;
	if (!policy_judge())
		return 0;
	c->direction = !c->direction;
	return policy_judge();
}

/* By the rule that decided, or would have; 0 is "no rule". */
static __always_inline void policy_count(const struct policy_case *c, __u64 packets, __u64 bytes)
{
	const struct policy_verdict *v = &c->verdict;
	__u32 rule = v->action == POLICY_ALLOW && v->shadow != POLICY_ALLOW ? v->shadow_rule : v->rule;
	struct traffic *t = bpf_map_lookup_elem(&rule_counters, &rule);

	if (t) {
		t->packets += packets;
		t->bytes += bytes;
	}
}

static __always_inline __u8 policy_verdict_of(const struct policy_case *c)
{
	if (c->reason)
		return VERDICT_DROPPED;
	return c->verdict.shadow == POLICY_ALLOW ? VERDICT_FORWARDED : VERDICT_AUDITED;
}

/* What the event says of the decision. */
static __always_inline void policy_note(const struct policy_case *c, struct flow_event *e)
{
	e->reason = c->reason;
	e->identity = c->identity;
	e->rule = c->verdict.rule;
	e->shadow_rule = c->verdict.shadow_rule;
	e->direction = c->direction;
	e->verdict = policy_verdict_of(c);
	e->type = c->reason ? EVENT_DROP : EVENT_VERDICT;
}

/* A packet that can't be judged: 0 where no policy is in force for it, else `reason`, or that the device is
 * not ready. */
static __always_inline __u32 policy_blind(__u32 ifindex, __u8 direction, __u32 reason)
{
	const struct policy_endpoint *ep = bpf_map_lookup_elem(&policy_endpoints, &ifindex);
	const struct policy_revision *now = policy_now();

	if (!ep)
		return now && now->strict ? DROP_POLICY_UNREADY : DROP_NONE;
	return ep->flags & policy_flag(direction) ? reason : DROP_NONE;
}

#endif
