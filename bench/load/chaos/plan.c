/* SPDX-License-Identifier: Apache-2.0 */
/* What a connection shall do, and its bytes. */
#include "chaos.h"

#include <string.h>

uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

uint64_t next(uint64_t *state)
{
	return mix((*state)++);
}

uint32_t below(uint64_t *state, uint32_t limit)
{
	return limit ? next(state) % limit : 0;
}

/* 1 to `most`, each power of two as likely as the next. */
uint32_t logarithmic(uint64_t *state, uint32_t most)
{
	uint32_t bits = 0, value;

	while (most >> bits)
		bits++;
	value = 1u << below(state, bits);
	value += below(state, value);
	return value < most ? value : most;
}

void make_plan(struct conn *c)
{
	uint64_t rng = mix(seed ^ mix(c->id));
	struct plan *p = &c->plan;
	uint32_t kind, large;

	for (int side = 0; side < 2; side++)
		c->key[side] = mix(rng + 77 * (echo ? 1 : side + 1));
	memset(p, 0, sizeof(*p));
	for (int side = 0; side < 2; side++)
		p->size[side] = logarithmic(&rng, 1 << 20);
	if (echo)
		p->size[SERVER] = p->size[CLIENT];
	large = p->size[0] > p->size[1] ? p->size[0] : p->size[1];
	p->largest = logarithmic(&rng, 64 * 1024);
	p->least = large / 200;
	p->warm = below(&rng, 4) ? pace * below(&rng, 400) : 0;
	p->think = below(&rng, 3) < (pace > 1 ? 2 : 1) ? 1 + below(&rng, pace > 1 ? 8 * pace : 20) : 0;
	p->small_buffers = large < 64 * 1024 && !below(&rng, 3);
	if (below(&rng, 2) && !echo) {
		uint32_t turns = logarithmic(&rng, 120) * pace;

		for (int side = 0; side < 2; side++) {
			p->turn[side] = logarithmic(&rng, 8 * 1024);
			p->size[side] = turns * p->turn[side];
			p->least = 1 + (p->turn[0] + p->turn[1]) / 8;
		}
	} else if (!below(&rng, 5) && !echo) {
		p->lazy = 1 + below(&rng, 2);
	}
	if (!below(&rng, 10)) {
		p->stopper = below(&rng, 2);
		p->stop_at = below(&rng, p->size[!p->stopper]);
		p->stop_time = 50 + below(&rng, below(&rng, 8) ? 500 : 3000);
	}
	if (!below(&rng, 12) && !echo)
		p->oob = 1 + below(&rng, 2);
	kind = below(&rng, 20);
	p->who = below(&rng, 2);
	p->end = kind < 9 || echo ? END_HALF : kind < 15 ? END_CLOSE : kind < 18 ? END_ABORT : END_UNREAD;
	p->at = below(&rng, p->size[p->who] + 1);
}

/* The bytes of `key` from `offset` on. */
void fill(uint8_t *to, uint64_t key, uint64_t offset, size_t size)
{
	while (size) {
		uint64_t word = mix(key + offset / 8);
		size_t skip = offset % 8, part = 8 - skip < size ? 8 - skip : size;

		memcpy(to, (uint8_t *)&word + skip, part);
		to += part;
		offset += part;
		size -= part;
	}
}

/* How many of the bytes are those that `key` has from `offset` on. */
size_t same(const uint8_t *bytes, uint64_t key, uint64_t offset, size_t size)
{
	size_t done = 0;

	while (done < size) {
		uint64_t word = mix(key + (offset + done) / 8);
		size_t skip = (offset + done) % 8, left = size - done;
		size_t part = 8 - skip < left ? 8 - skip : left;

		if (memcmp(bytes + done, (uint8_t *)&word + skip, part)) {
			while (bytes[done] == ((uint8_t *)&word)[skip])
				done++, skip++;
			return done;
		}
		done += part;
	}
	return size;
}
