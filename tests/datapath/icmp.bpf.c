// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* icmp.h at each of its hooks by a program of its own, which returns the enum icmp_action; and fragment.h:
 * the ports that a fragment has, of one that is remembered if it is the first. */
#include "settings.h"
#include "fragment.h"
#include "icmp.h"

static __always_inline int read_packet(struct __sk_buff *skb, struct packet *p, int *family)
{
	__be16 ethertype;

	bpf_skb_pull_data(skb, 0);
	if (parse_link(p, (void *)(long)skb->data, (void *)(long)skb->data_end, &ethertype))
		return -1;
	*family = ethertype == bpf_htons(ETH_P_IP) ? AF_INET : AF_INET6;
	if (*family == AF_INET)
		return parse_ip(AF_INET, p, (void *)(long)skb->data, (void *)(long)skb->data_end, skb->len);
	return parse_ip(AF_INET6, p, (void *)(long)skb->data, (void *)(long)skb->data_end, skb->len);
}

static __always_inline int translate(struct __sk_buff *skb, enum icmp_hook hook)
{
	struct packet p = {};
	__u32 reason = 0;
	int family;

	if (read_packet(skb, &p, &family) || !(p.flags & PACKET_ICMP_ERROR))
		return ICMP_LEAVE;
	return family == AF_INET ? icmp_translate(skb, AF_INET, hook, &p, &reason)
				 : icmp_translate(skb, AF_INET6, hook, &p, &reason);
}

#define HOOK(name, hook)                                                                                     \
	SEC("tc")                                                                                            \
	int name(struct __sk_buff *skb)                                                                      \
	{                                                                                                    \
		return translate(skb, hook);                                                                 \
	}

HOOK(uplink_ingress, ICMP_UPLINK_INGRESS)
HOOK(uplink_egress, ICMP_UPLINK_EGRESS)
HOOK(pod_ingress, ICMP_POD_INGRESS)
HOOK(pod_egress, ICMP_POD_EGRESS)

/* Ports as (source << 16 | destination), 0 where they are not known. */
SEC("tc")
int ports_of(struct __sk_buff *skb)
{
	struct packet p = {};
	int family;

	if (read_packet(skb, &p, &family))
		return 0;
	if (fragment_is_first(&p))
		fragment_remember(&p);
	else if (p.flags & PACKET_LATER_FRAGMENT && fragment_ports(&p))
		return 0;
	return bpf_ntohs(p.tuple.sport) << 16 | bpf_ntohs(p.tuple.dport);
}

/* enum drop_reason of a fragment whose first was not seen. */
SEC("tc")
int orphan(struct __sk_buff *skb)
{
	struct packet p = {};
	int family;

	if (read_packet(skb, &p, &family))
		return 0;
	return family == AF_INET ? fragment_orphan(AF_INET, &p) : fragment_orphan(AF_INET6, &p);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
