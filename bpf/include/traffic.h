/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Packets and bytes by Service, path and direction. Writes service_counters. */
#ifndef NETACCEL_TRAFFIC_H
#define NETACCEL_TRAFFIC_H

#include "maps.h"

/* `path`: PATH_XDP or PATH_TC, a constant; `direction`: that of the flow's half. */
static __always_inline void count_service(__u32 service, enum flow_path path, __u8 direction, __u64 packets,
					  __u64 bytes)
{
	struct service_counters *c = bpf_map_lookup_elem(&service_counters, &service);

	if (!c)
		return;
	if (direction == FLOW_FORWARD) {
		*(path == PATH_XDP ? &c->xdp_request_packets : &c->tc_request_packets) += packets;
		*(path == PATH_XDP ? &c->xdp_request_bytes : &c->tc_request_bytes) += bytes;
	} else {
		*(path == PATH_XDP ? &c->xdp_reply_packets : &c->tc_reply_packets) += packets;
		*(path == PATH_XDP ? &c->xdp_reply_bytes : &c->tc_reply_bytes) += bytes;
	}
}

static __always_inline void count_refused(__u32 service)
{
	struct service_counters *c = bpf_map_lookup_elem(&service_counters, &service);

	if (c)
		c->refused++;
}

#endif
