/* SPDX-License-Identifier: Apache-2.0 */
/* A byte-exact chaos load over TCP: sizes from 1 B to 1 MB, both directions at once or by turns, pauses,
 * half-closes, aborts, every usual call to write, read and wait.
 *
 *   chaos serve ADDRESS PORT SEED LOG PACE
 *   chaos drive ADDRESS PORT SEED LOG PACE COUNT LIMIT [echo]
 *
 * `serve` ends by SIGTERM, `drive` after COUNT connections, at most LIMIT at once; both with their parent.
 * One process for each way to wait. Prints counts as JSON, appends a struct record a connection to LOG.MODE;
 * complaints go to standard error. Sockets are non-blocking.
 */
#include "chaos.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "waiting.h"

#define OPEN 512    /* connections of a process */
#define HANG 120000 /* ms without progress: a busy machine lets no process starve for so long */
#define READS 8     /* at a time, so that others get their turn */

uint64_t seed;
bool echo;
int pace = 1;
struct counts counts;
static struct conn *conns[OPEN];
static int open_now, records = -1;
static volatile sig_atomic_t ending;
static struct sockaddr_storage where;
static socklen_t where_size;

uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000ull + t.tv_nsec / 1000000;
}

static void go_on(struct conn *c, uint64_t at)
{
	if (at - c->progress > counts.stall)
		counts.stall = at - c->progress;
	c->progress = at;
}

static struct conn *add(int fd, int side)
{
	struct conn *c = calloc(1, sizeof(*c));
	socklen_t size = sizeof(c->cookie);

	c->fd = fd;
	c->side = side;
	c->w_ready = true;
	c->progress = now();
	getsockopt(fd, SOL_SOCKET, SO_COOKIE, &c->cookie, &size);
	c->rng = mix(seed ^ (c->cookie * 2 + side));
	conns[open_now++] = c;
	return c;
}

/* The receive buffer is made small before connecting only: a window that shrinks stops plain TCP too. */
static void learn(struct conn *c)
{
	int yes = 1, little = 16 * 1024;

	c->known = true;
	make_plan(c);
	if (c->id & 7)
		setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	if (c->plan.small_buffers) {
		setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &little, sizeof(little));
		if (c->side == CLIENT)
			setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &little, sizeof(little));
	}
}

static bool dial(uint64_t id)
{
	int fd = socket(where.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct conn *c;

	if (fd < 0)
		return false;
	c = add(fd, CLIENT);
	c->id = id;
	c->connecting = true;
	c->w_ready = false;
	learn(c);
	if (connect(fd, (struct sockaddr *)&where, where_size) && errno != EINPROGRESS) {
		counts.odd++;
		complain(c, "can't connect", errno);
		exit(1);
	}
	return true;
}

/* What TCP says that it was given and has brought, without SYN and FIN. */
static void weigh(struct conn *c, struct record *r)
{
	struct tcp_figures before, after;
	int tries = 0;

	do {
		tcp_figures(c->fd, &before);
		tcp_figures(c->fd, &after);
	} while (before.acked != after.acked && ++tries < 100);
	r->tcp_out = before.acked + before.queued - (c->side == CLIENT) - c->fin;
	r->tcp_in = c->failed ? 0 : after.received - c->eof;
}

static void finish(struct conn *c, bool clean)
{
	struct record r = { .id = c->id, .cookie = c->cookie, .side = c->side, .clean = clean };
	struct linger reset = { 1, 0 };

	r.sent = c->sent + c->oob_sent + (c->side == CLIENT ? c->header : 0);
	r.received = c->received + (clean && c->plan.oob == 2 - c->side) + c->back;
	r.received += c->side == SERVER ? c->header : 0;
	r.refused = c->failed || c->cut ? c->left : 0;
	weigh(c, &r);
	if (write(records, &r, sizeof(r)) != sizeof(r))
		abort();
	counts.connections++;
	counts.sent += r.sent;
	counts.received += r.received;
	counts.clean += clean;
	if (!clean && c->plan.end == END_ABORT && c->plan.who == c->side)
		setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	waiting_forget(c);
	close(c->fd);
	c->fd = -1;
}

static bool may_fail(struct conn *c)
{
	return !c->known || c->plan.end == END_ABORT || c->plan.end == END_UNREAD;
}

static void broken(struct conn *c, const char *what)
{
	int number = errno;

	c->failed = true;
	if (!may_fail(c)) {
		counts.odd++;
		complain(c, what, number);
	}
	finish(c, false);
}

static void pause_between(struct conn *c, uint64_t at)
{
	if (c->side == CLIENT && !c->warmed && c->header == HEADER) {
		c->warmed = true;
		c->w_until = at + c->plan.warm;
	} else if (c->plan.think && !below(&c->rng, c->plan.turn[0] ? 2 : 6)) {
		c->w_until = at + 1 + below(&c->rng, c->plan.think);
	}
}

/* How many bytes may have been sent so far: by turns, or all. */
static uint64_t allowed(struct conn *c)
{
	struct plan *p = &c->plan;
	uint64_t turns = p->turn[0] ? c->received / p->turn[!c->side] + (c->side == CLIENT) : 0;
	uint64_t most = p->turn[0] ? turns * p->turn[c->side] : p->size[c->side];

	return most < p->size[c->side] ? most : p->size[c->side];
}

static bool sent_all(struct conn *c)
{
	return c->known && c->sent == c->plan.size[c->side] && (c->side == SERVER || c->header == HEADER);
}

static bool has_to_write(struct conn *c, uint64_t at)
{
	if (!c->known || c->connecting || c->fin || c->cut || c->w_until > at || c->failed)
		return false;
	return (c->side == CLIENT && c->header < HEADER) || c->sent < allowed(c);
}

static bool has_to_read(struct conn *c, uint64_t at)
{
	if (c->connecting || c->eof || c->r_until > at)
		return false;
	return !(c->known && c->plan.lazy == 1 + c->side && !sent_all(c) && !c->cut);
}

static void write_on(struct conn *c, uint64_t at)
{
	for (int i = 0; i < READS && c->w_ready && has_to_write(c, at); i++) {
		long done = write_some(c, allowed(c) - c->sent);

		if (!done) {
			c->w_ready = false;
		} else if (done < 0) {
			if (may_fail(c) && (errno == EPIPE || errno == ECONNRESET))
				c->cut = true; /* what came before the reset may still be there to read */
			else
				broken(c, "write failed with");
			return;
		} else {
			go_on(c, at);
			pause_between(c, at);
		}
	}
}

static void stop_for_a_while(struct conn *c, uint64_t at)
{
	struct plan *p = &c->plan;

	if (p->stop_time && p->stopper == c->side && !c->stopped && c->received >= p->stop_at) {
		c->stopped = true;
		c->r_until = at + p->stop_time;
	}
}

static void read_on(struct conn *c, uint64_t at)
{
	for (int i = 0; i < READS && c->r_ready && has_to_read(c, at); i++) {
		long done = read_some(c);

		if (done < 0 && errno == EAGAIN) {
			counts.spurious += !i && !waiting_is_edge();
			c->r_ready = false;
		} else if (done < 0) {
			broken(c, "read failed with");
			return;
		} else if (!done) {
			c->eof = true;
		} else {
			go_on(c, at);
			if (!c->known && c->header == HEADER)
				learn(c);
			stop_for_a_while(c, at);
			if (!waiting_is_edge())
				c->r_ready = false;
		}
	}
}

static void end_of_input(struct conn *c)
{
	if (may_fail(c)) {
		if (c->plan.who != c->side || !c->known)
			finish(c, false);
		return;
	}
	if (c->received != c->plan.size[!c->side]) {
		counts.wrong++;
		complain(c, "the end came after bytes:", c->received);
		c->failed = true;
		finish(c, false);
	} else if (sent_all(c) && (c->fin || c->plan.end == END_CLOSE)) {
		finish(c, true);
	}
}

static void end_maybe(struct conn *c)
{
	struct plan *p = &c->plan;
	bool mine = p->who == c->side;

	if (!c->known || c->connecting)
		return;
	if (c->received > p->size[!c->side]) {
		counts.wrong++;
		complain(c, "too many bytes:", c->received);
		c->failed = true;
		finish(c, false);
	} else if (may_fail(c) && mine && (c->sent >= p->at || c->cut || c->eof)) {
		finish(c, false);
	} else if (p->end == END_HALF && sent_all(c) && !c->fin) {
		c->fin = !shutdown(c->fd, SHUT_WR);
	} else if (p->end == END_CLOSE && mine && sent_all(c) && c->received == p->size[!c->side]) {
		finish(c, true);
	}
	if (c->fd >= 0 && c->eof)
		end_of_input(c);
}

static void pump(struct conn *c, uint64_t at)
{
	if (c->connecting && c->w_ready) {
		int error = 0;
		socklen_t size = sizeof(error);

		getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
		c->connecting = false;
		errno = error;
		if (error) {
			c->plan.end = END_HALF;
			broken(c, "connect failed with");
		}
		c->r_ready = waiting_is_edge();
	}
	if (c->fd >= 0)
		read_on(c, at);
	if (c->fd >= 0)
		write_on(c, at);
	if (c->fd >= 0)
		end_maybe(c);
	if (c->fd >= 0 && at > c->progress + HANG) {
		counts.hangs++;
		c->failed = true;
		complain(c, "hangs; ready", c->r_ready * 2 + c->w_ready);
		finish(c, false);
	}
}

/* Milliseconds until something is due on a connection without any event. */
static int patience(struct conn *c, uint64_t at)
{
	uint64_t until = at + 1000;

	if ((c->r_ready && has_to_read(c, at)) || (c->w_ready && has_to_write(c, at)))
		return 0;
	if (c->r_until > at && c->r_until < until)
		until = c->r_until;
	if (c->w_until > at && c->w_until < until)
		until = c->w_until;
	return until - at;
}

static uint32_t wanted(struct conn *c, uint64_t at)
{
	uint32_t events = has_to_read(c, at) && !c->r_ready ? POLLIN : 0;

	if (c->connecting || (has_to_write(c, at) && !c->w_ready))
		events |= POLLOUT;
	return events;
}

static void accept_all(int listener)
{
	while (open_now < OPEN) {
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0)
			return;
		add(fd, SERVER)->r_ready = waiting_is_edge();
	}
}

static void work(int mode, int listener, uint64_t id, uint64_t step, uint64_t count, int limit)
{
	waiting_start(mode, listener);
	while (open_now || (!ending && (listener >= 0 || id < count))) {
		uint64_t at = now();
		int ms = 1000;

		while (listener < 0 && !ending && open_now < limit && id < count && dial(id))
			id += step;
		for (int i = 0; i < open_now; i++) {
			pump(conns[i], at);
			if (conns[i]->fd < 0) {
				free(conns[i]);
				conns[i--] = conns[--open_now];
				ms = 0;
			}
		}
		for (int i = 0; i < open_now; i++) {
			int own = patience(conns[i], at);

			ms = own < ms ? own : ms;
			waiting_want(conns[i], wanted(conns[i], at));
		}
		if (waiting_wait(conns, open_now, ms))
			accept_all(listener);
	}
}

static void tell(struct counts *all)
{
	struct counts sum = {};
	uint64_t stall = 0;

	for (int i = 0; i < MODES; i++) {
		for (size_t j = 0; j < sizeof(sum) / sizeof(uint64_t); j++)
			((uint64_t *)&sum)[j] += ((uint64_t *)&all[i])[j];
		stall = all[i].stall > stall ? all[i].stall : stall;
	}
	printf("{\"connections\": %llu, \"clean\": %llu, \"sent\": %llu, \"received\": %llu, \"wrong\": "
	       "%llu, "
	       "\"hangs\": %llu, \"odd\": %llu, \"spurious\": %llu, \"stall\": %llu}\n",
	       (unsigned long long)sum.connections, (unsigned long long)sum.clean,
	       (unsigned long long)sum.sent, (unsigned long long)sum.received, (unsigned long long)sum.wrong,
	       (unsigned long long)sum.hangs, (unsigned long long)sum.odd, (unsigned long long)sum.spurious,
	       (unsigned long long)stall);
}

static void on_end(int number)
{
	(void)number;
	ending = 1;
}

static void resolve(const char *host, const char *port)
{
	struct sockaddr_in *four = (struct sockaddr_in *)&where;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)&where;

	if (inet_pton(AF_INET, host, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons(atoi(port));
		where_size = sizeof(*four);
	} else if (inet_pton(AF_INET6, host, &six->sin6_addr) == 1) {
		six->sin6_family = AF_INET6;
		six->sin6_port = htons(atoi(port));
		where_size = sizeof(*six);
	}
}

static int listening(void)
{
	int fd = socket(where.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), yes = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (bind(fd, (struct sockaddr *)&where, where_size) || listen(fd, 1024)) {
		perror("listen");
		exit(1);
	}
	printf("ready\n");
	fflush(stdout);
	return fd;
}

int main(int argc, char **argv)
{
	struct counts *all =
		mmap(NULL, MODES * sizeof(counts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	bool serve = argc > 6 && !strcmp(argv[1], "serve");
	struct sigaction end = { .sa_handler = on_end };
	int listener = -1, status, failed = 0;
	pid_t children[MODES], parent = getpid();
	char log[4096];

	if (argc < (serve ? 7 : 9)) {
		fprintf(stderr, "usage: chaos serve|drive ADDRESS PORT SEED LOG PACE [COUNT LIMIT [echo]]\n");
		return 2;
	}
	resolve(argv[2], argv[3]);
	seed = strtoull(argv[4], NULL, 10);
	pace = atoi(argv[6]);
	echo = argc > 9;
	signal(SIGPIPE, SIG_IGN);
	sigaction(SIGTERM, &end, NULL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (serve)
		listener = listening();
	for (int mode = 0; mode < MODES; mode++) {
		children[mode] = fork();
		if (children[mode])
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		snprintf(log, sizeof(log), "%s.%d", argv[5], mode);
		records = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
		work(mode, listener, mode, MODES, serve ? 0 : strtoull(argv[7], NULL, 10),
		     serve ? OPEN : atoi(argv[8]) / MODES);
		all[mode] = counts;
		_exit(0);
	}
	for (int done = 0; done < MODES;) {
		pid_t child = waitpid(-1, &status, 0);

		if (child < 0 && errno == EINTR) {
			for (int mode = 0; mode < MODES; mode++)
				kill(children[mode], SIGTERM);
			continue;
		}
		failed |= status != 0;
		done++;
	}
	tell(all);
	return failed;
}
