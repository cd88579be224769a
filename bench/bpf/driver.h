/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Times a program by calling it many times within one test run.
 *
 * BPF_PROG_TEST_RUN with `repeat` hands every repeat the packet as the last one left it, so a program that
 * rewrites would be timed on its own output. Here each round first puts the frame back, gives it the source
 * port of the next flow, and then tail-calls the program under test from a subprogram, so that its verdict
 * comes back. The cost of all that is the same for every program: subtract `noop`.
 */
#ifndef BENCH_DRIVER_H
#define BENCH_DRIVER_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define FRAME_MAX 96
#define ROUNDS 32 /* a program run may make 33 tail calls */
#define VERDICTS 8

/* Written by user space before a run, read by the driver; verdicts and failures the other way. */
struct driver {
	__u64 frame[FRAME_MAX / 8];
	__u64 verdicts[VERDICTS];
	__u32 failures;    /* the frame could not be put back, or nothing was called */
	__u32 port_offset; /* of the source port in the frame */
	__u32 first_port;
	__u32 port_mask; /* flows - 1 */
	__u32 next;
	__u32 pad;
};
struct driver driver SEC(".data.driver") = {};

/* The program under test. Writer: user space. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} under_test SEC(".maps");

static __always_inline int restore(void *data, void *end)
{
	__u32 port = driver.first_port + (driver.next++ & driver.port_mask);
	__u32 at = driver.port_offset;

	if (data + FRAME_MAX > end)
		return -1;
#pragma unroll
	for (int i = 0; i < FRAME_MAX / 8; i++)
		((__u64 *)data)[i] = driver.frame[i];
	at &= 63;
	if (data + at + sizeof(__u16) > end)
		return -1;
	*(__u16 *)(data + at) = bpf_htons(port);
	return 0;
}

#define DRIVER(section, context)                                                                             \
	static __attribute__((noinline)) int call(context *ctx)                                              \
	{                                                                                                    \
		int verdict = 0;                                                                             \
                                                                                                             \
		bpf_tail_call_static(ctx, &under_test, 0);                                                   \
		driver.failures++;                                                                           \
		asm volatile("" : "+r"(verdict));                                                            \
		return verdict;                                                                              \
	}                                                                                                    \
                                                                                                             \
	SEC(section)                                                                                         \
	int driver_run(context *ctx)                                                                         \
	{                                                                                                    \
		int verdict = 0;                                                                             \
                                                                                                             \
		_Pragma("nounroll") for (int i = 0; i < ROUNDS; i++)                                         \
		{                                                                                            \
			if (restore((void *)(long)ctx->data, (void *)(long)ctx->data_end)) {                 \
				driver.failures++;                                                           \
				return 0;                                                                    \
			}                                                                                    \
			verdict = call(ctx);                                                                 \
			driver.verdicts[verdict & (VERDICTS - 1)]++;                                         \
		}                                                                                            \
		return verdict;                                                                              \
	}

#endif
