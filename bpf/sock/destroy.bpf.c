/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Destroys the sockets that socket load balancing connected to a backend which was removed since: their
 * owners get ECONNABORTED at once, connect again and get a live one. Iterators over the sockets of the
 * network namespace in which they are read. Needs bpf_sock_destroy (kernel 6.5); before, user space asks
 * sock_diag. The cookie (__u64) of each destroyed socket is written.
 */
#include "backend.h"
#include "kernel_sock.h"

extern int bpf_sock_destroy(struct sock_common *sk) __ksym;

/* Whether the socket is (still) connected to the backend that it was given. */
static __always_inline int sock_peer_is(const struct sock_common *sk, const struct sock_peer *peer)
{
	struct addr backend;

	__builtin_memcpy(&backend, peer->backend_addr, sizeof(backend));
	if (sk->skc_dport != peer->backend_port)
		return 0;
	if (sk->skc_family == AF_INET)
		return addr_is_v4(&backend) && backend.w[3] == sk->skc_daddr;
	return backend.w[0] == sk->skc_v6_daddr.in6_u.u6_addr32[0] &&
	       backend.w[1] == sk->skc_v6_daddr.in6_u.u6_addr32[1] &&
	       backend.w[2] == sk->skc_v6_daddr.in6_u.u6_addr32[2] &&
	       backend.w[3] == sk->skc_v6_daddr.in6_u.u6_addr32[3];
}

static __always_inline void destroy_stale(struct sock_common *sk, struct seq_file *seq)
{
	__u64 cookie = sk->skc_cookie.counter;
	struct sock_peer *peer;

	if (!cookie)
		return;
	peer = bpf_map_lookup_elem(&sock_peer, &cookie);
	if (!peer || backend_find(peer->backend, peer->generation) || !sock_peer_is(sk, peer))
		return;
	if (bpf_sock_destroy(sk))
		return;
	bpf_seq_write(seq, &cookie, sizeof(cookie));
	count(COUNTER_SOCK_DESTROYED);
	if (!bpf_map_delete_elem(&sock_peer, &cookie))
		count(COUNTER_SOCK_PEER_DELETE);
}

SEC("iter/tcp")
int sock_destroy_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;

	if (sk)
		destroy_stale(sk, ctx->meta->seq);
	return 0;
}

SEC("iter/udp")
int sock_destroy_udp(struct bpf_iter__udp *ctx)
{
	struct udp_sock *sk = ctx->udp_sk;

	if (sk)
		destroy_stale((struct sock_common *)sk, ctx->meta->seq);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
