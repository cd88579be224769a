# SPDX-License-Identifier: Apache-2.0
"""Ids and ranges: stable, never reused at once, taken back whole."""

from __future__ import annotations

import pytest

from netaccel.compile.ids import BackendKey, IdPool, Ids, PortKey, RangeAllocator
from netaccel.errors import CapacityError
from netaccel.model.address import parse_address
from netaccel.model.service import ServiceKey

A, B, C = ((parse_address(f"10.0.0.{n}"), 80) for n in (1, 2, 3))


def port(name: str) -> PortKey:
    return PortKey(ServiceKey("default", name), 80, 6, 2)


def test_id_zero_is_never_given_out_and_the_last_is() -> None:
    pool = IdPool("ids", 4)
    assert [pool.take() for _ in range(3)] == [1, 2, 3]
    with pytest.raises(CapacityError, match="0 of 3 are free, 1 are needed; raise"):
        pool.take()


def test_fresh_ids_come_before_freed_ones_and_those_by_age() -> None:
    pool = IdPool("ids", 5)
    for _ in range(3):
        pool.take()
    pool.free(2)
    pool.free(1)
    assert [pool.take() for _ in range(3)] == [4, 2, 1]


def test_many_are_given_out_or_none() -> None:
    pool = IdPool("ids", 4)
    with pytest.raises(CapacityError):
        pool.take_many(4)
    assert list(pool.take_many(3)) == [1, 2, 3]


def test_ids_taken_back_are_as_if_never_given() -> None:
    pool = IdPool("ids", 5)
    pool.take()
    second = pool.take()
    pool.give_back(second)
    assert pool.take() == second


def test_ranges_are_first_fit_and_neighbours_join() -> None:
    ranges = RangeAllocator("slots", 100)
    a, b, c = ranges.take(30), ranges.take(30), ranges.take(30)
    assert (a, b, c) == (0, 30, 60)
    with pytest.raises(CapacityError, match="no 11 of 100 in a row are free"):
        ranges.take(11)
    ranges.free(a, 30)
    ranges.free(c, 30)  # joins the ten at the end
    assert ranges.take(40) == 60
    ranges.free(b, 30)  # joins what is before it
    assert ranges.take(60) == 0
    assert ranges.available == 0


def test_ranges_in_use_may_overlap_when_they_are_found() -> None:
    ranges = RangeAllocator("slots", 100)
    ranges.restart([(10, 20), (15, 30), (90, 10)])
    assert ranges.available == 10 + 45
    assert ranges.take(45) == 45
    assert ranges.take(10) == 0


def test_the_same_port_and_backend_keep_their_ids() -> None:
    ids = Ids(10, 10, 100)
    assert ids.port(port("web")) == ids.port(port("web"))
    first = dict(ids.backends_of(1, [A, B]))
    assert first.items() <= dict(ids.backends_of(1, [C, B, A])).items()


def test_one_address_behind_two_ports_is_two_backends() -> None:
    ids = Ids(10, 10, 100)
    assert ids.backends_of(1, [A])[A] != ids.backends_of(2, [A])[A]


def test_nothing_freed_is_given_out_before_the_commit() -> None:
    ids = Ids(3, 2, 10)
    slot = ids.backends_of(1, [A])[A]
    number, start = ids.port(port("a")), ids.range(10)
    ids.port(port("b"))
    ids.commit()
    for what in (BackendKey(1, A), port("a"), (start, 10)):
        ids.free(what)
    for take in (lambda: ids.backends_of(1, [B]), lambda: ids.port(port("c")), lambda: ids.range(10)):
        with pytest.raises(CapacityError):
            take()
    ids.commit()
    assert (ids.backends_of(1, [B])[B], ids.port(port("c")), ids.range(10)) == (slot, number, start)


def test_a_slot_given_to_another_backend_has_another_generation() -> None:
    ids = Ids(10, 2, 10)
    slot = ids.backends_of(1, [A])[A]
    assert ids.generations[slot] == 1
    ids.commit()
    ids.free(BackendKey(1, A))
    ids.commit()
    assert ids.backends_of(1, [B])[B] == slot
    assert ids.generations[slot] == 2


def test_generations_go_round_without_zero() -> None:
    ids = Ids(10, 2, 10)
    ids.adopt({}, {}, {1: 2**32 - 1}, ())
    slot = ids.backends_of(1, [A])[A]
    assert (slot, ids.generations[slot]) == (1, 1)


def test_rolling_back_gives_everything_back() -> None:
    ids = Ids(10, 10, 100)
    ids.backends_of(1, [A])
    ids.commit()
    before = ids.available
    mark = ids.mark()
    ids.port(port("a"))
    ids.backends_of(1, [B, C])
    ids.range(50)
    ids.rollback(mark)
    assert ids.available == before
    assert ids.backends == {1: {A: 1}}
    assert ids.ports == {}


def test_what_the_maps_hold_is_adopted() -> None:
    ids = Ids(10, 10, 100)
    ids.adopt({port("web"): 4}, {4: {A: 7}}, {7: 3, 2: 9}, [(0, 61)])
    assert ids.port(port("web")) == 4
    assert dict(ids.backends_of(4, [A])) == {A: 7}
    assert ids.generations[7] == 3
    assert ids.range(30) == 61
    assert ids.port(port("other")) == 5
    taken = {
        ids.backends_of(4, [(parse_address("10.0.1.1"), n)])[parse_address("10.0.1.1"), n] for n in range(8)
    }
    assert taken == {1, 2, 3, 4, 5, 6, 8, 9}
    assert ids.generations[2] == 10, "a slot that was used before goes on counting"
