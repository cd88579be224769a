/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The kernel's own drops (tracepoint skb:kfree_skb), told beside those of our programs. The tracepoint is the
 * whole machine's: only packets of this node's namespace and of its pods' count, and of the node's only
 * those that a pod or a frontend has to do with. Needs the reasons of kernel 5.17.
 */
#pragma clang diagnostic ignored "-Wunused-function" /* of event.h only the half is needed */
#include "event.h"
#include "frontend.h"
#include "policy_maps.h"
#include <bpf/bpf_core_read.h>
#include <linux/in.h>
#include <linux/in6.h>

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD
#define POD_DEVICES 4 /* of a pod's namespace that are looked at: lo, eth0, and what else there may be */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
enum skb_drop_reason {
	SKB_DROP_REASON_NOT_SPECIFIED,
	SKB_DROP_REASON_TC_EGRESS,
	SKB_DROP_REASON_TC_INGRESS,
	SKB_DROP_REASON_QUEUE_PURGE,
};
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
#pragma clang attribute pop

/* What programs of pod devices and uplinks told last: their event_scratch. This program's own is not shared:
 * theirs may interrupt it. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow_event);
} tc_scratch SEC(".maps");

/* Whose drop it is. */
struct owner {
	__u32 ifindex; /* of the node's device; of a pod's namespace the pod's device; 0: not known */
	__u32 is_pods; /* 1: in a pod's namespace */
};

static __always_inline __u64 cookie_of(const struct net *net)
{
	return net ? BPF_CORE_READ(net, net_cookie) : 0;
}

/* The other end of a veth, NULL for any other device. Its private data begin with the pointer to it, right
 * after struct net_device (netdev_priv(), rounded up to 32 bytes). */
static __always_inline struct net_device *veth_peer(const struct net_device *dev)
{
	__u64 size = (bpf_core_type_size(struct net_device) + 31) & ~31ULL;
	const char *kind = BPF_CORE_READ(dev, rtnl_link_ops, kind);
	struct net_device *peer = 0;
	char name[5] = {};

	bpf_probe_read_kernel(name, sizeof(name), kind);
	if (name[0] != 'v' || name[1] != 'e' || name[2] != 't' || name[3] != 'h' || name[4])
		return 0;
	bpf_probe_read_kernel(&peer, sizeof(peer), (const char *)dev + size);
	return peer;
}

/* The node's end of a pod's device, 0 where it isn't one of this node's. */
static __always_inline __u32 pod_device(const struct net_device *dev)
{
	const struct net_device *peer = veth_peer(dev);

	if (!peer || cookie_of(BPF_CORE_READ(peer, nd_net.net)) != settings.node_cookie)
		return 0;
	return BPF_CORE_READ(peer, ifindex);
}

/* The device of the pod whose namespace it is. */
static __always_inline __u32 pod_of(const struct net *net)
{
	const struct list_head *next = BPF_CORE_READ(net, dev_base_head.next);
	__u64 offset = bpf_core_field_offset(struct net_device, dev_list);
	__u32 found = 0;

#pragma unroll
	for (int i = 0; i < POD_DEVICES; i++) {
		if (!next || found)
			break;
		found = pod_device((const void *)((const char *)next - offset));
		next = BPF_CORE_READ(next, next);
	}
	return found;
}

/* Where it happened: by the packet's device (which may be what a queue put in its place: then no cookie
 * fits), else by its route, else by its socket. 0: none of this node's. */
static __always_inline int owner_of(const struct sk_buff *skb, struct owner *o)
{
	const struct net_device *dev = BPF_CORE_READ(skb, dev);
	const struct dst_entry *dst = (const void *)(BPF_CORE_READ(skb, _skb_refdst) & ~1UL);
	const struct net *net = dev ? BPF_CORE_READ(dev, nd_net.net) : 0;

	o->ifindex = o->is_pods = 0;
	if (cookie_of(net) == settings.node_cookie) {
		o->ifindex = BPF_CORE_READ(dev, ifindex);
		return 1;
	}
	if (net)
		o->ifindex = pod_device(dev);
	if (!o->ifindex && dst) {
		net = BPF_CORE_READ(dst, dev, nd_net.net);
		if (cookie_of(net) == settings.node_cookie)
			return 1;
		o->ifindex = pod_of(net);
	}
	if (!o->ifindex) {
		net = BPF_CORE_READ(skb, sk, __sk_common.skc_net.net);
		if (cookie_of(net) == settings.node_cookie)
			return 1;
		o->ifindex = net ? pod_of(net) : 0;
	}
	o->is_pods = 1;
	return o->ifindex != 0;
}

struct l4 {
	__be16 sport;
	__be16 dport;
	__u8 rest[10]; /* of TCP: flags in the last one */
};

static __always_inline void read_transport(struct flow_event *e, const void *at)
{
	struct l4 l4 = {};

	bpf_probe_read_kernel(&l4, sizeof(l4), at);
	if (e->proto == IPPROTO_ICMP || e->proto == IPPROTO_ICMPV6) {
		e->icmp_type = l4.sport & 0xFF;
		e->icmp_code = l4.sport >> 8;
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
		e->icmp_type = l4.sport >> 8;
		e->icmp_code = l4.sport & 0xFF;
#endif
		return;
	}
	if (e->proto != IPPROTO_TCP && e->proto != IPPROTO_UDP && e->proto != IPPROTO_SCTP)
		return;
	e->sport = l4.sport;
	e->dport = l4.dport;
	if (e->proto == IPPROTO_TCP)
		e->tcp_flags = l4.rest[9];
}

/* Addresses, protocol and ports. 0: no IP packet, or its headers are not there. */
static __always_inline int read_packet(const struct sk_buff *skb, struct flow_event *e)
{
	const unsigned char *l3 = BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, network_header);
	__u8 header[40] = {};

	if (bpf_probe_read_kernel(header, 20, l3))
		return 0;
	if (header[0] >> 4 == 4) {
		e->src[10] = e->src[11] = e->dst[10] = e->dst[11] = 0xFF;
		__builtin_memcpy(e->src + 12, header + 12, 4);
		__builtin_memcpy(e->dst + 12, header + 16, 4);
		e->proto = header[9];
		if (!((header[6] & 0x1F) | header[7])) /* else no transport header: a later fragment */
			read_transport(e, l3 + (header[0] & 15) * 4);
		return 1;
	}
	if (header[0] >> 4 != 6 || bpf_probe_read_kernel(header, sizeof(header), l3))
		return 0;
	__builtin_memcpy(e->src, header + 8, ADDR_LEN);
	__builtin_memcpy(e->dst, header + 24, ADDR_LEN);
	e->proto = header[6];
	read_transport(e, l3 + sizeof(header));
	return 1;
}

static __always_inline int is_address(const __u8 *one, const __u8 *other)
{
	const __u64 *a = (const void *)one, *b = (const void *)other;

	return a[0] == b[0] && a[1] == b[1];
}

static __always_inline int is_pod(const __u8 *addr)
{
	struct identity_key key = { .prefix_length = 128 };
	struct identity *found;

	__builtin_memcpy(key.addr, addr, ADDR_LEN);
	found = bpf_map_lookup_elem(&identities, &key);
	return found && found->flags & IDENTITY_POD;
}

static __always_inline int is_frontend(const struct flow_event *e)
{
	struct addr dst;

	__builtin_memcpy(&dst, e->dst, sizeof(dst));
	if (addr_is_v4(&dst))
		return frontend_find4(dst.w[3], e->dport, e->proto) != 0;
	return frontend_find6(&dst, e->dport, e->proto) != 0;
}

/* Sets the direction; 0: the node's own traffic, which nobody asked about. */
static __always_inline int concerns(struct flow_event *e, const struct owner *o)
{
	struct policy_endpoint *ep = bpf_map_lookup_elem(&policy_endpoints, &o->ifindex);

	if (ep) {
		int sent = is_address(e->src, ep->addr4) || is_address(e->src, ep->addr6);

		e->direction = sent ? POLICY_EGRESS : POLICY_INGRESS;
		return 1;
	}
	e->direction = is_pod(e->src) ? POLICY_EGRESS : POLICY_INGRESS;
	return o->is_pods || e->direction == POLICY_EGRESS || is_pod(e->dst) || is_frontend(e);
}

/* What programs of ours dropped was told just before, on the same CPU. */
static __always_inline int is_ours(__u32 reason, const struct flow_event *e)
{
	const struct flow_event *told;
	__u32 zero = 0;

	if (reason != bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_TC_EGRESS) &&
	    reason != bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_TC_INGRESS))
		return 0;
	told = bpf_map_lookup_elem(&tc_scratch, &zero);
	return told && told->type == EVENT_DROP && is_address(told->src, e->src) &&
	       is_address(told->dst, e->dst) && told->sport == e->sport && told->dport == e->dport &&
	       told->proto == e->proto;
}

/* Not a packet that somebody waits for: it was read, or its socket was closed. */
static __always_inline int is_housekeeping(__u32 reason)
{
	return reason < bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_NOT_SPECIFIED) ||
	       (bpf_core_enum_value_exists(enum skb_drop_reason, SKB_DROP_REASON_QUEUE_PURGE) &&
		reason == bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_QUEUE_PURGE));
}

/* The kernel runs it once at a time on each CPU. */
SEC("tp_btf/kfree_skb")
int kernel_drop(__u64 *ctx)
{
	const struct sk_buff *skb = (const void *)ctx[0];
	__u32 reason = ctx[2];
	struct flow_event fresh = {}, *e;
	struct owner owner;

	if (is_housekeeping(reason) || !owner_of(skb, &owner) || !read_packet(skb, &fresh))
		return 0;
	if (!concerns(&fresh, &owner) || is_ours(reason, &fresh))
		return 0;
	e = event_composed();
	if (!e)
		return 0;
	fresh.ifindex = owner.ifindex;
	fresh.length = BPF_CORE_READ(skb, len);
	fresh.reason = reason;
	fresh.verdict = VERDICT_DROPPED;
	fresh.type = EVENT_KERNEL_DROP;
	fresh.path = PATH_STACK;
	fresh.location = ctx[1];
	*e = fresh;
	event_drop();
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
