# SPDX-License-Identifier: Apache-2.0
"""What is measured of a proxy that was just started, or that runs."""

from __future__ import annotations

import itertools
import random
import statistics
import sys
import time
from contextlib import ExitStack
from typing import NamedTuple

from bench.kube import asking, crowd, meter
from bench.kube.ground import Ground
from bench.kube.loader import Loader

GAP = (1.05, 1.15)
"""Seconds between changes: kube-proxy, by default, writes at most once a second (minSyncPeriod)."""
FOLLOWED = 120.0
CHURN_RATE, CHURN_SECONDS = 20, 30.0
BLOCKS = 40
_PLACES = itertools.count(1)
_CHURNS = itertools.count(1)


class Start(NamedTuple):
    """Seconds from the process' start to the last canary's answer, CPU seconds and MB at most until then.

    ``finished``: whether all answered; else the seconds are the bound.
    """

    seconds: float
    cpu: float
    peak: float
    finished: bool


class Changes(NamedTuple):
    """Milliseconds from the API server's answer to the first connection that the new endpoint got."""

    times: list[float]
    followed: bool = True
    """False: the last one was given up."""

    @property
    def p50(self) -> float:
        """Their median."""
        return statistics.median(self.times)

    @property
    def p99(self) -> float:
        """The one that one in a hundred exceeds."""
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


class Latency(NamedTuple):
    """Microseconds of a median operation through a Service, and the same without one."""

    through: float
    direct: float


def cold_start(ground: Ground, services: int, bound: float, began: float) -> Start:
    """From ``began`` (time.monotonic()) until every canary answers, from the pod and from outside."""
    targets = [*crowd.canaries(services), crowd.mover()]
    inside = [f"{target.address}:{crowd.PORT}" for target in targets]
    outside = [f"{ground.node.address4}:{target.node_port}" for target in targets]
    last, left, deadline = began, len(inside) + len(outside), began + bound
    with ExitStack() as stack:
        peak = stack.enter_context(meter.watched(ground.proxy.cgroup))
        askers = [
            stack.enter_context(asking.client(ground.asker, "answering", *inside)),
            stack.enter_context(asking.client(ground.client, "answering", *outside)),
        ]
        for asker, count in zip(askers, (len(inside), len(outside)), strict=True):
            for _ in range(count):
                if (told := asker.until(deadline)) is None:
                    break
                left -= 1
                last = max(last, told[1])
        cpu = meter.cpu(ground.proxy.cgroup)
        peak.look()
        return Start(last - began if not left else bound, cpu, peak.value, not left)


def changes(ground: Ground, loader: Loader, count: int, bound: float) -> Changes:
    """Move the mover's endpoint so often, at most for so many seconds."""
    deadline = time.monotonic() + bound
    times: list[float] = []
    where = f"{crowd.mover().address}:{crowd.PORT}"
    with asking.client(ground.asker, "follow", where) as asker:
        asker.next(FOLLOWED)
        while len(times) < count and time.monotonic() < deadline:
            time.sleep(random.uniform(*GAP))
            number = next(_PLACES) % 100
            answered = loader.change(crowd.move(number))
            while (told := asker.until(answered + FOLLOWED)) is not None:
                if told[0] == 129 + number:
                    times.append(1000 * (told[1] - answered))
                    break
            else:
                return Changes([*times, 1000 * FOLLOWED], followed=False)
    return Changes(times)


def latency(ground: Ground, outside: bool) -> dict[str, Latency]:
    """Of new connections (``new``) and of requests over kept ones (``kept``), beside a backend's own."""
    canary = crowd.canaries(10)[0]
    through = f"{ground.node.address4}:{canary.node_port}" if outside else f"{canary.address}:{crowd.PORT}"
    direct = f"{crowd.real_address(0)}:{crowd.TARGET_PORT}"
    place = ground.client if outside else ground.asker
    with asking.client(place, "latency", direct, through, str(BLOCKS)) as asker:
        told = asker.next(FOLLOWED)
    if told is None:
        raise RuntimeError(f"no latency of {through}")
    for failure in told.pop("failed"):
        print(f"    a block failed: {failure}", file=sys.stderr)
    return {
        name: Latency(1e6 * value["direct"] * value["ratio"], 1e6 * value["direct"])
        for name, value in told.items()
    }


def churn(ground: Ground, loader: Loader, services: int) -> tuple[float, float]:
    """Per cent of a core and MB at most while endpoints of the crowd are replaced, some a second."""
    begin, state = time.monotonic(), next(_CHURNS) % 2  # what the last one did is undone
    before, sent = meter.cpu(ground.proxy.cgroup), 0
    crowded = crowd.unreal(services)
    with meter.watched(ground.proxy.cgroup) as peak:
        while (spent := time.monotonic() - begin) < CHURN_SECONDS:
            time.sleep(max(0.0, sent / CHURN_RATE - spent))
            turn, which = divmod(sent, len(crowded))
            loader.change(crowd.shifted(crowded[which], (state + turn) % 2))
            sent += 1
        return 100 * (meter.cpu(ground.proxy.cgroup) - before) / spent, peak.value
