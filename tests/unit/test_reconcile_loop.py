# SPDX-License-Identifier: Apache-2.0
"""The reconciler as a task: events in, retries, the hook, a clean stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from test_reconcile_engine import CONSTANTS, FREE, NODE, WEB, endpoints, service

from netaccel.compile.services import NodeFacts
from netaccel.datapath.fake import FakeMaps
from netaccel.errors import DatapathError
from netaccel.model.address import parse_address
from netaccel.model.event import Event, ObjectKey, Reject, Synced
from netaccel.reconcile import Reconciler, Report, State, loop


class Told:
    """A source that tells what a test hands it."""

    def __init__(self, *first: Event) -> None:
        self._queue: asyncio.Queue[tuple[Event, ...]] = asyncio.Queue()
        if first:
            self.tell(*first)

    def tell(self, *events: Event) -> None:
        self._queue.put_nowait(events)

    async def events(self) -> AsyncIterator[tuple[Event, ...]]:
        while True:
            yield await self._queue.get()


@asynccontextmanager
async def running(
    maps: FakeMaps, source: Told, on_removed: Callable[[], Awaitable[object]] = loop.nothing, **more: object
) -> AsyncIterator[Reconciler]:
    made = Reconciler(maps, CONSTANTS, NODE, on_backends_removed=on_removed, **more)  # type: ignore[arg-type]
    task = asyncio.create_task(made.run(source))
    try:
        async with asyncio.timeout(20):
            yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def settled(reconciler: Reconciler) -> None:
    """All that was told has been taken and written."""
    for _ in range(10):
        await asyncio.sleep(0)
    await reconciler.settled()


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "FIRST_RETRY", 0.001)


async def test_what_a_source_tells_is_in_the_maps() -> None:
    maps, source = FakeMaps(), Told(*WEB, Synced())
    async with running(maps, source) as reconciler:
        await reconciler.ready.wait()
        assert len(maps.tables["frontends"]) == 2
        source.tell(service("more", 2))
        await settled(reconciler)
        assert len(maps.tables["frontends"]) == 4
        assert reconciler.stats.reconciles == 2


class StuckMaps(FakeMaps):
    """Maps that take nothing as long as they are stuck."""

    stuck = False

    def write(self, name: str, entries: Sequence[tuple[Any, Any]]) -> None:
        if self.stuck:
            raise DatapathError(f"map {name}: stuck", 5)
        super().write(name, entries)


async def failed(reconciler: Reconciler, passes: int) -> None:
    """So many passes have failed."""
    for _ in range(10_000):
        if reconciler.stats.errors >= passes:
            return
        await asyncio.sleep(0.001)
    raise AssertionError("the passes go well")


async def test_it_is_behind_while_what_was_heard_is_not_in_the_maps() -> None:
    now = 100.0
    maps, source = StuckMaps(), Told(*WEB)
    async with running(maps, source, clock=lambda: now) as reconciler:
        for _ in range(20):
            await asyncio.sleep(0)
        assert reconciler.behind_since is None, "nothing is due before the source has told all"
        source.tell(Synced())
        await settled(reconciler)
        assert reconciler.behind_since is None
        maps.stuck = True
        source.tell(service("more", 2))
        await failed(reconciler, 1)
        now = 130.0
        source.tell(service("another", 3))
        await failed(reconciler, 4)
        assert reconciler.behind_since == 100.0, "the oldest counts"
        maps.stuck = False
        await settled(reconciler)
        assert reconciler.behind_since is None


async def test_a_pass_that_nobody_asked_for_and_that_fails_is_behind_too() -> None:
    maps, source = StuckMaps(), Told(Synced())
    maps.stuck = True
    async with running(maps, source, clock=lambda: 7.0) as reconciler:
        await failed(reconciler, 1)
        assert reconciler.behind_since == 7.0


async def test_it_is_not_ready_before_the_source_has_told_all() -> None:
    maps, source = FakeMaps(), Told(*WEB)
    async with running(maps, source) as reconciler:
        for _ in range(20):
            await asyncio.sleep(0)
        assert not reconciler.ready.is_set()
        assert maps.log == []
        source.tell(Synced())
        await reconciler.ready.wait()


async def test_a_failed_pass_is_tried_again_until_it_succeeds() -> None:
    maps = FakeMaps()
    left = [3]

    def fail_again() -> None:
        if left[0]:
            left[0] -= 1
            maps.fail_after = 2

    maps.after_write = fail_again
    maps.fail_after = 2
    async with running(maps, Told(*WEB, Synced())) as reconciler:
        await reconciler.ready.wait()
        assert reconciler.stats.errors >= 1
        assert reconciler.stats.last_error == ""
        assert len(maps.tables["frontends"]) == 2


async def test_the_hook_is_called_after_the_start_and_after_removed_backends_only() -> None:
    called: list[int] = []
    maps, source = FakeMaps(), Told(*WEB, Synced())

    async def hook() -> None:
        called.append(sum(b.state == FREE for b in maps.tables["backends"].values()))

    async with running(maps, source, hook) as reconciler:
        await reconciler.ready.wait()
        await settled(reconciler)
        assert called == [0]
        source.tell(endpoints("web", 1, 2, 3, 4))
        await settled(reconciler)
        assert called == [0]
        source.tell(endpoints("web", 1, 4))
        await settled(reconciler)
        assert called == [0, 2], "the slots were free when it was called"


async def test_a_hook_that_fails_is_called_again_and_holds_nothing_up() -> None:
    called = asyncio.Event()
    maps, source = FakeMaps(), Told(*WEB, Synced())
    failures = [2]

    async def hook() -> None:
        if failures[0]:
            failures[0] -= 1
            raise DatapathError("no iterator")
        called.set()

    async with running(maps, source, hook) as reconciler:
        await reconciler.ready.wait()
        await called.wait()
        assert reconciler.stats.hook_errors == 2


async def test_events_during_a_pass_become_one_batch() -> None:
    maps, source = FakeMaps(), Told(*WEB, Synced())
    reports: list[Report] = []
    async with running(maps, source, on_report=reports.append) as reconciler:
        await reconciler.ready.wait()
        for last in range(4, 30):
            source.tell(endpoints("web", 1, last))
        await settled(reconciler)
        active = {b.addr for b in maps.tables["backends"].values() if b.state != FREE}
        assert active == {parse_address("10.0.0.1"), parse_address("10.0.0.29")}
        assert len(reports) < 10


async def test_other_addresses_of_the_node_are_written() -> None:
    maps, source = FakeMaps(), Told(*WEB, Synced())
    async with running(maps, source) as reconciler:
        await reconciler.ready.wait()
        other = parse_address("172.18.0.9")
        reconciler.set_node(NodeFacts("node-1", frozenset((other,)), (other,), (other,)))
        await settled(reconciler)
        assert maps.tables["node"][0].addr4 == other


async def test_drift_is_found_on_the_timer_and_counted() -> None:
    maps, source = FakeMaps(), Told(*WEB, Synced())
    repaired = asyncio.Event()

    def heard(report: Report) -> None:
        if report.drift:
            repaired.set()

    async with running(maps, source, compare_interval=0.01, on_report=heard) as reconciler:
        await reconciler.ready.wait()
        maps.tables["frontends"].clear()
        await repaired.wait()
        assert reconciler.stats.drift == {"frontends": 2}
        assert len(maps.tables["frontends"]) == 2


async def test_a_stop_keeps_everything() -> None:
    maps, source = FakeMaps(), Told(*WEB, Synced())
    async with running(maps, source) as reconciler:
        await reconciler.ready.wait()
        before = {name: dict(table) for name, table in maps.tables.items()}
    assert maps.tables == before


async def test_a_stop_during_a_large_pass_waits_for_its_end() -> None:
    maps = FakeMaps()
    begun = asyncio.Event()
    here = asyncio.get_running_loop()
    maps.after_write = lambda: here.call_soon_threadsafe(begun.set)
    many = [event for n in range(1, 120) for event in (service(f"s{n}", n), endpoints(f"s{n}", n))]
    async with running(maps, Told(*many, Synced())):
        await begun.wait()
    assert len(maps.tables["services"]) == 119
    assert len(maps.tables["frontends"]) == 238


async def test_the_latency_of_an_event_runs_from_its_arrival() -> None:
    maps, source = FakeMaps(), Told(*WEB, Synced())
    now = [0.0]
    reports: list[Report] = []
    async with running(maps, source, on_report=reports.append, clock=lambda: now[0]) as reconciler:
        await reconciler.ready.wait()
        now[0] = 7.5
        source.tell(service("more", 2))
        await settled(reconciler)
        assert reports[-1].latency == 7.5
        reconciler.request_compare()
        await settled(reconciler)
        assert reports[-1].latency is None


async def test_conditions_name_refused_objects_and_rejected_services() -> None:
    bad = ObjectKey("Service", "default", "bad")
    refused = Reject(bad, "bad.yaml", "spec.ports[0].port", "70000 is no port")
    maps, source = FakeMaps(backends=2), Told(*WEB, refused, Synced())
    async with running(maps, source) as reconciler:
        await reconciler.ready.wait()
        found = reconciler.conditions()
        assert found[bad].state is State.REJECTED
        assert found[bad].reasons == ("bad.yaml: spec.ports[0].port: 70000 is no port",)
        assert found[ObjectKey("Service", "default", "web")].state is State.REJECTED
        assert reconciler.stats.rejected == 1
