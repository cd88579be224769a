/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The maps of same-node acceleration; pinned as those of maps.h. They outlive the agent, since enrolled
 * sockets do: a map that went away would take redirected bytes with it that nobody has read.
 */
#ifndef NETACCEL_ACCEL_MAPS_H
#define NETACCEL_ACCEL_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

#define ACCEL_PAIRS 4096
#define ACCEL_ENDS (2 * ACCEL_PAIRS)

/* Enrolled sockets by their cookie, which is unique in the machine: no tuple can be confused with another
 * pod's. What they send is asked of accel_msg. Writer: accel_enrol; the agent deletes; the kernel, when a
 * socket closes. Reader: accel_msg. Full: the socket is not enrolled, which is said. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, ACCEL_ENDS);
	__type(key, __u64);
	__type(value, __u64);
} accel_map SEC(".maps");

/* Which end an enrolled socket is. Writer: accel_enrol; accel_scan deletes it from sockets that left. Reader:
 * accel_msg, accel_scan. Full: never; without memory the socket is not enrolled. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct accel_socket);
} accel_sockets SEC(".maps");

/* Pairs by slot. Writer: agent. Reader: accel_msg, each message. Full: the pair goes by TCP, which is said.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE); /* read whole each second */
	__uint(max_entries, ACCEL_PAIRS);
	__type(key, __u32);
	__type(value, struct accel_pair);
} accel_pairs SEC(".maps");

/* Ends of pairs. Writer: accel_enrol, whole; accel_msg counts, for its own end and under that socket's lock.
 * Reader: accel_msg, agent. Full: as accel_pairs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, ACCEL_ENDS);
	__type(key, __u32);
	__type(value, struct accel_end);
} accel_ends SEC(".maps");

/* Sockets to enrol, by cookie. Writer: agent, which deletes what it wrote. Reader: accel_enrol. Full: the
 * rest waits for the next look. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct accel_wanted);
} accel_wanted SEC(".maps");

#endif
