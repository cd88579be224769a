# SPDX-License-Identifier: Apache-2.0
"""In which order devices are looked at, get their programs and are told of."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from netaccel.agent import devices as module
from netaccel.agent.devices import DeviceFollower
from netaccel.datapath.netlink import ANYTHING, Change
from netaccel.datapath.pods import Placement
from netaccel.errors import DatapathError
from netaccel.model.endpoint import Pod, PodKey

PATIENCE = 60.0
DEVICE, ROUTE = Change(frozenset(("device",)), frozenset((7,))), Change(frozenset(("route",)))
WEB = PodKey("default", "web")


class Ground:
    """A node, whose kernel a test plays; ``said`` is what happened, in its order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[str] = []
        self.kernel: asyncio.Queue[Change] = asyncio.Queue()
        self.there: set[int] = set()
        self.placement = Placement({}, {})
        self.taken: set[int] = set()
        self.gate = threading.Event()  # the kernel lets attachments return
        self.gate.set()
        self.steps = 0
        """Of a thorough look at what is attached."""
        self.failures = 0
        self.view = self._view()
        self.settings = SimpleNamespace(pod_devices=("veth*",))
        self.hooks = SimpleNamespace(failed=list)
        finder = SimpleNamespace(look=lambda pods, devices: self.placement, explain=lambda *_: False)
        monkeypatch.setattr(module, "PodDevices", lambda patterns: finder)
        monkeypatch.setattr(module.netlink, "changes", self.changes)
        monkeypatch.setattr(module, "_SLICE", 0.0)
        monkeypatch.setattr(module, "_SETTLE", 0.01)
        plane: Any = self
        self.follower = DeviceFollower(plane, self)

    def _view(self) -> Any:
        devices = [SimpleNamespace(ifindex=index) for index in sorted(self.there)]
        return SimpleNamespace(pod_devices=devices, uplinks=())

    async def changes(self) -> AsyncIterator[Change]:
        yield ANYTHING
        while True:
            yield await self.kernel.get()

    # ---------------------------------------------------------------- the plane

    def look(self, change: Change) -> Any:
        before, self.view = self.view, self._view()
        return before

    def has_met(self) -> bool:
        return {device.ifindex for device in self.view.pod_devices} == self.taken

    def meet(self) -> None:
        seen = {device.ifindex for device in self.view.pod_devices}
        if self.failures:
            self.failures -= 1
            raise DatapathError("no memory", 12)
        if seen - self.taken:
            self.said.append("attaching")
            assert self.gate.wait(PATIENCE)
        self.taken = seen

    def follow(self) -> Iterator[None]:
        for _ in range(self.steps):
            self.said.append("step")
            yield

    # -------------------------------------------------------------- who is told

    def pods(self) -> Sequence[Pod]:
        return ()

    async def placed(self, placement: Placement) -> None:
        self.said.append(f"placed {len(placement.devices)}")

    def attached(self) -> None:
        self.said.append(f"attached {len(self.taken)}")

    def node_changed(self) -> None:
        """Of no matter here."""

    def took(self, seconds: float) -> None:
        self.said.append("took")

    # --------------------------------------------------------------- what it does

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.follower.run())
        try:
            await self.until("took")
            self.said.clear()
            yield
        finally:
            self.gate.set()
            task.cancel()

    async def until(self, *words: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while not set(words) <= set(self.said):  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    def bear(self, index: int) -> None:
        self.there.add(index)
        self.kernel.put_nowait(DEVICE)

    def route(self, index: int) -> None:
        self.placement = Placement({WEB: index}, {})
        self.kernel.put_nowait(ROUTE)


@pytest.fixture
def ground(monkeypatch: pytest.MonkeyPatch) -> Ground:
    return Ground(monkeypatch)


async def test_a_pod_is_placed_while_its_device_gets_its_programs(ground: Ground) -> None:
    async with ground.running():
        ground.gate.clear()
        ground.bear(7)
        await ground.until("attaching")
        ground.route(7)
        await ground.until("placed 1")
        assert "attached 1" not in ground.said
        assert "took" not in ground.said, "a change is dealt with when programs are there, too"
        ground.gate.set()
        await ground.until("attached 1", "took")


async def test_a_newborn_goes_before_the_rest_of_a_thorough_look(ground: Ground) -> None:
    ground.steps = 1_000_000
    async with ground.running():
        await ground.until("step")
        ground.bear(7)
        await ground.until("attached 1", "took")
        ground.said.clear()
        await ground.until("step")


async def test_a_pod_s_end_is_told_when_its_programs_are_off(ground: Ground) -> None:
    async with ground.running():
        ground.bear(7)
        await ground.until("attached 1")
        ground.there.clear()
        ground.kernel.put_nowait(DEVICE)
        await ground.until("attached 0")


async def test_what_the_kernel_refuses_is_tried_again_though_nothing_changes(ground: Ground) -> None:
    async with ground.running():
        ground.failures = 2
        ground.bear(7)
        await ground.until("attached 1", "took")
        assert ground.failures == 0


async def test_a_pod_that_is_found_without_a_new_device_is_told_at_once(ground: Ground) -> None:
    async with ground.running():
        ground.bear(7)
        await ground.until("attached 1")
        ground.said.clear()
        ground.route(7)
        await ground.until("placed 1", "took")
        assert "attaching" not in ground.said
