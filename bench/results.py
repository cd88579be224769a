# SPDX-License-Identifier: Apache-2.0
"""One figure, and how figures are printed and written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple

from rich.console import Console
from rich.table import Table


class Result(NamedTuple):
    """One row. ``ratio`` is value / peer; ``budget`` bounds the ratio where there is a peer, else the value.

    ``ok`` is None where nothing is promised. ``at_least`` turns the bound round (throughput).
    """

    name: str
    value: float
    unit: str
    peer: float | None = None
    peer_name: str = ""
    budget: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Value over peer."""
        return None if not self.peer else self.value / self.peer

    @property
    def ok(self) -> bool | None:
        """Whether the budget holds."""
        if self.budget is None:
            return None
        measured = self.value if self.ratio is None else self.ratio
        return measured >= self.budget if self.at_least else measured <= self.budget

    def as_json(self) -> str:
        """One JSON line."""
        row = self._asdict() | {"ratio": self.ratio, "ok": self.ok}
        return json.dumps(row, separators=(",", ":"))


def write(results: Iterable[Result], path: Path) -> None:
    """Append JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as out:
        out.writelines(f"{r.as_json()}\n" for r in results)


def show(title: str, results: Iterable[Result], stream: IO[str] | None = None) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("what", "value", "unit", "beside", "ratio", "budget", ""):
        table.add_column(column, justify="right" if column in ("value", "ratio", "budget") else "left")
    for r in results:
        beside = "" if r.peer is None else f"{r.peer_name} {r.peer:,.4g}"
        ratio = "" if r.ratio is None else f"{r.ratio:.3f}"
        budget = "" if r.budget is None else f"{'≥' if r.at_least else '≤'} {r.budget:g}"
        verdict = {None: "", True: "ok", False: "[bold red]missed[/]"}[r.ok]
        table.add_row(r.name, f"{r.value:,.4g}", r.unit, beside, ratio, budget, f"{verdict} {r.note}".strip())
    Console(file=stream, width=150).print(table)
