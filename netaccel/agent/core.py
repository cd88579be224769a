# SPDX-License-Identifier: Apache-2.0
"""One agent and its tasks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from netaccel.agent.facts import node_facts
from netaccel.agent.origin import Opening, Origin
from netaccel.agent.publish import Publisher
from netaccel.agent.report import Answers
from netaccel.agent.takeover import TakeOver
from netaccel.config import Settings
from netaccel.datapath import libbpf, netlink
from netaccel.datapath.instance import Instance
from netaccel.datapath.plane import Plane
from netaccel.datapath.probe import Feature, probe
from netaccel.datapath.sockets import SocketReaper, open_destroyer
from netaccel.errors import DatapathError
from netaccel.model.endpoint import Node
from netaccel.model.event import Delete, Event, Reject, Source, SourceStatus, Upsert
from netaccel.observe.conntrack import Census, Expiry, sweep
from netaccel.reconcile import Reconciler, Report

if TYPE_CHECKING:
    from netaccel.api.health import HealthServers

log = logging.getLogger(__name__)

_SETTLE = 0.02  # seconds in which a burst of changes of devices becomes one look
_RETRY = 30.0  # seconds between tries of what failed
_PATIENCE = 5.0  # seconds in which an agent that starts well has the first state in its maps
_REMEMBER = 30.0  # seconds between notes of how fresh the state in force is
_FILLED = ("frontends4", "frontends6", "services", "backends", "maglev", "source_ranges")
HEARD = "heard"
"""The note that outlives the agent: seconds since the epoch at which its source was last current."""


class Agent:
    """One node's agent. :meth:`serve` runs it; ``answers`` says how it is."""

    def __init__(self, settings: Settings, instance: Instance, plane: Plane, started: float) -> None:
        self.settings = settings
        self.plane = plane
        self.started = started
        self.census = Census()
        self.features: list[Feature] = []
        self.origin: Origin | None = None
        self.health: HealthServers | None = None
        self.publisher: Publisher | None = None
        self.take_over = TakeOver.begin(settings, plane)
        self._facts = node_facts(settings, plane.view, None)
        self.reconciler = Reconciler(
            plane.loaded.maps,
            plane.loaded.abi.constants,
            self._facts,
            mode=self.take_over.mode,
            compare_interval=settings.compare_interval,
            on_backends_removed=self._reap,
            on_report=self._account,
        )
        self.answers = Answers(self, float(instance.note(HEARD) or 0))
        self._instance = instance
        self._expiry = Expiry(settings.timeouts, plane.loaded.abi.constants, plane.hz)
        self._node_object: Node | None = None
        self._reaper: SocketReaper | None = None

    async def serve(self, opening: Opening, listeners: dict[str, socket.socket]) -> None:
        """Run everything until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            async with opening() as self.origin, asyncio.TaskGroup() as group:
                source = _Told(self.origin.source, self._hear)
                tasks = [
                    group.create_task(self.reconciler.run(source), name="reconciler"),
                    group.create_task(self._answer(listeners), name="api"),
                    group.create_task(self._answer_health(), name="health"),
                    group.create_task(self._publish(), name="publish"),
                    group.create_task(self.take_over.run(self.reconciler), name="take-over"),
                    group.create_task(self._follow_node(), name="node"),
                    group.create_task(_every(_RETRY, self._retry), name="retry"),
                    group.create_task(_every(self.settings.sweep_interval, self._sweep), name="sweep"),
                    group.create_task(_every(_REMEMBER, self._remember), name="remember"),
                    group.create_task(self._look_at_kernel(), name="features"),
                ]
                await stop.wait()
                for task in tasks:
                    task.cancel()
        finally:
            if self._reaper:
                await self._reaper.close()

    # ---------------------------------------------------------------- tasks

    async def _answer(self, listeners: dict[str, socket.socket]) -> None:
        from netaccel.api.server import application, serving  # see start.run()

        async with contextlib.AsyncExitStack() as stack:
            for field, listener in listeners.items():
                app = application(self.answers, metrics_only=field == "metrics")
                await stack.enter_async_context(serving(app, listener))
            await asyncio.Event().wait()

    async def _answer_health(self) -> None:
        from netaccel.api.health import HealthServers, wanted  # see start.run()

        ports = wanted(self.settings)
        if ports.any:
            reconciler = self.reconciler
            self.health = HealthServers(ports, reconciler.world, lambda: reconciler.behind_since)
            await self.health.run()

    async def _publish(self) -> None:
        """Write to the API server, where there is one: at first that the node is served, if it is soon."""
        if self.origin and self.origin.api:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.reconciler.ready.wait(), _PATIENCE)
            self.publisher = Publisher(self, self.origin.api)
            await self.publisher.run()

    async def _follow_node(self) -> None:
        """Attach to devices as they appear, learn new addresses."""
        async for _ in netlink.changes():
            await asyncio.sleep(_SETTLE)
            if await asyncio.to_thread(self.plane.follow):
                self._refresh_node()

    async def _retry(self) -> None:
        """Try hooks again that could not be taken: whoever held one may have let go."""
        if not self.plane.hooks.failed():
            return
        if await asyncio.to_thread(self.plane.follow):
            self._refresh_node()

    async def _sweep(self) -> None:
        loaded = self.plane.loaded
        now = await asyncio.to_thread(self.plane.clock.now)
        self.census = await asyncio.to_thread(sweep, loaded.maps, loaded.abi, self._expiry, now, _FILLED)

    async def _remember(self) -> None:
        """Note for a successor how old the state is that the maps hold."""
        heard = self.origin.source.status().heard if self.origin else None
        if heard and self.reconciler.ready.is_set():
            self._instance.write_note(HEARD, f"{heard:.0f}")
        if self.publisher:
            self.publisher.stir()

    async def _look_at_kernel(self) -> None:
        await self.reconciler.ready.wait()
        log.info("ready after %.0f ms", 1000 * (time.monotonic() - self.started))
        await self._remember()
        self.features = await asyncio.to_thread(probe, self._instance.bpffs, self.plane.hooks.cgroup)
        libbpf.give_back_memory()  # probing and the first state took some tens of megabytes
        # What is known now mostly stays: full collections that walk through all of it would stop the loop.
        gc.collect()
        gc.freeze()

    async def _reap(self) -> None:
        """Destroy sockets of removed backends. DatapathError: the reconciler tries again."""
        if self._reaper is None:
            loaded = self.plane.loaded
            free = loaded.abi.constants["BACKEND_FREE"]
            destroyer = await asyncio.to_thread(open_destroyer, self._instance.maps, loaded.maps, free)
            self._reaper = SocketReaper(destroyer, loaded.maps, self.plane.hooks.cgroup)
        if count := await self._reaper.reap():
            log.info("%d sockets of removed backends destroyed", count)
        await self.take_over.forget_gone(self.census)

    # --------------------------------------------------------------- events

    def _hear(self, event: Event) -> None:
        """Learn of this node's own object before the reconciler does."""
        match event:
            case Upsert(object=Node(name=self.settings.node_name) as node):
                self._node_object = node
                self._refresh_node()
            case Delete(key=key) if (key.kind, key.name) == ("Node", self.settings.node_name):
                self._node_object = None
                self._refresh_node()
            case Reject():
                where = f"{event.origin} {event.path}".rstrip()
                log.warning("%s: %s: %s", event.key or "an object", where, event.reason)

    def _refresh_node(self) -> None:
        self._facts = node_facts(self.settings, self.plane.view, self._node_object)
        self.reconciler.set_node(self._facts)

    def _account(self, report: Report) -> None:
        self.answers.account(report)
        if self.health:
            self.health.passed(self._facts)
        if self.publisher:
            self.publisher.stir()


class _Told:
    """A source whose events are told to somebody else first."""

    def __init__(self, source: Source, tell: Callable[[Event], None]) -> None:
        self._source = source
        self._tell = tell

    def status(self) -> SourceStatus:
        """The source's own."""
        return self._source.status()

    async def events(self) -> AsyncIterator[tuple[Event, ...]]:
        """The source's batches."""
        async for batch in self._source.events():
            for event in batch:
                self._tell(event)
            yield batch


async def _every(seconds: float, action: Callable[[], Awaitable[None]]) -> None:
    """Act now and then for ever; what the kernel refuses is told and tried again the next time."""
    while True:
        try:
            await action()
        except DatapathError as error:
            log.warning("%s; tried again in %.0f s", error, seconds)
        await asyncio.sleep(seconds)
