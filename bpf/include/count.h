/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Counting: the node's counters and drops. Per CPU, so plain increments are exact. */
#ifndef NETACCEL_COUNT_H
#define NETACCEL_COUNT_H

#include "maps.h"

static __always_inline void count_by(__u32 which, __u64 more)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &which);

	if (n)
		*n += more;
}

static __always_inline void count(__u32 which)
{
	count_by(which, 1);
}

/* Called by entry programs only, once for a packet or call that is not carried. */
static __always_inline void count_drop(__u32 reason, __u64 bytes)
{
	struct traffic *t = bpf_map_lookup_elem(&drops, &reason);

	if (t) {
		t->packets++;
		t->bytes += bytes;
	}
}

#endif
