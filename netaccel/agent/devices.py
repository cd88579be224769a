# SPDX-License-Identifier: Apache-2.0
"""Follows the node's devices: programs on them as soon as they appear, and which of them is which pod's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Sequence
from typing import Protocol

from netaccel.datapath import netlink
from netaccel.datapath.netlink import ANYTHING, NOTHING, Change
from netaccel.datapath.node import NodeView
from netaccel.datapath.plane import Plane
from netaccel.datapath.pods import NOWHERE, Placement, PodDevices
from netaccel.errors import DatapathError
from netaccel.model.endpoint import Pod

log = logging.getLogger(__name__)

_SETTLE = 0.3  # seconds without a change until everything is looked at thoroughly
_BREATH = 0.01  # seconds at most between two looks
_RETRY = 30.0  # seconds between tries of hooks that are another's
_FIRST_LOOK, _LAST_LOOK = 0.05, 5.0  # seconds between looks for pods that were not found, doubled each time
_EXPLAIN = 2.0  # seconds after which a pod that was not found is looked for elsewhere


class Told(Protocol):
    """Who is told of devices, and knows the node's pods."""

    def pods(self) -> Sequence[Pod]:
        """Of this node."""
        ...

    async def placed(self, placement: Placement) -> None:
        """Pods are elsewhere: do what follows, before anything else is done."""
        ...

    def attached(self) -> None:
        """Programs are on all devices that were seen."""
        ...

    def node_changed(self) -> None:
        """Addresses or uplinks are others now."""
        ...

    def took(self, seconds: float) -> None:
        """From the kernel's word of a change of devices until all of that was done."""
        ...


class DeviceFollower:
    """Run it in a task. What it was told last is in ``placement``."""

    def __init__(self, plane: Plane, told: Told) -> None:
        self.placement = NOWHERE
        self._plane, self._told = plane, told
        self._finder = PodDevices(plane.settings.pod_devices)
        self._wake = asyncio.Event()
        self._anew = False
        self._change = NOTHING  # that was not looked at
        self._heard: float | None = None  # when the oldest change came that was not looked at
        self._thorough_at = self._look_at = 0.0
        self._lost_since: float | None = None
        self._pause = _FIRST_LOOK

    def stir(self, *, anew: bool = False) -> None:
        """The node's pods may be others now. Cheap. ``anew``: tell where they are, even if it is no news."""
        self._pause = _FIRST_LOOK
        self._anew = self._anew or anew
        self._wake.set()

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(), name="netlink")
            tasks.create_task(self._work(), name="look")

    async def _listen(self) -> None:
        async for change in netlink.changes():
            self._change = self._change.and_then(change)
            if self._heard is None:
                self._heard = time.monotonic()
            self._wake.set()

    async def _work(self) -> None:
        while True:
            self._wake.clear()
            heard, self._heard = self._heard, None
            started = time.monotonic()
            try:
                await self._look()
            except DatapathError as error:
                self._change, self._anew = ANYTHING, True
                log.warning("the node's devices can't be looked at, it is tried again: %s", error)
                self._thorough_at = time.monotonic() + _SETTLE
            now = time.monotonic()
            if heard is not None:
                self._told.took(now - heard)
                self._thorough_at = now + _SETTLE
            # Without a pause a storm of changes would take a whole core.
            await asyncio.sleep(min(_BREATH, 2 * (now - started)))
            await self._sleep()

    async def _sleep(self) -> None:
        """Until something changes, or the next look is due."""
        due = min(self._thorough_at, self._look_at)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if math.isinf(due) else max(0.0, due - time.monotonic())):
                await self._wake.wait()

    async def _look(self) -> None:
        now = time.monotonic()
        thorough = now >= self._thorough_at
        change, self._change = ANYTHING if thorough else self._change, NOTHING
        anew, self._anew = self._anew, False
        pods = self._told.pods()
        before, placement = await asyncio.to_thread(self._see, change, pods)
        thorough = thorough or before.uplinks != self._plane.view.uplinks
        follow = asyncio.create_task(asyncio.to_thread(self._plane.follow, thorough=thorough))
        try:  # what programs shall do is in the maps by the time that they are attached
            if anew or placement != self.placement:
                self.placement = placement
                await self._told.placed(placement)
        finally:
            await follow
        self._told.attached()
        if thorough:
            self._thorough_at = now + _RETRY if self._plane.hooks.failed() else math.inf
        if before != self._plane.view:
            self._told.node_changed()
        await self._look_for(placement, pods)

    def _see(self, change: Change, pods: Sequence[Pod]) -> tuple[NodeView, Placement]:
        before = self._plane.look(change)
        return before, self._finder.look(pods, self._plane.view.pod_devices)

    async def _look_for(self, placement: Placement, pods: Sequence[Pod]) -> None:
        """Look again soon for pods that were not found, and ever less often; find out why."""
        now = time.monotonic()
        if not placement.missing:
            self._lost_since, self._look_at, self._pause = None, math.inf, _FIRST_LOOK
            return
        if self._lost_since is None:
            self._lost_since = now
        self._look_at = now + self._pause
        self._pause = min(2 * self._pause, _LAST_LOOK)
        if now - self._lost_since >= _EXPLAIN:
            await asyncio.to_thread(self._finder.explain, pods, placement.missing)
