/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The gate of strict mode: what sockets send and get before their pod's policy is in force at its device. One
 * attachment at the node's cgroup covers pods that are born later, with the agent dead too. Reads identities,
 * gate_addresses; writes drops. docs/decisions/0013-strict-gate.md says why here, and what remains open.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "frontend.h"
#include "maps.h"
#include "packet.h"
#include "policy_maps.h"
#include "settings.h"

#define GATE_PASS 1
#define GATE_DROP 0

enum gate_side {
	GATE_SENDS,
	GATE_GETS,
};

/* The socket's own address: source of what it sends, destination of what it gets. Not 0: no IP. */
static __always_inline int gate_address(struct __sk_buff *skb, enum gate_side side, struct addr *own)
{
	__u32 at4 = side == GATE_SENDS ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr);
	__u32 at6 = side == GATE_SENDS ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr);
	__be32 v4;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, at4, &v4, sizeof(v4)))
			return -1;
		addr_from_v4(own, v4);
		return 0;
	}
	if (skb->protocol != bpf_htons(ETH_P_IPV6))
		return -1;
	return bpf_skb_load_bytes(skb, at6, own, sizeof(*own));
}

/* Addresses that are no pod's: loopback, link-local, unspecified, groups. */
static __always_inline int gate_is_nobodys(const struct addr *a)
{
	__u32 host = bpf_ntohl(a->w[3]), first = bpf_ntohl(a->w[0]);

	if (addr_is_v4(a))
		return !host || host >> 24 == 127 || host >> 16 == 0xa9fe || host >> 28 >= 0xe;
	if (first >> 24 == 0xff || first >> 22 == 0xfe80 >> 6)
		return 1;
	return !(a->w[0] | a->w[1] | a->w[2]) && host <= 1;
}

static __always_inline int gate_is_hosts(const struct addr *a)
{
	struct identity_key key = { .prefix_length = 128 };
	const struct identity *found;

	__builtin_memcpy(key.addr, a, ADDR_LEN);
	found = bpf_map_lookup_elem(&identities, &key);
	return found && found->flags & IDENTITY_HOST;
}

/* Not count_drop(): this runs where a softirq may interrupt it. */
static __always_inline void gate_count(__u64 bytes)
{
	__u32 reason = DROP_POLICY_UNREADY;
	struct traffic *t = bpf_map_lookup_elem(&drops, &reason);

	if (t) {
		__sync_fetch_and_add(&t->packets, 1);
		__sync_fetch_and_add(&t->bytes, bytes);
	}
}

static __always_inline int gate(struct __sk_buff *skb, enum gate_side side)
{
	struct addr own;

	/* The node's own sockets, whatever address it has been given: where the kernel tells (6.15). */
	if (settings.has_skb_netns && settings.node_cookie &&
	    bpf_get_netns_cookie(skb) == settings.node_cookie)
		return GATE_PASS;
	if (gate_address(skb, side, &own) || gate_is_nobodys(&own))
		return GATE_PASS;
	if (bpf_map_lookup_elem(&gate_addresses, &own) || gate_is_hosts(&own))
		return GATE_PASS;
	gate_count(skb->len);
	return GATE_DROP;
}

SEC("cgroup_skb/egress")
int gate_egress(struct __sk_buff *skb)
{
	return gate(skb, GATE_SENDS);
}

SEC("cgroup_skb/ingress")
int gate_ingress(struct __sk_buff *skb)
{
	return gate(skb, GATE_GETS);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
