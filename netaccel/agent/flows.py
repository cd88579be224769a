# SPDX-License-Identifier: Apache-2.0
"""The agent's share in flows: the ring and the clocks that they are told from, and when."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from netaccel.accelerate.view import Acceleration
from netaccel.config import Settings
from netaccel.datapath.bpfmap import KernelMap
from netaccel.datapath.cookie import namespace_cookie
from netaccel.datapath.instance import Instance
from netaccel.datapath.kernelbtf import drop_reasons
from netaccel.datapath.kerneldrops import KernelDrops
from netaccel.datapath.plane import Plane, constants
from netaccel.datapath.ringbuf import RingBuffer, room
from netaccel.errors import DatapathError
from netaccel.observe.flows.directory import Directory
from netaccel.observe.flows.naming import Stamp
from netaccel.observe.flows.record import Redirected
from netaccel.observe.flows.station import Flows, Ground
from netaccel.observe.flows.traffic import Redirections

log = logging.getLogger(__name__)

_RING = "flow_events"
_SUMMARIES = 60.0  # seconds between summaries of lasting flows
_DROPS = 15.0  # seconds between looks at drop_pairs for metrics
_AGAIN = 5.0  # seconds after which a ring that could not be read is tried again
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class FlowWatch:
    """Reads this node's events as long as the agent lives. Owns the ring: :meth:`close` it."""

    def __init__(self, settings: Settings, plane: Plane, pins: Path) -> None:
        """``pins``: folder of the node's maps. DatapathError where the ring can't be read."""
        self._plane = plane
        self._pins = pins
        self._kernel: KernelDrops | None = None
        self._problem = ""
        self._map = KernelMap.open_pinned(pins / _RING)
        self._ring = RingBuffer(self._map)
        abi = next(obj.abi for obj in plane.loaded.objects.values() if obj.abi.btf.has_struct("flow_event"))
        codec = abi.codec("flow_event")
        ground = Ground(
            maps=plane.loaded.maps,
            labels=abi,
            constants=abi.constants,
            codec=codec,
            hz=plane.hz,
            jiffies=plane.clock.now,
            waiting=lambda: self._ring.waiting() // room(codec.size),
            kernel_reasons=drop_reasons(),
        )
        stamp = Stamp(settings.node_name, _BOOT.read_text()[:8])
        self.flows = Flows(stamp, ground, Directory(settings.node_name), settings.flow_history)
        self.flows.directory.set_local(plane.view.local)

    @classmethod
    def begin(cls, settings: Settings, plane: Plane, instance: Instance) -> FlowWatch | None:
        """None where no program tells flows. DatapathError."""
        objects = plane.loaded.objects.values()
        told = any(obj.abi.btf.has_struct("flow_event") for obj in objects)
        return cls(settings, plane, instance.maps) if told else None

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(_always(_AGAIN, lambda: self.flows.read(self._ring)), name="flow events")
            group.create_task(_always(_SUMMARIES, self.flows.summarise), name="flow summaries")
            group.create_task(_always(_DROPS, self.flows.count_drops), name="drops")
            await self._watch_kernel()

    async def _watch_kernel(self) -> None:
        """Have the kernel's own drops told, where it can; once the node is served, since it takes a while."""
        settings = self._plane.settings
        try:
            cookie = await asyncio.to_thread(namespace_cookie, self._plane.hooks.cgroup)
            values = constants(settings, self._plane.hz, cookie)
            self._kernel = await asyncio.to_thread(KernelDrops, self._pins, values)
        except DatapathError as error:
            self._problem = f"drops that the kernel makes are not told: {error}"
            log.info("%s", self._problem)

    def notes(self) -> list[str]:
        """What a person should know."""
        return [self._problem] if self._problem else []

    def close(self) -> None:
        """Close the ring; what comes now waits in it for the next agent."""
        if self._kernel:
            self._kernel.close()
        self._ring.close()
        self._map.close()


def redirections(found: Callable[[], Acceleration | None]) -> Redirections:
    """What who accelerates has to say of flows."""

    def ask(source: bytes, sport: int, destination: bytes, dport: int) -> Redirected | None:
        acceleration = found()
        carried = acceleration.path_of(source, sport, destination, dport) if acceleration else None
        if carried is None:
            return None
        return Redirected(
            carried.sent_messages, carried.sent_bytes, carried.received_messages, carried.received_bytes
        )

    return ask


async def _always(seconds: float, action: Callable[[], Awaitable[None]]) -> None:
    """Act now and then for ever; what the kernel refuses is told and tried again the next time."""
    while True:
        try:
            await action()
        except DatapathError as error:
            log.warning("flows: %s; tried again in %.0f s", error, seconds)
        await asyncio.sleep(seconds)
