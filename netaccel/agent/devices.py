# SPDX-License-Identifier: Apache-2.0
"""Follows the node's devices: programs on them as soon as they appear, and which of them is which pod's.

Attaching takes tens of milliseconds, most of it the kernel's own wait, so looks go on meanwhile: a pod's
route often comes while its device gets its programs. New devices go before whatever else is to be attached.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from netaccel.datapath import netlink
from netaccel.datapath.netlink import ANYTHING, NOTHING
from netaccel.datapath.plane import Plane
from netaccel.datapath.pods import NOWHERE, Placement, PodDevices
from netaccel.errors import DatapathError
from netaccel.model.endpoint import Pod

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_SETTLE = 0.3  # seconds without a change until everything is looked at thoroughly
_BREATH = 0.01  # seconds at most between two looks
_SLICE = 0.002  # seconds of a thorough look at what is attached, until new devices may go first
_RETRY = 30.0  # seconds between tries of hooks that are another's
_FIRST_LOOK, _LAST_LOOK = 0.05, 5.0  # seconds between looks for pods that were not found, doubled each time
_EXPLAIN = 2.0  # seconds after which a pod that was not found is looked for elsewhere


class Told(Protocol):
    """Who is told of devices, and knows the node's pods."""

    def pods(self) -> Sequence[Pod]:
        """Of this node."""
        ...

    async def placed(self, placement: Placement) -> None:
        """Pods are elsewhere: do what follows, before devices are looked at again."""
        ...

    def attached(self) -> None:
        """Programs are on more devices that were seen, mostly on all."""
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
        self._asked = asyncio.Event()
        self._asking: list[asyncio.Future[None]] = []  # looks that wait until what they saw has its programs
        self._check = False  # what was attached shall be looked at, too

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
            tasks.create_task(self._attach(), name="attach")

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
            spent = 0.0
            try:
                spent = await self._look(heard)
            except DatapathError as error:
                self._change, self._anew = ANYTHING, True
                log.warning("the node's devices can't be looked at, it is tried again: %s", error)
                self._thorough_at = time.monotonic() + _SETTLE
            if heard is not None:
                self._thorough_at = time.monotonic() + _SETTLE
            # Without a pause a storm of changes would take a whole core.
            await asyncio.sleep(min(_BREATH, 2 * spent))
            await self._sleep()

    async def _sleep(self) -> None:
        """Until something changes, or the next look is due."""
        due = min(self._thorough_at, self._look_at)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if math.isinf(due) else max(0.0, due - time.monotonic())):
                await self._wake.wait()

    async def _look(self, heard: float | None) -> float:
        """Seconds of CPU that the look took."""
        now = time.monotonic()
        thorough = now >= self._thorough_at
        change, self._change = ANYTHING if thorough else self._change, NOTHING
        anew, self._anew = self._anew, False
        pods = self._told.pods()
        before, looking = await asyncio.to_thread(_timed, lambda: self._plane.look(change))
        if thorough:
            self._thorough_at = math.inf
        done = self._ask_for_programs(check=thorough or before.uplinks != self._plane.view.uplinks)
        # What programs shall do is in the maps by the time that the kernel lets their attachment return.
        await asyncio.sleep(0)  # that begins before this thread is busy with the rest
        devices = self._plane.view.pod_devices
        placement, finding = await asyncio.to_thread(_timed, lambda: self._finder.look(pods, devices))
        if anew or placement != self.placement:
            self.placement = placement
            await self._told.placed(placement)
        if heard is not None:
            done.add_done_callback(lambda _: self._told.took(time.monotonic() - heard))
        if before != self._plane.view:
            self._told.node_changed()
        await self._look_for(placement, pods)
        return looking + finding

    # ------------------------------------------------------------------ programs

    def _ask_for_programs(self, *, check: bool) -> asyncio.Future[None]:
        """Done when what was seen has its programs. ``check``: what has some is looked at after that."""
        done = asyncio.get_running_loop().create_future()
        if check or not self._plane.has_met():
            self._check = self._check or check
            self._asking.append(done)
            self._asked.set()
        else:
            done.set_result(None)
            self._told.attached()
        return done

    async def _attach(self) -> None:
        rest: Iterator[None] | None = None
        while True:
            if rest is None:
                await self._asked.wait()
            try:
                if self._asked.is_set():
                    rest = await self._meet() or rest
                if rest and not await asyncio.to_thread(_go_on, rest):
                    rest = None
                    self._checked()
            except DatapathError as error:
                log.warning("programs can't be attached, it is tried again: %s", error)
                rest = None
                await self._try_again()

    async def _meet(self) -> Iterator[None] | None:
        """Programs for new devices; what is to be checked then."""
        self._asked.clear()
        check, self._check = self._check, False
        asking = tuple(self._asking)
        await asyncio.to_thread(self._plane.meet)
        self._told.attached()
        del self._asking[: len(asking)]
        for done in asking:
            done.set_result(None)
        return self._plane.follow() if check else None

    def _checked(self) -> None:
        self._told.attached()
        if self._plane.hooks.failed():
            self._thorough_at = min(self._thorough_at, time.monotonic() + _RETRY)
            self._wake.set()

    async def _try_again(self) -> None:
        """Soon, or with what is seen next."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE):
                await self._asked.wait()
        self._thorough_at, self._anew = 0.0, True
        self._wake.set()

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


def _timed(action: Callable[[], _T]) -> tuple[_T, float]:
    """Its result, and seconds of this thread's CPU."""
    started = time.thread_time()
    return action(), time.thread_time() - started


def _go_on(steps: Iterator[None]) -> bool:
    """Some steps; whether there may be more."""
    until = time.monotonic() + _SLICE
    return any(time.monotonic() >= until for _ in steps)
