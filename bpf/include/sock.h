/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From a call on a socket to a backend, and back from a backend to what the application named. Reads
 * frontends, maglev, backends; reads and writes affinity, sock_peer, sock_udp, sock_nat.
 * Stages return 0 or a drop reason; the entry programs of sock/cgroup.bpf.c turn it into an errno.
 */
#ifndef NETACCEL_SOCK_H
#define NETACCEL_SOCK_H

#include "backend.h"

#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_MPTCP 262

#define SOCK_CONNECTED 1 /* TCP_ESTABLISHED: what a connected UDP socket shows as its state */

/* One call on a socket: what the application names, and what it gets. */
struct sock_call {
	struct bpf_sock_addr *ctx;
	int family;       /* of the tables: AF_INET for IPv4-mapped addresses too */
	struct addr addr; /* the peer that the call names or, on the way back, comes from */
	__be16 port;
	__u8 proto;
	struct frontend *fe; /* NULL: not ours, leave the call alone */
	struct backend *be;
	__u32 backend; /* id of be */
};

/* TCP or UDP; 0 for what Services don't have. An MPTCP socket is TCP to its peer. */
static __always_inline __u8 sock_proto(__u32 proto)
{
	if (proto == IPPROTO_TCP || proto == IPPROTO_MPTCP)
		return IPPROTO_TCP;
	return proto == IPPROTO_UDP ? IPPROTO_UDP : 0;
}

static __always_inline int sock_addr_equal(const struct addr *a, const __u8 *bytes)
{
	struct addr b;

	__builtin_memcpy(&b, bytes, sizeof(b));
	return a->w[0] == b.w[0] && a->w[1] == b.w[1] && a->w[2] == b.w[2] && a->w[3] == b.w[3];
}

/* The frontend that the call names, if the socket may translate it; else call->fe stays NULL. */
static __always_inline __u32 sock_frontend(struct sock_call *call)
{
	struct frontend *fe = frontend_find(call->family, &call->addr, call->port, call->proto);

	if (!fe)
		return frontend_refuses_others(call->family, &call->addr) ? DROP_NO_SUCH_PORT : DROP_NONE;
	if (fe->kind == FRONTEND_RESERVED_PORT)
		return DROP_NONE; /* connect() to the unspecified address means loopback */
	if (fe->flags & FRONTEND_SOURCE_RANGES) {
		/* A pod's source address may not be known yet: the program of its device judges by address.
		 */
		if (bpf_get_netns_cookie(call->ctx) != settings.node_cookie)
			return DROP_NONE;
		if (!(fe->flags & FRONTEND_NODE_ALLOWED)) {
			call->fe = fe;
			return DROP_SOURCE_RANGE;
		}
	}
	call->fe = fe;
	return DROP_NONE;
}

/* A table that is being replaced may name a slot that another Service has by now. */
static __always_inline int sock_usable(const struct sock_call *call, const struct backend *be)
{
	return be && be->service == call->fe->service &&
	       (!(call->fe->flags & FRONTEND_POD_LOCAL) || be->flags & BACKEND_LOCAL);
}

/* 1 where the call is left alone, so that its packets go to the stack; what was chosen before goes on. */
static __always_inline int sock_yields(struct sock_call *call)
{
	if (!(call->fe->flags & FRONTEND_DRAIN) || call->be)
		return 0;
	call->fe = NULL;
	return 1;
}

/* Sets call->be: the client's affine backend, else the one that the caller found in call->be (its earlier
 * choice, or NULL) while that is active or nothing active is there, else a random one. */
static __always_inline __u32 sock_choose(struct sock_call *call)
{
	struct backend *be, *earlier = call->be;
	struct frontend *fe = call->fe;
	struct affinity_key key = {};
	__u32 id = 0;

	if (fe->flags & FRONTEND_AFFINITY) {
		__u64 netns = bpf_get_netns_cookie(call->ctx);

		__builtin_memcpy(key.client, &netns, sizeof(netns));
		key.service = fe->service;
		key.from_socket = 1;
		be = backend_affine(fe, &key, fe->flags & FRONTEND_POD_LOCAL, &id);
		if (be)
			goto chosen;
	}
	if (earlier && earlier->state == BACKEND_ACTIVE)
		return DROP_NONE;
	be = backend_at(fe->pod_offset, fe->pod_length, bpf_get_prandom_u32(), &id);
	if (!sock_usable(call, be))
		return fe->flags & FRONTEND_POD_DROP ? DROP_NO_LOCAL_BACKEND : DROP_NO_BACKEND;
	if (earlier && earlier->state == BACKEND_TERMINATING && be->state != BACKEND_ACTIVE)
		return DROP_NONE;
	if (fe->flags & FRONTEND_AFFINITY)
		backend_remember(&key, id, be->generation);
chosen:
	call->be = be;
	call->backend = id;
	return DROP_NONE;
}

/* connect(): a backend for good, remembered for as long as the socket lives. */
static __always_inline __u32 sock_connect(struct sock_call *call)
{
	__u32 reason = sock_frontend(call);
	struct sock_peer fresh = {};
	__u64 cookie;

	if (reason || !call->fe)
		return reason;
	if (sock_yields(call))
		return DROP_NONE;
	reason = sock_choose(call);
	if (reason)
		return reason;
	cookie = bpf_get_socket_cookie(call->ctx);
	fresh.netns = bpf_get_netns_cookie(call->ctx);
	__builtin_memcpy(fresh.addr, &call->addr, ADDR_LEN);
	__builtin_memcpy(fresh.backend_addr, call->be->addr, ADDR_LEN);
	fresh.port = call->port;
	fresh.backend_port = call->be->port;
	fresh.service = call->fe->service;
	fresh.backend = call->backend;
	fresh.generation = call->be->generation;
	/* Nearly always new; one that connects again only shows as an eviction too many. */
	if (bpf_map_update_elem(&sock_peer, &cookie, &fresh, BPF_ANY))
		return DROP_FLOW_TABLE;
	count(COUNTER_SOCK_PEER_INSERT);
	return DROP_NONE;
}

/* So that replies of call->be to this socket come from the frontend. */
static __always_inline __u32 sock_remember_unconnected(struct sock_call *call, __u64 cookie)
{
	struct sock_nat_key key = { .cookie = cookie, .backend_port = call->be->port, .proto = call->proto };
	struct sock_nat fresh = {
		.port = call->port,
		.service = call->fe->service,
		.backend = call->backend,
		.generation = call->be->generation,
	};
	struct sock_nat *nat;

	__builtin_memcpy(key.backend_addr, call->be->addr, ADDR_LEN);
	nat = bpf_map_lookup_elem(&sock_nat, &key);
	if (nat && nat->port == call->port && nat->generation == call->be->generation &&
	    sock_addr_equal(&call->addr, nat->addr))
		return DROP_NONE;
	__builtin_memcpy(fresh.addr, &call->addr, ADDR_LEN);
	if (bpf_map_update_elem(&sock_nat, &key, &fresh, BPF_ANY))
		return DROP_FLOW_TABLE;
	if (!nat)
		count(COUNTER_SOCK_NAT_INSERT);
	return DROP_NONE;
}

/* sendmsg() with an address: the backend that this socket used for this frontend before, or a new choice
 * (then *opened is 1). */
static __always_inline __u32 sock_sendmsg(struct sock_call *call, int *opened)
{
	struct sock_udp_key key = { .port = call->port };
	struct sock_udp *sticky, fresh = {};
	__u32 reason = sock_frontend(call);

	if (reason || !call->fe)
		return reason;
	key.cookie = bpf_get_socket_cookie(call->ctx);
	__builtin_memcpy(key.addr, &call->addr, ADDR_LEN);
	sticky = bpf_map_lookup_elem(&sock_udp, &key);
	if (sticky) {
		struct backend *be = backend_find(sticky->backend, sticky->generation);

		fresh.backend = sticky->backend;
		if (sock_usable(call, be)) {
			call->be = be;
			call->backend = sticky->backend;
		}
	}
	if (sock_yields(call))
		return DROP_NONE;
	reason = sock_choose(call);
	if (reason)
		return reason;
	if (!sticky || call->backend != fresh.backend || call->be->generation != sticky->generation) {
		fresh.backend = call->backend;
		fresh.generation = call->be->generation;
		if (!sticky)
			count(COUNTER_SOCK_UDP_INSERT);
		bpf_map_update_elem(&sock_udp, &key, &fresh, BPF_ANY);
		*opened = 1;
	}
	return sock_remember_unconnected(call, key.cookie);
}

/* If call->addr is the backend that this connected socket was given: what the application named, and 1. */
static __always_inline int sock_original_connected(struct sock_call *call)
{
	__u64 cookie = bpf_get_socket_cookie(call->ctx);
	struct sock_peer *peer = bpf_map_lookup_elem(&sock_peer, &cookie);

	if (!peer || peer->backend_port != call->port || !sock_addr_equal(&call->addr, peer->backend_addr))
		return 0;
	__builtin_memcpy(&call->addr, peer->addr, ADDR_LEN);
	call->port = peer->port;
	return 1;
}

/* The same for one of the backends that an unconnected socket was given. */
static __always_inline int sock_original_unconnected(struct sock_call *call)
{
	struct sock_nat_key key = { .backend_port = call->port, .proto = call->proto };
	struct sock_nat *nat;

	key.cookie = bpf_get_socket_cookie(call->ctx);
	__builtin_memcpy(key.backend_addr, &call->addr, ADDR_LEN);
	nat = bpf_map_lookup_elem(&sock_nat, &key);
	if (!nat)
		return 0;
	__builtin_memcpy(&call->addr, nat->addr, ADDR_LEN);
	call->port = nat->port;
	return 1;
}

#endif
