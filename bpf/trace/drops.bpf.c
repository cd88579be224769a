/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Packets that the kernel itself drops, with its reason, where they concern this node: one list then answers
 * where a packet went. Machine-wide by nature, so each is asked whose it is: of the node's namespace, or of a
 * pod whose device is here; and from or to a pod, the node or a frontend. Reads identities, policy_endpoints,
 * policy_revision, gate_addresses, frontends; writes events.
 *
 * Needs kfree_skb's reason (kernel 5.17) and BTF; a kernel without refuses the object, and its drops are not
 * told. Structs of the kernel name what is read of them; CO-RE finds it.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "event.h"
#include "frontend.h"
#include "policy_maps.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct list_head {
	struct list_head *next;
};
struct net {
	__u64 net_cookie;
	struct list_head dev_base_head;
};
typedef struct {
	struct net *net;
} possible_net_t;
struct rtnl_link_ops {
	const char *kind;
};
struct net_device {
	struct list_head dev_list;
	int ifindex;
	possible_net_t nd_net;
	const struct rtnl_link_ops *rtnl_link_ops;
};
struct dst_entry {
	struct net_device *dev;
};
struct sock_common {
	possible_net_t skc_net;
};
struct sock {
	struct sock_common __sk_common;
};
struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	unsigned long _skb_refdst;
	unsigned int len;
	__be16 protocol;
	__u16 network_header;
	unsigned char *head;
};
enum skb_drop_reason {
	SKB_DROP_REASON_SOCKET_FILTER = 1,
	SKB_DROP_REASON_BPF_CGROUP_EGRESS,
	SKB_DROP_REASON_TC_INGRESS,
	SKB_DROP_REASON_TC_EGRESS,
	SKB_DROP_REASON_XDP,
	SKB_DROP_REASON_QUEUE_PURGE,
};
#pragma clang attribute pop

#define IS_REASON(value, name)                                                                               \
	(bpf_core_enum_value_exists(enum skb_drop_reason, SKB_DROP_REASON_##name) &&                         \
	 (value) == bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_##name))

#define REFDST_MASK (~1UL)   /* SKB_DST_PTRMASK */
#define NETDEV_ALIGN 32      /* of a device's private part */
#define KIND_VETH 0x68746576 /* "veth" */
#define IPV4_OFFSET 0x1fff
#define POD_DEVICES 4 /* of a pod's namespace that are looked at: lo, eth0, and what else there may be */

/* Programs' drops: ours have their own events, others' are not the kernel's. */
static __always_inline int is_programs(__u32 reason)
{
	return IS_REASON(reason, TC_INGRESS) || IS_REASON(reason, TC_EGRESS) || IS_REASON(reason, XDP) ||
	       IS_REASON(reason, BPF_CGROUP_EGRESS);
}

/* What a socket had not read when it was closed: nobody waits for it. */
static __always_inline int is_housekeeping(__u32 reason)
{
	return IS_REASON(reason, QUEUE_PURGE);
}

static __always_inline __u64 cookie_of(const struct net_device *dev)
{
	return BPF_CORE_READ(dev, nd_net.net, net_cookie);
}

/* The other end of a veth: the first thing in a device's private part. NULL: no veth. */
static __always_inline struct net_device *veth_peer(const struct net_device *dev)
{
	__u32 size = bpf_core_type_size(struct net_device), word = 0;
	const char *kind = BPF_CORE_READ(dev, rtnl_link_ops, kind);
	struct net_device *peer = NULL;

	if (bpf_probe_read_kernel(&word, sizeof(word), kind) || word != KIND_VETH)
		return NULL;
	size = (size + NETDEV_ALIGN - 1) & ~(NETDEV_ALIGN - 1);
	bpf_probe_read_kernel(&peer, sizeof(peer), (const void *)dev + size);
	return peer;
}

/* Whether a device is the node's, or a pod's whose other end is: then *ifindex is that on the node. */
static __always_inline int is_ours(const struct net_device *dev, __u32 *ifindex)
{
	struct net_device *peer;

	*ifindex = BPF_CORE_READ(dev, ifindex);
	if (cookie_of(dev) == settings.node_cookie)
		return 1;
	peer = veth_peer(dev);
	*ifindex = peer && cookie_of(peer) == settings.node_cookie ? BPF_CORE_READ(peer, ifindex) : 0;
	return *ifindex && bpf_map_lookup_elem(&policy_endpoints, ifindex);
}

/* Whether a namespace is the node's, or a pod's by one of its devices. */
static __always_inline int is_our_net(const struct net *net, __u32 *ifindex)
{
	__u64 offset = bpf_core_field_offset(struct net_device, dev_list);
	const struct list_head *next;
	int found = 0;

	if (!net)
		return 0;
	if (BPF_CORE_READ(net, net_cookie) == settings.node_cookie)
		return 1;
	next = BPF_CORE_READ(net, dev_base_head.next);
#pragma unroll
	for (int i = 0; i < POD_DEVICES; i++) {
		if (!next || found)
			break;
		found = is_ours((const void *)((const char *)next - offset), ifindex);
		next = BPF_CORE_READ(next, next);
	}
	return found;
}

/* By the packet's device, or where there is none by the namespace of its socket or of its route, whose device
 * is the loopback for what is delivered. */
static __always_inline int concerns_us(const struct sk_buff *skb, __u32 *ifindex)
{
	struct net_device *dev = BPF_CORE_READ(skb, dev);
	const struct dst_entry *dst;

	if (dev && cookie_of(dev)) /* a socket's queue keeps other things in its place */
		return is_ours(dev, ifindex);
	if (is_our_net(BPF_CORE_READ(skb, sk, __sk_common.skc_net.net), ifindex))
		return 1;
	dst = (const struct dst_entry *)(BPF_CORE_READ(skb, _skb_refdst) & REFDST_MASK);
	return dst && is_our_net(BPF_CORE_READ(dst, dev, nd_net.net), ifindex);
}

static __always_inline int read_ports(const void *at, struct flow_event *e)
{
	__u8 bytes[2];

	if (e->proto == IPPROTO_TCP || e->proto == IPPROTO_UDP || e->proto == IPPROTO_SCTP) {
		if (bpf_probe_read_kernel(&e->sport, 2 * sizeof(e->sport), at))
			return -1;
		if (e->proto == IPPROTO_TCP)
			bpf_probe_read_kernel(&e->tcp_flags, 1, at + 13);
	} else if (e->proto == IPPROTO_ICMP || e->proto == IPPROTO_ICMPV6) {
		if (bpf_probe_read_kernel(bytes, sizeof(bytes), at))
			return -1;
		e->icmp_type = bytes[0];
		e->icmp_code = bytes[1];
	}
	return 0;
}

/* Extension headers are not followed: the drop is told with their number and without ports. */
static __always_inline int read_headers(const struct sk_buff *skb, struct flow_event *e)
{
	const void *at = BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, network_header);
	__be16 protocol = BPF_CORE_READ(skb, protocol);
	struct ipv6hdr ip6;
	struct iphdr ip;
	struct addr a;

	if (protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_probe_read_kernel(&ip, sizeof(ip), at) || ip.version != 4)
			return -1;
		addr_from_v4(&a, ip.saddr);
		__builtin_memcpy(e->src, &a, ADDR_LEN);
		addr_from_v4(&a, ip.daddr);
		__builtin_memcpy(e->dst, &a, ADDR_LEN);
		e->proto = ip.protocol;
		e->length = bpf_ntohs(ip.tot_len);
		return ip.frag_off & bpf_htons(IPV4_OFFSET) ? 0 : read_ports(at + ip.ihl * 4, e);
	}
	if (protocol != bpf_htons(ETH_P_IPV6))
		return -1;
	if (bpf_probe_read_kernel(&ip6, sizeof(ip6), at) || ip6.version != 6)
		return -1;
	__builtin_memcpy(e->src, &ip6.saddr, ADDR_LEN);
	__builtin_memcpy(e->dst, &ip6.daddr, ADDR_LEN);
	e->proto = ip6.nexthdr;
	e->length = sizeof(ip6) + bpf_ntohs(ip6.payload_len);
	return read_ports(at + sizeof(ip6), e);
}

static __always_inline const struct identity *who(const __u8 *address)
{
	struct identity_key key = { .prefix_length = 128 };

	__builtin_memcpy(key.addr, address, ADDR_LEN);
	return bpf_map_lookup_elem(&identities, &key);
}

static __always_inline int is_known(const struct identity *id)
{
	return id && id->flags & (IDENTITY_POD | IDENTITY_HOST);
}

static __always_inline int is_frontend(const __u8 *address, __be16 port, __u8 proto)
{
	struct addr a;

	__builtin_memcpy(&a, address, ADDR_LEN);
	return addr_is_v4(&a) ? frontend_find4(a.w[3], port, proto) != NULL
			      : frontend_find6(&a, port, proto) != NULL;
}

/* What the gate keeps from a socket looks like any socket's filter. */
static __always_inline int is_gates(__u32 reason, const struct flow_event *e, const struct identity *to)
{
	struct policy_revision *now;
	__u32 zero = 0;

	if (!IS_REASON(reason, SOCKET_FILTER))
		return 0;
	now = bpf_map_lookup_elem(&policy_revision, &zero);
	if (!now || !now->strict || (to && to->flags & IDENTITY_HOST))
		return 0;
	return !bpf_map_lookup_elem(&gate_addresses, e->dst);
}

static __always_inline int is_address(const __u8 *one, const __u8 *other)
{
	const __u64 *a = (const void *)one, *b = (const void *)other;

	return a[0] == b[0] && a[1] == b[1];
}

/* As the pod sees it whose device it was; where it was none's, to a pod or from one. */
static __always_inline __u8 direction_of(const struct flow_event *e, int to_pod)
{
	const struct policy_endpoint *ep = bpf_map_lookup_elem(&policy_endpoints, &e->ifindex);

	if (ep)
		to_pod = !is_address(e->src, ep->addr4) && !is_address(e->src, ep->addr6);
	return to_pod ? POLICY_INGRESS : POLICY_EGRESS;
}

/* Fills in who it is about. 0: neither a pod's, the node's nor a frontend's. */
static __always_inline int is_wanted(__u32 reason, struct flow_event *e)
{
	const struct identity *from = who(e->src), *to = who(e->dst), *peer;

	if (!is_known(from) && !is_known(to) && !is_frontend(e->dst, e->dport, e->proto) &&
	    !is_frontend(e->src, e->sport, e->proto))
		return 0;
	if (is_gates(reason, e, to))
		return 0;
	e->direction = direction_of(e, to && to->flags & IDENTITY_POD);
	peer = e->direction == POLICY_INGRESS ? from : to;
	e->identity = peer ? peer->identity : 0;
	return 1;
}

SEC("tp_btf/kfree_skb")
int trace_kfree_skb(__u64 *ctx)
{
	const struct sk_buff *skb = (const struct sk_buff *)ctx[0];
	struct flow_event e = { .path = PATH_STACK, .verdict = VERDICT_DROPPED, .type = EVENT_KERNEL_DROP };
	__u32 reason = ctx[2], ifindex = 0;

	if (!settings.node_cookie || is_programs(reason) || is_housekeeping(reason))
		return 0;
	if (!concerns_us(skb, &ifindex))
		return 0;
	if (read_headers(skb, &e))
		return 0;
	e.reason = reason;
	e.ifindex = ifindex;
	e.location = ctx[1];
	if (is_wanted(reason, &e))
		event_tell_drop(&e);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
