/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Later fragments have no ports: they take those of the datagram's first fragment, which has to come first
 * (docs/packets.md). Reads and writes fragments.
 */
#ifndef NETACCEL_FRAGMENT_H
#define NETACCEL_FRAGMENT_H

#include "backend.h"
#include "count.h"
#include "frontend.h"
#include "maps.h"
#include "packet.h"

#define FRAGMENT_SECONDS 30 /* as long as Linux waits to reassemble; then the identification is another's */

static __always_inline void fragment_key_of(const struct packet *p, struct fragment_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	__builtin_memcpy(key->src, &p->tuple.src, ADDR_LEN);
	__builtin_memcpy(key->dst, &p->tuple.dst, ADDR_LEN);
	key->id = p->fragment_id;
	key->proto = p->tuple.proto;
}

static __always_inline int fragment_is_first(const struct packet *p)
{
	return (p->flags & (PACKET_FRAGMENT | PACKET_LATER_FRAGMENT)) == PACKET_FRAGMENT;
}

/* For a first fragment that is going to be translated. */
static __always_inline void fragment_remember(const struct packet *p)
{
	struct fragment fresh = {
		.sport = p->tuple.sport,
		.dport = p->tuple.dport,
		.seen = jiffies_now(),
	};
	struct fragment_key key;

	fragment_key_of(p, &key);
	if (!bpf_map_update_elem(&fragments, &key, &fresh, BPF_NOEXIST))
		count(COUNTER_FRAGMENT_INSERT);
	else
		bpf_map_update_elem(&fragments, &key, &fresh, BPF_ANY);
}

/* Gives a later fragment its ports. Not 0: its first fragment was not translated, or not seen. */
static __always_inline int fragment_ports(struct packet *p)
{
	struct fragment_key key;
	struct fragment *first;

	fragment_key_of(p, &key);
	first = bpf_map_lookup_elem(&fragments, &key);
	if (!first || jiffies_now() - first->seen > FRAGMENT_SECONDS * settings.hz)
		return -1;
	p->tuple.sport = first->sport;
	p->tuple.dport = first->dport;
	return 0;
}

/* What becomes of a fragment without ports: DROP_FRAGMENT where it is for an address that is nothing but a
 * Service's, else 0: it may be anyone's, leave it alone. */
static __always_inline int fragment_orphan(int family, const struct packet *p)
{
	return frontend_refuses_others(family, &p->tuple.dst) ? DROP_FRAGMENT : 0;
}

#endif
