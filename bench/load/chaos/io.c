/* SPDX-License-Identifier: Apache-2.0 */
/* One write or read of a connection, by a system call that chance chooses. */
#include "chaos.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PIECES 5

bool with_uring;
static uint8_t buffer[BUFFER], second[BUFFER];

enum {
	W_SEND,
	W_WRITE,
	W_WRITEV,
	W_SENDMSG,
	W_SENDMMSG,
	W_MORE,
	W_SENDFILE,
	W_SPLICE,
	W_URING,
	W_KINDS
};
enum {
	R_RECV,
	R_READ,
	R_READV,
	R_RECVMSG,
	R_RECVMMSG,
	R_PEEK,
	R_URING,
	R_KINDS
};

void complain(struct conn *c, const char *what, uint64_t number)
{
	fprintf(stderr,
		"connection %llu (%s, cookie %llu): %s %llu; end %d who %d at %u turn %u/%u lazy %d oob %d;"
		" sent %llu of %u, received %llu of %u; errno %d\n",
		(unsigned long long)c->id, c->side == CLIENT ? "client" : "server",
		(unsigned long long)c->cookie, what, (unsigned long long)number, c->plan.end, c->plan.who,
		c->plan.at, c->plan.turn[0], c->plan.turn[1], c->plan.lazy, c->plan.oob,
		(unsigned long long)c->sent, c->plan.size[c->side], (unsigned long long)c->received,
		c->plan.size[!c->side], errno);
}

/* Cut [0, size) of a buffer into pieces of random lengths. */
static int cut(struct conn *c, struct iovec *pieces, uint8_t *from, size_t size)
{
	int count = 0;

	while (size && count < PIECES) {
		size_t part = count == PIECES - 1 ? size : 1 + below(&c->rng, size);

		pieces[count++] = (struct iovec){ from, part };
		from += part;
		size -= part;
	}
	return count;
}

/* The pages are the socket's until they are sent: each call has a file of its own. */
static long by_file(struct conn *c, size_t size)
{
	int file = memfd_create("chaos", MFD_CLOEXEC), error;
	off_t offset = 0;
	long done = -1;

	if (file >= 0 && write(file, buffer, size) == (long)size)
		done = sendfile(c->fd, file, &offset, size);
	error = errno;
	if (file >= 0)
		close(file);
	errno = error;
	return done;
}

/* By number: an import of splice(2) would keep this program's sockets from being accelerated. */
static long by_pipe(struct conn *c, size_t size)
{
	int ends[2], error;
	long done = -1;

	if (pipe2(ends, O_NONBLOCK | O_CLOEXEC))
		return -1;
	size = write(ends[1], buffer, size);
	if ((long)size > 0)
		done = syscall(SYS_splice, ends[0], NULL, c->fd, NULL, size, 2 /* SPLICE_F_NONBLOCK */);
	error = errno;
	close(ends[0]);
	close(ends[1]);
	errno = error;
	return done;
}

static long by_many(struct conn *c, size_t size)
{
	struct mmsghdr messages[PIECES] = {};
	struct iovec pieces[PIECES];
	int count = cut(c, pieces, buffer, size);
	long total = 0;

	for (int i = 0; i < count; i++) {
		messages[i].msg_hdr.msg_iov = &pieces[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	count = sendmmsg(c->fd, messages, count, MSG_NOSIGNAL);
	for (int i = 0; i < count; i++)
		total += messages[i].msg_len;
	return count < 0 ? -1 : total;
}

static long by_kind(struct conn *c, int kind, size_t size, bool more)
{
	struct iovec pieces[PIECES];
	struct msghdr message = { .msg_iov = pieces };

	switch (kind) {
	case W_WRITE:
		return write(c->fd, buffer, size);
	case W_WRITEV:
		return writev(c->fd, pieces, cut(c, pieces, buffer, size));
	case W_SENDMSG:
		message.msg_iovlen = cut(c, pieces, buffer, size);
		return sendmsg(c->fd, &message, MSG_NOSIGNAL);
	case W_SENDMMSG:
		return by_many(c, size);
	case W_MORE:
		return send(c->fd, buffer, size, MSG_NOSIGNAL | (more ? MSG_MORE : 0));
	case W_SENDFILE:
		return by_file(c, size);
	case W_SPLICE:
		return by_pipe(c, size);
	case W_URING:
		return uring_call(IORING_OP_SEND, c->fd, buffer, size, MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	return send(c->fd, buffer, size, MSG_NOSIGNAL);
}

static bool urgent_is_due(struct conn *c)
{
	return c->plan.oob == 1 + c->side && !c->oob_sent && c->sent >= c->plan.size[c->side] / 2;
}

/* The urgent byte stands in the middle: no message goes beyond before it is sent. */
static size_t up_to_urgent(struct conn *c, size_t most)
{
	uint64_t middle = c->plan.size[c->side] / 2;

	if (c->plan.oob != 1 + c->side || c->oob_sent || c->sent >= middle)
		return most;
	return most < middle - c->sent ? most : middle - c->sent;
}

/* Note what a write of `size` bytes left over. Of a long one the last part may have been refused, and only
 * the next call tells of the error.
 */
static void left_over(struct conn *c, long done, uint64_t size)
{
	if (done >= 0)
		c->left = size - done;
	else if (errno != EAGAIN && c->left < size)
		c->left = size;
}

/* Bytes written, at most `most`; 0: not now; -1: an error. */
long write_some(struct conn *c, size_t most)
{
	size_t size = c->plan.least + logarithmic(&c->rng, c->plan.largest);
	int kind = below(&c->rng, W_KINDS);
	uint8_t urgent = OOB_BYTE;
	long done;

	if (c->side == CLIENT && c->header < HEADER) {
		done = send(c->fd, (uint8_t *)&c->id + c->header, HEADER - c->header, MSG_NOSIGNAL);
		left_over(c, done, HEADER - c->header);
		if (done > 0)
			c->header += done;
	} else if (urgent_is_due(c)) {
		done = send(c->fd, &urgent, 1, MSG_NOSIGNAL | MSG_OOB);
		left_over(c, done, 1);
		c->oob_sent = done == 1;
	} else {
		most = up_to_urgent(c, most);
		size = size < most ? size : most;
		size = size < BUFFER ? size : BUFFER;
		if (kind == W_URING && !with_uring)
			kind = W_SEND;
		if ((kind == W_SENDFILE || kind == W_SPLICE) && below(&c->rng, 4))
			kind = W_WRITE;
		fill(buffer, c->key[c->side], c->sent, size);
		done = by_kind(c, kind, size, size < most);
		counts.writes[kind]++;
		left_over(c, done, size);
		if (done > 0)
			c->sent += done;
	}
	if (done < 0)
		return errno == EAGAIN ? 0 : -1;
	return done;
}

static void compare(struct conn *c, const uint8_t *bytes, size_t size, const char *how)
{
	size_t right = same(bytes, c->key[!c->side], c->received, size);

	if (right == size)
		return;
	counts.wrong += size - right;
	c->failed = true;
	complain(c, how, c->received + right);
}

static long peek_then(struct conn *c, size_t size)
{
	long peeked = recv(c->fd, second, size, MSG_PEEK), done;

	if (peeked < 0)
		return -1;
	compare(c, second, peeked, "peeked wrong bytes from");
	done = recv(c->fd, buffer, size, 0);
	if (done < peeked && !c->plan.oob && !(done < 0 && errno == ECONNRESET)) {
		counts.odd++;
		complain(c, "less read than was peeked:", peeked);
	}
	return done;
}

static long gather(struct conn *c, size_t size)
{
	struct mmsghdr messages[PIECES] = {};
	struct iovec pieces[PIECES];
	int count = cut(c, pieces, buffer, size);
	long total = 0;

	for (int i = 0; i < count; i++) {
		messages[i].msg_hdr.msg_iov = &pieces[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	count = recvmmsg(c->fd, messages, count, 0, NULL);
	for (int i = 0; i < count; i++) {
		memmove(buffer + total, pieces[i].iov_base, messages[i].msg_len);
		total += messages[i].msg_len;
	}
	return count < 0 ? -1 : total;
}

static long take(struct conn *c, int kind, size_t size)
{
	struct iovec pieces[PIECES];
	struct msghdr message = { .msg_iov = pieces };

	switch (kind) {
	case R_READ:
		return read(c->fd, buffer, size);
	case R_READV:
		return readv(c->fd, pieces, cut(c, pieces, buffer, size));
	case R_RECVMSG:
		message.msg_iovlen = cut(c, pieces, buffer, size);
		return recvmsg(c->fd, &message, 0);
	case R_RECVMMSG:
		return gather(c, size);
	case R_PEEK:
		return peek_then(c, size);
	case R_URING:
		return uring_call(IORING_OP_RECV, c->fd, buffer, size, MSG_DONTWAIT);
	}
	return recv(c->fd, buffer, size, 0);
}

static long read_header(struct conn *c, uint64_t *have)
{
	long done = recv(c->fd, c->head + *have, HEADER - *have, 0);

	if (done > 0)
		*have += done;
	if (done > 0 && *have == HEADER) {
		if (c->side == SERVER) {
			memcpy(&c->id, c->head, HEADER);
		} else if (memcmp(c->head, &c->id, HEADER)) {
			counts.wrong++;
			complain(c, "wrong header", 0);
		}
	}
	return done;
}

/* Bytes read; 0: the end; -1: an error, EAGAIN among them. */
long read_some(struct conn *c)
{
	int kind = below(&c->rng, R_KINDS);
	long done;

	if (!c->known)
		return read_header(c, &c->header);
	if (echo && c->back < HEADER)
		return read_header(c, &c->back);
	if (kind == R_URING && !with_uring)
		kind = R_RECV;
	counts.reads[kind]++;
	done = take(c, kind, logarithmic(&c->rng, BUFFER));
	if (done > 0) {
		compare(c, buffer, done, "wrong bytes from");
		c->received += done;
	}
	return done;
}
