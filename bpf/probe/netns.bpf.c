/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Tells the cookie of a socket's network namespace, for kernels without SO_NETNS_COOKIE (before 5.14).
 * Attached for a moment to a cgroup in which one process makes one socket (netaccel/datapath/cookie.py). */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} netns_cookie SEC(".maps");

SEC("cgroup/sock_create")
int probe_netns(struct bpf_sock *ctx)
{
	__u32 key = 0;
	__u64 cookie = bpf_get_netns_cookie(ctx);

	bpf_map_update_elem(&netns_cookie, &key, &cookie, BPF_ANY);
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
