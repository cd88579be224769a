// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Every answer of reply.h by a program of its own, for packets without options or extension headers. */
#include "reply.h"

#define MTU 1400

static __always_inline int read_packet(struct __sk_buff *skb, struct packet *p)
{
	p->l3 = ETH_HLEN;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
			return -1;
		addr_from_v4(&p->tuple.src, ip.saddr);
		addr_from_v4(&p->tuple.dst, ip.daddr);
		p->tuple.proto = ip.protocol;
		p->tot_len = bpf_ntohs(ip.tot_len);
		p->family = AF_INET;
		p->l4 = ETH_HLEN + sizeof(ip);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
			return -1;
		__builtin_memcpy(&p->tuple.src, &ip.saddr, ADDR_LEN);
		__builtin_memcpy(&p->tuple.dst, &ip.daddr, ADDR_LEN);
		p->tuple.proto = ip.nexthdr;
		p->tot_len = bpf_ntohs(ip.payload_len) + sizeof(ip);
		p->family = AF_INET6;
		p->l4 = ETH_HLEN + sizeof(ip);
	} else {
		return -1;
	}
	if (p->tuple.proto == IPPROTO_TCP)
		bpf_skb_load_bytes(skb, p->l4 + 13, &p->tcp_flags, 1);
	return p->tuple.proto == IPPROTO_TCP || p->tuple.proto == IPPROTO_UDP ? 0 : -1;
}

#define ANSWER(name, call4, call6)                                                                           \
	SEC("tc")                                                                                            \
	int name(struct __sk_buff *skb)                                                                      \
	{                                                                                                    \
		struct packet packet = {}, *p = &packet;                                                     \
                                                                                                             \
		if (read_packet(skb, p))                                                                     \
			return TC_ACT_UNSPEC;                                                                \
		return p->family == AF_INET ? call4 : call6;                                                 \
	}

ANSWER(refuse, reply_refuse(skb, p, AF_INET), reply_refuse(skb, p, AF_INET6))
ANSWER(too_big, reply_too_big(skb, p, AF_INET, MTU), reply_too_big(skb, p, AF_INET6, MTU))
ANSWER(time_exceeded, reply_time_exceeded(skb, p, AF_INET), reply_time_exceeded(skb, p, AF_INET6))

char LICENSE[] SEC("license") = "Dual BSD/GPL";
