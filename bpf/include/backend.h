/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* From a frontend to one of its backends. Reads maglev and backends; reads and writes affinity. */
#ifndef NETACCEL_BACKEND_H
#define NETACCEL_BACKEND_H

#include "count.h"
#include "frontend.h"
#include "settings.h"

static __always_inline __u32 jiffies_now(void)
{
	return (__u32)bpf_jiffies64();
}

/* The backend if it is still the one that was meant: same slot, same generation, not removed. */
static __always_inline struct backend *backend_find(__u32 id, __u32 generation)
{
	struct backend *be = bpf_map_lookup_elem(&backends, &id);

	if (!be || be->state == BACKEND_FREE || be->generation != generation)
		return NULL;
	return be;
}

/* The backend of one slot of a Maglev range. `hash` decides; equal hashes give equal backends on every
 * node whose tables are equal. */
static __always_inline struct backend *backend_at(__u32 offset, __u32 length, __u32 hash, __u32 *id)
{
	struct backend *be;
	__u32 slot, *chosen;

	if (!length)
		return NULL;
	slot = offset + hash % length;
	chosen = bpf_map_lookup_elem(&maglev, &slot);
	if (!chosen)
		return NULL;
	*id = *chosen;
	be = bpf_map_lookup_elem(&backends, id);
	return be && be->state != BACKEND_FREE ? be : NULL;
}

/* The backend that this client used within the timeout, if it is active and the policy still allows it. */
static __always_inline struct backend *
backend_affine(const struct frontend *fe, const struct affinity_key *key, int local_only, __u32 *id)
{
	struct affinity *seen = bpf_map_lookup_elem(&affinity, key);
	__u32 now = jiffies_now();
	struct backend *be;

	/* Signed, as another CPU's clock may be a jiffy ahead. */
	if (!seen || (__s32)(now - seen->seen) > (__s32)(fe->affinity_timeout * settings.hz))
		return NULL;
	be = backend_find(seen->backend, seen->generation);
	if (!be || be->state != BACKEND_ACTIVE || be->service != fe->service)
		return NULL;
	if (local_only && !(be->flags & BACKEND_LOCAL))
		return NULL;
	*id = seen->backend;
	if (!settings.dry_run)
		seen->seen = now;
	return be;
}

/* Remember the choice. Only when the flow is really opened. */
static __always_inline void backend_remember(const struct affinity_key *key, __u32 id, __u32 generation)
{
	struct affinity fresh = { .backend = id, .generation = generation, .seen = jiffies_now() };

	if (!bpf_map_lookup_elem(&affinity, key))
		count(COUNTER_AFFINITY_INSERT);
	bpf_map_update_elem(&affinity, key, &fresh, BPF_ANY);
}

#endif
