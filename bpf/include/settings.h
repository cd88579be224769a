/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Constants that the loader writes into .rodata before load, so that the verifier prunes what they turn
 * off, and the enums that BTF would otherwise lose.
 */
#ifndef NETACCEL_SETTINGS_H
#define NETACCEL_SETTINGS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

const volatile struct settings settings = {
	.hz = 250,
	.syn_timeout = 60,
	.established_timeout = 21600,
	.closing_timeout = 120,
	.closed_timeout = 60,
	.unreplied_timeout = 30,
	.udp_timeout = 180,
	.snat_first = 61000,
	.snat_count = 4536,
	.has_retval = 1,
	.policy = 1,
	.peer = 1,
};

/* Enums that no struct field names stay in BTF through a variable; libbpf skips the section. */
struct abi_enums {
	enum drop_reason drop_reason;
	enum flow_path flow_path;
	enum frontend_kind frontend_kind;
	enum frontend_flag frontend_flag;
	enum backend_state backend_state;
	enum backend_flag backend_flag;
	enum flow_direction flow_direction;
	enum flow_state flow_state;
	enum flow_flag flow_flag;
	enum counter counter;
	enum policy_direction policy_direction;
	enum policy_action policy_action;
	enum verdict verdict;
	enum identity_flag identity_flag;
	enum policy_kind policy_kind;
	enum rule_action rule_action;
	enum endpoint_flag endpoint_flag;
	enum policy_flow_state policy_flow_state;
	enum policy_flow_flag policy_flow_flag;
	enum flow_event_type flow_event_type;
	enum accel_state accel_state;
	enum accel_flag accel_flag;
	enum accel_bound accel_bound;
	enum peer_hash peer_hash;
};
struct abi_enums abi_enums SEC(".abi");

#endif
