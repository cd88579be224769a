/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Tells a new flow's verdict, as programs of pod devices do, from one of 65,536 source ports. */
#include "../../bpf/include/event.h"
#include <bpf/bpf_endian.h>

__u32 number;

SEC("tc")
int tell(struct __sk_buff *skb)
{
	struct flow_event e = {};

	e.src[10] = e.src[11] = e.dst[10] = e.dst[11] = 255;
	e.src[12] = e.dst[12] = 10;
	e.src[15] = 1 + (number & 127); /* pods */
	e.dst[15] = 200;
	e.sport = bpf_htons(number++);
	e.dport = bpf_htons(80);
	e.proto = 6;
	e.length = 60;
	e.verdict = VERDICT_FORWARDED;
	e.type = EVENT_VERDICT;
	event_verdict(&e);
	return 0;
}

SEC("tc")
int nothing(struct __sk_buff *skb)
{
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
