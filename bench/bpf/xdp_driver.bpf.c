/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The driver for XDP programs, and the program that does nothing. */
#include "driver.h"

DRIVER("xdp", struct xdp_md)

SEC("xdp")
int noop(struct xdp_md *ctx)
{
	return XDP_TX;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
