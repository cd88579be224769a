# SPDX-License-Identifier: Apache-2.0
"""Same-node acceleration: what goes between two pods of a node, by each way, in one run.

Plain veth, tier 0 (``peer``) and tier 1 (``socket``), each a lab with its agent; a unix socket and loopback
as floors. Rounds of all of them take turns in random order. A ratio is the median of the rounds' ratios. CPU
is that of the whole machine (/proc/stat), of which nothing is subtracted: idle agents and whatever else runs
are in it. The CPU of client and server alone, to which the kernel charges what it does for them, is told
beside it. Six minutes.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from bench import accelmemory, results
from bench.accelground import WAYS, Watcher, Way, carried, ways
from bench.pingpong import Load, Window
from bench.results import Result

SMALL, LARGE, BULK, CONNECT = (1, 64, 1024, 16384), (65536, 262144), (1024, 65536), (64,)
SETTLE = 0.2
ENROL = 6.0  # seconds that the agent has for seeing a connection twice, and accelerating it
LABS = ("plain", "peer", "socket")


class Part(NamedTuple):
    """One kind of load, and by which ways."""

    title: str
    mode: str
    connections: tuple[int, ...]
    sizes: tuple[tuple[int, ...], ...]
    """Each tuple in one process over the same connections."""
    ways: tuple[str, ...]
    seconds: float
    rounds: int


PARTS = (
    Part("request/response", "ask", (1, 8, 64), (SMALL,), WAYS, 0.4, 5),
    Part("request/response, large", "ask", (1, 8, 64), tuple((size,) for size in LARGE), LABS, 0.4, 3),
    Part("one way", "send", (1, 8), (BULK,), WAYS, 0.3, 5),
    Part("connections", "connect", (1, 8), (CONNECT,), (*LABS, "loopback"), 0.5, 7),
)


class Cell(NamedTuple):
    """One row of the table."""

    part: str
    size: int
    connections: int

    def __str__(self) -> str:
        size = f"{self.size} B" if self.size < 1024 else f"{self.size // 1024} KiB"
        return f"{size} × {self.connections}"


Found = dict[Cell, dict[str, list[Window]]]
Measure = Callable[[Window], float]


def run() -> list[Result]:
    """Every row."""
    with ways() as (there, labs):
        found = gather(there, Watcher(labs["socket"]))
        shares = carried(labs["socket"])
    table(found)
    return [*summary(found), *shares, *accelmemory.run(), *rows(found)]


def show(title: str, found: list[Result]) -> None:
    """The rows that sum up; the table of cells was printed already."""
    results.show(title, [row for row in found if row.unit != "transactions/s"])


def gather(
    there: dict[str, Way], watcher: Watcher, parts: Iterable[Part] = PARTS, share: float = 1.0
) -> Found:
    """Measure in rounds; ``share``: of them. Tier 1 is measured once the agent has accelerated requests."""
    turns = [
        (part, count, sizes)
        for part in parts
        for _ in range(max(1, round(part.rounds * share)))
        for count in part.connections
        for sizes in part.sizes
    ]
    random.shuffle(turns)
    found: Found = {}
    for part, count, sizes in turns:
        for name in random.sample(part.ways, len(part.ways)):
            awaited = name == "socket" and part.mode == "ask"
            load = Load(part.mode, count, sizes, 2 * ENROL if awaited else SETTLE, part.seconds)
            warmed = partial(watcher.wait, count, ENROL) if awaited else None
            for window in there[name].drive(load, warmed):
                cell = Cell(part.title, window.size, count)
                found.setdefault(cell, {}).setdefault(name, []).append(window)
    order = {part.title: number for number, part in enumerate(parts)}
    return {cell: found[cell] for cell in sorted(found, key=lambda c: (order[c.part], c.size, c.connections))}


def rate(window: Window) -> float:
    """Transactions a second."""
    return window.rate


def machine(window: Window) -> float:
    """CPU of the machine a transaction."""
    return window.machine_cpu


def own(window: Window) -> float:
    """CPU of client and server a transaction."""
    return window.own_cpu


def ratio(cell: dict[str, list[Window]], way: str, beside: str, measure: Measure) -> float:
    """Median of the rounds' ratios."""
    pairs = zip(cell[way], cell[beside], strict=True)
    return statistics.median(measure(a) / max(measure(b), 1e-9) for a, b in pairs)


def summary(found: Found) -> list[Result]:
    """What the budgets are about."""
    asked = part_of(found, PARTS[0])

    def mean(way: str, beside: str, measure: Measure) -> float:
        return statistics.geometric_mean(ratio(cell, way, beside, measure) for cell in asked.values())

    title = f"request/response, geomean of {len(asked)}"
    any_size = {**asked, **part_of(found, PARTS[1])}
    connections = {cell.connections: ways for cell, ways in part_of(found, PARTS[3]).items()}
    return [
        Result(f"{title}: socket", mean("socket", "plain", rate), "× plain", budget=1.8, at_least=True),
        Result(
            "the same, CPU of the machine a transaction",
            mean("socket", "plain", machine),
            "× plain",
            budget=0.55,
            note=f"of client and server {mean('socket', 'plain', own):.2f}",
        ),
        Result("the same", mean("socket", "unix", rate), "× a unix socket", budget=0.9, at_least=True),
        Result("the same", mean("socket", "loopback", rate), "× loopback"),
        Result(f"{title}: peer", mean("peer", "plain", rate), "× plain"),
        Result(
            "the same, CPU of the machine a transaction",
            mean("peer", "plain", machine),
            "× plain",
            note=f"of client and server {mean('peer', 'plain', own):.2f}",
        ),
        worst("least of all sizes and connections: socket", any_size, "socket", "plain"),
        worst("least one way: socket", part_of(found, PARTS[2]), "socket", "plain"),
        *(
            verdict(f"connections, none of them enrolled, {count} at a time: socket", cell, "socket", beside)
            for beside in ("peer", "plain")
            for count, cell in connections.items()
        ),
    ]


def worst(name: str, cells: Found, way: str, beside: str) -> Result:
    """The cell with the least ratio, which must not be slower."""
    ratios = {cell: ratio(found, way, beside, rate) for cell, found in cells.items()}
    least = min(ratios, key=lambda cell: ratios[cell])
    return verdict(f"{name}, {least}", cells[least], way, beside)


def verdict(name: str, cell: dict[str, list[Window]], way: str, beside: str) -> Result:
    """A cell that must not be slower."""
    note = f"CPU of client and server {ratio(cell, way, beside, own):.2f}"
    found = ratio(cell, way, beside, rate)
    return Result(name, found, f"× {beside}", budget=0.97, at_least=True, note=note)


def part_of(found: Found, part: Part) -> Found:
    """The cells of a part."""
    return {cell: ways for cell, ways in found.items() if cell.part == part.title}


def median(windows: list[Window], measure: Measure) -> float:
    """Of all rounds."""
    return statistics.median(map(measure, windows))


def rows(found: Found) -> list[Result]:
    """Every cell by every way, beside plain."""
    return [
        Result(
            f"{cell.part} {cell}, {way}",
            median(windows, rate),
            "transactions/s",
            median(cells["plain"], rate),
            "plain",
            note=f"{median(windows, machine):.2f} µs CPU of the machine, {median(windows, own):.2f} own",
        )
        for cell, cells in found.items()
        for way, windows in cells.items()
    ]


def table(found: Found) -> None:
    """Print thousands of transactions a second by way, and tier 1's ratios."""
    console = Console(width=150)
    for part in PARTS:
        title = f"{part.title}, thousand a second"
        drawn = Table(title=title, title_justify="left", box=None, pad_edge=False)
        heads = ("size × connections", *part.ways, "peer/plain", "socket/plain", "CPU", "own CPU")
        for head in (*heads, *(("socket/unix",) if "unix" in part.ways else ())):
            drawn.add_column(head, justify="left" if head == heads[0] else "right")
        for cell, by in part_of(found, part).items():
            ratios = [ratio(by, "peer", "plain", rate), ratio(by, "socket", "plain", rate)]
            ratios += [ratio(by, "socket", "plain", machine), ratio(by, "socket", "plain", own)]
            if "unix" in by:
                ratios.append(ratio(by, "socket", "unix", rate))
            rates = (f"{median(by[way], rate) / 1000:.2f}" for way in part.ways)
            drawn.add_row(str(cell), *rates, *(f"{value:.2f}" for value in ratios))
        console.print(drawn)
        console.print()
