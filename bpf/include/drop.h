/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Events of packets that XDP and TC programs have read: composed, and told where one is dropped. */
#ifndef NETACCEL_DROP_H
#define NETACCEL_DROP_H

#include "device.h"
#include "event.h"
#include "packet.h"

/* Where an event is composed. Holds nothing between packets. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow_event);
} event_scratch SEC(".maps");

static __always_inline struct flow_event *event_composed(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&event_scratch, &zero);
}

/* Composes a packet's event; reason, verdict and type are the caller's to set. NULL: never. */
static __always_inline struct flow_event *event_compose(const struct packet *p, __u32 ifindex)
{
	struct flow_event *e = event_composed();

	if (!e)
		return NULL;
	__builtin_memset(e, 0, sizeof(*e));
	__builtin_memcpy(e->src, &p->tuple.src, ADDR_LEN);
	__builtin_memcpy(e->dst, &p->tuple.dst, ADDR_LEN);
	e->sport = p->tuple.sport;
	e->dport = p->tuple.dport;
	e->proto = p->tuple.proto;
	e->tcp_flags = p->tcp_flags;
	e->direction = p->flags & PACKET_FROM_POD ? POLICY_EGRESS : POLICY_INGRESS;
	e->ifindex = ifindex;
	e->length = p->tot_len;
	e->path = PATH_HERE;
	return e;
}

/* The drop in event_scratch. Global, without arguments: the verifier looks at it once (see snat.h). */
__noinline int event_drop(void)
{
	struct flow_event *e = event_composed();

	if (e)
		event_tell_drop(e);
	return 0;
}

/* What the load balancer drops: counted and told. Called by entry programs only, once for a packet.
 * `how`: enum flow_path. */
static __noinline int event_drop_packet(const struct packet *p, __u32 ifindex, __u32 reason, __u32 how)
{
	struct flow_event *e;

	if (!p)
		return 0;
	count_drop(reason, p->tot_len);
	e = event_compose(p, ifindex);
	if (!e)
		return 0;
	e->reason = reason;
	e->verdict = VERDICT_DROPPED;
	e->type = EVENT_DROP;
	e->path = how;
	return event_drop();
}

#endif
