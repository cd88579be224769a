# SPDX-License-Identifier: Apache-2.0
"""The agent of one node: the composition root.

Start: addresses to listen at, the lock, the datapath (attached before anything else is known: with empty
maps it changes nothing, with pinned ones it goes on), then the source, the reconciler and the API. Stop: by
SIGTERM or SIGINT; the datapath stays and serves on.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from typing import Any

from netaccel import __version__
from netaccel.api.views import ServiceView, map_rows, read_tables, services
from netaccel.compile.services import NodeFacts
from netaccel.config import HostPort, Settings
from netaccel.datapath import libbpf, netlink
from netaccel.datapath.instance import Instance
from netaccel.datapath.node import NodeView
from netaccel.datapath.plane import Plane
from netaccel.datapath.probe import Feature, probe
from netaccel.datapath.sockets import SocketReaper, open_destroyer
from netaccel.errors import ConfigError, DatapathError
from netaccel.model.address import Address, is_ipv4
from netaccel.model.endpoint import Node
from netaccel.model.event import Delete, Event, Reject, Source, SourceStatus, Upsert
from netaccel.observe.conntrack import Census, Expiry, sweep
from netaccel.observe.figures import FigureCache, read_figures
from netaccel.observe.metrics import AgentFacts, Metrics
from netaccel.reconcile import Reconciler, Report, State
from netaccel.sources.manifests import ManifestSource

log = logging.getLogger(__name__)

_SETTLE = 0.02  # seconds in which a burst of changes of devices becomes one look
_RETRY = 30.0  # seconds between tries of what failed
_FILLED = ("frontends4", "frontends6", "services", "backends", "maglev", "source_ranges")


def run(settings: Settings) -> None:
    """Serve until told to stop. NetaccelError where that is not possible."""
    started = time.monotonic()
    source = _source(settings)
    with contextlib.ExitStack() as stack:
        instance = Instance(settings.bpffs)
        instance.lock()
        stack.callback(instance.unlock)
        listeners = {field: stack.enter_context(_listen(field, at)) for field, at in _addresses(settings)}
        # A quarter of a second of imports, meanwhile: the kernel verifies programs without this process.
        threading.Thread(target=importlib.import_module, args=("netaccel.api.server",)).start()
        plane = stack.enter_context(Plane.start(settings, instance))
        log.info("attached after %.0f ms", 1000 * (time.monotonic() - started))
        try:
            asyncio.run(Agent(settings, instance, plane, started).serve(source, listeners))
        except BaseExceptionGroup as group:
            raise _first(group) from group
    log.info("stopped; the datapath stays")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended the agent, out of the groups of its tasks."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _source(settings: Settings) -> Source:
    """Check early what would only be found once the datapath stands."""
    if settings.manifests is None:
        raise ConfigError("nothing to serve from: give --manifests DIR")
    try:
        next(settings.manifests.iterdir(), None)
    except OSError as error:
        raise ConfigError(
            f"manifests {settings.manifests}: {error.strerror}: give a directory that can be read"
        ) from error
    return ManifestSource(settings.manifests)


def _addresses(settings: Settings) -> list[tuple[str, HostPort]]:
    found = [("http", settings.http)]
    return [*found, ("metrics", settings.metrics)] if settings.metrics else found


def _listen(field: str, at: HostPort) -> socket.socket:
    """Bind early, so that a wrong address is told before anything is touched."""
    try:
        return socket.create_server(at, family=socket.AF_INET6 if ":" in at.host else socket.AF_INET)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ConfigError(f"--{field} {at}: {reason}: give another address") from error


class Agent:
    """One node's agent; also what the API asks (netaccel.api.server.Answers)."""

    def __init__(self, settings: Settings, instance: Instance, plane: Plane, started: float) -> None:
        self.settings = settings
        self.plane = plane
        self._instance = instance
        self._started = started
        self._maps, self._abi = plane.loaded.maps, plane.loaded.abi
        self._expiry = Expiry(settings.timeouts, self._abi.constants, plane.hz)
        self._census = Census()
        self._features: list[Feature] = []
        self._node_object: Node | None = None
        self._reaper: SocketReaper | None = None
        self._metrics = Metrics(
            FigureCache(lambda: read_figures(self._maps, self._abi)), lambda: self._census, self._facts
        )
        self._reconciler = Reconciler(
            self._maps,
            self._abi.constants,
            node_facts(settings, plane.view, None),
            compare_interval=settings.compare_interval,
            on_backends_removed=self._reap,
            on_report=self._account,
        )

    # ---------------------------------------------------------------- tasks

    async def serve(self, source: Source, listeners: dict[str, socket.socket]) -> None:
        """Run everything until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._reconciler.run(_Told(source, self._hear)), name="reconciler"),
                    group.create_task(self._answer(listeners), name="api"),
                    group.create_task(self._follow_node(), name="node"),
                    group.create_task(_every(_RETRY, self._retry), name="retry"),
                    group.create_task(_every(self.settings.sweep_interval, self._sweep), name="sweep"),
                    group.create_task(self._look_at_kernel(), name="features"),
                ]
                await stop.wait()
                for task in tasks:
                    task.cancel()
        finally:
            if self._reaper:
                await self._reaper.close()

    async def _answer(self, listeners: dict[str, socket.socket]) -> None:
        from netaccel.api.server import application, serving  # see run()

        async with contextlib.AsyncExitStack() as stack:
            for field, listener in listeners.items():
                app = application(self, metrics_only=field == "metrics")
                await stack.enter_async_context(serving(app, listener))
            await asyncio.Event().wait()

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
        now = await asyncio.to_thread(self.plane.clock.now)
        self._census = await asyncio.to_thread(sweep, self._maps, self._abi, self._expiry, now, _FILLED)

    async def _look_at_kernel(self) -> None:
        await self._reconciler.ready.wait()
        log.info("ready after %.0f ms", 1000 * (time.monotonic() - self._started))
        self._features = await asyncio.to_thread(probe, self.settings.bpffs, self.plane.hooks.cgroup)
        libbpf.give_back_memory()  # probing and the first state took some tens of megabytes

    async def _reap(self) -> None:
        """Destroy sockets of removed backends. DatapathError: the reconciler tries again."""
        if self._reaper is None:
            free = self._abi.constants["BACKEND_FREE"]
            destroyer = await asyncio.to_thread(open_destroyer, self._instance.maps, self._maps, free)
            self._reaper = SocketReaper(destroyer, self._maps, self.plane.hooks.cgroup)
        if count := await self._reaper.reap():
            log.info("%d sockets of removed backends destroyed", count)

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
        self._reconciler.set_node(node_facts(self.settings, self.plane.view, self._node_object))

    def _account(self, report: Report) -> None:
        self._metrics.reconcile_duration.observe(report.duration)
        if report.latency is not None:
            self._metrics.event_latency.observe(report.latency)

    # -------------------------------------------------------------- answers

    def readiness(self) -> list[str]:
        """Reasons why this node is not served yet."""
        reasons = []
        if not self.plane.hooks.attached():
            reasons.append("no program is attached")
        if not self._reconciler.ready.is_set():
            reasons.append("the source's first state is not in the maps yet")
        return reasons

    async def status(self) -> dict[str, Any]:
        """What /status and ``netaccel status`` show."""
        counts = await asyncio.to_thread(self._counts)
        reasons = self.readiness()
        stats, world = self._reconciler.stats, self._reconciler.world
        failed = [f"the last pass failed, it is tried again: {stats.last_error}"] if stats.last_error else []
        return {
            "node": self.settings.node_name,
            "version": __version__,
            "kernel": os.uname().release,
            "pid": os.getpid(),
            "uptime": round(time.monotonic() - self._started, 1),
            "ready": not reasons,
            "reasons": reasons,
            "warnings": [*self.plane.warnings(), *failed],
            "refused": refused(self._reconciler),
            "waiting": [f"EndpointSlice {key.namespace}/{key.name}" for key in world.waiting_slices()],
            "counts": counts,
            "drift_repaired": stats.drift.total(),
            "hooks": [asdict(hook) for hook in self.plane.hooks.status()],
            "sources": [
                {
                    "kind": "manifests",
                    "where": str(self.settings.manifests),
                    "synced": world.synced,
                    "objects": dict(world.counts()),
                }
            ],
            "maps": {name: fill._asdict() for name, fill in self._census.fill.items()},
            "features": [feature._asdict() for feature in self._features],
        }

    def _counts(self) -> dict[str, int]:
        return {name: self._maps.count(name) for name in ("services", "frontends", "backends")}

    def metrics(self) -> bytes:
        """What /metrics shows."""
        return self._metrics.text()

    def services(self) -> list[ServiceView]:
        """Services as the maps hold them."""
        return services(read_tables(self._maps), self._abi)

    def map_names(self) -> list[str]:
        """Maps by logical name."""
        return list(self._maps.names())

    def map_rows(self, name: str) -> list[dict[str, object]]:
        """Entries of one map, readable."""
        return map_rows(name, self._maps.dump(name), self._abi)

    def _facts(self) -> AgentFacts:
        kinds = Counter(entry["object"].partition(" ")[0] or "unknown" for entry in refused(self._reconciler))
        return AgentFacts(
            rejected=kinds,
            drift_repaired=self._reconciler.stats.drift.total(),
            attached=self.plane.hooks.attached(),
            synced=self._reconciler.ready.is_set(),
        )


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


def node_facts(settings: Settings, view: NodeView, node: Node | None) -> NodeFacts:
    """What the compiler has to know: the cluster's view of this node where it fits, else the kernel's.

    Of a Node's addresses only those that the node really has are believed.
    """
    told = [address for address in (node.addresses if node else ()) if address in view.local]
    primary: dict[bool, Address] = {}
    for address in (*told, *map(Address, view.primary)):
        primary.setdefault(is_ipv4(address), address)
    chosen = tuple(primary.values())
    answering = tuple(map(Address, view.node_port_addresses)) if settings.node_port_addresses else chosen
    return NodeFacts(
        name=settings.node_name,
        addresses=frozenset(map(Address, view.local)),
        node_port_addresses=answering,
        primary=chosen,
        zone=node.zone if node else "",
        node_ports=(settings.node_port_range.first, settings.node_port_range.last),
    )


def refused(reconciler: Reconciler) -> list[dict[str, str]]:
    """Objects that are not in force as written, and why: object, state, where it was found, reason."""
    found = [
        {
            "object": str(reject.key or ""),
            "state": State.REJECTED.value,
            "where": f"{reject.origin} {reject.path}".rstrip(),
            "reason": reject.reason,
        }
        for reject in reconciler.world.rejections()
    ]
    told = {entry["object"] for entry in found}
    for key, condition in reconciler.conditions().items():
        if condition.reasons and str(key) not in told:
            reason = "; ".join(condition.reasons)
            found.append({"object": str(key), "state": condition.state.value, "where": "", "reason": reason})
    return found


async def _every(seconds: float, action: Callable[[], Awaitable[None]]) -> None:
    """Act now and then for ever; what the kernel refuses is told and tried again the next time."""
    while True:
        try:
            await action()
        except DatapathError as error:
            log.warning("%s; tried again in %.0f s", error, seconds)
        await asyncio.sleep(seconds)
