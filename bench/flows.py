# SPDX-License-Identifier: Apache-2.0
"""Events of flows, from a program in the kernel to records in the agent's log: what reading them costs, and
that none is lost without being counted. At 30,000 flows a minute, and at as many as a program can tell.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from bench.objects import compiled
from bench.results import Result
from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.clock import jiffies_per_second
from netaccel.datapath.maps import KernelMaps
from netaccel.datapath.ringbuf import RingBuffer, room
from netaccel.model.address import Address, parse_address
from netaccel.model.endpoint import Pod, PodKey
from netaccel.model.event import ObjectKey, Upsert
from netaccel.observe.flows.directory import Directory
from netaccel.observe.flows.naming import Stamp
from netaccel.observe.flows.station import Flows, Ground

SECONDS = 20.0
RATE = 500  # events a second: 30,000 a minute
TURN = 0.02  # seconds between bursts of them
HISTORY = 65_536
FRAME = bytes(64)
SPARE = ("frontends4", "frontends6", "services", "backends", "maglev", "source_ranges", "flows4", "flows6")


class Measured(NamedTuple):
    """CPU of the reading thread, in seconds of one core a second; events a second; what is missing."""

    cpu: float
    told: float
    read: float
    lost: float
    unaccounted: int
    lag: float


def run() -> list[Result]:
    """Every row of the part."""
    with ground() as (obj, flows, ring):
        event = (_run_time(obj, "tell") - _run_time(obj, "nothing")) * 1e9
        asyncio.run(_drain(flows, ring))
        steady = asyncio.run(_measure(flows, ring, _steadily(obj)))
        flood = asyncio.run(_measure(flows, ring, _flood(obj)))
    return [
        Result("one event told, in the program", event, "ns"),
        Result(
            "reading 30,000 flows a minute, of a core", 100 * steady.cpu, "%", budget=3,
            note=f"{steady.read:,.0f} a second",
        ),
        Result("unaccounted at 30,000 flows a minute", steady.unaccounted + steady.lost, "events", budget=0),
        Result(
            "reading in a flood, of a core", 100 * flood.cpu, "%",
            note=f"of {flood.told:,.0f} told a second {flood.read:,.0f} read, {flood.lost:,.0f} lost",
        ),
        Result("unaccounted in a flood", flood.unaccounted, "events", budget=0),
        Result("age of the oldest event read in a flood", flood.lag, "s"),
    ]  # fmt: skip


@contextmanager
def ground() -> Iterator[tuple[BpfObject, Flows, RingBuffer]]:
    """The programs with a ring of the usual size, and an agent's log."""
    with compiled("flow_events") as obj:
        for name in SPARE:
            obj.resize(name, 64)
        obj.load()
        maps = KernelMaps({name: obj.map(name) for name in obj.map_definitions()}, obj.abi)
        with obj.map("flow_events") as events, RingBuffer(events) as ring:
            yield obj, _flows(obj, maps, ring), ring
        maps.close()


def _flows(obj: BpfObject, maps: KernelMaps, ring: RingBuffer) -> Flows:
    codec = obj.abi.codec("flow_event")
    directory = Directory("n1")
    for number in (*range(1, 129), 200):
        address = parse_address(f"10.0.0.{number}")
        directory.hear(_pod(f"pod-{number}", address))
    ground = Ground(
        maps=maps,
        labels=obj.abi,
        constants=obj.abi.constants,
        codec=codec,
        hz=jiffies_per_second(),
        jiffies=lambda: 0,
        waiting=lambda: ring.waiting() // room(codec.size),
    )
    return Flows(Stamp("n1", "b007"), ground, directory, HISTORY)


def _pod(name: str, address: Address) -> Upsert:
    pod = Pod(PodKey("bench", name), "n1", (address,), (("app", name), ("tier", "bench")))
    return Upsert(ObjectKey("Pod", *pod.key), pod, 0.0)


def _run_time(obj: BpfObject, program: str) -> float:
    """Seconds a run, while the ring has room."""
    return min(obj.program(program).test_run(FRAME, repeat=2_000).duration for _ in range(5)) / 1e9


def _steadily(obj: BpfObject) -> Callable[[threading.Event], None]:
    def tell(stop: threading.Event) -> None:
        due = time.monotonic()
        while not stop.is_set():
            obj.program("tell").test_run(FRAME, repeat=round(RATE * TURN))
            due += TURN
            time.sleep(max(0.0, due - time.monotonic()))

    return tell


def _flood(obj: BpfObject) -> Callable[[threading.Event], None]:
    def tell(stop: threading.Event) -> None:
        while not stop.is_set():
            obj.program("tell").test_run(FRAME, repeat=100_000)

    return tell


async def _measure(flows: Flows, ring: RingBuffer, tell: Callable[[threading.Event], None]) -> Measured:
    """Read in this thread while another one tells."""
    before = flows.account()
    stop = threading.Event()
    teller = threading.Thread(target=tell, args=(stop,))
    reading = asyncio.ensure_future(flows.read(ring))
    began, cpu = time.monotonic(), time.thread_time()
    teller.start()
    await asyncio.sleep(SECONDS)
    spent, took, lag = time.thread_time() - cpu, time.monotonic() - began, flows.taken.lag
    midway = flows.account()
    stop.set()
    await asyncio.to_thread(teller.join)
    await _emptied(ring)
    reading.cancel()
    after = flows.account()
    return Measured(
        cpu=spent / took,
        told=(midway.seen - before.seen) / took,
        read=(midway.read - before.read) / took,
        lost=(midway.lost - before.lost) / took,
        unaccounted=after.unaccounted,
        lag=lag,
    )


async def _drain(flows: Flows, ring: RingBuffer) -> None:
    reading = asyncio.ensure_future(flows.read(ring))
    await _emptied(ring)
    reading.cancel()


async def _emptied(ring: RingBuffer) -> None:
    while ring.waiting():  # noqa: ASYNC110 - the ring is the kernel's
        await asyncio.sleep(0.05)
