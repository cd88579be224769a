/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Opening a flow: the reply tuple is allocated by inserting it. Reads and writes flows4, flows6.
 *
 * A source port comes from a range that nothing else on the node uses (settings.snat_first, snat_count).
 * The first candidate follows from the tuple alone, so that a flow that was forgotten gets its port again.
 */
#ifndef NETACCEL_SNAT_H
#define NETACCEL_SNAT_H

#include "flow.h"

/* How many candidates a program looks at. XDP sets fewer: TC goes on from there. */
#ifndef SNAT_TRIES
#define SNAT_TRIES 64
#endif

/* 64 bits of two words; the finaliser of splitmix64. */
static __always_inline __u64 mix(__u64 a, __u64 b)
{
	__u64 h = (a ^ b * 0x9e3779b97f4a7c15ULL) * 0xbf58476d1ce4e5b9ULL;

	h ^= h >> 29;
	h *= 0x94d049bb133111ebULL;
	return h ^ h >> 32;
}

/* The same on every node: Maglev slots and first source ports are chosen by it. */
static __always_inline __u64 tuple_hash(int family, const struct tuple *t)
{
	__u64 rest = (__u64)t->sport << 32 | (__u64)t->dport << 16 | t->proto;

	if (family == AF_INET)
		return mix((__u64)t->src.w[3] << 32 | t->dst.w[3], rest);
	return mix(mix(mix((__u64)t->src.w[0] << 32 | t->src.w[1], (__u64)t->src.w[2] << 32 | t->src.w[3]),
		       mix((__u64)t->dst.w[0] << 32 | t->dst.w[1], (__u64)t->dst.w[2] << 32 | t->dst.w[3])),
		   rest);
}

static __always_inline int snat_is_port(__be16 port)
{
	return (__u32)bpf_ntohs(port) - settings.snat_first < settings.snat_count;
}

/* An expired entry gives up its tuple, and its other half goes with it. *other is room for its key. */
static __always_inline void flow_evict_other(int family, struct tuple *t, __u8 direction,
					     const struct flow *f, struct tuple *other)
{
	struct flow *found;

	flow_other_tuple(family, t, f, other);
	found = flow_find(family, other, !direction);
	if (found && flow_is_pair(family, t, found))
		flow_delete(family, other, !direction);
}

/* What stands in the way of a candidate: nothing (*found is NULL), our own half, an expired one, or ... */
static __always_inline int snat_is_taken(int family, const struct tuple *t, struct tuple *candidate,
					 __u32 now, struct flow **found, __be16 *closed)
{
	/* Or the compiler keeps the address of each of its fields, on a stack that is short. */
	asm volatile("" : "+r"(t));
	*found = flow_find(family, candidate, FLOW_REVERSE);
	if (!*found || flow_is_pair(family, t, *found))
		return 0;
	if ((*found)->state >= FLOW_CLOSED)
		*closed = candidate->dport;
	return !flow_expired(*found, candidate->proto, now);
}

/* The first free candidate goes into candidate->dport; where all that were tried are taken, the last whose
 * connection is closed. 0, or -1 where there is none. The loop only looks: what follows it is verified once,
 * and not once for each try. */
static __always_inline int snat_search(int family, const struct tuple *t, int translated, __u32 now,
				       struct tuple *candidate, struct flow **found)
{
	__u64 hash = tuple_hash(family, t) * 0x9e3779b97f4a7c15ULL, *retries;
	__u32 which = COUNTER_SNAT_RETRY, at, step;
	__be16 closed = t->pad; /* 0, of which the verifier does not know: one state less to follow */
	int taken = 1;

	asm volatile("" : "+r"(hash)); /* now, or all that it is made of waits on the stack */
	at = hash >> 32;
	step = (hash >> 16 & 0xffff) | 1;
	retries = bpf_map_lookup_elem(&counters, &which);
	if (!retries)
		return -1;
	if (!translated) {
		candidate->dport = t->sport;
		taken = snat_is_taken(family, t, candidate, now, found, &closed);
		*retries += taken;
	}
	if (!settings.snat_count)
		return -taken;
#pragma nounroll
	for (int i = 0; taken && i < SNAT_TRIES; i++) {
		candidate->dport = bpf_htons(settings.snat_first + at % settings.snat_count);
		taken = snat_is_taken(family, t, candidate, now, found, &closed);
		*retries += taken; /* in the map at once: a number in a register is followed for each value */
		at += step;
	}
	if (taken && closed) {
		candidate->dport = closed;
		*found = flow_find(family, candidate, FLOW_REVERSE);
		taken = 0;
	}
	return -taken;
}

/* Inserts the reverse half of *fresh, which is the allocation of fresh->new_sport. 0 or a drop reason. */
static __always_inline int snat_allocate(int family, const struct tuple *t, struct flow *fresh,
					 struct tuple *other)
{
	int translated = fresh->flags & FLOW_SNAT;
	__u32 hop = fresh->hop_ifindex;
	struct tuple spare;
	struct flow *found;
	long err;

	flow_other_tuple(family, t, fresh, other);
	if (snat_search(family, t, translated, fresh->seen, other, &found))
		return translated ? DROP_SNAT_EXHAUSTED : DROP_FLOW_CLASH;
	if (other->dport != t->sport)
		fresh->flags |= FLOW_SNAT;
	if (found && !flow_is_pair(family, t, found))
		flow_evict_other(family, other, FLOW_REVERSE, found, &spare);
	flow_turn(family, t, fresh);
	fresh->hop_ifindex = 0;
	err = flow_store(family, other, FLOW_REVERSE, fresh, found ? BPF_ANY : BPF_NOEXIST);
	flow_turn(family, other, fresh);
	fresh->hop_ifindex = hop;
	/* Between look and insert another CPU may have been faster; the client will send again. */
	return err ? DROP_FLOW_TABLE : 0;
}

/* The flow in flow_scratch, for packets of the tuple in tuple_scratch. */
static __always_inline int flow_open(int family)
{
	__u32 zero = 0;
	struct tuple *t = bpf_map_lookup_elem(&tuple_scratch, &zero);
	struct flow *fresh = bpf_map_lookup_elem(&flow_scratch, &zero), *old;
	struct tuple other;
	int reason;

	if (!t || !fresh)
		return DROP_FLOW_TABLE;
	if (!flow_admitted(fresh->seen))
		return DROP_FLOW_LIMIT;
	old = flow_find(family, t, FLOW_FORWARD);
	if (old)
		flow_evict_other(family, t, FLOW_FORWARD, old, &other);
	reason = snat_allocate(family, t, fresh, &other);
	if (reason)
		return reason;
	if (!flow_store(family, t, FLOW_FORWARD, fresh, old ? BPF_ANY : BPF_NOEXIST))
		return 0;
	/* Full; or another CPU opened this flow just now, with the same port: then it stands. */
	if (flow_find(family, t, FLOW_FORWARD))
		return 0;
	flow_other_tuple(family, t, fresh, &other);
	flow_delete(family, &other, FLOW_REVERSE);
	return DROP_FLOW_TABLE;
}

/*
 * Opens the flow that tuple_scratch and flow_scratch describe: both halves are inserted in place of stale
 * ones, new_sport and flags of the scratch are set. 0, or DROP_FLOW_LIMIT, DROP_SNAT_EXHAUSTED,
 * DROP_FLOW_CLASH, DROP_FLOW_TABLE; then nothing was inserted.
 *
 * Global functions without pointers as arguments, which kernels before 5.12 refuse: the verifier follows
 * their loops once, and not once for each way that leads to them.
 */
__noinline int flow_open4(void)
{
	return flow_open(AF_INET);
}

__noinline int flow_open6(void)
{
	return flow_open(AF_INET6);
}

#endif
