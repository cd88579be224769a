/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * At which device programs judge, and what path they tell of: that which the packet is at, by TC. For
 * tc/peer.bpf.c it is the device of the pod that gets the packet, which never comes there.
 */
#ifndef NETACCEL_DEVICE_H
#define NETACCEL_DEVICE_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

#ifdef NETACCEL_PEER

/* Ifindex of the device that is judged for. Holds nothing between packets. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} device_scratch SEC(".maps");

#define PATH_HERE PATH_PEER

static __always_inline __u32 pod_device(struct __sk_buff *skb)
{
	__u32 zero = 0, *device = bpf_map_lookup_elem(&device_scratch, &zero);

	asm volatile("" : : "r"(skb)); /* global functions are called with it, which else is left out */
	return device ? *device : 0;
}

static __always_inline void pod_device_set(__u32 ifindex)
{
	__u32 zero = 0, *device = bpf_map_lookup_elem(&device_scratch, &zero);

	if (device)
		*device = ifindex;
}

#else

#define PATH_HERE PATH_TC

static __always_inline __u32 pod_device(struct __sk_buff *skb)
{
	return skb->ifindex;
}

#endif

#endif
