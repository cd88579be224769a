/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * TCP between two sockets of one node, past TCP. Sockets are enrolled late and in pairs, by iterators over
 * the sockets of the network namespace in which they are read; until then a connection pays nothing. What an
 * enrolled socket sends goes into the other one's queue where that changes nothing for the two programs, else
 * by TCP as ever: accel_msg says when. Loads from kernel 6.12 on; whether the kernel does what we rely on is
 * tried at the agent's start (netaccel/datapath/accel/selftest.py).
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include "accel_maps.h"
#include "kernel_tcp.h"
#include "policy_maps.h"
#include "settings.h"

#define AF_INET 2
#define AF_INET6 10
#define MSG_OOB 1

#define SCAN_SEGMENTS 32 /* with data, each way, before a connection is worth a look */

/* ------------------------------------------------------------------------ messages */

/* Whether the call under way sends no urgent data, as far as it can be known: redirected, that would arrive
 * as ordinary bytes. What is none of these calls (io_uring, 32-bit programs) is not known. */
static __always_inline int call_is_plain(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task_btf();
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs((void *)task);

	switch (regs->orig_ax) {
	case 1:   /* write */
	case 20:  /* writev */
	case 40:  /* sendfile */
	case 275: /* splice */
		return 1;
	case 44:  /* sendto */
	case 307: /* sendmmsg */
		return !(regs->r10 & MSG_OOB);
	case 46: /* sendmsg */
		return !(regs->dx & MSG_OOB);
	default:
		return 0;
	}
}

/* 1 where `size` bytes more may wait at a receiver that has `waiting`. Messages are counted from the last
 * time that the queue was empty; where it never is, their number is at most what waits by the smallest of
 * them. */
static __always_inline int has_room(struct accel_end *own, __u32 waiting, __u32 size)
{
	if (!waiting) {
		own->queued = 0;
		own->least = size;
	}
	if (waiting + size > ACCEL_QUEUE_BYTES)
		return 0;
	if (size < own->least)
		own->least = size;
	return own->queued < ACCEL_QUEUE_MESSAGES ||
	       (own->least && waiting / own->least < ACCEL_QUEUE_MESSAGES);
}

static __always_inline void refresh(const struct accel_end *end, __u32 now)
{
	struct policy_flow6_key key6 = {};
	struct policy_flow4_key key4 = {};
	struct policy_flow *flow;
	const __u32 *src = (const __u32 *)end->src, *dst = (const __u32 *)end->dst;

	if (!end->ifindex)
		return;
	if (!src[0] && !src[1] && src[2] == bpf_htonl(0xffff)) {
		key4.pod = src[3];
		key4.peer = dst[3];
		key4.pod_port = end->sport;
		key4.peer_port = end->dport;
		key4.proto = IPPROTO_TCP;
		key4.ifindex = end->ifindex;
		flow = bpf_map_lookup_elem(&policy_flows4, &key4);
	} else {
		__builtin_memcpy(key6.pod, end->src, ADDR_LEN);
		__builtin_memcpy(key6.peer, end->dst, ADDR_LEN);
		key6.pod_port = end->sport;
		key6.peer_port = end->dport;
		key6.proto = IPPROTO_TCP;
		key6.ifindex = end->ifindex;
		flow = bpf_map_lookup_elem(&policy_flows6, &key6);
	}
	if (flow)
		flow->seen = now;
}

/* TC sees no packet of a redirected flow: once a second both ends' entries of policy are told that it lives.
 */
static __always_inline void keep_alive(struct accel_end *own, const struct accel_end *other)
{
	__u32 now = bpf_jiffies64();

	if (now - own->refreshed < settings.hz)
		return;
	own->refreshed = now;
	refresh(own, now);
	refresh(other, now);
}

static __always_inline int policy_holds(const struct accel_pair *pair)
{
	struct policy_revision *now;
	__u32 zero = 0;

	now = bpf_map_lookup_elem(&policy_revision, &zero);
	return now && now->revision == pair->revision;
}

static __always_inline int may_send(__u8 state)
{
	return state == TCP_ESTABLISHED || state == TCP_CLOSE_WAIT;
}

/* NULL, or the counter of why the message has to go by TCP. */
static __always_inline __u64 *obstacle(struct sk_msg_md *msg, const struct accel_socket *is,
				       struct accel_end *own, const struct accel_end *other)
{
	__u32 slot = is->end / 2;
	struct tcp_sock *tp, *peer;
	struct accel_pair *pair;
	struct sock *to;

	pair = bpf_map_lookup_elem(&accel_pairs, &slot);
	if (!pair || pair->generation != is->generation || pair->state != ACCEL_LIVE)
		return &own->pass_stopped;
	if (!policy_holds(pair))
		return &own->pass_policy;
	if (!call_is_plain())
		return &own->pass_call;
	tp = (struct tcp_sock *)bpf_skc_to_tcp_sock(msg->sk);
	if (!tp)
		return &own->pass_peer;
	/* After shutdown() it is TCP's to refuse: the kernel does not ask whether a redirected message may
	 * go. */
	if (!may_send(sock_of(tp)->__sk_common.skc_state))
		return &own->pass_stopped;
	peer = AT(tcp_sock, (void *)other->sock);
	to = sock_of(peer);
	if (to->__sk_common.skc_cookie.counter != (long long)other->cookie)
		return &own->pass_peer;
	if (!sock_is_nonblocking(to) || to->sk_rcvlowat > 1)
		return &own->pass_reader;
	/* Redirected bytes are read before those that TCP holds: so none may be there. */
	if (tp->write_seq != peer->copied_seq)
		return &own->pass_unread;
	if (!has_room(own, to->sk_backlog.rmem_alloc.counter, msg->size))
		return &own->pass_full;
	return NULL;
}

SEC("sk_msg")
int accel_msg(struct sk_msg_md *msg)
{
	struct accel_end *own, *other;
	struct accel_socket *is;
	__u32 size = msg->size, index;
	__u64 *why, key;

	is = bpf_sk_storage_get(&accel_sockets, msg->sk, 0, 0);
	if (!is)
		return SK_PASS;
	index = is->end;
	own = bpf_map_lookup_elem(&accel_ends, &index);
	index ^= 1;
	other = bpf_map_lookup_elem(&accel_ends, &index);
	if (!own || !other)
		return SK_PASS;
	why = obstacle(msg, is, own, other);
	if (!why) {
		key = other->cookie;
		if (bpf_msg_redirect_hash(msg, &accel_map, &key, BPF_F_INGRESS) == SK_PASS) {
			own->queued++;
			own->sent_messages++;
			own->sent_bytes += size;
			keep_alive(own, other);
			return SK_PASS;
		}
		why = &own->pass_peer;
	}
	(*why)++;
	own->passed_bytes += size;
	return SK_PASS;
}

/* ------------------------------------------------------------------------- sockets */

static __always_inline __u32 flags_of(struct tcp_sock *tp, const struct accel_socket *is)
{
	struct sock *sk = sock_of(tp);
	struct sk_psock *psock = sock_psock(sk);
	__u32 flags = 0;

	if (sk->__sk_common.skc_state != TCP_ESTABLISHED)
		flags |= ACCEL_CLOSING;
	if (sock_is_nonblocking(sk))
		flags |= ACCEL_NONBLOCK;
	if (tp->inet_conn.icsk_ulp_ops)
		flags |= ACCEL_ULP;
	if (sk->sk_rcvlowat > 1)
		flags |= ACCEL_LOWAT;
	if (sk->sk_filter)
		flags |= ACCEL_FILTER;
	if (sock_has_flag(sk, bpf_core_enum_value(enum sock_flags, SOCK_ZEROCOPY)))
		flags |= ACCEL_ZEROCOPY;
	if (!psock || !is)
		return sk->sk_user_data ? flags | ACCEL_FOREIGN : flags;
	flags |= ACCEL_ENROLLED;
	if (psock->refcnt.refs.counter > 1)
		flags |= ACCEL_BUSY;
	if ((void *)psock->ingress_msg.next !=
	    (void *)psock + bpf_core_field_offset(struct sk_psock, ingress_msg))
		flags |= ACCEL_UNREAD;
	return flags;
}

static __always_inline void read_tuple(struct sock_common *sk, __u8 *src, __u8 *dst, __be16 *sport,
				       __be16 *dport)
{
	*sport = bpf_htons(sk->skc_num);
	*dport = sk->skc_dport;
	if (sk->skc_family == AF_INET) {
		__u32 from[4] = { 0, 0, bpf_htonl(0xffff), sk->skc_rcv_saddr };
		__u32 to[4] = { 0, 0, bpf_htonl(0xffff), sk->skc_daddr };

		__builtin_memcpy(src, from, ADDR_LEN);
		__builtin_memcpy(dst, to, ADDR_LEN);
		return;
	}
	bpf_probe_read_kernel(src, ADDR_LEN, &sk->skc_v6_rcv_saddr);
	bpf_probe_read_kernel(dst, ADDR_LEN, &sk->skc_v6_daddr);
}

static __always_inline void tell(struct bpf_iter__tcp *ctx, struct tcp_sock *tp, struct accel_socket *is)
{
	struct sock *sk = sock_of(tp);
	struct accel_seen seen = {};

	seen.flags = flags_of(tp, is);
	if (is && !(seen.flags & ACCEL_ENROLLED)) { /* it left */
		bpf_sk_storage_delete(&accel_sockets, (void *)tp);
		is = NULL;
	}
	seen.cookie = bpf_get_socket_cookie(tp);
	seen.netns = sk->__sk_common.skc_net.net->net_cookie;
	seen.sent_bytes = tp->bytes_sent - tp->bytes_retrans;
	seen.received_bytes = tp->bytes_received;
	read_tuple(&sk->__sk_common, seen.src, seen.dst, &seen.sport, &seen.dport);
	seen.sent_segments = tp->data_segs_out;
	seen.received_segments = tp->data_segs_in;
	seen.queued = sk->sk_backlog.rmem_alloc.counter;
	seen.unsent = tp->write_seq - tp->snd_una;
	if (is) {
		seen.end = is->end;
		seen.generation = is->generation;
	}
	bpf_seq_write(ctx->meta->seq, &seen, sizeof(seen));
}

static __always_inline int look(struct bpf_iter__tcp *ctx, __u32 segments)
{
	struct sock_common *sk = ctx->sk_common;
	struct accel_socket *is;
	struct tcp_sock *tp;

	if (!sk)
		return 0;
	tp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sk); /* no listener, nothing in TIME_WAIT */
	if (!tp)
		return 0;
	is = bpf_sk_storage_get(&accel_sockets, (void *)tp, 0, 0);
	if (!is && (sock_of(tp)->__sk_common.skc_state != TCP_ESTABLISHED || tp->data_segs_in < segments ||
		    tp->data_segs_out < segments))
		return 0;
	tell(ctx, tp, is);
	return 0;
}

/* Connections that may be worth it, and all that are enrolled. */
SEC("iter/tcp")
int accel_scan(struct bpf_iter__tcp *ctx)
{
	return look(ctx, SCAN_SEGMENTS);
}

/* Every connection. */
SEC("iter/tcp")
int accel_list(struct bpf_iter__tcp *ctx)
{
	return look(ctx, 0);
}

/* 0 or a negative errno. The kernel holds the socket's lock meanwhile. */
static __always_inline int enrol(struct tcp_sock *tp, __u64 cookie, const struct accel_wanted *wanted)
{
	struct accel_end *end, fresh = {};
	struct accel_socket *is;
	__u32 index = wanted->end;
	int error;

	end = bpf_map_lookup_elem(&accel_ends, &index);
	if (!end)
		return -2; /* ENOENT */
	is = bpf_sk_storage_get(&accel_sockets, (void *)tp, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!is)
		return -12; /* ENOMEM */
	is->end = wanted->end;
	is->generation = wanted->generation;
	fresh.cookie = cookie;
	fresh.sock = (__u64)tp;
	fresh.ifindex = wanted->ifindex;
	read_tuple(&sock_of(tp)->__sk_common, fresh.src, fresh.dst, &fresh.sport, &fresh.dport);
	*end = fresh;
	error = bpf_map_update_elem(&accel_map, &cookie, (void *)tp, BPF_NOEXIST);
	if (error)
		bpf_sk_storage_delete(&accel_sockets, (void *)tp);
	return error;
}

#define UNFIT                                                                                                \
	(ACCEL_ULP | ACCEL_LOWAT | ACCEL_FILTER | ACCEL_ZEROCOPY | ACCEL_FOREIGN | ACCEL_ENROLLED |          \
	 ACCEL_CLOSING)

SEC("iter/tcp")
int accel_enrol(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	struct accel_result result = {};
	struct accel_wanted *wanted;
	struct accel_socket *is;
	struct tcp_sock *tp;
	__u64 cookie;

	if (!sk)
		return 0;
	tp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 0;
	cookie = sock_of(tp)->__sk_common.skc_cookie.counter;
	wanted = bpf_map_lookup_elem(&accel_wanted, &cookie);
	if (!wanted)
		return 0;
	is = bpf_sk_storage_get(&accel_sockets, (void *)tp, 0, 0);
	result.cookie = cookie;
	result.flags = flags_of(tp, is);
	if (result.flags & UNFIT || !(result.flags & ACCEL_NONBLOCK))
		result.error = -22; /* EINVAL: it changed since it was looked at */
	else
		result.error = enrol(tp, cookie, wanted);
	bpf_seq_write(ctx->meta->seq, &result, sizeof(result));
	return 0;
}

/* Structs that no map holds stay in BTF through a variable; libbpf skips the section. */
struct abi_accel {
	struct accel_seen accel_seen;
	struct accel_result accel_result;
};
struct abi_accel abi_accel SEC(".abi");

char LICENSE[] SEC("license") = "Dual BSD/GPL";
