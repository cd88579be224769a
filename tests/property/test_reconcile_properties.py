# SPDX-License-Identifier: Apache-2.0
"""What holds for every history of Services, slices and nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import CONSTANTS, FREE, NODES, Change, NodeChange, apply, conditions, histories, lines

from netaccel.compile.invariants import violations
from netaccel.compile.services import compile_service
from netaccel.datapath.fake import FakeMaps
from netaccel.errors import DatapathError
from netaccel.model.event import Synced
from netaccel.reconcile import Engine, State

bounded = settings(max_examples=150, deadline=None)


def started(maps: FakeMaps) -> Engine:
    engine = Engine(maps, CONSTANTS, NODES[0])
    engine.take((Synced(),))
    return engine


def run_all(engine: Engine, on_error: Callable[[], None] = lambda: None) -> None:
    for _ in range(200):
        if not engine.due:
            return
        try:
            engine.run()
        except DatapathError:
            on_error()
    raise AssertionError("it never comes to an end")


def watched(**capacities: int) -> FakeMaps:
    """Maps that look for half Services after every single write."""
    maps = FakeMaps(**capacities)
    t = maps.tables

    def look() -> None:
        assert not list(violations(t["services"], t["frontends"], t["backends"], t["maglev"], FREE))

    maps.after_write = look
    return maps


def full(engine: Engine, history: list[Change]) -> tuple[Engine, FakeMaps]:
    """The same world, compiled at once into empty maps."""
    maps = FakeMaps()
    fresh = started(maps)
    for change in history:
        apply(fresh, change)
    fresh.run()
    return fresh, maps


@bounded
@given(histories)
def test_step_by_step_and_at_once_give_the_same(history: list[Change]) -> None:
    maps = watched()
    engine = started(maps)
    for change in history:
        apply(engine, change)
        run_all(engine)
    fresh, fresh_maps = full(engine, history)
    assert lines(maps) == lines(fresh_maps)
    assert conditions(engine) == conditions(fresh)


@bounded
@given(histories, st.lists(st.integers(0, 300), max_size=12))
def test_failing_writes_leave_nothing_half_and_the_end_is_the_same(
    history: list[Change], failures: list[int]
) -> None:
    maps = watched()
    engine = started(maps)
    left = list(failures)
    for change in history:
        apply(engine, change)
        maps.fail_after = left.pop() if left else None
        run_all(engine)
    _, fresh_maps = full(engine, history)
    assert lines(maps) == lines(fresh_maps)


@bounded
@given(histories, st.integers(0, 400))
def test_an_agent_that_dies_anywhere_is_followed_by_one_that_adopts_and_ends_it(
    history: list[Change], dies_after: int
) -> None:
    maps = watched()
    engine = started(maps)
    maps.fail_after = dies_after
    for i, change in enumerate(history):
        apply(engine, change)
        try:
            engine.run()
        except DatapathError:
            engine = Engine(maps, CONSTANTS, NODES[0])
            engine.take((Synced(),))
            for earlier in history[: i + 1]:
                apply(engine, earlier)
            run_all(engine)
    _, fresh_maps = full(engine, history)
    assert lines(maps) == lines(fresh_maps)

    maps.fail_after = None
    again = Engine(maps, CONSTANTS, NODES[0])
    for change in history:
        apply(again, change)
    again.take((Synced(),))
    assert again.run().written == 0, "a restart with the same world writes nothing"


def identities(maps: FakeMaps) -> dict[Any, Any]:
    """Ids of service ports, ids and generations of backends, by what they stand for."""
    ports = {
        number: (s.namespace, s.name, s.port, s.proto, s.family)
        for number, s in maps.tables["services"].items()
    }
    backends = {
        (ports[b.service], b.addr, b.port): (number, b.generation)
        for number, b in maps.tables["backends"].items()
        if b.state != FREE
    }
    return backends | {name: number for number, name in ports.items()}


@bounded
@given(histories)
def test_ids_last_as_long_as_what_they_stand_for(history: list[Change]) -> None:
    maps = FakeMaps()
    engine = started(maps)
    for change in history:
        before = identities(maps)
        apply(engine, change)
        run_all(engine)
        after = identities(maps)
        assert {what: after[what] for what in before.keys() & after.keys()} == {
            what: before[what] for what in before.keys() & after.keys()
        }


@bounded
@given(histories, st.integers(2, 10), st.integers(61, 250), st.integers(1, 12), st.integers(1, 4))
def test_full_maps_refuse_whole_and_no_dead_backend_stays(
    history: list[Change], backends: int, slots: int, frontends: int, source_ranges: int
) -> None:
    maps = watched(backends=backends, maglev=slots, frontends=frontends, source_ranges=source_ranges)
    engine = started(maps)
    facts = NODES[0]
    for change in history:
        apply(engine, change)
        facts = change.facts if isinstance(change, NodeChange) else facts
        run_all(engine)
        for key, condition in engine.conditions.items():
            service = engine.world.service(key)
            assert service is not None
            wanted = compile_service(service, engine.world.slices(key), facts)
            asked = {(f.addr, f.port, f.proto) for group in wanted.groups for f in group.frontends}
            there = {(group.port, group.proto, group.family): group for group in wanted.groups}
            placed = engine.placed.get(key)
            for port, group in placed.groups.items() if placed else ():
                assert set(group.backends) <= set(there[port[1:]].backends), "a dead backend stays"
            for where in placed.frontends if placed else ():
                assert tuple(where) in asked, "a frontend that nobody asks for any more stays"
            if condition.state is not State.REJECTED and wanted.groups:
                assert placed is not None
                assert set(placed.groups) == {(key, *port) for port in there}, "half of it is there"
