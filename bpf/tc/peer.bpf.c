/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From one pod of this node to another, past the node's stack: the end of tc_pod_ingress, which has judged
 * and translated the packet for its sender. Here it gets what the stack would make of it, is judged and
 * translated as at the receiver's device, which it doesn't pass, and goes into the pod.
 *
 * Until the packet is changed it may still go the plain way, which is what TC_NEXT means here; after that it
 * arrives or is dropped. A program of its own for the stack: it holds the one half or the other.
 */
#define NETACCEL_PEER
#include "pod.h"
#include "peer.h"

#define PACKET_HOST 0 /* linux/if_packet.h */

/* What the frame's headers say. */
struct peer_frame {
	struct addr src;
	struct addr dst;
	__u8 proto;
	__u8 hops; /* left */
};

/* ---------------------------------------------------------------------- headers */

static __always_inline int is_taken(int family, __u8 proto, __u8 first)
{
	switch (proto) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		return 1;
	default:
		return proto_is_icmp(family, proto) && icmp_is_echo(family, first);
	}
}

/* 0: neither options, extension headers nor fragments, and of a protocol that is taken. */
static __always_inline int read4(struct __sk_buff *skb, struct peer_frame *f)
{
	void *end = (void *)(long)skb->data_end;
	const struct iphdr *ip = (void *)(long)skb->data + ETH_HLEN;
	const __u8 *l4 = (const __u8 *)(ip + 1);

	if ((void *)(l4 + 1) > end || *(const __u8 *)ip != 0x45 ||
	    ip->frag_off & bpf_htons(IP_OFFSET | IP_MORE))
		return -1;
	addr_from_v4(&f->src, ip->saddr);
	addr_from_v4(&f->dst, ip->daddr);
	f->proto = ip->protocol;
	f->hops = ip->ttl;
	return is_taken(AF_INET, ip->protocol, *l4) ? 0 : -1;
}

static __always_inline int read6(struct __sk_buff *skb, struct peer_frame *f)
{
	void *end = (void *)(long)skb->data_end;
	const struct ipv6hdr *ip = (void *)(long)skb->data + ETH_HLEN;
	const __u8 *l4 = (const __u8 *)(ip + 1);

	if ((void *)(l4 + 1) > end || *(const __u8 *)ip >> 4 != 6)
		return -1;
	__builtin_memcpy(&f->src, &ip->saddr, ADDR_LEN);
	__builtin_memcpy(&f->dst, &ip->daddr, ADDR_LEN);
	f->proto = ip->nexthdr;
	f->hops = ip->hop_limit;
	return is_taken(AF_INET6, ip->nexthdr, *l4) ? 0 : -1;
}

/* ------------------------------------------------------------------------- ways */

enum way {
	WAY_NONE,
	WAY_SWITCHED, /* both are ports of one bridge, which the frame would only cross */
	WAY_ROUTED,   /* the frame is for the node, which would send it on */
};

static __always_inline int mac_equal(const __u8 *a, const __u8 *b)
{
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) |
		 (a[5] ^ b[5]));
}

static __always_inline enum way way_of(struct __sk_buff *skb, const struct pod_peer *from,
				       const struct pod_peer *to)
{
	const struct ethhdr *eth = (void *)(long)skb->data;

	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return WAY_NONE;
	if (mac_equal(eth->h_dest, from->gateway))
		return WAY_ROUTED;
	if (from->bridge && from->bridge == to->bridge && mac_equal(eth->h_dest, to->mac))
		return WAY_SWITCHED;
	return WAY_NONE;
}

/* 1 where the device is there, and takes packets as large as this one, or as its segments. */
static __always_inline int fits(struct __sk_buff *skb, const struct peer_frame *f, __u16 header,
				__u32 ifindex)
{
	struct packet p = { .l3 = ETH_HLEN, .l4 = ETH_HLEN + header, .tot_len = skb->len - ETH_HLEN };
	__u32 mtu = 0;

	if (bpf_check_mtu(skb, ifindex, &mtu, 0, 0))
		return 0;
	if (!skb->gso_size)
		return 1; /* asked with all of its length */
	if (f->proto != IPPROTO_TCP && f->proto != IPPROTO_UDP)
		return 0;
	p.tuple.proto = f->proto;
	return route_length(skb, &p) <= mtu;
}

/* --------------------------------------------------------------------- changes */

static __always_inline int lower_hops(struct __sk_buff *skb, int family, __u8 hops)
{
	__u32 check = ETH_HLEN + offsetof(struct iphdr, check), at = ETH_HLEN + offsetof(struct iphdr, ttl);
	__u8 left = hops - 1;

	if (family == AF_INET) /* the hop limit is the high byte of its word */
		return bpf_l3_csum_replace(skb, check, bpf_htons(0x0100), 0, sizeof(__be16)) ||
		       bpf_skb_store_bytes(skb, at, &left, sizeof(left), 0);
	at = ETH_HLEN + offsetof(struct ipv6hdr, hop_limit);
	return bpf_skb_store_bytes(skb, at, &left, sizeof(left), BPF_F_RECOMPUTE_CSUM);
}

/* As the node would send it into the receiver's device. Not 0: refused. */
static __always_inline int prepare(struct __sk_buff *skb, int family, enum way way, __u8 hops,
				   const struct pod_peer *to)
{
	if (skb->pkt_type != PACKET_HOST && bpf_skb_change_type(skb, PACKET_HOST))
		return -1;
	if (way == WAY_SWITCHED)
		return 0;
	if (lower_hops(skb, family, hops))
		return -1;
	return bpf_skb_store_bytes(skb, 0, to->mac, sizeof(to->mac) + sizeof(to->gateway), 0) ? -1 : 0;
}

static __noinline int lost4(struct __sk_buff *skb)
{
	struct packet p;

	tc_read4(skb, ETH_HLEN, &p);
	return tc_drop(skb, &p, DROP_REWRITE);
}

static __noinline int lost6(struct __sk_buff *skb)
{
	struct packet p;

	tc_read6(skb, ETH_HLEN, &p);
	return tc_drop(skb, &p, DROP_REWRITE);
}

/* ------------------------------------------------------------------- judgement */

static __always_inline int judged(struct __sk_buff *skb, int family)
{
	enum policy_quick quick = policy_quick(skb, family, ETH_HLEN, POLICY_INGRESS);
	enum tc_read read;
	struct packet p;

	if (quick == POLICY_QUICK_PASS)
		return TC_NEXT;
	read = family == AF_INET ? tc_read4(skb, ETH_HLEN, &p) : tc_read6(skb, ETH_HLEN, &p);
	return arrive(skb, family, &p, read, quick);
}

static __noinline int judged4(struct __sk_buff *skb)
{
	return judged(skb, AF_INET);
}

static __noinline int judged6(struct __sk_buff *skb)
{
	return judged(skb, AF_INET6);
}

/* ----------------------------------------------------------------------- entry */

static __always_inline int to_peer(struct __sk_buff *skb, int family, const struct peer_frame *f,
				   __u16 header)
{
	const struct pod_peer *to = peer_find(&f->dst), *from = to ? peer_find(&f->src) : NULL;
	__u32 ifindex, length = skb->len - ETH_HLEN;
	int verdict;
	enum way way;

	if (!to || !from || from->ifindex != skb->ifindex || to->ifindex == skb->ifindex)
		return TC_NEXT;
	way = way_of(skb, from, to);
	if (way == WAY_NONE || (way == WAY_ROUTED && f->hops < 2))
		return TC_NEXT;
	ifindex = to->ifindex;
	if (!fits(skb, f, header, ifindex))
		return TC_NEXT;
	pod_device_set(ifindex);
	if (prepare(skb, family, way, f->hops, to))
		return family == AF_INET ? lost4(skb) : lost6(skb);
	verdict = family == AF_INET ? judged4(skb) : judged6(skb);
	if (verdict != TC_NEXT)
		return verdict;
	count_by(COUNTER_PEER_PACKETS, skb->gso_segs ?: 1);
	count_by(COUNTER_PEER_BYTES, length);
	return bpf_redirect_peer(ifindex, 0);
}

static __noinline int to_peer4(struct __sk_buff *skb)
{
	struct peer_frame f;

	return read4(skb, &f) ? TC_NEXT : to_peer(skb, AF_INET, &f, sizeof(struct iphdr));
}

static __noinline int to_peer6(struct __sk_buff *skb)
{
	struct peer_frame f;

	return read6(skb, &f) ? TC_NEXT : to_peer(skb, AF_INET6, &f, sizeof(struct ipv6hdr));
}

SEC("tc")
int tc_pod_peer(struct __sk_buff *skb)
{
	__u16 l3 = 0;
	int family;

	if (!settings.peer || settings.dry_run || skb->vlan_present)
		return TC_NEXT;
	family = tc_family(skb, &l3);
	if (l3 != ETH_HLEN)
		return TC_NEXT;
	if (family == AF_INET)
		return to_peer4(skb);
	return family == AF_INET6 ? to_peer6(skb) : TC_NEXT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
