/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Who is a pod of this node that packets go to past the stack. Reads pod_peers, peer_hints. */
#ifndef NETACCEL_PEER_H
#define NETACCEL_PEER_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_helpers.h>
#include "frontend.h"
#include "packet.h"
#include "peer_maps.h"
#include "settings.h"

/* 0: no pod of pod_peers has an address that ends in this word. */
static __always_inline int peer_hint(__be32 word)
{
	__u32 zero = 0, at = (word * PEER_HASH_FACTOR) >> PEER_HASH_SHIFT;
	const struct peer_hints *hints = bpf_map_lookup_elem(&peer_hints, &zero);

	return hints && hints->likely[at & (PEER_HINTS - 1)];
}

static __always_inline const struct pod_peer *peer_find(const struct addr *a)
{
	return bpf_map_lookup_elem(&pod_peers, a);
}

/* 0: the frame goes to no such pod. Frames with a VLAN tag go to none. */
static __always_inline int peer_is_likely(struct __sk_buff *skb, int family)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const struct ipv6hdr *ip6 = data + ETH_HLEN;
	const struct iphdr *ip = data + ETH_HLEN;

	if (!settings.peer || settings.dry_run)
		return 0;
	if (family == AF_INET)
		return (void *)(ip + 1) <= end && peer_hint(ip->daddr);
	return (void *)(ip6 + 1) <= end && peer_hint(ip6->daddr.s6_addr32[3]);
}

#endif
