/* SPDX-License-Identifier: Apache-2.0 */
/* Byte-exact chaos load: what the parts of chaos.c share.
 *
 * Every connection has an id. Its plan (sizes, ends, pauses) and its bytes follow from the run's seed and
 * the id alone, so that each side knows what the other does, and any byte that is lost, doubled, out of
 * order or another connection's is seen where it is read.
 */
#ifndef CHAOS_H
#define CHAOS_H

#define _GNU_SOURCE
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	CLIENT,
	SERVER
};
enum {
	MODE_LEVEL,
	MODE_EDGE,
	MODE_POLL,
	MODE_SELECT,
	MODE_URING,
	MODES
};
enum ending {
	END_HALF,   /* each side shuts its direction after its last byte, reads to the end, closes */
	END_CLOSE,  /* `who` closes when it has sent and read all; the other side reads the end */
	END_ABORT,  /* `who` closes with SO_LINGER 0 after `at` bytes */
	END_UNREAD, /* `who` closes after `at` bytes, whatever is unread */
};

#define BUFFER (256 * 1024)
#define HEADER sizeof(uint64_t) /* the client's first bytes: the id */
#define OOB_BYTE 0x21

struct plan {
	uint32_t size[2];        /* bytes by side, without header and urgent byte */
	uint32_t turn[2];        /* a chat: bytes a turn by side; 0: both stream at once */
	uint32_t least, largest; /* bytes of a message */
	uint32_t warm;           /* ms that the client waits after its first bytes */
	uint32_t think;          /* ms at most between messages */
	uint32_t stop_at;        /* bytes after which the reader `stopper` stops once */
	uint32_t stop_time;      /* ms; 0: never */
	uint32_t at;
	enum ending end;
	uint8_t who, stopper;
	uint8_t lazy; /* 1 + the side that reads nothing before it has sent all; 0: none */
	uint8_t oob;  /* 1 + the side that sends one urgent byte; 0: none */
	uint8_t small_buffers;
};

struct conn {
	int fd;
	uint64_t id, cookie;
	uint64_t rng;
	struct plan plan;
	uint64_t key[2]; /* of the bytes of each side */
	uint64_t sent, received;
	uint64_t header; /* bytes of it so far, sent or received */
	uint64_t back;   /* echo: of it that came back */
	uint64_t left;   /* of the last write: bytes that the socket did not take */
	uint8_t head[HEADER];
	uint8_t side;
	bool connecting, known; /* known: the plan is */
	bool r_ready, w_ready;  /* may be tried */
	bool eof, fin, cut;     /* the other's end; ours; writing failed as the plan may explain */
	bool failed;
	bool oob_sent, stopped, warmed;
	bool armed;                          /* epoll or io_uring watches it */
	uint32_t interest;                   /* for these events */
	uint64_t r_until, w_until, progress; /* ms */
};

/* One line of the log: a connection as one side saw it. Read by bench/chaos.py. */
struct record {
	uint64_t id, cookie;
	uint64_t sent, received;  /* by the application's count, header and urgent byte included */
	uint64_t tcp_out, tcp_in; /* by TCP's; in: 0 where the connection ended by an error */
	uint64_t refused;         /* of the last write: bytes not taken, where that was an error */
	uint32_t side, clean;
};

struct counts {
	uint64_t connections, sent, received, wrong, hangs, odd, spurious, clean;
	uint64_t writes[16], reads[16];
	uint64_t stall; /* ms: the longest that a connection stood still; of several counts the largest */
};

extern struct counts counts;
extern uint64_t seed;
extern int pace;  /* 1: connections live for a second or so; more: for longer */
extern bool echo; /* the server gives back what it gets: its bytes are ours */

/* plan.c */
uint64_t mix(uint64_t x);
uint64_t next(uint64_t *state);
uint32_t below(uint64_t *state, uint32_t limit);
uint32_t logarithmic(uint64_t *state, uint32_t most);
void make_plan(struct conn *c);
void fill(uint8_t *to, uint64_t key, uint64_t offset, size_t size);
size_t same(const uint8_t *bytes, uint64_t key, uint64_t offset, size_t size);

/* io.c */
long write_some(struct conn *c, size_t most);
long read_some(struct conn *c);
void complain(struct conn *c, const char *what, uint64_t number);
extern bool with_uring;

/* uring.c */
struct uring;
struct uring *uring_open(void);
long uring_call(int opcode, int fd, void *buffer, size_t size, int flags);
void uring_poll(struct uring *ring, int fd, uint32_t events, uint64_t tag);
void uring_unpoll(struct uring *ring, uint64_t polled, uint64_t tag);
int uring_wait(struct uring *ring, int ms, uint64_t *tag, int *result);

#endif
