/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The maps of the way from pod to pod past the node's stack; pinned and sized as those of maps.h. */
#ifndef NETACCEL_PEER_MAPS_H
#define NETACCEL_PEER_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

/* Pods of this node that packets go to and from past the stack: both ends are here, or it isn't taken, so
 * that both directions of a flow go the same way. Writer: agent, once the pod's programs and policy are in
 * force. Reader: TC programs of pod devices; xdp_uplink, for new flows (policy_early.h). Full: the pod's
 * packets go through the stack, which is said. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 8192);
	__type(key, struct pod_peer_key);
	__type(value, struct pod_peer);
} pod_peers SEC(".maps");

/* One entry, key 0: packets that go elsewhere don't pay for a look-up. Writer: agent, after pod_peers grew
 * and before it shrinks. Reader: as pod_peers. Never full. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct peer_hints);
} peer_hints SEC(".maps");

/* One entry, key 0: tc_pod_peer, which has a stack of its own. Writer: agent, at its start. Reader:
 * tc_pod_ingress. Empty: nothing goes past the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} peer_program SEC(".maps");

#endif
