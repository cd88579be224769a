/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Lists the sockets whose backend was removed: an iterator over sock_peer, so that user space reads those few
 * entries and not all of them, and enters only the network namespaces that have one.
 * Each is written as its cookie (__u64) and its struct sock_peer.
 */
#include "backend.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct seq_file;
struct bpf_iter_meta {
	struct seq_file *seq;
};
struct bpf_iter__bpf_map_elem {
	struct bpf_iter_meta *meta;
	void *key;
	void *value;
};
#pragma clang attribute pop

SEC("iter/bpf_map_elem")
int sock_stale(struct bpf_iter__bpf_map_elem *ctx)
{
	struct sock_peer *peer = ctx->value;
	__u64 *cookie = ctx->key;

	if (!cookie || !peer || backend_find(peer->backend, peer->generation))
		return 0;
	bpf_seq_write(ctx->meta->seq, cookie, sizeof(*cookie));
	bpf_seq_write(ctx->meta->seq, peer, sizeof(*peer));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
