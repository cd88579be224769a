# SPDX-License-Identifier: Apache-2.0
"""Events in, passes, retries, timers: the reconciler as it runs in an agent.

An idle reconciler takes a batch of events at once. What arrives during a pass waits and becomes one batch,
so a storm of events costs as few passes as the maps can take. Passes that are small run on the event loop
(a thread's hop costs more than they do); large ones, and those that read the maps, in a thread. Policies go
before Services, so that nobody is sent to a pod whose policy is not there yet; one that fails keeps the
other from nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from netaccel.compile.services import NodeFacts
from netaccel.errors import DatapathError
from netaccel.model.endpoint import PodKey
from netaccel.model.event import Delete, Event, ObjectKey, Source, Upsert
from netaccel.model.service import ServiceKey
from netaccel.model.snapshot import World
from netaccel.reconcile.dump import Maps
from netaccel.reconcile.engine import Engine
from netaccel.reconcile.mode import Mode
from netaccel.reconcile.policies import PolicyEngine, PolicyReport
from netaccel.reconcile.status import Condition, Report, State, Stats

log = logging.getLogger(__name__)

_R = TypeVar("_R")

FIRST_RETRY = 0.05
LAST_RETRY = 30.0
"""Seconds between a failed pass and the next; doubled each time, each half to one and a half of it."""


async def nothing() -> None:
    """A hook that does nothing."""


class Reconciler:
    """Runs an engine. Create, :meth:`run` in a task; cancelling it ends the pass under way and keeps all."""

    def __init__(
        self,
        maps: Maps,
        constants: Mapping[str, int],
        node: NodeFacts,
        *,
        mode: Mode = Mode.SERVE,
        compare_interval: float = 300.0,
        on_backends_removed: Callable[[], Awaitable[object]] = nothing,
        on_report: Callable[[Report], None] = lambda report: None,
        policies: PolicyEngine | None = None,
        on_policy_report: Callable[[PolicyReport], None] = lambda report: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Arguments beyond the engine's.

        ``mode``: what the first pass writes. ``compare_interval``: seconds between readings of the maps.
        ``on_backends_removed``: destroys sockets that are bound to removed backends; called once after the
        start and after every pass that removed one, never twice at a time; tried again after a
        DatapathError. ``on_report``: told of every pass. ``policies``: run beside the engine of Services;
        ``on_policy_report``: told of each of its passes.
        """
        self.stats = Stats()
        self.ready = asyncio.Event()
        """Set when the maps hold all that the source first told."""
        self.synced = asyncio.Event()
        """Set when the source has told all that there is, and the world holds it."""
        self.policies = policies
        """None: policies are nobody's here."""
        self._engine = Engine(maps, constants, node, mode)
        self._on_policy_report = on_policy_report
        self._oldest_policy: float | None = None  # as _oldest, of what policies read
        if policies:
            policies.set_host(node.addresses)
        self._compare_interval = compare_interval
        self._hook = on_backends_removed
        self._on_report = on_report
        self._clock = clock
        self._inbox: list[Event] = []
        self._node: NodeFacts | None = None
        self._mode: Mode | None = None
        self._compare = False
        self._wake = asyncio.Event()
        self._removed = asyncio.Event()
        self._settled = asyncio.Event()
        self._oldest: float | None = None  # arrival of the oldest event that is not yet in the maps
        self._waiting: float | None = None  # since when something waits for the next pass
        self._undone: float | None = None  # since when what a pass has taken up is not in the maps

    # ---------------------------------------------------------------- questions

    @property
    def world(self) -> World:
        """The world as last heard."""
        return self._engine.world

    @property
    def behind_since(self) -> float | None:
        """Since when (by the clock) something heard or asked for is not in the maps; None: all is there."""
        return self._waiting if self._undone is None else self._undone

    def conditions(self) -> dict[ObjectKey, Condition]:
        """What became of every object that a pass has seen, and of those that the source refused."""
        return self._conditions(State)

    def troubled(self) -> dict[ObjectKey, Condition]:
        """Those of :meth:`conditions` that are not in force as written. Cheap: few are, of very many."""
        return self._conditions((State.REJECTED, State.DEGRADED))

    def _conditions(self, states: Iterable[State]) -> dict[ObjectKey, Condition]:
        wanted = frozenset(states)
        found: dict[ObjectKey, Condition] = {}
        if self.policies:
            found = {
                ObjectKey(key.kind.value, key.namespace, key.name): condition
                for key, condition in self.policies.conditions(self.world).items()
                if condition.state in wanted
            }
        if any(self._engine.states[state] for state in wanted):
            found |= {
                ObjectKey("Service", *key): condition
                for key, condition in dict[ServiceKey, Condition](self._engine.conditions).items()
                if condition.state in wanted
            }
        for reject in self.world.rejections():
            if reject.key is None:
                continue
            reason = f"{reject.origin}: {reject.path}: {reject.reason}" if reject.path else reject.reason
            found[reject.key] = Condition(State.REJECTED, (reason,))
        return found

    # ------------------------------------------------------------------ requests

    def set_node(self, node: NodeFacts) -> None:
        """The node's addresses changed."""
        self._node = node
        self._stir()

    def set_devices(self, devices: Mapping[PodKey, int]) -> None:
        """Pods of this node with the ifindex of their device; in force when :meth:`settled` returns."""
        if self.policies:
            self.policies.set_devices(devices)
            self._stir()

    def judge_again(self) -> None:
        """Have policies' programs judge established flows anew; cheap, a look-up or four for each."""
        if self.policies:
            self.policies.judge_again()
            self._stir()

    @property
    def mode(self) -> Mode:
        """What the frontends say, or will after the next pass."""
        return self._mode or self._engine.mode

    def set_mode(self, mode: Mode) -> None:
        """Serve new flows, or leave them to the node's stack; in force when :meth:`settled` returns."""
        self._mode = mode
        self._stir()

    def request_compare(self) -> None:
        """Read the maps now and repair them."""
        self._compare = True
        self._stir()

    async def settled(self) -> None:
        """Wait until everything heard so far is in the maps."""
        await self._settled.wait()

    # ------------------------------------------------------------------- running

    async def run(self, source: Source) -> None:
        """Listen and reconcile until cancelled. What is in the maps stays."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(source), name="listen")
            tasks.create_task(self._compare_now_and_then(), name="compare")
            tasks.create_task(self._call_hook(), name="removed-backends")
            tasks.create_task(self._work(), name="reconcile")

    async def _listen(self, source: Source) -> None:
        async for batch in source.events():
            self._inbox.extend(batch)
            self._stir()

    async def _compare_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._compare_interval * random.uniform(0.9, 1.1))
            self.request_compare()

    async def _work(self) -> None:
        failures = 0
        while True:
            self._take()
            passes = self._due()
            if not passes:
                self._undone = None
                if self.world.synced:
                    self._settled.set()
                await self._wake.wait()
                self._wake.clear()
                continue
            failed = [run for run in passes if not await self._succeeds(run)]
            if failed:
                await asyncio.sleep(_delay(failures))
                failures += 1
            else:
                failures = 0
                self._undone = None
                self.ready.set()

    def _due(self) -> list[Callable[[], Awaitable[None]]]:
        passes: list[Callable[[], Awaitable[None]]] = []
        if self.policies and self.policies.due(self.world):
            passes.append(self._pass_of_policies)
        if self._engine.due:
            passes.append(self._pass)
        return passes

    async def _succeeds(self, run: Callable[[], Awaitable[None]]) -> bool:
        if self._undone is None:
            self._undone = self._clock()
        try:
            await run()
        except DatapathError as error:
            self._failed(error)
            return False
        return True

    def _take(self) -> None:
        self._undone = self.behind_since
        self._waiting = None
        events, self._inbox = self._inbox, []
        if events and self._engine.take(events):
            self._oldest = _earliest(self._oldest, events)
        if self.policies and self.policies.take(self.world):
            self._oldest_policy = _earliest(self._oldest_policy, events)
        if self.world.synced:
            self.synced.set()
        if self._node is not None:
            self._engine.set_node(self._node)
            if self.policies:
                self.policies.set_host(self._node.addresses)
            self._node = None
        if self._mode is not None:
            self._engine.set_mode(self._mode)
            self._mode = None
        if self._compare:
            self._engine.request_compare()
            if self.policies:
                self.policies.request_compare()
            self._compare = False

    async def _pass(self) -> None:
        started = self._clock()
        heavy = self._engine.heavy
        report = await _uncancelled(self._engine.run) if heavy else self._engine.run()
        now = self._clock()
        latency = None if self._oldest is None else max(0.0, now - self._oldest)
        self._oldest = None
        report = replace(report, duration=now - started, latency=latency)
        self._account(report)
        if report.removed_backends or not self.ready.is_set():
            self._removed.set()

    async def _pass_of_policies(self) -> None:
        engine, world = self.policies, self.world
        assert engine is not None
        started = self._clock()
        report = await _uncancelled(lambda: engine.run(world)) if engine.heavy else engine.run(world)
        now = self._clock()
        latency = None if self._oldest_policy is None else max(0.0, now - self._oldest_policy)
        self._oldest_policy = None
        self.stats.drift.update(report.drift)
        for name, count in report.drift.items():
            log.warning("map %s: %d entries were other than written; repaired", name, count)
        self._on_policy_report(replace(report, duration=now - started, latency=latency))

    def _account(self, report: Report) -> None:
        self.stats.add(report)
        self.stats.rejected = self._engine.states[State.REJECTED]
        self.stats.degraded = self._engine.states[State.DEGRADED]
        for name, count in report.drift.items():
            log.warning("map %s: %d entries were other than written; repaired", name, count)
        self._on_report(report)

    def _failed(self, error: DatapathError) -> None:
        self.stats.errors += 1
        self.stats.last_error = str(error)
        log.warning("a pass failed, it is tried again: %s", error)

    async def _call_hook(self) -> None:
        failures = 0
        while True:
            await self._removed.wait()
            self._removed.clear()
            try:
                await self._hook()
            except DatapathError as error:
                self.stats.hook_errors += 1
                log.warning("sockets of removed backends could not be destroyed yet: %s", error)
                await asyncio.sleep(_delay(failures))
                failures += 1
                self._removed.set()
            else:
                failures = 0

    def _stir(self) -> None:
        self._settled.clear()
        self._wake.set()
        if self._waiting is None:
            self._waiting = self._clock()


def _delay(failures: int) -> float:
    return min(FIRST_RETRY * 2.0**failures, LAST_RETRY) * random.uniform(0.5, 1.5)


def _earliest(known: float | None, events: Iterable[Event]) -> float | None:
    arrivals = [event.received for event in events if isinstance(event, Upsert | Delete)]
    return min((t for t in (known, *arrivals) if t is not None), default=None)


async def _uncancelled(function: Callable[[], _R]) -> _R:
    """Run in a thread. A cancellation waits for its end: half a pass is none."""
    work = asyncio.create_task(asyncio.to_thread(function))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait((work,))
        raise
