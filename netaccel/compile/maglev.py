# SPDX-License-Identifier: Apache-2.0
"""Maglev tables (Eisenbud et al., NSDI 2016, section 3.4): a slot for a hash, nearly even, nearly stable.

Every node with the same backends has the same table: a backend's permutation depends on its address and
port alone, and backends take turns in the order of these.

A table's length is the first of :data:`LENGTHS` that gives each backend five slots or more, so it is a prime,
grows with the number of backends, and changes only where that number crosses a doubling (a change of length
moves nearly every slot; flows that exist are not touched by it). One backend needs one slot.

Measured, 100 random sets each (tests/unit/test_maglev.py holds the bounds):

=====  =====  ===================================  =======================================
N      slots  busiest backend above its share      slots that change without need when one
                                                   of N leaves: mean, worst
=====  =====  ===================================  =======================================
3      61     3 %                                  3 %, 10 %
12     61     18 %                                 12 %, 23 %
25     127    18 %                                 9 %, 20 %
50     251    20 %                                 6 %, 11 %
100    509    18 %                                 4 %, 5 %
=====  =====  ===================================  =======================================

Every backend has floor(slots / N) or one slot more. A table of 100 slots a backend would bring the first
figure to 1 % at twenty times the memory and the time, which is 60 microseconds here for 50 backends.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import cycle, islice
from zlib import crc32

LENGTHS = (61, 127, 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071, 262139, 524287, 1048573)
"""Primes, each just below a power of two."""

SLOTS_PER_BACKEND = 5
"""The least; a table has up to twice as many."""

_SPREAD = 2654435761  # 2^32 divided by the golden ratio (Knuth 6.4): spreads a CRC's 32 bits over 64
_CACHED_LENGTH = 509  # walks of longer tables are made as they are walked


def table_length(backends: int) -> int:
    """Slots for this many backends: 0, 1, or a prime."""
    if backends <= 1:
        return backends
    index = bisect_left(LENGTHS, backends * SLOTS_PER_BACKEND)
    return LENGTHS[min(index, len(LENGTHS) - 1)]


def maglev_table(backends: Sequence[tuple[bytes, int]], names: Sequence[int]) -> list[int]:
    """The table. ``backends`` (address, port) are sorted and differ; ``names``: what slots hold for them."""
    count = len(backends)
    length = table_length(count)
    if length <= 1:
        return list(names)
    free = [True] * length
    is_free = free.__getitem__
    turns = [filter(is_free, walk) for walk in _permutations(backends, length)]
    table = [0] * length
    owners = islice(cycle(names), length)
    for owner, slot in zip(owners, map(next, cycle(turns)), strict=False):  # turns have no end, owners have
        free[slot] = False
        table[slot] = owner
    return table


def _permutations(backends: Sequence[tuple[bytes, int]], length: int) -> Iterator[Iterator[int]]:
    """Each backend's slots in the order of its preference: (start + j) * skip mod length, j from 0."""
    skips = length - 1
    walks = _walks(length) if length <= _CACHED_LENGTH else None
    for address, port in backends:
        # CRC-32 is the cheapest hash that is the same everywhere; equal hashes merely walk side by side.
        mixed = crc32(address, port) * _SPREAD >> 7
        skip, start = mixed % skips + 1, mixed // skips % length
        if walks:
            walk = iter(walks[skip])
            walk.__setstate__(start)  # type: ignore[attr-defined]  # a slice would cost three times as much
            yield walk
        else:
            first = start * skip
            yield map(length.__rmod__, range(first, first + length * skip, skip))


@cache
def _walks(length: int) -> tuple[tuple[int, ...], ...]:
    """Every walk of a length by its skip, twice round, so that one may begin anywhere."""
    return tuple(tuple(j * skip % length for j in range(2 * length)) for skip in range(length))
