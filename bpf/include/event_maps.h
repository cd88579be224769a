/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Where verdicts and drops are told: pinned and sized as those of maps.h. */
#ifndef NETACCEL_EVENT_MAPS_H
#define NETACCEL_EVENT_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

/* Samples of struct flow_event. Writer: TC programs, the kernel's drops. Reader: the agent, its one consumer.
 * Full: the sample is lost and counted (COUNTER_EVENT_LOST). */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4194304);
} flow_events SEC(".maps");

/* Drops by reason and pair: each has one event a second, all are counted here. Writer: TC programs, the
 * kernel's drops. Reader: user space. Full: the coldest goes. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct drop_pair_key);
	__type(value, struct drop_pair);
} drop_pairs SEC(".maps");

/* A sample's struct, which BTF would otherwise lose; libbpf skips the section. */
struct flow_event abi_flow_event SEC(".abi");

#endif
