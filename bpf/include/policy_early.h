/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What XDP drops in the place of tc_pod: a packet that would open a flow to a pod of this node which denies
 * it, silently. It is counted and told as there, and opens nothing. Reads the tables of policy and pod_peers;
 * writes service_counters, rule_counters, drops and events.
 *
 * Only where tc_pod is sure to get this packet, from this client, and to drop it. So the pod is one of
 * pod_peers: nothing else on its way acts on packets. All that is not sure goes on as ever, and is judged
 * there.
 */
#ifndef NETACCEL_POLICY_EARLY_H
#define NETACCEL_POLICY_EARLY_H

#include "lb.h"
#include "peer.h"
#include "policy.h"
#include "policy_entry.h"
#include "traffic.h"

/* 1 where *p, for which lb_decide() said LB_OPEN, may be asked about. What had a flow has perhaps one at the
 * pod; the stack answers what has no hop left; and a client's affinity is remembered with its flow. */
static __always_inline int early_is_due(const struct packet *p, const struct lb *lb)
{
	if (!settings.early || lb->flow || !(lb->fresh->flags & FLOW_LOCAL))
		return 0;
	if (lb->frontend->flags & FRONTEND_AFFINITY || p->l3 != ETH_HLEN || p->hop_limit <= 1)
		return 0;
	return p->tuple.proto == IPPROTO_UDP || IS_TCP_SYN(p->tcp_flags);
}

/* The case of the packet in c->packet as *fresh translates it. 0: its pod has no policy for what it gets, or
 * isn't surely reached. */
static __always_inline int early_case(int family, const struct flow *fresh, struct policy_case *c)
{
	struct tuple *t = &c->packet.tuple;
	const struct policy_endpoint *ep;
	const struct pod_peer *pod;

	flow_addresses(family, fresh, &c->peer, &c->pod);
	pod = peer_find(&c->pod);
	if (!pod)
		return 0;
	c->ifindex = pod->ifindex;
	ep = bpf_map_lookup_elem(&policy_endpoints, &c->ifindex);
	if (!ep || !(ep->flags & ENDPOINT_INGRESS) || !policy_is_own(ep, &c->pod))
		return 0;
	t->dst = c->pod;
	t->dport = fresh->new_dport;
	c->pod_port = t->dport;
	c->peer_port = t->sport;
	c->proto = t->proto;
	c->direction = POLICY_INGRESS;
	c->either = 0;
	c->from_pod = 0;
	c->strict = 0;
	c->subject = 0;
	c->row = 0;
	return 1;
}

/* 1 where the case is denied without an answer, and is no packet of a flow that the pod's device knows. */
static __always_inline int early_is_denied(struct xdp_md *ctx, int family, struct policy_case *c)
{
	__u32 reason = policy_judge(), mtu = c->packet.tot_len;

	if (reason != DROP_POLICY_DENIED && reason != DROP_POLICY_ISOLATED)
		return 0;
	if (policy_find_case(family, &c->packet.tuple, POLICY_INGRESS, c))
		return 0;
	/* The device may be gone, and the stack answers what it doesn't take. */
	return !bpf_check_mtu(ctx, c->ifindex, &mtu, 0, 0);
}

static __always_inline void early_tell(const struct policy_case *c, const struct flow *fresh)
{
	struct flow_event *e = event_compose(&c->packet, c->ifindex);

	count_service(fresh->service, PATH_XDP, FLOW_FORWARD, 1, c->packet.tot_len);
	policy_count(c, 1, c->packet.tot_len);
	count_drop(c->reason, c->packet.tot_len);
	if (!e)
		return;
	policy_note(c, e);
	e->path = PATH_XDP;
	event_drop();
}

/* Of what lb_decide() left in tuple_scratch and flow_scratch. 1: dropped, counted and told. */
static __always_inline int early_drop(struct xdp_md *ctx, int family, __u32 length, __u32 tcp_flags)
{
	__u32 zero = 0;
	const struct flow *fresh = bpf_map_lookup_elem(&flow_scratch, &zero);
	const struct tuple *t = bpf_map_lookup_elem(&tuple_scratch, &zero);
	struct policy_case *c = policy_case();

	if (!settings.early) /* kernels without bpf_check_mtu read no further */
		return 0;
	if (!fresh || !t || !c)
		return 0;
	__builtin_memset(&c->packet, 0, sizeof(c->packet));
	c->packet.tuple = *t;
	c->packet.tot_len = length;
	c->packet.tcp_flags = tcp_flags;
	if (!early_case(family, fresh, c) || !early_is_denied(ctx, family, c))
		return 0;
	early_tell(c, fresh);
	return 1;
}

/* Global, with no pointer but the context: the verifier looks at them once (see snat.h). */
__noinline int early_drop4(struct xdp_md *ctx, __u32 length, __u32 tcp_flags)
{
	return early_drop(ctx, AF_INET, length, tcp_flags);
}

__noinline int early_drop6(struct xdp_md *ctx, __u32 length, __u32 tcp_flags)
{
	return early_drop(ctx, AF_INET6, length, tcp_flags);
}

#endif
