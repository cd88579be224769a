/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The driver for TC programs, and the program that does nothing. */
#include "driver.h"

DRIVER("tc", struct __sk_buff)

SEC("tc")
int noop(struct __sk_buff *skb)
{
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
