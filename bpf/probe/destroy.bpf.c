/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Asks, by being loaded, whether iterators may destroy sockets (kernel 6.5). Apart from kernel.bpf.c because
 * an object whose kernel functions are not all there can't be loaded in parts. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "kernel_sock.h"

extern int bpf_sock_destroy(struct sock_common *sk) __ksym;

SEC("iter/tcp")
int sock_destroy(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;

	if (sk && sk->skc_family) /* read, for the compiler names a struct's fields only where one is */
		bpf_sock_destroy(sk);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
