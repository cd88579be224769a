/* SPDX-License-Identifier: Apache-2.0 */
/* io_uring by its system calls: one ring for polls, one for calls that are waited for. */
#include "chaos.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <linux/time_types.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ENTRIES 256

struct uring {
	int fd;
	uint32_t *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
};

/* NULL where the kernel has none, or has it switched off. */
struct uring *uring_open(void)
{
	struct io_uring_params p = {};
	struct uring *r = calloc(1, sizeof(*r));
	size_t size;
	char *ring;

	r->fd = syscall(SYS_io_uring_setup, ENTRIES, &p);
	if (r->fd < 0 || !(p.features & IORING_FEAT_SINGLE_MMAP) || !(p.features & IORING_FEAT_EXT_ARG)) {
		free(r);
		return NULL;
	}
	size = p.sq_off.array + p.sq_entries * sizeof(uint32_t);
	if (p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe) > size)
		size = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
	ring = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_SQ_RING);
	r->sqes = mmap(NULL, p.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_SQES);
	if (ring == MAP_FAILED || r->sqes == MAP_FAILED)
		abort();
	r->sq_tail = (uint32_t *)(ring + p.sq_off.tail);
	r->sq_mask = (uint32_t *)(ring + p.sq_off.ring_mask);
	r->sq_array = (uint32_t *)(ring + p.sq_off.array);
	r->cq_head = (uint32_t *)(ring + p.cq_off.head);
	r->cq_tail = (uint32_t *)(ring + p.cq_off.tail);
	r->cq_mask = (uint32_t *)(ring + p.cq_off.ring_mask);
	r->cqes = (struct io_uring_cqe *)(ring + p.cq_off.cqes);
	return r;
}

static struct io_uring_sqe *entry(struct uring *r)
{
	uint32_t at = *r->sq_tail & *r->sq_mask;

	r->sq_array[at] = at;
	memset(&r->sqes[at], 0, sizeof(r->sqes[at]));
	return &r->sqes[at];
}

static void submit(struct uring *r)
{
	__atomic_store_n(r->sq_tail, *r->sq_tail + 1, __ATOMIC_RELEASE);
	while (syscall(SYS_io_uring_enter, r->fd, 1, 0, 0, NULL, 0) < 0)
		if (errno != EINTR && errno != EAGAIN)
			abort();
}

/* One completion: 1; 0 after `ms` without one. */
int uring_wait(struct uring *r, int ms, uint64_t *tag, int *result)
{
	struct __kernel_timespec ts = { ms / 1000, ms % 1000 * 1000000ll };
	struct io_uring_getevents_arg arg = { .ts = (uintptr_t)&ts, .sigmask_sz = _NSIG / 8 };
	uint32_t head = *r->cq_head;

	if (head == __atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE)) {
		syscall(SYS_io_uring_enter, r->fd, 0, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &arg,
			sizeof(arg));
		if (head == __atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE))
			return 0;
	}
	*tag = r->cqes[head & *r->cq_mask].user_data;
	*result = r->cqes[head & *r->cq_mask].res;
	__atomic_store_n(r->cq_head, head + 1, __ATOMIC_RELEASE);
	return 1;
}

void uring_poll(struct uring *r, int fd, uint32_t events, uint64_t tag)
{
	struct io_uring_sqe *e = entry(r);

	e->opcode = IORING_OP_POLL_ADD;
	e->fd = fd;
	e->poll32_events = events;
	e->user_data = tag;
	submit(r);
}

void uring_unpoll(struct uring *r, uint64_t polled, uint64_t tag)
{
	struct io_uring_sqe *e = entry(r);

	e->opcode = IORING_OP_POLL_REMOVE;
	e->fd = -1;
	e->addr = polled;
	e->user_data = tag;
	submit(r);
}

/* As send(2) or recv(2) by opcode: -1 and errno. */
long uring_call(int opcode, int fd, void *buffer, size_t size, int flags)
{
	static struct uring *ring;
	struct io_uring_sqe *e;
	uint64_t tag;
	int result;

	if (!ring)
		ring = uring_open();
	e = entry(ring);
	e->opcode = opcode;
	e->fd = fd;
	e->addr = (uintptr_t)buffer;
	e->len = size;
	e->msg_flags = flags;
	submit(ring);
	while (!uring_wait(ring, 1000, &tag, &result))
		;
	if (result >= 0)
		return result;
	errno = -result;
	return -1;
}
