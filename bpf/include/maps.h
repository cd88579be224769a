/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Every map of the datapath. All are pinned by name in the node's folder (`<bpffs>/netaccel/maps/`) and
 * shared by every object; sizes here are defaults that the loader overrides from the settings.
 *
 * "agent" writes through netaccel/reconcile; "programs" are those of bpf/. A map that the agent alone
 * writes refuses what does not fit (the Service is rejected whole). LRU maps evict the coldest entry;
 * evictions = inserts - deletes - live entries, see `counters`.
 */
#ifndef NETACCEL_MAPS_H
#define NETACCEL_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

/* Frontends of IPv4. Writer: agent. Reader: all programs. 16 bytes for each packet that is looked at, so
 * the key is 8 bytes and not the 16-byte form (26 ns against 35 for a look-up). Full: Service refused. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct frontend4_key);
	__type(value, struct frontend);
} frontends4 SEC(".maps");

/* Frontends of IPv6. As frontends4. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct frontend6_key);
	__type(value, struct frontend);
} frontends6 SEC(".maps");

/* Names of service ports by id. Writer: agent. Reader: user space only. Full: Service refused. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct service);
} services SEC(".maps");

/* Backends by id. Writer: agent (a slot is written whole while nothing refers to it; later only its state
 * changes). Reader: all programs. Id 0 is never used. Full: Service refused. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE); /* read whole at a start */
	__uint(max_entries, 262144);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

/* Maglev tables, one flat array: a frontend names its range by offset and length; a slot holds a backend
 * id. Writer: agent, only ranges that no frontend names. Reader: all programs. Full: Service refused.
 * Not map-in-map: an update of one waits for an RCU grace period of 8 ms. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE); /* read whole at a start */
	__uint(max_entries, 4194304);
	__type(key, __u32);
	__type(value, __u32);
} maglev SEC(".maps");

/* Client CIDRs by service. Writer: agent, before the frontend that asks for them. Reader: all programs.
 * Full: Service refused. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct source_range_key);
	__type(value, struct source_range);
} source_ranges SEC(".maps");

/* Flows of IPv4, two entries each (enum flow_direction). Writer: XDP and TC programs; the agent deletes
 * expired ones. Reader: the same. Full: the coldest entry goes; its other half restores it. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
	__type(key, struct flow4_key);
	__type(value, struct flow4);
} flows4 SEC(".maps");

/* Flows of IPv6. As flows4. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, struct flow6_key);
	__type(value, struct flow);
} flows6 SEC(".maps");

/* ClientIP affinity. Writer: all programs. Reader: all programs. Full: the coldest client is forgotten. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
} affinity SEC(".maps");

/* Ports of first fragments. Writer: TC programs. Reader: TC programs. Full: the coldest is forgotten, its
 * later fragments are dropped and counted. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
} fragments SEC(".maps");

/* Translated peers of connected sockets, by socket cookie. Writer: connect programs; the release program
 * deletes with the socket, so only live sockets count. Reader: recvmsg, getpeername, the socket iterators,
 * user space. Full: the coldest goes; its socket's application then sees the backend. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, __u64);
	__type(value, struct sock_peer);
} sock_peer SEC(".maps");

/* Translated peers of unconnected UDP sockets, which may have many. Writer: sendmsg programs. Reader:
 * recvmsg programs, user space. Full: the coldest goes; its socket's application then sees the backend. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct sock_nat_key);
	__type(value, struct sock_nat);
} sock_nat SEC(".maps");

/* The backend that an unconnected UDP socket keeps for a frontend. Writer, reader: sendmsg programs.
 * Full: the coldest chooses anew. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct sock_udp_key);
	__type(value, struct sock_udp);
} sock_udp SEC(".maps");

/* The node's own addresses (one entry, key 0). Writer: agent. Reader: XDP and TC programs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct node);
} node SEC(".maps");

/* Packets and bytes by service port and path. Writer: programs. Reader: user space. Never full: as many
 * as services has. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct service_counters);
} service_counters SEC(".maps");

/* Packets and bytes by enum drop_reason. Writer: programs. Reader: user space. Never full. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DROP_REASONS);
	__type(key, __u32);
	__type(value, struct traffic);
} drops SEC(".maps");

/* Counts by enum counter. Writer: programs. Reader: user space. Never full. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* Limiters. Writer, reader: XDP and TC programs, each CPU its own. Never full. */
#define LIMIT_FLOWS 0   /* new flows */
#define LIMIT_REPLIES 1 /* ICMP errors that programs send */
#define LIMIT_EVENTS 2  /* pairs that drop_pairs did not know */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, struct limiter);
} limiter SEC(".maps");

/* Where programs compose a new flow: its forward half and the key of that. Hold nothing between packets. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow);
} flow_scratch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow6_key);
} tuple_scratch SEC(".maps");

/* Where TC programs compose an ICMP error: larger than their stack. Holds nothing between packets. */
#define REPLY_SCRATCH_LEN 1536 /* three chunks of 512 to sum */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, REPLY_SCRATCH_LEN);
} reply_scratch SEC(".maps");

#endif
