# SPDX-License-Identifier: Apache-2.0
"""netaccel beside kube-proxy, nftables and iptables, of the same version: one cluster, one node, in turn.

``python -m bench cluster`` takes about half an hour; ``python -m bench.cluster --help`` for less. A real API
server and a node without kubelet (`bench.kube.ground`). With 10, 1,000 and 5,000 Services of 50 endpoints
each proxy in turn is started on the bare node, measured, ended and cleared away. Rows:

- cold start: from the process' start until the last of the canaries answers, cluster address from a pod and
  node port from outside; CPU (children too) and memory until then. A bound ends it, and is printed;
- a change: from the API server's answer to a PUT of an EndpointSlice to the start of the first connection
  that reached the new endpoint. A client connects some thousand times a second. Changes are over a second
  apart, so that kube-proxy's minSyncPeriod costs it nothing;
- latency: a new connection with a byte each way, a byte each way over a kept one; each as the ratio to the
  backend's own address in neighbouring blocks, so that a busy machine harms it least;
- CPU and memory, idle and while 20 endpoints a second are replaced.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Protocol

from rich.console import Console
from rich.table import Table

from bench import results
from bench.kube import asking, crowd, measures, meter, proxies
from bench.kube.ground import Ground, ground, loading
from bench.kube.loader import Loader
from bench.results import Result
from netaccel.cluster.build import VERSION

TITLE = f"netaccel beside kube-proxy {VERSION}, one cluster, one node, in turn"
BOUND = 600.0
IDLE = 60.0
SETTLE = 5.0
NAMES = {"new": "new connection", "kept": "request on a kept one"}


class Plan(NamedTuple):
    """How much. ``bound``: seconds for a cold start; ``changes``: how many, for half the bound at most."""

    stages: tuple[int, ...] = (10, 1_000, 5_000)
    proxies: tuple[str, ...] = proxies.ALL
    bound: float = BOUND
    changes: int = 110
    idle: float = IDLE


class Figure(NamedTuple):
    """One proxy's figure. ``least``: it was bounded, the truth is more."""

    value: float
    least: bool = False


class Add(Protocol):
    """Takes one row's figure of the proxy whose turn it is."""

    def __call__(self, row: str, unit: str, value: float, *, least: bool = False) -> None: ...


class Figures:
    """Rows by name; each has a unit and a figure a proxy. Told as they come."""

    def __init__(self) -> None:
        self.units: dict[str, str] = {}
        self.rows: dict[str, dict[str, Figure]] = defaultdict(dict)

    def add(self, proxy: str, row: str, unit: str, figure: Figure) -> None:
        """One more."""
        self.units[row] = unit
        self.rows[row][proxy] = figure
        more = "> " if figure.least else ""
        print(f"  {proxy}: {row}: {more}{figure.value:,.4g} {unit}", file=sys.stderr, flush=True)

    def results(self) -> list[Result]:
        """A result a peer: netaccel must not be slower or bigger."""
        return [
            Result(
                row,
                found[proxies.NETACCEL].value,
                self.units[row],
                figure.value,
                peer,
                budget=1.0,
                note="bound" if figure.least else "",
            )
            for row, found in self.rows.items()
            if proxies.NETACCEL in found
            for peer, figure in found.items()
            if peer != proxies.NETACCEL
        ]


def run() -> list[Result]:
    """All of it."""
    return measure(Plan())


def measure(plan: Plan) -> list[Result]:
    """What the plan asks for. Interrupted: what there is so far."""
    figures = Figures()
    with contextlib.suppress(KeyboardInterrupt), ExitStack() as stack:
        where = stack.enter_context(ground())
        loader = stack.enter_context(loading(where.control, where.plan.nodes))
        server = stack.enter_context(asking.client(where.server, "serve", str(crowd.TARGET_PORT)))
        server.next(10)
        loader.send(crowd.mover_objects())
        loaded = 0
        for services in plan.stages:
            load(loader, loaded, services)
            loaded = services
            for proxy in plan.proxies:
                turn(where, loader, figures, plan, proxy, services)
    return figures.results()


def load(loader: Loader, first: int, services: int) -> None:
    """The Services from ``first``; the last one after all others."""
    spent = loader.send(crowd.services(range(first, services - 1)))
    loader.send(crowd.services(range(services - 1, services)))
    print(
        f"{services:,} Services, the last {services - first:,} in {spent:.1f} s", file=sys.stderr, flush=True
    )


def turn(where: Ground, loader: Loader, figures: Figures, plan: Plan, proxy: str, services: int) -> None:
    """One proxy with so many Services."""
    title = f"{services:,} Services"
    group = where.proxy.cgroup
    before = meter.cpu(group) if group.exists() else 0.0

    def add(row: str, unit: str, value: float, *, least: bool = False) -> None:
        figures.add(proxy, f"{title}: {row}", unit, Figure(value, least))

    began = time.monotonic()
    with proxies.running(where, proxy):
        start = measures.cold_start(where, services, plan.bound, began)
        if services > 10:
            add("start to the last frontend", "s", start.seconds, least=not start.finished)
            add("CPU until then", "s", start.cpu - before, least=not start.finished)
            add("memory until then", "MB", start.peak, least=not start.finished)
        if not start.finished:
            return
        time.sleep(SETTLE)
        if services != 1_000:
            changed(where, loader, plan, add)
        for outside, name in ((False, "from a pod"), (True, "from outside, node port")):
            for kind, found in measures.latency(where, outside).items():
                add(f"{NAMES[kind]}, {name}", "× direct", found.through / found.direct)
        if services == plan.stages[-1]:
            load_of(where, loader, plan, services, add)


def changed(where: Ground, loader: Loader, plan: Plan, add: Add) -> None:
    """Rows of a change."""
    found = measures.changes(where, loader, plan.changes, max(plan.bound / 2, 60))
    add("endpoint's change to first packet, p50", "ms", found.p50, least=not found.followed)
    add("endpoint's change to first packet, p99", "ms", found.p99, least=not found.followed)
    print(f"    of {len(found.times)} changes", file=sys.stderr)


def load_of(where: Ground, loader: Loader, plan: Plan, services: int, add: Add) -> None:
    """Rows of CPU and memory."""
    add("CPU while idle", "% of a core", meter.share(where.proxy.cgroup, plan.idle))
    add("memory while idle", "MB", meter.resident(where.proxy.cgroup))
    share, peak = measures.churn(where, loader, services)
    add(f"CPU with {measures.CHURN_RATE} changes a second", "% of a core", share)
    add(f"memory with {measures.CHURN_RATE} changes a second", "MB", peak)


def show(title: str, found: Iterable[Result]) -> None:
    """One table, a column a proxy; and the verdict."""
    rows: dict[str, dict[str, Result]] = defaultdict(dict)
    for result in found:
        rows[result.name][result.peer_name] = result
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("what", "unit", proxies.NETACCEL):
        table.add_column(column, justify="right" if column == proxies.NETACCEL else "left")
    for peer in proxies.PEERS:
        table.add_column(peer, justify="right")
        table.add_column("ratio", justify="right")
    for name, by_peer in rows.items():
        first = next(iter(by_peer.values()))
        cells = [name, first.unit, f"{first.value:,.4g}"]
        for peer in proxies.PEERS:
            cells += peer_cells(by_peer.get(peer))
        table.add_row(*cells)
    console = Console(width=170)
    console.print(table)
    console.print(verdict(rows))


def peer_cells(result: Result | None) -> tuple[str, str]:
    """A peer's figure, and netaccel's as a part of it."""
    if result is None or result.peer is None:
        return "not up", ""
    if result.ratio is None:
        return f"{result.peer:,.4g}", ""
    more = "> " if result.note else ""
    ratio = f"{'< ' if result.note else ''}{result.ratio:.3f}"
    return f"{more}{result.peer:,.4g}", ratio if result.ok else f"[bold red]{ratio}[/]"


def verdict(rows: dict[str, dict[str, Result]]) -> str:
    """Whether netaccel is the faster one in each row."""
    lost = [r for by_peer in rows.values() for r in by_peer.values() if not r.ok]
    if not lost:
        return f"faster than kube-proxy {VERSION} in each row"
    named = "; ".join(f"{r.name} ({r.peer_name}, {r.value:.3g} to {r.peer:.3g})" for r in lost)
    return f"[bold red]not faster than kube-proxy {VERSION} in: {named}[/]"


def main() -> int:
    """A part of it."""
    standard = Plan()
    parser = argparse.ArgumentParser(prog="python -m bench.cluster", description=TITLE)
    parser.add_argument("--bound", type=float, default=BOUND, help="seconds for a cold start (%(default)s)")
    parser.add_argument("--changes", type=int, default=standard.changes, help="how many (%(default)s)")
    parser.add_argument("--idle", type=float, default=IDLE, help="seconds (%(default)s)")
    parser.add_argument("--stages", type=int, nargs="+", default=standard.stages, help="numbers of Services")
    parser.add_argument("--proxies", nargs="+", default=proxies.ALL, choices=proxies.ALL)
    given = parser.parse_args()
    found = measure(
        Plan(tuple(sorted(given.stages)), tuple(given.proxies), given.bound, given.changes, given.idle)
    )
    show(TITLE, found)
    results.write(found, Path("build/bench.jsonl"))
    return int(any(r.ok is False for r in found))


if __name__ == "__main__":
    sys.exit(main())
