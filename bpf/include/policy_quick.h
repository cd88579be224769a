/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The short way of most packets: TCP or UDP without options, extension headers or fragments, of a flow that
 * was just seen, is allowed and that nothing translates. Read, found, counted, and no more. What it leaves
 * goes the whole way, which says the same of it (policy_known()). Reads and writes policy_flows4, 6.
 */
#ifndef NETACCEL_POLICY_QUICK_H
#define NETACCEL_POLICY_QUICK_H

#include "policy_flow.h"

enum policy_quick {
	POLICY_QUICK_LEAVE,  /* not for here: nothing is known of it yet */
	POLICY_QUICK_ABSENT, /* no entry has its tuple, or so it seems: the load balancer is asked first */
	POLICY_QUICK_PASS,   /* allowed, counted */
};

/* Where the load balancer had a packet to such an address and port last, by their hash: it is asked before
 * policy_flows then, which would know nothing. A wrong hint costs time and nothing else. Holds bytes, 1 or 0.
 * Writer, reader: TC programs of pod devices. Never full. */
#define HINTS 4096 /* a power of two */
struct hints {
	__u8 balanced[HINTS];
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct hints));
} hint_scratch SEC(".maps");

/* The hint of an address (its last word) and port; NULL: never. */
static __always_inline __u8 *hint_of(__be32 addr, __be16 port)
{
	__u32 zero = 0, at = ((addr ^ port) * 0x9e3779b1) >> 20; /* the golden ratio spreads them */
	struct hints *h = bpf_map_lookup_elem(&hint_scratch, &zero);

	return h ? &h->balanced[at & (HINTS - 1)] : NULL;
}

static __always_inline void hint_set(const struct packet *p, __u8 balanced)
{
	__u8 *hint = hint_of(p->tuple.dst.w[3], p->tuple.dport);

	if (hint && *hint != balanced)
		*hint = balanced;
}

static __always_inline int hint_is_set(__be32 addr, const __u8 *l4)
{
	const __u8 *hint = hint_of(addr, ((const struct ports *)l4)->dest);

	return hint && *hint;
}

/* 0: not TCP or UDP, or one that opens or ends something. `length`: of the IP packet from here on. */
static __always_inline int quick_transport(const __u8 *l4, void *end, __u8 proto, __u32 length)
{
	if (proto == IPPROTO_UDP)
		return (void *)(l4 + sizeof(struct udphdr)) <= end && length >= sizeof(struct udphdr);
	if (proto != IPPROTO_TCP || (void *)(l4 + sizeof(struct tcphdr)) > end ||
	    length < sizeof(struct tcphdr))
		return 0;
	return l4[12] >= 5 << 4 && !(l4[13] & (TCP_FIN | TCP_SYN | TCP_RST));
}

/* The key's words after the addresses; `l4` starts with the ports. */
static __always_inline void quick_key(const __u8 *l4, __u8 proto, __u8 direction, __u32 ifindex, __u32 *key)
{
	__u32 ports = *(const __u32 *)l4;

	key[0] = direction == POLICY_EGRESS ? ports : ports << 16 | ports >> 16;
	key[1] = HALVES(BYTES(proto, 0), 0);
	key[2] = ifindex;
}

/* `plain`: POLICY_FLOW_PLAIN, or 0 where a pod device translates the flow. */
static __always_inline enum policy_quick quick_pass(struct __sk_buff *skb, struct policy_flow *f, __u8 plain,
						    __u8 direction, __u32 length)
{
	const struct policy_revision *current = policy_now();
	__u32 now = jiffies_now();

	if (!f)
		return POLICY_QUICK_ABSENT;
	if (!current || f->revision != current->revision || (__s32)(now - f->seen) > (__s32)settings.hz)
		return POLICY_QUICK_LEAVE;
	if ((f->flags & (POLICY_FLOW_PLAIN | POLICY_FLOW_REJECTED | POLICY_FLOW_DENIED)) != plain)
		return POLICY_QUICK_LEAVE;
	if (f->state == POLICY_FLOW_NEW && f->direction != direction) /* its first answer */
		return POLICY_QUICK_LEAVE;
	policy_account(f, direction, skb->gso_segs ?: 1, length);
	if (f->seen != now)
		f->seen = now;
	return POLICY_QUICK_PASS;
}

static __always_inline enum policy_quick quick4(struct __sk_buff *skb, __u16 l3, __u8 direction)
{
	void *end = (void *)(long)skb->data_end;
	const struct iphdr *ip = packet_at((void *)(long)skb->data, l3);
	const __u8 *l4 = (const __u8 *)(ip + 1);
	__u32 key[POLICY_KEY4_WORDS], length;

	if ((void *)(l4 + sizeof(struct udphdr)) > end || *(const __u8 *)ip != 0x45 ||
	    ip->frag_off & bpf_htons(IP_OFFSET | IP_MORE))
		return POLICY_QUICK_LEAVE;
	length = bpf_ntohs(ip->tot_len);
	if (length < sizeof(*ip) || l3 + length > skb->len ||
	    !quick_transport(l4, end, ip->protocol, length - sizeof(*ip)))
		return POLICY_QUICK_LEAVE;
	if (direction == POLICY_EGRESS && hint_is_set(ip->daddr, l4))
		return POLICY_QUICK_ABSENT;
	key[0] = direction == POLICY_EGRESS ? ip->saddr : ip->daddr;
	key[1] = direction == POLICY_EGRESS ? ip->daddr : ip->saddr;
	quick_key(l4, ip->protocol, direction, pod_device(skb), key + 2);
	return quick_pass(skb, bpf_map_lookup_elem(&policy_flows4, key), POLICY_FLOW_PLAIN, direction,
			  length);
}

static __always_inline enum policy_quick quick6(struct __sk_buff *skb, __u16 l3, __u8 direction)
{
	void *end = (void *)(long)skb->data_end;
	const struct ipv6hdr *ip = packet_at((void *)(long)skb->data, l3);
	const __u8 *l4 = (const __u8 *)(ip + 1);
	__u32 key[POLICY_KEY6_WORDS], length;

	if ((void *)(l4 + sizeof(struct udphdr)) > end || *(const __u8 *)ip >> 4 != 6)
		return POLICY_QUICK_LEAVE;
	length = bpf_ntohs(ip->payload_len);
	if (length > 0xffff - sizeof(*ip) || l3 + sizeof(*ip) + length > skb->len ||
	    !quick_transport(l4, end, ip->nexthdr, length))
		return POLICY_QUICK_LEAVE;
	if (direction == POLICY_EGRESS && hint_is_set(ip->daddr.s6_addr32[3], l4))
		return POLICY_QUICK_ABSENT;
	__builtin_memcpy(key, direction == POLICY_EGRESS ? &ip->saddr : &ip->daddr, ADDR_LEN);
	__builtin_memcpy(key + 4, direction == POLICY_EGRESS ? &ip->daddr : &ip->saddr, ADDR_LEN);
	quick_key(l4, ip->nexthdr, direction, pod_device(skb), key + 8);
	return quick_pass(skb, bpf_map_lookup_elem(&policy_flows6, key), POLICY_FLOW_PLAIN, direction,
			  sizeof(*ip) + length);
}

static __always_inline enum policy_quick policy_quick(struct __sk_buff *skb, int family, __u16 l3,
						      __u8 direction)
{
	if (!settings.policy || settings.dry_run)
		return POLICY_QUICK_LEAVE;
	return family == AF_INET ? quick4(skb, l3, direction) : quick6(skb, l3, direction);
}

/* The same of *p from the pod, which *f translates; it has passed policy_quick(). */
static __always_inline int quick_translated(struct __sk_buff *skb, int family, const struct packet *p,
					    const struct flow *f)
{
	__u32 key[POLICY_KEY6_WORDS];
	struct policy_flow *found;

	hint_set(p, 1);
	if (f->flags & (FLOW_HAIRPIN | FLOW_STACK) || p->tcp_flags & (TCP_FIN | TCP_SYN | TCP_RST))
		return 0;
	if (family == AF_INET) {
		key[0] = ((const struct flow4 *)f)->new_src;
		key[1] = ((const struct flow4 *)f)->new_dst;
		quick_key((const __u8 *)&f->new_sport, p->tuple.proto, POLICY_EGRESS, pod_device(skb),
			  key + 2);
		found = bpf_map_lookup_elem(&policy_flows4, key);
	} else {
		__builtin_memcpy(key, f->new_src, ADDR_LEN);
		__builtin_memcpy(key + 4, f->new_dst, ADDR_LEN);
		quick_key((const __u8 *)&f->new_sport, p->tuple.proto, POLICY_EGRESS, pod_device(skb),
			  key + 8);
		found = bpf_map_lookup_elem(&policy_flows6, key);
	}
	return quick_pass(skb, found, 0, POLICY_EGRESS, p->tot_len) == POLICY_QUICK_PASS;
}

#endif
