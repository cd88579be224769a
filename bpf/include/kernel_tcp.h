/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What acceleration reads of the kernel's TCP sockets; CO-RE finds each field in the running kernel. */
#ifndef NETACCEL_KERNEL_TCP_H
#define NETACCEL_KERNEL_TCP_H

#include <bpf/bpf_helpers.h>
#include "kernel_sock.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
typedef struct {
	int counter;
} atomic_t;
typedef struct {
	atomic_t refs;
} refcount_t;
struct list_head {
	struct list_head *next;
};
struct file {
	unsigned int f_flags;
};
struct socket {
	struct file *file;
};
struct sk_filter;
struct sock {
	struct sock_common __sk_common;
	int sk_rcvlowat;
	struct {
		atomic_t rmem_alloc;
	} sk_backlog;
	struct sk_filter *sk_filter;
	struct socket *sk_socket;
	void *sk_user_data;
};
struct inet_sock {
	struct sock sk;
};
struct tcp_ulp_ops;
struct inet_connection_sock {
	struct inet_sock icsk_inet;
	const struct tcp_ulp_ops *icsk_ulp_ops;
};
struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u32 write_seq;
	__u32 snd_una;
	__u32 copied_seq;
	__u32 data_segs_in;
	__u32 data_segs_out;
	__u64 bytes_received;
	__u64 bytes_sent;
	__u64 bytes_retrans;
};
struct sk_psock {
	struct list_head ingress_msg;
	refcount_t refcnt;
};
struct task_struct;
struct pt_regs {
	unsigned long orig_ax; /* x86-64: the system call's number, ... */
	unsigned long dx;      /* ... its third ... */
	unsigned long r10;     /* ... and its fourth argument */
};
enum sock_flags {
	SOCK_ZEROCOPY = 0,
};
#pragma clang attribute pop

#define TCP_ESTABLISHED 1
#define TCP_CLOSE_WAIT 8      /* the other end sends no more */
#define USER_DATA_MASK (~7UL) /* SK_USER_DATA_PTRMASK */
#define USER_DATA_PSOCK 4UL   /* SK_USER_DATA_PSOCK */

/* A struct of the kernel at an address; reads of what is not there give 0. */
extern void *bpf_rdonly_cast(const void *address, __u32 type) __ksym;
#define AT(type, address) ((struct type *)bpf_rdonly_cast(address, bpf_core_type_id_kernel(struct type)))

static __always_inline struct sock *sock_of(struct tcp_sock *tp)
{
	return &tp->inet_conn.icsk_inet.sk;
}

static __always_inline int sock_is_nonblocking(struct sock *sk)
{
	struct socket *socket = sk->sk_socket;
	struct file *file = socket ? socket->file : NULL;

	return file && file->f_flags & 04000; /* O_NONBLOCK */
}

static __always_inline int sock_has_flag(struct sock *sk, __u32 bit)
{
	return sk->__sk_common.skc_flags >> bit & 1;
}

/* The state that a sockmap keeps of a socket. NULL: it is in none. */
static __always_inline struct sk_psock *sock_psock(struct sock *sk)
{
	unsigned long data = (unsigned long)sk->sk_user_data;

	return data & USER_DATA_PSOCK ? AT(sk_psock, (void *)(data & USER_DATA_MASK)) : NULL;
}

#endif
