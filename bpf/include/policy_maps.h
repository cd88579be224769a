/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The maps of policy, for programs of pod devices, the gate, and XDP's early drop; pinned and sized as those
 * of maps.h. A decision takes four look-ups: policy_endpoints (by device), identities (the peer's address),
 * policy_peers, policy_rows.
 */
#ifndef NETACCEL_POLICY_MAPS_H
#define NETACCEL_POLICY_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

/* Who has an address: pods and nodes as /128, CIDRs that policies name; one trie, IPv4 mapped. Writer: agent,
 * after policy_peers knows the identity. Reader: TC programs of pod devices and xdp_uplink, for new flows;
 * the gate. Full: the pod or policy is refused, and its stricter reading holds (docs/policy.md). */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct identity_key);
	__type(value, struct identity);
} identities SEC(".maps");

/* Pods of this node by the ifindex of their device. Writer: agent, last of all. Reader: TC programs of pod
 * devices and xdp_uplink, for new flows. Full: the pod is not enforceable, which is said. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct policy_endpoint);
} policy_endpoints SEC(".maps");

/* The row for one subject, direction and peer; absent: the endpoint's own row. Writer: agent, after the rows.
 * Reader: as policy_endpoints. Full: the policy is refused. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1048576);
	__type(key, struct policy_peer_key);
	__type(value, __u32);
} policy_peers SEC(".maps");

/* Verdicts by row, protocol and port. A row has an entry of 32 bits, or it is not there. Writer: agent, rows
 * that nothing names. Reader: as policy_endpoints. Full: the policy is refused. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct policy_row_key);
	__type(value, struct policy_verdict);
} policy_rows SEC(".maps");

/* Names of rules by id. Writer: agent, before the rows. Reader: user space only. Full: the policy is refused.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct policy_rule);
} policy_rules SEC(".maps");

/* Packets and bytes of new flows and of drops, by the rule that decided (enforced or, audited, shadow).
 * Writer: TC programs of pod devices, xdp_uplink. Reader: user space. Never full: as many as policy_rules
 * has. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct traffic);
} rule_counters SEC(".maps");

/* One entry, key 0. Writer: agent, after every change. Reader: TC programs of pod devices, each packet. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct policy_revision);
} policy_revision SEC(".maps");

/* Pods' ends of flows that were allowed. Writer: TC programs of pod devices; the agent deletes expired ones.
 * Reader: the same; xdp_uplink. Full: the coldest goes; its flow is judged again as if it were new. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, struct policy_flow4_key);
	__type(value, struct policy_flow);
} policy_flows4 SEC(".maps");

/* As policy_flows4. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct policy_flow6_key);
	__type(value, struct policy_flow);
} policy_flows6 SEC(".maps");

/* Addresses of this node's pods that may be sent from and to in strict mode. Writer: agent, once the pod's
 * policy is in force at its device. Reader: the gate (cgroup_skb). Full: the pod stays shut, which is said.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 8192);
	__type(key, struct gate_key);
	__type(value, __u32);
} gate_addresses SEC(".maps");

#endif
