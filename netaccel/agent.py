# SPDX-License-Identifier: Apache-2.0
"""The agent of one node: the composition root.

Start: addresses to listen at, the lock, the datapath (attached before anything else is known: with empty
maps it changes nothing, with pinned ones it goes on), then the source, the reconciler and the API. Stop: by
SIGTERM or SIGINT; the datapath stays and serves on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from netaccel import __version__
from netaccel.api.views import ServiceView, map_rows, read_tables, services
from netaccel.config import HostPort, Settings
from netaccel.datapath import netlink
from netaccel.datapath.instance import Instance
from netaccel.datapath.plane import Plane
from netaccel.errors import ConfigError, DatapathError
from netaccel.model.event import Source
from netaccel.observe.conntrack import Census, Expiry, sweep
from netaccel.observe.figures import FigureCache, read_figures
from netaccel.observe.metrics import AgentFacts, Metrics
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
        plane = stack.enter_context(Plane.start(settings, instance))
        log.info("attached after %.0f ms", 1000 * (time.monotonic() - started))
        asyncio.run(Agent(settings, plane, started).serve(listeners))
    log.info("stopped; the datapath stays")


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

    def __init__(self, settings: Settings, plane: Plane, started: float) -> None:
        self.settings = settings
        self.plane = plane
        self._started = started
        self._maps, self._abi = plane.loaded.maps, plane.loaded.abi
        self._expiry = Expiry(settings.timeouts, self._abi.constants, plane.hz)
        self._census = Census()
        self._metrics = Metrics(
            FigureCache(lambda: read_figures(self._maps, self._abi)), lambda: self._census, self._facts
        )

    # ---------------------------------------------------------------- tasks

    async def serve(self, listeners: dict[str, socket.socket]) -> None:
        """Run everything until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._answer(listeners), name="api"),
                group.create_task(self._follow_node(), name="node"),
                group.create_task(_every(_RETRY, self._retry), name="retry"),
                group.create_task(_every(self.settings.sweep_interval, self._sweep), name="sweep"),
            ]
            await stop.wait()
            for task in tasks:
                task.cancel()

    async def _answer(self, listeners: dict[str, socket.socket]) -> None:
        from netaccel.api.server import application, serving  # a quarter of a second: after attaching

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
                pass

    async def _retry(self) -> None:
        await asyncio.to_thread(self.plane.follow)

    async def _sweep(self) -> None:
        now = await asyncio.to_thread(self.plane.clock.now)
        self._census = await asyncio.to_thread(sweep, self._maps, self._abi, self._expiry, now, _FILLED)

    # -------------------------------------------------------------- answers

    def readiness(self) -> list[str]:
        """Reasons why this node is not served yet."""
        reasons = []
        if not self.plane.hooks.attached():
            reasons.append("no program is attached")
        return reasons

    def status(self) -> dict[str, Any]:
        """What /status and ``netaccel status`` show."""
        reasons = self.readiness()
        return {
            "node": self.settings.node_name,
            "version": __version__,
            "kernel": os.uname().release,
            "pid": os.getpid(),
            "uptime": round(time.monotonic() - self._started, 1),
            "ready": not reasons,
            "reasons": reasons,
            "warnings": self.plane.warnings(),
            "rejected": [],
            "counts": {name: self._maps.count(name) for name in ("services", "frontends", "backends")},
            "drift_repaired": 0,
            "hooks": [asdict(hook) for hook in self.plane.hooks.status()],
            "maps": {name: fill._asdict() for name, fill in self._census.fill.items()},
        }

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
        return AgentFacts(attached=self.plane.hooks.attached(), synced=False)


async def _every(seconds: float, action: Callable[[], Awaitable[None]]) -> None:
    """Act now and then for ever; what the kernel refuses is told and tried again the next time."""
    while True:
        try:
            await action()
        except DatapathError as error:
            log.warning("%s; tried again in %.0f s", error, seconds)
        await asyncio.sleep(seconds)
