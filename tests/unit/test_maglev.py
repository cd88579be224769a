# SPDX-License-Identifier: Apache-2.0
"""Maglev tables: whole, nearly even, nearly stable, the same everywhere."""

from __future__ import annotations

import hashlib
import itertools
import random
from array import array

import pytest

from netaccel.compile.maglev import LENGTHS, SLOTS_PER_BACKEND, maglev_table, table_length
from netaccel.model.address import parse_address

Place = tuple[bytes, int]
DIGEST = "9367b89a18462b12"


def places(count: int, seed: int = 0) -> list[Place]:
    """Backends as a pod CIDR gives them: one after the other."""
    first = random.Random(seed).randrange(1 << 23)
    return [
        (parse_address(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"), 8080) for n in range(first, first + count)
    ]


def table(backends: list[Place]) -> list[int]:
    return maglev_table(backends, range(len(backends)))


def test_lengths_are_primes_about_twice_the_one_before() -> None:
    for length in LENGTHS:
        assert all(length % divisor for divisor in range(2, int(length**0.5) + 1))
    assert all(1.9 < b / a < 2.2 for a, b in itertools.pairwise(LENGTHS))


@pytest.mark.parametrize(
    ("backends", "length"), [(0, 0), (1, 1), (2, 61), (12, 61), (13, 127), (50, 251), (51, 509)]
)
def test_a_table_has_five_slots_a_backend_or_more(backends: int, length: int) -> None:
    assert table_length(backends) == length


def test_the_longest_table_serves_any_number_of_backends() -> None:
    assert table_length(10**6) == LENGTHS[-1]


@pytest.mark.parametrize("count", [1, 2, 3, 12, 50, 103, 205])
def test_every_backend_has_the_same_number_of_slots_or_one_more(count: int) -> None:
    made = table(places(count))
    counts = [made.count(i) for i in range(count)]
    assert max(counts) - min(counts) <= 1
    assert min(counts) >= min(SLOTS_PER_BACKEND, len(made))


def test_the_names_of_backends_do_not_change_the_pattern() -> None:
    backends = places(7)
    ids = [100, 7, 3000, 12, 5, 9, 1]
    assert maglev_table(backends, ids) == [ids[i] for i in table(backends)]


def test_the_table_is_the_same_on_every_node_and_in_every_version() -> None:
    """Changing the permutation reshuffles the clients of every Service: this digest must not change."""
    made = array("H", table(places(50, seed=7))).tobytes()
    assert hashlib.sha256(made).hexdigest()[:16] == DIGEST


@pytest.mark.parametrize(("count", "mean"), [(4, 0.10), (12, 0.18), (25, 0.14), (50, 0.10), (100, 0.06)])
def test_when_a_backend_leaves_the_others_keep_their_slots(count: int, mean: float) -> None:
    changed = []
    for seed in range(40):
        backends = places(count, seed)
        before = table(backends)
        gone = random.Random(seed).randrange(count)
        left = [i for i in range(count) if i != gone]
        after = maglev_table([backends[i] for i in left], left)
        assert len(after) == len(before)
        moved = sum(was != now and was != gone for was, now in zip(before, after, strict=True))
        changed.append(moved / len(before))
    assert sum(changed) / len(changed) < mean


def test_long_tables_are_walked_as_short_ones() -> None:
    """Beyond 509 slots permutations are made as they are walked, not looked up."""
    made = table(places(200))
    assert len(made) == 1021
    assert sorted(set(made)) == list(range(200))
