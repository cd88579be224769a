# SPDX-License-Identifier: Apache-2.0
"""The agent against a real API server: when it is ready and at what cost, what it takes, how soon it follows.

One cluster that grows. Starts are of the process, interpreter and imports included, with an API server that
has the objects in its cache. A change's time is the agent's own: from the event's last byte to the last
write of the pass (the histogram netaccel_event_latency_seconds of /metrics).
"""

from __future__ import annotations

import bisect
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.kube import crowd, meter, proxies
from bench.kube.ground import Ground, ground, loading
from bench.kube.loader import Loader
from bench.results import Result
from netaccel.cluster.process import Child
from netaccel.lab import process

PODS = 10_000
ROUNDS = 3
IDLE = 60.0
SETTLE = 10.0
CHANGES, CHANGES_A_SECOND = 1_000, 50
READY = "ready after"
PATIENCE = 120.0


def run() -> list[Result]:
    """Every row of the part."""
    with ground() as where, loading(where.control, where.plan.nodes) as loader:
        return [*resident(where, loader), *start(where, loader), *change(where, loader)]


@contextmanager
def agent(where: Ground) -> Iterator[tuple[float, float]]:
    """An agent on a bare node; seconds and CPU seconds from its start to ready."""
    group = where.proxy.cgroup
    before, begin = meter.cpu(group) if group.exists() else 0.0, time.monotonic()
    with proxies.running(where, proxies.NETACCEL) as child:
        child.wait_until(lambda: is_ready(child), PATIENCE)
        yield time.monotonic() - begin, meter.cpu(group) - before


def is_ready(child: Child) -> bool:
    """Whether the agent has said so."""
    return READY in child.said()


def resident(where: Ground, loader: Loader) -> Iterator[Result]:
    """Memory and idle CPU with 50,000 endpoints and 10,000 pods."""
    loader.send(crowd.services(range(1_000)))
    loader.send(crowd.pods(range(PODS)))
    title = f"50,000 endpoints, {PODS:,} pods"
    with agent(where) as (seconds, _):
        yield Result(f"{title}: start to ready", seconds, "s")
        time.sleep(SETTLE)
        share = meter.share(where.proxy.cgroup, IDLE)
        yield Result(f"{title}: idle", share, "% of a core", budget=0.5)
        yield Result(f"{title}: memory", meter.resident(where.proxy.cgroup), "MB RSS", budget=200)


def start(where: Ground, loader: Loader) -> Iterator[Result]:
    """5,000 Services × 50 endpoints."""
    loader.send(crowd.services(range(1_000, 5_000)))
    times = []
    for _ in range(ROUNDS):
        with agent(where) as found, meter.watched(where.proxy.cgroup) as peak:
            times.append(found)
            time.sleep(1)
    seconds, spent = (statistics.median(column) for column in zip(*times, strict=True))
    title = f"5,000 Services × 50 endpoints, {PODS:,} pods"
    yield Result(f"{title}: start to ready", spent, "s CPU", budget=5)
    yield Result(f"{title}: start to ready", seconds, "s")
    yield Result(f"{title}: memory", peak.value, "MB RSS")


def change(where: Ground, loader: Loader) -> Iterator[Result]:
    """One endpoint's change among 10,000 Services."""
    loader.send(crowd.services(range(5_000, 10_000), endpoints=2))
    title = "one endpoint's change among 10,000 Services"
    crowded = crowd.unreal(5_000)[:CHANGES]
    with agent(where):
        time.sleep(SETTLE)
        before, begin = histogram(where), time.monotonic()
        spent = meter.cpu(where.proxy.cgroup)
        for sent, number in enumerate(crowded):
            time.sleep(max(0.0, begin + sent / CHANGES_A_SECOND - time.monotonic()))
            loader.change(crowd.shifted(number, 1))
        lasted = time.monotonic() - begin
        spent = meter.cpu(where.proxy.cgroup) - spent
        time.sleep(1)
        found = [
            (bound, count - old) for (bound, count), (_, old) in zip(histogram(where), before, strict=True)
        ]
    note = f"of {found[-1][1]:.0f}"
    yield Result(f"{title}, median", 1000 * quantile(found, 0.5), "ms", note=note)
    yield Result(f"{title}, p99", 1000 * quantile(found, 0.99), "ms", budget=10, note=note)
    yield Result(f"{CHANGES_A_SECOND} such changes a second", 100 * spent / lasted, "% of a core")


def histogram(where: Ground) -> list[tuple[float, float]]:
    """Buckets of the agent's event latency: upper bound in seconds, events up to it."""
    done = process.run(where.proxy, ["curl", "-sSf", "http://127.0.0.1:9962/metrics"])
    if done.returncode:
        raise RuntimeError(f"/metrics: {done.stderr}")
    pattern = r'netaccel_event_latency_seconds_bucket\{le="([^"]+)"\} (\S+)'
    return [(float(bound), float(count)) for bound, count in re.findall(pattern, done.stdout)]


def quantile(buckets: list[tuple[float, float]], share: float) -> float:
    """As Prometheus has it: within the bucket, in proportion."""
    wanted = share * buckets[-1][1]
    index = bisect.bisect_left([count for _, count in buckets], wanted)
    below, under = buckets[index - 1] if index else (0.0, 0.0)
    bound, count = buckets[index]
    return below if bound == float("inf") else below + (bound - below) * (wanted - under) / (count - under)
