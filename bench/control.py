# SPDX-License-Identifier: Apache-2.0
"""The control plane on real maps: from bytes to the last write, and one change among many.

Cold start: a Service and an EndpointSlice list, as bytes of JSON, are decoded, compiled and written. One
change: with 10,000 Services loaded an endpoint moves; the time from the slice's bytes to the end of the pass
that wrote it. CPU seconds are of the whole process.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

from bench import world
from bench.results import Result
from netaccel.compile.services import NodeFacts
from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.maps import KernelMaps
from netaccel.model.address import parse_address
from netaccel.model.event import Event, Synced, Upsert
from netaccel.reconcile import Reconciler, Report
from netaccel.reconcile.engine import Engine
from netaccel.sources.parse import Parsed, read

MIB = 1 << 20
NODE = NodeFacts("node-1", frozenset(), (parse_address("172.30.0.11"),), (parse_address("172.30.0.11"),))
CHANGES = 1_000


def run() -> list[Result]:
    """Every row of the part."""
    return [*cold_start(5_000, 50), *change(10_000, 10), *capacity(50_000)]


@contextmanager
def tables(name: str = "xdp_uplink", **sizes: int) -> Iterator[tuple[KernelMaps, dict[str, int]]]:
    """The maps of an object's programs, in the kernel and not pinned."""
    with ExitStack() as stack:
        found = stack.enter_context(BpfObject.named(name))
        for resized, entries in sizes.items():
            found.resize(resized, entries)
        found.load()
        maps = KernelMaps({each: found.map(each) for each in found.map_definitions()}, found.abi)
        stack.callback(maps.close)
        yield maps, dict(found.abi.constants)


def cold_start(services: int, endpoints: int) -> list[Result]:
    """CPU seconds from two lists to the last write."""
    lists = [
        world.listing("Service", [world.service(i) for i in range(services)]),
        world.listing("EndpointSlice", [world.endpoint_slice(i, endpoints) for i in range(services)]),
    ]
    decoding, writing = [], []
    for _ in range(3):
        with tables(backends=524288, maglev=4194304) as (maps, constants):
            engine = Engine(maps, constants, NODE)
            begin = time.process_time()
            engine.take((*events(*lists), Synced()))
            decoded = time.process_time()
            engine.run()
            writing.append(time.process_time() - decoded)
            decoding.append(decoded - begin)
            assert maps.count("backends") == services * endpoints, "not all backends are in the map"
    title = f"cold start, {services:,} Services × {endpoints} endpoints"
    both = [a + b for a, b in zip(decoding, writing, strict=True)]
    return [
        Result(f"{title}: list to last write", statistics.median(both), "s CPU", budget=5),
        Result(f"{title}: compile and write", statistics.median(writing), "s CPU", budget=1.5),
    ]


def events(*lists: bytes) -> Iterator[Event]:
    """What a source would tell of these lists."""
    for raw in lists:
        for outcome in read(raw):
            assert isinstance(outcome, Parsed), outcome
            yield Upsert(outcome.key, outcome.object, time.monotonic())


class Script:
    """A source that tells a world, and then one change after another, each when the last is in the maps."""

    def __init__(self, first: tuple[Event, ...], changes: list[bytes]) -> None:
        self.first = first
        self.changes = changes
        self.reconciler: Reconciler | None = None
        self.told = asyncio.Event()

    async def events(self) -> AsyncIterator[tuple[Event, ...]]:
        """One batch a change."""
        yield self.first
        assert self.reconciler is not None
        await self.reconciler.settled()
        for raw in self.changes:
            await asyncio.sleep(0.001)
            begin = time.monotonic()
            outcome = next(iter(read(raw)))
            assert isinstance(outcome, Parsed)
            yield (Upsert(outcome.key, outcome.object, begin),)
            await self.reconciler.settled()
        self.told.set()
        await asyncio.Event().wait()


def change(services: int, endpoints: int) -> list[Result]:
    """Latency of one endpoint's change; decoding of its slice included."""
    lists = [
        world.listing("Service", [world.service(i) for i in range(services)]),
        world.listing("EndpointSlice", [world.endpoint_slice(i, endpoints) for i in range(services)]),
    ]
    changes = [
        world.listing("EndpointSlice", [world.endpoint_slice(i * 7 % services, endpoints, 1 + i % 2)])
        for i in range(CHANGES)
    ]
    latencies: list[float] = []

    def heard(report: Report) -> None:
        if report.latency is not None:
            latencies.append(report.latency)

    async def work(maps: KernelMaps, constants: dict[str, int]) -> None:
        script = Script((*events(*lists), Synced()), changes)
        script.reconciler = Reconciler(maps, constants, NODE, on_report=heard)
        running = asyncio.create_task(script.reconciler.run(script))
        told = asyncio.create_task(script.told.wait())
        await asyncio.wait((running, told), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    with tables() as (maps, constants):
        asyncio.run(work(maps, constants))
    ordered = sorted(latencies[1:])
    title = f"one endpoint's change among {services:,} Services"
    return [
        Result(f"{title}, median", 1000 * statistics.median(ordered), "ms"),
        Result(f"{title}, p99", 1000 * ordered[len(ordered) * 99 // 100], "ms", budget=10),
    ]


def capacity(services: int) -> list[Result]:
    """Kernel memory of all maps with this many Services of two endpoints."""
    lists = [
        world.listing("Service", [world.service(i) for i in range(services)]),
        world.listing("EndpointSlice", [world.endpoint_slice(i, 2) for i in range(services)]),
    ]
    with tables() as (maps, constants):
        empty = sum(maps.memory().values())
        engine = Engine(maps, constants, NODE)
        engine.take((*events(*lists), Synced()))
        engine.run()
        full = sum(maps.memory().values())
    return [
        Result("maps of an uplink, empty", empty / MIB, "MiB"),
        Result(f"maps of an uplink, {services:,} Services", full / MIB, "MiB", budget=300),
    ]
