/* SPDX-License-Identifier: Apache-2.0 */
/* The ways to wait for sockets, behind one face; and what TCP says of one. */
#ifndef WAITING_H
#define WAITING_H

#include "chaos.h"

struct tcp_figures {
	uint64_t acked, received;
	uint32_t queued;
};

void tcp_figures(int fd, struct tcp_figures *to);

void waiting_start(int mode, int listener);
bool waiting_is_edge(void);
void waiting_want(struct conn *c, uint32_t events);
void waiting_forget(struct conn *c);
bool waiting_wait(struct conn **conns, int count, int ms);

#endif
