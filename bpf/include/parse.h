/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From bytes to struct packet: Ethernet, up to two VLAN tags, IPv4 with options, IPv6 with extension
 * headers, TCP, UDP, SCTP, ICMP; of other protocols the number. Writes nothing; reads no map.
 *
 * Every function returns PARSE_OK, PARSE_SHORT (the bytes end before the headers do; a caller whose frame
 * is not linear pulls more and tries again) or PARSE_OTHER (not understood: leave the packet alone).
 */
#ifndef NETACCEL_PARSE_H
#define NETACCEL_PARSE_H

#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include "frontend.h"
#include "packet.h"

#define PARSE_OK 0
#define PARSE_SHORT (-1)
#define PARSE_OTHER (-2)

/* What is asked for; constants of each instance. */
#define PARSE_WHOLE 0  /* a packet in a frame: its length must be there */
#define PARSE_QUOTED 1 /* a packet inside an ICMP error: may be cut after eight bytes of transport */
#define PARSE_PLAIN 2  /* as PARSE_WHOLE; PARSE_OTHER unless it is TCP or UDP and no fragment */

#define VLAN_DEPTH 2
#define IPV6_EXTENSIONS 6
/* Headers that reach further than this are nobody's ordinary packet. It also lets the verifier add
 * offsets to packet pointers. */
#define HEADERS_MAX 1024

#define IP_OFFSET 0x1fff
#define IP_MORE 0x2000
/* linux/icmp.h wants the C library's headers for a 32-bit target */
#define ICMP_DEST_UNREACH 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMPV6_DEST_UNREACH 1
#define ICMPV6_PARAMPROB 4
#define NEXTHDR_HOP 0
#define NEXTHDR_ROUTING 43
#define NEXTHDR_FRAGMENT 44
#define NEXTHDR_DEST 60

#define IS_TCP_SYN(flags) (((flags) & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN)

struct vlan_tag {
	__be16 tci;
	__be16 proto;
};

struct ports {
	__be16 source;
	__be16 dest;
};

/* The bytes at `offset`, of which the verifier must see that it is small (the mask changes none that parse
 * lets through). The compiler must not compute the address a second time: the verifier would not know
 * that what was compared with the end and what is read are the same. */
static __always_inline void *packet_at(void *data, __u64 offset)
{
	void *at;

	asm volatile("%0 &= 2047" : "+r"(offset));
	at = data + offset;
	asm volatile("" : "+r"(at));
	return at;
}

/* Link layer: sets p->l3 and *ethertype. Tags that a device has taken out of the frame are not seen. */
static __always_inline int parse_link(struct packet *p, void *data, void *end, __be16 *ethertype)
{
	struct ethhdr *eth = data;
	struct vlan_tag *tag = (void *)(eth + 1);
	__be16 proto;

	if ((void *)(eth + 1) > end)
		return PARSE_SHORT;
	proto = *(__be16 *)((void *)eth + offsetof(struct ethhdr, h_proto)); /* a packed struct reads bytes */
	p->l3 = sizeof(*eth);
#pragma unroll
	for (int i = 0; i < VLAN_DEPTH; i++) {
		if (proto != bpf_htons(ETH_P_8021Q) && proto != bpf_htons(ETH_P_8021AD))
			break;
		if ((void *)(tag + 1) > end)
			return PARSE_SHORT;
		proto = tag->proto;
		p->l3 += sizeof(*tag);
		tag++;
	}
	*ethertype = proto;
	return PARSE_OK;
}

/* 1 where the ICMP type is an error that quotes the packet it is about. */
static __always_inline int icmp_is_error(int family, __u8 type)
{
	if (family == AF_INET)
		return type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETERPROB;
	return type >= ICMPV6_DEST_UNREACH && type <= ICMPV6_PARAMPROB;
}

/* The transport header of a TCP segment or UDP datagram, or of what else has ports in its first four bytes;
 * `need` is what must be there of it. */
static __always_inline int parse_ports(struct packet *p, void *data, void *end, __u32 need)
{
	__u8 *bytes = packet_at(data, p->l4);

	if (p->l4 - p->l3 + need > p->tot_len)
		return PARSE_OTHER;
	if ((void *)(bytes + need) > end)
		return PARSE_SHORT;
	p->l4_len = need;
	tuple_set_ports(&p->tuple, bytes);
	if (need < sizeof(struct tcphdr))
		return PARSE_OK;
	if (bytes[12] < 5 << 4)
		return PARSE_OTHER;
	p->tcp_flags = bytes[13];
	return PARSE_OK;
}

static __always_inline int parse_icmp(int family, struct packet *p, void *data, void *end)
{
	__u8 *bytes = packet_at(data, p->l4);

	if (p->l4 - p->l3 + 8 > p->tot_len)
		return PARSE_OTHER;
	if ((void *)(bytes + 8) > end)
		return PARSE_SHORT;
	p->l4_len = 8;
	if (icmp_is_error(family, bytes[0]))
		p->flags |= PACKET_ICMP_ERROR;
	return PARSE_OK;
}

static __always_inline int parse_is_extension(__u8 next)
{
	return next == NEXTHDR_HOP || next == NEXTHDR_ROUTING || next == NEXTHDR_FRAGMENT ||
	       next == NEXTHDR_DEST;
}

/* Ports (0 where the protocol has none), flags, l4_len. p->l4, p->tot_len and the protocol are set. */
static __always_inline int parse_transport(int family, struct packet *p, void *data, void *end, int mode)
{
	if (p->l4 > HEADERS_MAX)
		return PARSE_OTHER;
	if (p->tuple.proto == IPPROTO_TCP)
		return parse_ports(p, data, end, mode == PARSE_QUOTED ? 8 : sizeof(struct tcphdr));
	if (p->tuple.proto == IPPROTO_UDP)
		return parse_ports(p, data, end, sizeof(struct udphdr));
	if (mode == PARSE_PLAIN)
		return PARSE_OTHER;
	if (p->tuple.proto == (family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		return parse_icmp(family, p, data, end);
	if (p->tuple.proto == IPPROTO_SCTP)
		return parse_ports(p, data, end, mode == PARSE_QUOTED ? 8 : 12);
	/* Any other has addresses and a number; not what a chain of headers that is too long ends with. */
	if (p->l4 - p->l3 > p->tot_len || (family == AF_INET6 && parse_is_extension(p->tuple.proto)))
		return PARSE_OTHER;
	return PARSE_OK;
}

static __always_inline int parse_ip4(struct packet *p, void *data, void *end, __u32 frame_len, int mode)
{
	struct iphdr *ip = packet_at(data, p->l3);
	__u8 first, length;
	__u32 total;

	if ((void *)(ip + 1) > end)
		return PARSE_SHORT;
	first = *(__u8 *)ip;
	length = (first & 0xf) << 2;
	if (first >> 4 != 4 || length < sizeof(*ip))
		return PARSE_OTHER;
	total = bpf_ntohs(ip->tot_len);
	if (mode == PARSE_WHOLE && !total && frame_len > 0xffff)
		total = 0xffff; /* larger than the field holds: segments of a local sender */
	if (total < length || (mode != PARSE_QUOTED && p->l3 + total > frame_len))
		return PARSE_OTHER;
	p->tot_len = total;
	p->l4 = p->l3 + length;
	p->hop_limit = ip->ttl;
	addr_from_v4(&p->tuple.src, ip->saddr);
	addr_from_v4(&p->tuple.dst, ip->daddr);
	p->tuple.proto = ip->protocol;
	if (ip->frag_off & bpf_htons(IP_OFFSET | IP_MORE)) {
		if (mode == PARSE_PLAIN)
			return PARSE_OTHER;
		p->flags |= PACKET_FRAGMENT;
		p->fragment_id = bpf_ntohs(ip->id);
		if (ip->frag_off & bpf_htons(IP_OFFSET)) {
			p->flags |= PACKET_LATER_FRAGMENT;
			return PARSE_OK;
		}
	}
	return parse_transport(AF_INET, p, data, end, mode);
}

/* Follows extension headers from p->l4 and *next to the transport header (or a later fragment's data).
 * An authentication header covers the addresses, so such a packet is left alone, as is one that a routing
 * header sends elsewhere: its checksum is not of the destination that it carries. */
static __always_inline int parse_extensions(struct packet *p, void *data, void *end, __u8 *next, int mode)
{
	__u32 at = p->l4;

#pragma unroll
	for (int i = 0; i < IPV6_EXTENSIONS; i++) {
		__u8 *ext = packet_at(data, at);

		if (!parse_is_extension(*next))
			break;
		if ((void *)(ext + 8) > end)
			return PARSE_SHORT;
		if (*next == NEXTHDR_FRAGMENT) {
			__be16 offset = *(__be16 *)(ext + 2);

			*next = ext[0];
			at += 8;
			if (offset & bpf_htons(0xfff9) && mode == PARSE_PLAIN)
				return PARSE_OTHER;
			if (offset & bpf_htons(0xfff9)) {
				p->flags |= PACKET_FRAGMENT;
				p->fragment_id = bpf_ntohl(*(__be32 *)(ext + 4));
			}
			if (offset & bpf_htons(0xfff8)) {
				p->flags |= PACKET_LATER_FRAGMENT;
				break;
			}
		} else {
			if (*next == NEXTHDR_ROUTING && ext[3])
				return PARSE_OTHER;
			*next = ext[0];
			at += (ext[1] + 1) * 8;
		}
		if (at > HEADERS_MAX)
			return PARSE_OTHER;
	}
	p->l4 = at;
	return PARSE_OK;
}

static __always_inline int parse_ip6(struct packet *p, void *data, void *end, __u32 frame_len, int mode)
{
	struct ipv6hdr *ip = packet_at(data, p->l3);
	__u32 payload;
	__u8 next;
	int err;

	if ((void *)(ip + 1) > end)
		return PARSE_SHORT;
	if (*(__u8 *)ip >> 4 != 6)
		return PARSE_OTHER;
	payload = bpf_ntohs(ip->payload_len);
	if (mode == PARSE_WHOLE && !payload && frame_len > 0xffff)
		payload = 0xffff - sizeof(*ip);
	if (payload > 0xffff - sizeof(*ip) ||
	    (mode != PARSE_QUOTED && p->l3 + sizeof(*ip) + payload > frame_len))
		return PARSE_OTHER;
	p->tot_len = sizeof(*ip) + payload;
	p->l4 = p->l3 + sizeof(*ip);
	p->hop_limit = ip->hop_limit;
	__builtin_memcpy(&p->tuple.src, &ip->saddr, ADDR_LEN);
	__builtin_memcpy(&p->tuple.dst, &ip->daddr, ADDR_LEN);
	next = ip->nexthdr;
	err = parse_extensions(p, data, end, &next, mode);
	if (err)
		return err;
	p->tuple.proto = next;
	if (p->flags & PACKET_LATER_FRAGMENT)
		return p->l4 - p->l3 > p->tot_len ? PARSE_OTHER : PARSE_OK;
	return parse_transport(AF_INET6, p, data, end, mode);
}

/* A packet at p->l3. `frame_len` counts the bytes of the frame, linear or not. All other fields of *p must
 * be zero. */
static __always_inline int parse_ip_as(int family, struct packet *p, void *data, void *end, __u32 frame_len,
				       int mode)
{
	p->family = family;
	return family == AF_INET ? parse_ip4(p, data, end, frame_len, mode)
				 : parse_ip6(p, data, end, frame_len, mode);
}

/* A whole packet of any protocol. */
static __always_inline int parse_ip(int family, struct packet *p, void *data, void *end, __u32 frame_len)
{
	return parse_ip_as(family, p, data, end, frame_len, PARSE_WHOLE);
}

/* Fast: PARSE_PLAIN. */
static __always_inline int parse_plain(int family, struct packet *p, void *data, void *end)
{
	return parse_ip_as(family, p, data, end, end - data, PARSE_PLAIN);
}

/* The packet that an ICMP error quotes; q->l3 is where the quote starts, all else zero. Sets the tuple as
 * the quoted packet carries it, and where its headers are; TCP flags are not read. */
static __always_inline int parse_quoted(int family, struct packet *q, void *data, void *end)
{
	if (q->l3 > HEADERS_MAX)
		return PARSE_OTHER;
	return parse_ip_as(family, q, data, end, 0, PARSE_QUOTED);
}

#endif
