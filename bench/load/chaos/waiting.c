/* SPDX-License-Identifier: Apache-2.0 */
#include "waiting.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 64
#define LISTENER (~0ull)
#define REMOVED (~1ull)

static int mode, set = -1, listener;
static struct uring *ring;

void tcp_figures(int fd, struct tcp_figures *to)
{
	struct tcp_info info = {};
	socklen_t size = sizeof(info);
	int queued = 0;

	getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size);
	ioctl(fd, SIOCOUTQ, &queued);
	*to = (struct tcp_figures){ info.tcpi_bytes_acked, info.tcpi_bytes_received, queued };
}

static void watch_listener(void)
{
	struct epoll_event event = { EPOLLIN, { .u64 = LISTENER } };

	if (listener < 0)
		return;
	if (set >= 0)
		epoll_ctl(set, EPOLL_CTL_ADD, listener, &event);
	if (ring)
		uring_poll(ring, listener, POLLIN, LISTENER);
}

void waiting_start(int chosen, int accepting)
{
	mode = chosen;
	listener = accepting;
	ring = mode == MODE_URING ? uring_open() : NULL;
	if (mode == MODE_URING && !ring)
		mode = MODE_POLL;
	with_uring = ring != NULL;
	if (mode == MODE_LEVEL || mode == MODE_EDGE)
		set = epoll_create1(EPOLL_CLOEXEC);
	watch_listener();
}

/* Whether a socket is told to be readable only once, until a read says EAGAIN. */
bool waiting_is_edge(void)
{
	return mode == MODE_EDGE;
}

static void want_edge(struct conn *c)
{
	struct epoll_event event = { EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, { .ptr = c } };

	if (!c->armed)
		epoll_ctl(set, EPOLL_CTL_ADD, c->fd, &event);
	c->armed = true;
}

/* Without a wish it is no member: EPOLLHUP can't be waved aside. */
static void want_level(struct conn *c, uint32_t events)
{
	struct epoll_event event = { events, { .ptr = c } };
	int call = !events ? EPOLL_CTL_DEL : c->armed ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

	if (events != c->interest)
		epoll_ctl(set, call, c->fd, &event);
	c->armed = events != 0;
	c->interest = events;
}

static void happened(struct conn *c, uint32_t events)
{
	if (events & (POLLIN | POLLHUP | POLLERR | POLLRDHUP))
		c->r_ready = true;
	if (events & (POLLOUT | POLLHUP | POLLERR))
		c->w_ready = true;
}

/* The tag of one completion, 0 after `ms` without one. */
static uint64_t completed(int ms)
{
	uint64_t tag;
	int result;

	if (!uring_wait(ring, ms, &tag, &result))
		return 0;
	if (tag == LISTENER) {
		uring_poll(ring, listener, POLLIN, LISTENER);
	} else if (tag != REMOVED) {
		((struct conn *)tag)->armed = false;
		if (result > 0)
			happened((struct conn *)tag, result);
	}
	return tag;
}

static bool by_uring(int ms)
{
	bool come = false;
	uint64_t tag;

	for (int i = 0; i < EVENTS && (tag = completed(i ? 0 : ms)); i++)
		come |= tag == LISTENER;
	return come;
}

/* A poll that is under way holds the socket: nothing would be closed. */
static void unpoll(struct conn *c)
{
	bool removed = false;

	uring_unpoll(ring, (uintptr_t)c, REMOVED);
	while (!removed || c->armed)
		removed |= completed(1000) == REMOVED;
}

void waiting_want(struct conn *c, uint32_t events)
{
	if (mode == MODE_EDGE) {
		want_edge(c);
	} else if (mode == MODE_LEVEL) {
		want_level(c, events);
	} else if (mode == MODE_URING) {
		if (c->armed && events & ~c->interest)
			unpoll(c);
		if (events && !c->armed) {
			c->armed = true;
			c->interest = events;
			uring_poll(ring, c->fd, events, (uintptr_t)c);
		}
	} else {
		c->interest = events;
	}
}

void waiting_forget(struct conn *c)
{
	if (mode == MODE_URING && c->armed)
		unpoll(c);
}

static bool by_epoll(int ms)
{
	struct epoll_event events[EVENTS];
	int count = epoll_wait(set, events, EVENTS, ms);
	bool come = false;

	for (int i = 0; i < count; i++) {
		if (events[i].data.u64 == LISTENER)
			come = true;
		else
			happened(events[i].data.ptr, events[i].events);
	}
	return come;
}

static bool by_poll(struct conn **conns, int count, int ms)
{
	struct pollfd fds[1024];
	int used = 0;

	for (; used < count; used++)
		fds[used] = (struct pollfd){ conns[used]->interest ? conns[used]->fd : -1,
					     conns[used]->interest, 0 };
	fds[used] = (struct pollfd){ listener, POLLIN, 0 };
	if (poll(fds, used + 1, ms) <= 0)
		return false;
	for (int i = 0; i < count; i++)
		happened(conns[i], fds[i].revents);
	return fds[used].revents;
}

static bool by_select(struct conn **conns, int count, int ms)
{
	struct timeval time = { ms / 1000, ms % 1000 * 1000 };
	int most = listener;
	fd_set in, out;

	FD_ZERO(&in);
	FD_ZERO(&out);
	if (listener >= 0)
		FD_SET(listener, &in);
	for (int i = 0; i < count; i++) {
		if (conns[i]->interest & POLLIN)
			FD_SET(conns[i]->fd, &in);
		if (conns[i]->interest & POLLOUT)
			FD_SET(conns[i]->fd, &out);
		most = conns[i]->fd > most ? conns[i]->fd : most;
	}
	if (select(most + 1, &in, &out, NULL, &time) <= 0)
		return false;
	for (int i = 0; i < count; i++) {
		conns[i]->r_ready |= FD_ISSET(conns[i]->fd, &in) != 0;
		conns[i]->w_ready |= FD_ISSET(conns[i]->fd, &out) != 0;
	}
	return listener >= 0 && FD_ISSET(listener, &in);
}

/* Wait at most `ms`. Whether somebody wants to connect. */
bool waiting_wait(struct conn **conns, int count, int ms)
{
	switch (mode) {
	case MODE_POLL:
		return by_poll(conns, count, ms);
	case MODE_SELECT:
		return by_select(conns, count, ms);
	case MODE_URING:
		return by_uring(ms);
	}
	return by_epoll(ms);
}
