/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What parse.h learns of a packet and every later stage reads. */
#ifndef NETACCEL_PACKET_H
#define NETACCEL_PACKET_H

#include <linux/types.h>

/* 16 bytes as words, so that copies and comparisons are cheap; IPv4 mapped, network byte order. */
struct addr {
	__be32 w[4];
};

/* As struct flow6_key, so that it is the key itself there. */
struct tuple {
	struct addr src;
	struct addr dst;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 direction; /* set by each look-up */
	__u16 pad;      /* zero */
};

/* Two bytes, and two halves of a word, as they follow each other in memory. Keys are written in whole words:
 * a look-up hashes words, and the processor waits for one that was stored in parts. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define BYTES(first, second) ((__u16)(first) | (__u16)(second) << 8)
#define HALVES(first, second) ((__u32)(first) | (__u32)(second) << 16)
#else
#define BYTES(first, second) ((__u16)(first) << 8 | (__u16)(second))
#define HALVES(first, second) ((__u32)(first) << 16 | (__u32)(second))
#endif

/* From the first four bytes of a TCP, UDP or SCTP header. */
static __always_inline void tuple_set_ports(struct tuple *t, const void *header)
{
	__builtin_memcpy(&t->sport, header, sizeof(__u32));
}

/* The bytes after the ports. */
static __always_inline void tuple_set_direction(struct tuple *t, __u8 direction)
{
	__u32 word = HALVES(BYTES(t->proto, direction), 0);

	__builtin_memcpy(&t->proto, &word, sizeof(word));
}

#define PACKET_FRAGMENT 1       /* any fragment */
#define PACKET_LATER_FRAGMENT 2 /* not the first: no transport header */
#define PACKET_ICMP_ERROR 4     /* quotes another packet */
#define PACKET_FROM_POD 8       /* at a pod's device, from the pod */
#define PACKET_OPENS 16         /* the load balancer opens a flow for it */

struct packet {
	struct tuple tuple;
	__u16 l3; /* offsets from the start of the frame */
	__u16 l4;
	__u16 l4_len;  /* bytes of header that are there to be read */
	__u16 tot_len; /* of the IP packet, for MTU and counters */
	__u8 family;   /* AF_INET or AF_INET6; a constant in each instance */
	__u8 flags;
	__u8 tcp_flags; /* byte 13 of the TCP header */
	__u8 hop_limit;
	__u32 fragment_id;
};

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

#endif
