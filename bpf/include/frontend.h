/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* From an address and port to a frontend. Reads frontends4, frontends6, source_ranges. */
#ifndef NETACCEL_FRONTEND_H
#define NETACCEL_FRONTEND_H

#include <stddef.h>
#include <bpf/bpf_endian.h>
#include "maps.h"
#include "packet.h"

#ifndef AF_INET
#define AF_INET 2
#define AF_INET6 10
#endif

static __always_inline int addr_is_v4(const struct addr *a)
{
	return !a->w[0] && !a->w[1] && a->w[2] == bpf_htonl(0xffff);
}

static __always_inline void addr_from_v4(struct addr *a, __be32 v4)
{
	a->w[0] = 0;
	a->w[1] = 0;
	a->w[2] = bpf_htonl(0xffff);
	a->w[3] = v4;
}

static __always_inline struct frontend *frontend_find4(__be32 addr, __be16 port, __u8 proto)
{
	__u32 key[] = { addr, HALVES(port, BYTES(proto, 0)) };

	_Static_assert(sizeof(key) == sizeof(struct frontend4_key), "key of frontends4");
	return bpf_map_lookup_elem(&frontends4, key);
}

static __always_inline struct frontend *frontend_find6(const struct addr *addr, __be16 port, __u8 proto)
{
	struct {
		struct addr addr;
		__u32 rest;
	} key = { .addr = *addr, .rest = HALVES(port, BYTES(proto, 0)) };

	_Static_assert(sizeof(key) == sizeof(struct frontend6_key), "key of frontends6");
	return bpf_map_lookup_elem(&frontends6, &key);
}

/* Exact look-up; `family` is a constant where the caller is an instance for one family. */
static __always_inline struct frontend *frontend_find(int family, const struct addr *addr, __be16 port,
						      __u8 proto)
{
	return family == AF_INET ? frontend_find4(addr->w[3], port, proto)
				 : frontend_find6(addr, port, proto);
}

/* The entry that says "this address is a Service's": present only where other ports must be refused. */
static __always_inline struct frontend *frontend_find_wildcard(int family, const struct addr *addr)
{
	return frontend_find(family, addr, 0, 0);
}

/* 1 where the address is nothing but a Service's, and nobody else may have its other ports. */
static __always_inline int frontend_refuses_others(int family, const struct addr *addr)
{
	const struct frontend *fe = frontend_find_wildcard(family, addr);

	return fe && !(fe->flags & FRONTEND_DRAIN);
}

/* 1 where the client may use a frontend that has source ranges. */
static __always_inline int frontend_admits(const struct frontend *fe, const struct addr *client)
{
	struct source_range_key key = { .prefix_length = 32 + 128, .service = fe->service };

	if (!(fe->flags & FRONTEND_SOURCE_RANGES))
		return 1;
	__builtin_memcpy(key.addr, client, sizeof(key.addr));
	return bpf_map_lookup_elem(&source_ranges, &key) != NULL;
}

#endif
