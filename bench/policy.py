# SPDX-License-Identifier: Apache-2.0
"""Policies on real maps: a whole world compiled and written, and one change in it.

The world: 10,000 pods of 1,000 apps in 50 namespaces on 100 nodes, one of which is this one, and 1,000
policies of all kinds. A change is measured from its bytes to the end of the pass that wrote it, by the
reconciler.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

from bench import policyworld
from bench.control import NODE, tables
from bench.results import Result
from netaccel.datapath.maps import KernelMaps
from netaccel.model.endpoint import PodKey
from netaccel.model.event import Event, Synced, Upsert
from netaccel.reconcile import PolicyEngine, PolicyReport, Reconciler
from netaccel.sources.parse import Parsed, read

PODS, POLICIES = 10_000, 1_000
CHANGES = 500
MIB = 1 << 20
log = logging.getLogger(__name__)
OBJECT = "tc_pod"


def run() -> list[Result]:
    """Every row of the part."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:  # memory is that of a process which does nothing else
        whole = pool.apply(compiled)
    return [*whole, *changes(), *many_rules(10_000)]


def compiled() -> list[Result]:
    """CPU seconds and memory of the first pass."""
    first = world()
    devices = _devices()
    seconds: list[float] = []
    grown = 0
    for attempt in range(3):
        with tables(OBJECT) as (maps, constants):
            engine = PolicyEngine(maps, constants, NODE.name)
            engine.set_devices(devices)
            heard = policyworld.world_of(NODE.name, first)
            engine.take(heard)
            before = _resident()
            begin = time.process_time()
            report = engine.run(heard)
            seconds.append(time.process_time() - begin)
            written = report.written
            if not attempt:  # later ones reuse what the first has left
                grown = _resident() - before
            count = {name: maps.count(name) for name in ("identities", "policy_peers", "policy_rows")}
            assert len(engine.placed) == len(devices), "not every pod has an endpoint"
    title = f"compile and write {POLICIES:,} policies × {PODS:,} pods"
    note = ", ".join(f"{n:,} {name}" for name, n in count.items())
    return [
        Result(f"{title}, {written:,} entries", statistics.median(seconds), "s CPU", budget=5, note=note),
        Result("memory that it takes, beside the objects", grown / MIB, "MiB", budget=200),
        Result("resident memory of that process, objects and all", _resident() / MIB, "MiB"),
    ]


def world() -> list[Event]:
    """All objects, decoded."""
    return [*events(*policyworld.lists(PODS, POLICIES)), Synced()]


def events(*lists: bytes) -> list[Event]:
    """What a source would tell of these lists."""
    found: list[Event] = []
    for raw in lists:
        for outcome in read(raw):
            assert isinstance(outcome, Parsed), outcome
            found.append(Upsert(outcome.key, outcome.object, time.monotonic()))
    return found


def _devices() -> dict[PodKey, int]:
    local = [n for n in range(PODS) if policyworld.node_of(n) == NODE.name]
    return {PodKey(*policyworld.pod_name(n)): 100 + at for at, n in enumerate(local)}


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


class Script:
    """A source that tells a world, and then one change after another, each when the last is in the maps."""

    def __init__(self, first: list[Event], changes: list[bytes]) -> None:
        self.first, self.changes = first, changes
        self.seconds: list[float] = []
        """Of CPU that each change took, of all threads: what else runs on the machine isn't in it."""
        self.reconciler: Reconciler | None = None

    async def events(self) -> AsyncIterator[tuple[Event, ...]]:
        """One batch a change."""
        yield tuple(self.first)
        assert self.reconciler is not None
        await self.reconciler.settled()
        for raw in self.changes:
            await asyncio.sleep(0.001)
            begin, begin_cpu = time.monotonic(), time.process_time()
            outcome = next(iter(read(raw)))
            assert isinstance(outcome, Parsed), outcome
            yield (Upsert(outcome.key, outcome.object, begin),)
            await self.reconciler.settled()
            self.seconds.append(time.process_time() - begin_cpu)
        raise Told


class Told(Exception):  # noqa: N818
    """All changes are in the maps."""


def changes() -> list[Result]:
    """Latency of a policy's change, and of a pod's arrival."""
    first = world()
    found = []
    for title, what, budget, cpu_budget in (
        ("a policy's change", [policyworld.changed_policy(i, POLICIES) for i in range(CHANGES)], 50.0, 20.0),
        ("a pod's arrival", [policyworld.new_pod(i, PODS) for i in range(CHANGES)], None, None),
    ):
        latencies, seconds = map(sorted, _latencies(first, what))
        found += [
            Result(f"{title}, event to map, median", 1000 * statistics.median(latencies), "ms"),
            Result(f"{title}, event to map, p99", 1000 * _p99(latencies), "ms", budget=budget),
            Result(f"{title}, event to map, longest", 1000 * latencies[-1], "ms"),
            Result(f"{title}, event to map, CPU, p99", 1000 * _p99(seconds), "ms CPU", budget=cpu_budget),
        ]
    return found


def _p99(ordered: list[float]) -> float:
    return ordered[len(ordered) * 99 // 100]


def _latencies(first: list[Event], what: list[bytes]) -> tuple[list[float], list[float]]:
    """Seconds that passed, and CPU seconds that were spent."""
    latencies: list[float] = []
    seconds: list[float] = []

    def heard(report: PolicyReport) -> None:
        if report.latency is not None and report.written:
            latencies.append(report.latency)

    async def work(maps: KernelMaps, constants: dict[str, int]) -> None:
        engine = PolicyEngine(maps, constants, NODE.name)
        engine.set_devices(_devices())
        script = Script(first, what)
        script.reconciler = Reconciler(maps, constants, NODE, policies=engine, on_policy_report=heard)
        try:
            await script.reconciler.run(script)
        except* Told:
            log.debug("all changes are told")
        seconds.extend(script.seconds)

    with tables(OBJECT) as (maps, constants):
        asyncio.run(work(maps, constants))
    return latencies[1:], seconds


def many_rules(rules: int) -> list[Result]:
    """One policy of very many rules, each of an address and a port of its own."""
    first = [*events(*policyworld.lists(PODS, 0), policyworld.large_policy(rules)), Synced()]
    with tables(OBJECT) as (maps, constants):
        engine = PolicyEngine(maps, constants, NODE.name)
        engine.set_devices(_devices())
        heard = policyworld.world_of(NODE.name, first)
        engine.take(heard)
        begin = time.process_time()
        engine.run(heard)
        seconds = time.process_time() - begin
        assert maps.count("policy_rules") > rules
    return [Result(f"one policy of {rules:,} rules, compiled and written", seconds, "s CPU")]
