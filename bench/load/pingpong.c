// SPDX-License-Identifier: Apache-2.0
// Client and server of the acceleration's bench: one thread, epoll, sockets that never block.
//
//   pingpong serve ENDPOINT [once]                       until SIGTERM; once: closes after its first answer
//   pingpong ask ENDPOINT CONNECTIONS WARM SECONDS PID SIZE…   request and answer of SIZE bytes, per size
//   pingpong send ENDPOINT CONNECTIONS WARM SECONDS PID SIZE…  one way, in writes of SIZE bytes
//   pingpong connect ENDPOINT CONNECTIONS WARM SECONDS PID SIZE…  a connection for each request and answer
//
// ENDPOINT: ADDRESS/PORT, or the absolute path of a unix socket. PID: the server's, for its CPU time; 0:
// unknown. WARM, SECONDS: may be fractions; the warm-up comes once, before the first size, and SIGUSR1 ends
// it. The client prints a line of JSON a size. Times of CPU in nanoseconds; machine: all CPUs' busy time.
//
// Each message is a piece of one pattern that begins where connection, direction and number of the message
// say. A control record (0xff, which the pattern lacks; then struct control) opens a connection and each new
// size.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PERIOD 251
#define CHUNK (64 * 1024)
#define LARGEST (4u << 20)
#define CONNECTIONS 1024
#define EVENTS 64
#define WRITES 16
#define STRIDE 509 // one byte of so many is compared, and the first and last of each read
#define CONTROL 0xff
#define NANO 1000000000ull

enum mode {
	ASK,
	SEND,
	CONNECT
};

struct control {
	uint32_t size, id, mode;
} __attribute__((packed));

#define CONTROL_SIZE (1 + sizeof(struct control))

struct connection {
	int fd;
	int wants_out;
	struct control control;
	uint32_t message; // number of the message on its way
	uint32_t in, out; // bytes of it read, and still to be written
	uint32_t out_at;
	int heading;      // client: bytes of the control record still to be written
	int control_read; // server: bytes of a control record read; -1: none begun
	unsigned char head[CONTROL_SIZE];
};

struct endpoint {
	struct sockaddr_storage address;
	socklen_t length;
};

static unsigned char pattern[LARGEST + 2 * PERIOD];
static unsigned char buffer[CHUNK];
static unsigned char *scratch; // control record and message in one write
static struct connection connections[CONNECTIONS];
static struct endpoint endpoint;
static int poller;
static uint64_t errors, transactions, bytes;
static volatile sig_atomic_t stopped, warm;

static void die(const char *what)
{
	fprintf(stderr, "pingpong: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * NANO + t.tv_nsec;
}

// Where in the pattern a message begins; answers begin elsewhere than requests.
static uint32_t begin_of(const struct connection *c, int answer)
{
	return (c->control.id * 31 + c->message * 7 + answer * 101) % PERIOD;
}

static void compare(const struct connection *c, int answer, uint32_t at, uint32_t length,
		    const unsigned char *data)
{
	const unsigned char *wanted = pattern + (begin_of(c, answer) + at) % PERIOD;

	if (!length)
		return;
	for (uint32_t i = 0; i < length; i += STRIDE)
		errors += data[i] != wanted[i];
	errors += data[length - 1] != wanted[length - 1];
}

static void parse_endpoint(const char *text)
{
	struct sockaddr_in *v4 = (void *)&endpoint.address;
	struct sockaddr_in6 *v6 = (void *)&endpoint.address;
	struct sockaddr_un *un = (void *)&endpoint.address;
	char address[128];
	const char *slash = strrchr(text, '/');

	if (text[0] == '/' && strlen(text) < sizeof(un->sun_path)) {
		un->sun_family = AF_UNIX;
		strcpy(un->sun_path, text);
		endpoint.length = sizeof(*un);
		return;
	}
	if (slash && slash - text < (long)sizeof(address)) {
		memcpy(address, text, slash - text);
		address[slash - text] = 0;
		if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
			v4->sin_family = AF_INET;
			v4->sin_port = htons(atoi(slash + 1));
			endpoint.length = sizeof(*v4);
			return;
		}
		if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
			v6->sin6_family = AF_INET6;
			v6->sin6_port = htons(atoi(slash + 1));
			endpoint.length = sizeof(*v6);
			return;
		}
	}
	errno = EINVAL;
	die(text);
}

static void no_delay(int fd)
{
	int on = 1;

	if (endpoint.address.ss_family != AF_UNIX &&
	    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)))
		die("TCP_NODELAY");
}

static void watch(struct connection *c, int operation, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = c };

	if (epoll_ctl(poller, operation, c->fd, &event))
		die("epoll_ctl");
	c->wants_out = !!(events & EPOLLOUT);
}

static void drop(struct connection *c)
{
	close(c->fd); // which ends the watch, too
	c->fd = -1;
}

// Writes what is left of the message; 0: all is written, 1: the socket is full, -1: it failed.
static int push(struct connection *c, int answer)
{
	ssize_t n;

	while (c->heading || c->out) {
		const unsigned char *from = pattern + (begin_of(c, answer) + c->out_at) % PERIOD;

		if (c->heading) {
			memcpy(scratch, c->head + CONTROL_SIZE - c->heading, c->heading);
			memcpy(scratch + c->heading, from, c->out);
			n = send(c->fd, scratch, c->heading + c->out, MSG_NOSIGNAL);
		} else {
			n = send(c->fd, from, c->out, MSG_NOSIGNAL);
		}
		if (n < 0) {
			if (errno == EAGAIN) {
				if (!c->wants_out)
					watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
				return 1;
			}
			return -1;
		}
		if (c->heading) {
			int headed = n < c->heading ? n : c->heading;

			c->heading -= headed;
			n -= headed;
		}
		c->out -= n;
		c->out_at += n;
	}
	if (c->wants_out)
		watch(c, EPOLL_CTL_MOD, EPOLLIN);
	return 0;
}

// ---- server

static void begin_control(struct connection *c)
{
	memcpy(&c->control, c->head + 1, sizeof(c->control));
	if (!c->control.size || c->control.size > LARGEST) {
		fprintf(stderr, "pingpong: a message of %u bytes\n", c->control.size);
		errors++;
		c->control.size = 1;
	}
	c->message = c->in = 0;
}

// Takes what was read; returns -1 where the connection is to be closed.
static int take(struct connection *c, const unsigned char *data, uint32_t length, int once)
{
	while (length) {
		uint32_t n;

		if (c->control_read < 0 && !c->in && data[0] == CONTROL)
			c->control_read = 0;
		if (c->control_read >= 0) {
			n = CONTROL_SIZE - c->control_read;
			if (n > length)
				n = length;
			memcpy(c->head + c->control_read, data, n);
			c->control_read += n;
			data += n;
			length -= n;
			if (c->control_read == CONTROL_SIZE) {
				begin_control(c);
				c->control_read = -1;
			}
			continue;
		}
		n = c->control.size - c->in;
		if (n > length)
			n = length;
		compare(c, 0, c->in, n, data);
		c->in += n;
		data += n;
		length -= n;
		if (c->in < c->control.size)
			continue;
		c->in = 0;
		if (c->control.mode == SEND) {
			c->message++;
			continue;
		}
		c->out = c->control.size;
		c->out_at = 0;
		if (push(c, 1) < 0)
			return -1;
		if (!c->out) {
			c->message++;
			if (once)
				return -1;
		}
	}
	return 0;
}

static void welcome(int listener)
{
	for (;;) {
		struct connection *c = NULL;
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0)
			return;
		for (int i = 0; i < CONNECTIONS && !c; i++)
			if (connections[i].fd < 0)
				c = &connections[i];
		if (!c) {
			close(fd);
			errors++;
			continue;
		}
		memset(c, 0, sizeof(*c));
		c->fd = fd;
		c->control_read = -1;
		no_delay(fd);
		watch(c, EPOLL_CTL_ADD, EPOLLIN);
	}
}

static void serve_event(struct connection *c, uint32_t events, int once)
{
	ssize_t n;

	if (c->out) {
		if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
			return;
		if (push(c, 1) < 0)
			return drop(c);
		if (c->out)
			return;
		c->message++;
		if (once)
			return drop(c);
	}
	if (!(events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
		return;
	n = recv(c->fd, buffer, sizeof(buffer), 0);
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0 || take(c, buffer, n, once) < 0)
		drop(c);
}

static void stop(int number)
{
	(void)number;
	stopped = 1;
}

static void end_warming(int number)
{
	(void)number;
	warm = 1;
}

static int serve(int once)
{
	struct epoll_event events[EVENTS], listening = { .events = EPOLLIN };
	struct sigaction action = { .sa_handler = stop };
	int listener = socket(endpoint.address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0),
	    on = 1;

	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(listener, (void *)&endpoint.address, endpoint.length) || listen(listener, 4096))
		die("listen");
	if (epoll_ctl(poller, EPOLL_CTL_ADD, listener, &listening))
		die("epoll_ctl");
	printf("listening\n");
	fflush(stdout);
	while (!stopped) {
		int n = epoll_wait(poller, events, EVENTS, -1);

		for (int i = 0; i < n; i++) {
			struct connection *c = events[i].data.ptr;

			if (!c)
				welcome(listener);
			else if (c->fd >= 0)
				serve_event(c, events[i].events, once);
		}
	}
	printf("{\"errors\":%llu}\n", (unsigned long long)errors);
	return errors ? 1 : 0;
}

// ---- client

static void ask(struct connection *c)
{
	c->in = 0;
	c->out = c->control.size;
	c->out_at = 0;
	if (push(c, 0) < 0)
		die("send");
}

static void announce(struct connection *c, uint32_t size, enum mode mode)
{
	c->control.size = size;
	c->control.mode = mode;
	c->message = 0;
	c->head[0] = CONTROL;
	memcpy(c->head + 1, &c->control, sizeof(c->control));
	c->heading = CONTROL_SIZE;
}

static void dial(struct connection *c, uint32_t id)
{
	memset(c, 0, sizeof(*c));
	c->fd = socket(endpoint.address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		die("socket");
	c->control.id = id;
	no_delay(c->fd);
	while (connect(c->fd, (void *)&endpoint.address, endpoint.length) && errno != EINPROGRESS)
		if (errno != EAGAIN) // a unix socket whose backlog is full
			die("connect");
	watch(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
}

// An answer has come whole, or (SEND) a message has gone: what is next.
static void next(struct connection *c, int going)
{
	transactions++;
	bytes += c->control.size;
	c->message++;
	if (going)
		ask(c);
}

static void ask_event(struct connection *c, uint32_t events, int going)
{
	ssize_t n;

	if ((events & EPOLLOUT) && (c->out || c->heading)) {
		if (push(c, 0) < 0)
			die("send");
	}
	if (!(events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
		return;
	n = recv(c->fd, buffer, sizeof(buffer), 0);
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0)
		die("recv");
	if (c->in + n > c->control.size) {
		errors++;
		die("more bytes than an answer has");
	}
	compare(c, 1, c->in, n, buffer);
	c->in += n;
	if (c->in == c->control.size)
		next(c, going);
}

// Some writes, then the others' turn. EPOLLOUT stays asked for: the kernel says when there is room.
static void send_event(struct connection *c, int going)
{
	for (int i = 0; i < WRITES; i++) {
		if (c->heading) {
			if (push(c, 0))
				return;
			watch(c, EPOLL_CTL_MOD, EPOLLOUT);
		} else if (c->out) {
			ssize_t n = send(c->fd, pattern + (begin_of(c, 0) + c->out_at) % PERIOD, c->out,
					 MSG_NOSIGNAL);

			if (n < 0 && errno == EAGAIN)
				return;
			if (n < 0)
				die("send");
			c->out -= n;
			c->out_at += n;
		}
		if (c->out)
			return;
		transactions++;
		bytes += c->control.size;
		c->message++;
		if (!going)
			return watch(c, EPOLL_CTL_MOD, 0);
		c->out = c->control.size;
		c->out_at = 0;
	}
}

// A connection's whole life; the server closes it.
static void connect_event(struct connection *c, uint32_t events, int going)
{
	uint32_t size = c->control.size, id = c->control.id;
	ssize_t n;

	if (c->out || c->heading) {
		if ((events & EPOLLOUT) && push(c, 0) < 0)
			die("connect");
		if (!(events & EPOLLIN))
			return;
	}
	n = recv(c->fd, buffer, sizeof(buffer), 0);
	if (n < 0 && errno == EAGAIN)
		return;
	if (n < 0)
		die("recv");
	if (n) {
		compare(c, 1, c->in, n, buffer);
		c->in += n;
		return;
	}
	errors += c->in != size;
	transactions++;
	bytes += size;
	drop(c);
	if (!going)
		return;
	dial(c, id);
	announce(c, size, CONNECT);
	c->out = size;
}

static int open_ones(int count)
{
	int found = 0;

	for (int i = 0; i < count; i++)
		found += connections[i].fd >= 0;
	return found;
}

// Runs for a time, or (nanoseconds 0) until no answer is awaited.
static void turn(enum mode mode, int count, uint64_t nanoseconds, int warming)
{
	uint64_t end = now() + nanoseconds, last = now() + 10 * NANO;
	struct epoll_event events[EVENTS];
	uint64_t awaited = 0;

	for (;;) {
		uint64_t t = now();
		int going = nanoseconds && t < end && !(warming && warm), n;

		if (nanoseconds && !going)
			return;
		if (!nanoseconds) {
			awaited = mode == CONNECT ? open_ones(count) : 0;
			for (int i = 0; i < count && mode == ASK; i++)
				awaited += connections[i].in < connections[i].control.size;
			for (int i = 0; i < count && mode == SEND; i++)
				awaited += connections[i].out || connections[i].heading;
			if (!awaited)
				return;
			if (t > last) {
				errno = ETIMEDOUT;
				die("the last answers");
			}
		}
		n = epoll_wait(poller, events, EVENTS, 1000);
		if (n < 0 && errno != EINTR)
			die("epoll_wait");
		if (n == 0)
			errors++; // a second of silence
		for (int i = 0; i < n; i++) {
			struct connection *c = events[i].data.ptr;

			if (mode == ASK)
				ask_event(c, events[i].events, going);
			else if (mode == SEND)
				send_event(c, going);
			else if (c->fd >= 0)
				connect_event(c, events[i].events, going);
		}
	}
}

static uint64_t cpu_of(const char *pid)
{
	unsigned long long found = 0;
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%s/schedstat", pid);
	file = fopen(path, "r");
	if (file) {
		if (fscanf(file, "%llu", &found) != 1)
			found = 0;
		fclose(file);
	}
	return found;
}

// Busy time of all CPUs: user, nice, system, irq, softirq of /proc/stat.
static uint64_t busy(void)
{
	unsigned long long t[7] = {};
	FILE *file = fopen("/proc/stat", "r");

	if (!file)
		die("/proc/stat");
	if (fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu", t, t + 1, t + 2, t + 3, t + 4, t + 5,
		   t + 6) != 7)
		die("/proc/stat");
	fclose(file);
	return (t[0] + t[1] + t[2] + t[5] + t[6]) * (NANO / sysconf(_SC_CLK_TCK));
}

static void start(enum mode mode, int count, uint32_t size)
{
	for (int i = 0; i < count; i++) {
		struct connection *c = &connections[i];

		if (c->fd < 0)
			dial(c, i);
		announce(c, size, mode);
		c->in = 0;
		c->out = size;
		c->out_at = 0;
		if (!c->wants_out)
			watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
	}
}

static void measure(enum mode mode, int count, uint32_t size, double seconds, const char *pid)
{
	uint64_t begin, end, machine, client, server;

	transactions = bytes = 0;
	begin = now();
	machine = busy();
	client = cpu_of("self");
	server = cpu_of(pid);
	turn(mode, count, seconds * NANO, 0);
	end = now();
	machine = busy() - machine;
	client = cpu_of("self") - client;
	server = cpu_of(pid) - server;
	printf("{\"size\":%u,\"connections\":%d,\"seconds\":%.6f,\"transactions\":%llu,\"bytes\":%llu,"
	       "\"errors\":%llu,"
	       "\"client\":%llu,\"server\":%llu,\"machine\":%llu}\n",
	       size, count, (end - begin) / 1e9, (unsigned long long)transactions, (unsigned long long)bytes,
	       (unsigned long long)errors, (unsigned long long)client, (unsigned long long)server,
	       (unsigned long long)machine);
	fflush(stdout);
}

static int drive(enum mode mode, char **argument, int given)
{
	int count = atoi(argument[0]);
	double longest = atof(argument[1]), seconds = atof(argument[2]);
	const char *pid = argument[3];

	if (count < 1 || count > CONNECTIONS) {
		errno = EINVAL;
		die("CONNECTIONS");
	}
	for (int i = 4; i < given; i++) {
		uint32_t size = atoi(argument[i]);

		if (!size || size > LARGEST) {
			errno = EINVAL;
			die(argument[i]);
		}
		start(mode, count, size);
		turn(mode, count, (i == 4 ? longest : 0.02) * NANO, i == 4);
		measure(mode, count, size, seconds, pid);
		turn(mode, count, 0, 0);
	}
	return errors ? 1 : 0;
}

int main(int given, char **argument)
{
	struct sigaction action = { .sa_handler = end_warming, .sa_flags = SA_RESTART };

	if (given < 3 || (strcmp(argument[1], "serve") && given < 8)) {
		fprintf(stderr, "usage: see the head of pingpong.c\n");
		return 2;
	}
	sigaction(SIGUSR1, &action, NULL);
	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = i % PERIOD;
	for (int i = 0; i < CONNECTIONS; i++)
		connections[i].fd = -1;
	scratch = malloc(LARGEST + CONTROL_SIZE);
	poller = epoll_create1(EPOLL_CLOEXEC);
	if (!scratch || poller < 0)
		die("start");
	parse_endpoint(argument[2]);
	if (!strcmp(argument[1], "serve"))
		return serve(given > 3 && !strcmp(argument[3], "once"));
	if (!strcmp(argument[1], "ask"))
		return drive(ASK, argument + 3, given - 3);
	if (!strcmp(argument[1], "send"))
		return drive(SEND, argument + 3, given - 3);
	if (!strcmp(argument[1], "connect"))
		return drive(CONNECT, argument + 3, given - 3);
	fprintf(stderr, "pingpong: %s?\n", argument[1]);
	return 2;
}
