/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Socket load balancing: connect() and sendmsg() to a frontend reach a backend before a packet exists; the
 * application goes on seeing the Service's address. bind() to a frontend's node port is refused.
 * Attached to the node's cgroup. docs/decisions/0009-socket-peers-by-cookie.md says why the maps are as they
 * are.
 */
#include "sock.h"

#define ECONNREFUSED 111
#define EADDRINUSE 98
#define ENOMEM 12
#define ETIMEDOUT 110

#define SOCK_REFUSE 0
#define SOCK_PROCEED 1

static __always_inline int sock_errno(__u32 reason)
{
	switch (reason) {
	case DROP_NO_LOCAL_BACKEND: /* what a packet that is dropped silently ends in, without the wait */
		return ETIMEDOUT;
	case DROP_PORT_RESERVED:
		return EADDRINUSE;
	case DROP_FLOW_TABLE:
		return ENOMEM;
	default:
		return ECONNREFUSED;
	}
}

/* Without bpf_set_retval (before 5.18) the caller sees EPERM. */
static __always_inline int sock_refuse(__u32 reason)
{
	count_drop(reason, 0);
	if (settings.has_retval)
		bpf_set_retval(-sock_errno(reason));
	return SOCK_REFUSE;
}

static __always_inline void sock_count(const struct sock_call *call, int opened, int refused)
{
	struct service_counters *n;
	__u32 id;

	if (!call->fe || !(opened || refused))
		return;
	id = call->fe->service;
	n = bpf_map_lookup_elem(&service_counters, &id);
	if (!n)
		return;
	n->connects += opened;
	n->refused += refused;
}

static __always_inline int sock_read(struct sock_call *call, struct bpf_sock_addr *ctx, int family)
{
	call->ctx = ctx;
	call->family = family;
	call->proto = sock_proto(ctx->protocol);
	call->port = (__be16)ctx->user_port;
	if (family == AF_INET) {
		addr_from_v4(&call->addr, ctx->user_ip4);
	} else {
		call->addr.w[0] = ctx->user_ip6[0];
		call->addr.w[1] = ctx->user_ip6[1];
		call->addr.w[2] = ctx->user_ip6[2];
		call->addr.w[3] = ctx->user_ip6[3];
	}
	return call->proto != 0;
}

static __always_inline void sock_write(struct bpf_sock_addr *ctx, int family, const struct addr *addr,
				       __be16 port)
{
	ctx->user_port = port;
	if (family == AF_INET) {
		ctx->user_ip4 = addr->w[3];
	} else {
		ctx->user_ip6[0] = addr->w[0];
		ctx->user_ip6[1] = addr->w[1];
		ctx->user_ip6[2] = addr->w[2];
		ctx->user_ip6[3] = addr->w[3];
	}
}

/* `family` is the hook's; call->family the tables'. */
static __always_inline int sock_finish(struct sock_call *call, int family, __u32 reason, int opened)
{
	struct addr addr;

	sock_count(call, opened && !reason, reason != 0);
	if (reason)
		return sock_refuse(reason);
	if (!call->be)
		return SOCK_PROCEED;
	__builtin_memcpy(&addr, call->be->addr, sizeof(addr));
	sock_write(call->ctx, family, &addr, call->be->port);
	return SOCK_PROCEED;
}

static __always_inline int on_connect(struct sock_call *call, int family)
{
	return sock_finish(call, family, sock_connect(call), 1);
}

static __always_inline int on_sendmsg(struct sock_call *call, int family)
{
	int opened = 0;
	__u32 reason = sock_sendmsg(call, &opened);

	return sock_finish(call, family, reason, opened);
}

/* A connected socket hears its peer alone, so one look-up is enough. */
static __always_inline int on_recvmsg(struct bpf_sock_addr *ctx, int family)
{
	struct bpf_sock *sk = ctx->sk;
	struct sock_call call = {};
	int ours;

	if (!sk || !sock_read(&call, ctx, family))
		return SOCK_PROCEED;
	if (sk->state == SOCK_CONNECTED)
		ours = sock_original_connected(&call);
	else
		ours = sock_original_unconnected(&call);
	if (ours)
		sock_write(ctx, family, &call.addr, call.port);
	return SOCK_PROCEED;
}

static __always_inline int on_getpeername(struct bpf_sock_addr *ctx, int family)
{
	struct sock_call call = {};

	if (sock_read(&call, ctx, family) && sock_original_connected(&call))
		sock_write(ctx, family, &call.addr, call.port);
	return SOCK_PROCEED;
}

SEC("cgroup/connect4")
int sock_connect4(struct bpf_sock_addr *ctx)
{
	struct sock_call call = {};

	return sock_read(&call, ctx, AF_INET) ? on_connect(&call, AF_INET) : SOCK_PROCEED;
}

SEC("cgroup/connect6")
int sock_connect6(struct bpf_sock_addr *ctx)
{
	struct sock_call call = {};

	if (!sock_read(&call, ctx, AF_INET6))
		return SOCK_PROCEED;
	if (addr_is_v4(&call.addr))
		call.family = AF_INET;
	return on_connect(&call, AF_INET6);
}

SEC("cgroup/sendmsg4")
int sock_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct sock_call call = {};

	return sock_read(&call, ctx, AF_INET) ? on_sendmsg(&call, AF_INET) : SOCK_PROCEED;
}

/* The kernel gives IPv4-mapped destinations to sendmsg4. */
SEC("cgroup/sendmsg6")
int sock_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct sock_call call = {};

	return sock_read(&call, ctx, AF_INET6) ? on_sendmsg(&call, AF_INET6) : SOCK_PROCEED;
}

SEC("cgroup/recvmsg4")
int sock_recvmsg4(struct bpf_sock_addr *ctx)
{
	return on_recvmsg(ctx, AF_INET);
}

SEC("cgroup/recvmsg6")
int sock_recvmsg6(struct bpf_sock_addr *ctx)
{
	return on_recvmsg(ctx, AF_INET6);
}

SEC("cgroup/getpeername4")
int sock_getpeername4(struct bpf_sock_addr *ctx)
{
	return on_getpeername(ctx, AF_INET);
}

SEC("cgroup/getpeername6")
int sock_getpeername6(struct bpf_sock_addr *ctx)
{
	return on_getpeername(ctx, AF_INET6);
}

/* The socket is gone: so is what was remembered of it. */
SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);

	if (!bpf_map_delete_elem(&sock_peer, &cookie))
		count(COUNTER_SOCK_PEER_DELETE);
	return SOCK_PROCEED;
}

/* 1 where the node may not have this port, because packets to it are a Service's. */
static __always_inline int port_reserved(int family, const struct addr *addr, __be16 port, __u8 proto)
{
	struct frontend *fe = frontend_find(family, addr, port, proto);

	return fe && !(fe->flags & FRONTEND_DRAIN) &&
	       (fe->kind == FRONTEND_NODE_PORT || fe->kind == FRONTEND_RESERVED_PORT);
}

/* Only the node's own namespace shares its ports with frontends. */
static __always_inline int on_post_bind(struct bpf_sock *ctx, int family, const struct addr *addr)
{
	__be16 port = bpf_htons((__u16)ctx->src_port);
	__u8 proto = sock_proto(ctx->protocol);
	struct addr any4;

	if (!proto || bpf_get_netns_cookie(ctx) != settings.node_cookie)
		return SOCK_PROCEED;
	if (port_reserved(family, addr, port, proto))
		return sock_refuse(DROP_PORT_RESERVED);
	if (family == AF_INET6 && !addr->w[0] && !addr->w[1] && !addr->w[2] && !addr->w[3]) {
		/* A bind to :: takes the IPv4 port too. IPV6_V6ONLY can't be seen here: refused as well. */
		addr_from_v4(&any4, 0);
		if (port_reserved(AF_INET, &any4, port, proto))
			return sock_refuse(DROP_PORT_RESERVED);
	}
	return SOCK_PROCEED;
}

SEC("cgroup/post_bind4")
int sock_post_bind4(struct bpf_sock *ctx)
{
	struct addr addr;

	addr_from_v4(&addr, ctx->src_ip4);
	return on_post_bind(ctx, AF_INET, &addr);
}

SEC("cgroup/post_bind6")
int sock_post_bind6(struct bpf_sock *ctx)
{
	struct addr addr;

	addr.w[0] = ctx->src_ip6[0];
	addr.w[1] = ctx->src_ip6[1];
	addr.w[2] = ctx->src_ip6[2];
	addr.w[3] = ctx->src_ip6[3];
	return on_post_bind(ctx, addr_is_v4(&addr) ? AF_INET : AF_INET6, &addr);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
