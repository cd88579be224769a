# SPDX-License-Identifier: Apache-2.0
"""Follows the node's devices: programs on them as soon as they appear, and which of them is which pod's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence

from netaccel.datapath import netlink
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
_REMEMBER = 1000


class DeviceFollower:
    """Run it in a task. What it was told last is in ``placement``."""

    def __init__(
        self,
        plane: Plane,
        pods: Callable[[], Sequence[Pod]],
        node_changed: Callable[[], None],
        placed: Callable[[Placement], None],
    ) -> None:
        """``pods``: of this node; ``node_changed``: addresses or uplinks are others now.

        ``placed``: told of every other placement, before anything else is done.
        """
        self.placement = NOWHERE
        self.delays: deque[float] = deque(maxlen=_REMEMBER)
        """Seconds from the kernel's word of a change to the attached programs and the known placement."""
        self._plane, self._pods = plane, pods
        self._node_changed, self._placed = node_changed, placed
        self._finder = PodDevices(plane.settings.pod_devices)
        self._wake = asyncio.Event()
        self._heard: float | None = None  # when the oldest change came that was not looked at
        self._thorough_at = self._look_at = 0.0
        self._lost_since: float | None = None
        self._pause = _FIRST_LOOK

    def stir(self) -> None:
        """The node's pods may be others now. Cheap."""
        self._pause = _FIRST_LOOK
        self._wake.set()

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(), name="netlink")
            tasks.create_task(self._work(), name="look")

    async def _listen(self) -> None:
        async for _ in netlink.changes():
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
                log.warning("the node's devices can't be looked at, it is tried again: %s", error)
                self._thorough_at = time.monotonic() + _SETTLE
            now = time.monotonic()
            if heard is not None:
                self.delays.append(now - heard)
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
        pods = self._pods()
        changed, placement = await asyncio.to_thread(self._see, pods, thorough)
        if thorough:
            self._thorough_at = now + _RETRY if self._plane.hooks.failed() else math.inf
        if placement != self.placement:
            self.placement = placement
            self._placed(placement)
        if changed:
            self._node_changed()
        await self._look_for(placement, pods)

    def _see(self, pods: Sequence[Pod], thorough: bool) -> tuple[bool, Placement]:
        changed = self._plane.follow(thorough=thorough)
        return changed, self._finder.look(pods, self._plane.view.pod_devices)

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
