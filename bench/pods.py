# SPDX-License-Identifier: Apache-2.0
"""Pods born on a node that has many: from the kernel's word to programs at the device and policy in force.

Beside the agent somebody else hears the kernel, and looks every millisecond. A birth is over when both
programs' links are pinned, counted from the word of the device, and the pod's endpoint is in the map, counted
from the word of its route, which is what makes it found: the longer of the two.

The floor is two attachments alone, of a program that does nothing to a device that is nobody's, after each
birth. The kernel waits for every CPU after each attachment, and lets nobody change devices meanwhile; a
program works before that.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bench.driver import Driver
from bench.results import Result
from bench.start import PATIENCE, Ground, agent, ground
from netaccel.datapath import libbpf, netlink
from netaccel.datapath.attach import AttachType
from netaccel.datapath.bpfmap import KernelMap

BEFORE, BORN = 100, 100
PAUSES = 0.05, 0.6  # seconds between births: some come while the agent looks at everything anew
LOOK = 0.001  # seconds between looks at what the agent has done
BUDGET = 20.0  # milliseconds, p99 (issue: 20 ms after the netlink event)
FAR, NOBODYS = "netaccel-bench-far", "floor0"
SEED = 5


class Birth(NamedTuple):
    """Milliseconds: from the word of the device, from that of the route, and of two attachments alone."""

    attached: float
    in_force: float
    alone: float


def run() -> list[Result]:
    """Every row of the part."""
    with ground() as where:
        _write(where.manifests / "all.json", BEFORE + BORN)
        netlink.create_namespace(FAR)
        try:
            for number in range(BEFORE):
                with netlink.inside_namespace(where.namespace):
                    _bear(number)
            pinned = where.bpffs / "netaccel" / "maps" / "policy_endpoints"
            with agent(where), KernelMap.open_pinned(pinned) as endpoints:
                _when(lambda: sum(entries.total for entries in endpoints.read()) == BEFORE)
                with netlink.inside_namespace(where.namespace):
                    births = asyncio.run(_births(where, endpoints))
        finally:
            netlink.delete_namespace(FAR)
    note = f"{BORN} pods born beside {BEFORE}"
    return [
        *_rows("two attachments alone", [birth.alone for birth in births], "the floor, in the same run"),
        *_rows("birth to both programs", [birth.attached for birth in births], note),
        *_rows("route to policy in force", [birth.in_force for birth in births], note),
        *_rows("birth to enforced", [max(birth[:2]) for birth in births], note, BUDGET),
    ]


def _rows(name: str, found: list[float], note: str, budget: float | None = None) -> Iterator[Result]:
    parts = statistics.quantiles(found, n=100, method="inclusive")
    yield Result(f"{name}, p50", parts[49], "ms", note=note)
    yield Result(f"{name}, p99", parts[98], "ms", budget=budget, note=note)


async def _births(where: Ground, endpoints: KernelMap) -> list[Birth]:
    """One after the other. This thread is in the agent's namespace."""
    netlink.add_veth(NOBODYS, f"{NOBODYS}far")
    nobodys, noop = netlink.device(NOBODYS).ifindex, Driver("tc").noop
    pauses = random.Random(SEED)
    words, births = _Words(), []
    listening = asyncio.create_task(words.listen())
    for number in range(BEFORE, BEFORE + BORN):
        await asyncio.sleep(pauses.uniform(*PAUSES))
        attached, in_force = await _birth(number, words, where.bpffs / "netaccel" / "links", endpoints)
        await asyncio.sleep(pauses.uniform(*PAUSES))
        alone = await asyncio.to_thread(_attach, nobodys, noop.fd)
        births.append(Birth(1000 * attached, 1000 * in_force, 1000 * alone))
    listening.cancel()
    return births


class _Words:
    """What the kernel said, and when (time.monotonic())."""

    def __init__(self) -> None:
        self.routes: list[float] = []
        self._known: set[int] = set()
        self._devices: asyncio.Queue[tuple[int, float]] = asyncio.Queue()

    async def device(self) -> tuple[int, float]:
        """Ifindex of the next device that is new."""
        return await self._devices.get()

    async def listen(self) -> None:
        async for change in netlink.changes():
            now = time.monotonic()
            for index in (change.devices or frozenset()) - self._known:
                self._known.add(index)
                self._devices.put_nowait((index, now))
            if "route" in change.kinds:
                self.routes.append(now)


async def _birth(number: int, words: _Words, links: Path, endpoints: KernelMap) -> tuple[float, float]:
    """Seconds from the word of the device to both programs, and from that of the route to its endpoint."""
    pins = [links / f"tcx-{way}-veth{number}" for way in ("ingress", "egress")]
    async with asyncio.timeout(PATIENCE):
        bearing = asyncio.create_task(asyncio.to_thread(_bear, number))
        index, begin = await words.device()
        key = struct.pack("=I", index)
        attached, in_force = await asyncio.gather(
            asyncio.to_thread(_when, lambda: all(pin.exists() for pin in pins)),
            asyncio.to_thread(_when, lambda: endpoints.lookup(key) is not None),
        )
        asked = await bearing
    return attached - begin, in_force - next(word for word in words.routes if word >= asked)


def _when(is_so: Callable[[], bool]) -> float:
    begin = time.monotonic()
    while not is_so():
        if time.monotonic() - begin > PATIENCE:
            raise RuntimeError("the agent does not attach, or does not enforce")
        time.sleep(LOOK)
    return time.monotonic()


def _attach(index: int, program: int) -> float:
    """Seconds that two attachments take, and no more than those."""
    begin = time.monotonic()
    links = [
        libbpf.link_create(program, index, way) for way in (AttachType.TCX_INGRESS, AttachType.TCX_EGRESS)
    ]
    taken = time.monotonic() - begin
    for link in links:
        os.close(link)
    return taken


def _address(number: int) -> str:
    return f"10.244.{1 + number // 250}.{2 + number % 250}"


def _write(file: Path, count: int) -> None:
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"pod-{number}", "labels": {"app": f"app-{number % 10}"}},
            "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": _address(number)}]},
        }
        for number in range(count)
    ]
    policies = [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": f"policy-{number}"},
            "spec": {
                "podSelector": {"matchLabels": {"app": f"app-{number}"}},
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": f"app-{9 - number}"}}}]}],
            },
        }
        for number in range(10)
    ]
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [*pods, *policies]}))


def _bear(number: int) -> float:
    """A pod's device and route, here. When the route was asked for (time.monotonic())."""
    netlink.add_veth(f"veth{number}", f"p{number}", FAR)
    netlink.set_up(f"veth{number}")
    asked = time.monotonic()
    netlink.add_route(f"{_address(number)}/32", name=f"veth{number}")
    return asked
