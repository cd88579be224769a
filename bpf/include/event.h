/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Telling of verdicts and drops: COUNTER_EVENT_SEEN = EXPORTED + AGGREGATED + LOST. Reads and writes
 * drop_pairs, limiter; writes flow_events.
 *
 * A verdict has its event; of drops each pair has one a second, and the others are counted in drop_pairs. A
 * flood of pairs that are new is told up to a limit: making an entry for each would serve the flood.
 */
#ifndef NETACCEL_EVENT_H
#define NETACCEL_EVENT_H

#include "backend.h"
#include "count.h"
#include "event_maps.h"
#include "maps.h"
#include "settings.h"

#define EVENT_NEW_PAIRS 64 /* a jiffy and CPU: 16,000 a second at 250 Hz */

/* Not count(): the kernel's drops happen where a softirq may interrupt, and the account is exact. */
static __always_inline void event_count(__u32 which)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &which);

	if (n)
		__sync_fetch_and_add(n, 1);
}

/* The event that was composed. */
static __always_inline void event_send(const struct flow_event *e)
{
	struct flow_event *sample = bpf_ringbuf_reserve(&flow_events, sizeof(*sample), 0);

	if (!sample) {
		event_count(COUNTER_EVENT_LOST);
		return;
	}
	__builtin_memcpy(sample, e, sizeof(*sample));
	sample->time = bpf_ktime_get_ns();
	bpf_ringbuf_submit(sample, 0);
	event_count(COUNTER_EVENT_EXPORTED);
}

static __always_inline void event_verdict(const struct flow_event *e)
{
	event_count(COUNTER_EVENT_SEEN);
	event_send(e);
}

/* 1 where this CPU may make one more entry of drop_pairs in this jiffy. */
static __always_inline int event_admitted(__u32 now)
{
	__u32 which = LIMIT_EVENTS;
	struct limiter *l = bpf_map_lookup_elem(&limiter, &which);

	if (!l)
		return 0;
	if (l->tick != now) {
		l->tick = now;
		l->admitted = 0;
	}
	return l->admitted++ < EVENT_NEW_PAIRS;
}

/* Counts the drop under its pair. COUNTER_EVENT_EXPORTED: its event is due; else what becomes of it. */
static __always_inline enum counter event_pair(const struct flow_event *e)
{
	struct drop_pair fresh = { .packets = 1, .bytes = e->length, .window = jiffies_now() }, *pair;
	struct drop_pair_key key = {};

	__builtin_memcpy(key.src, e->src, 2 * ADDR_LEN);
	key.dport = e->dport;
	key.proto = e->proto;
	key.type = e->type;
	key.reason = e->reason;
	key.ifindex = e->ifindex;
	key.rule = e->rule;
	pair = bpf_map_lookup_elem(&drop_pairs, &key);
	if (!pair) {
		if (!event_admitted(fresh.window))
			return COUNTER_EVENT_LOST;
		if (!bpf_map_update_elem(&drop_pairs, &key, &fresh, BPF_NOEXIST))
			return COUNTER_EVENT_EXPORTED;
		pair = bpf_map_lookup_elem(&drop_pairs, &key); /* another CPU was faster */
		if (!pair)
			return COUNTER_EVENT_LOST;
	}
	__sync_fetch_and_add(&pair->packets, 1);
	__sync_fetch_and_add(&pair->bytes, e->length);
	if (fresh.window - pair->window < settings.hz)
		return COUNTER_EVENT_AGGREGATED;
	pair->window = fresh.window;
	return COUNTER_EVENT_EXPORTED;
}

static __always_inline void event_tell_drop(const struct flow_event *e)
{
	enum counter what;

	event_count(COUNTER_EVENT_SEEN);
	what = event_pair(e);
	if (what == COUNTER_EVENT_EXPORTED)
		event_send(e);
	else
		event_count(what);
}

#endif
