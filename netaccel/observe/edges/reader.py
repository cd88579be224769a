# SPDX-License-Identifier: Apache-2.0
"""Read a file of recorded edges, while its writer goes on or after it is gone. Blocks: a thread's work."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from netaccel.errors import ConfigError
from netaccel.model.policy import Direction, RuleRef
from netaccel.observe.edges.edge import Edge, EdgeKey, End, Verdict, Window, read_end, read_rule
from netaccel.observe.edges.schema import VERSION

PAUSE = 150.0
"""Seconds between two signs of life that make no gap: a recorder gives one a minute."""
_PAGE = 2000  # edges read in one transaction: a long one would keep the log from being written back

_EDGES = """
SELECT e.id, s.body, d.body, e.protocol, e.port, e.direction, e.verdict, r.body, e.first, e.last, e.count
FROM edges e JOIN ends s ON s.id = e.source JOIN ends d ON d.id = e.destination JOIN rules r ON r.id = e.rule
WHERE e.id > ? AND e.last >= ? ORDER BY e.id LIMIT ?
"""


_BY_RULE = """
SELECT r.body, e.verdict, min(e.first), max(e.last), sum(e.count)
FROM edges e JOIN rules r ON r.id = e.rule GROUP BY e.rule, e.verdict
"""


class Seen(NamedTuple):
    """The first and last time (seconds since the epoch), and how often."""

    first: float
    last: float
    times: int


class Reader:
    """One file. Close it; any call raises ConfigError where the file can't be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ends: dict[str, End] = {}
        self._rules: dict[str, RuleRef | None] = {}
        if not path.is_file():
            raise ConfigError(f"{path}: there is no such file of recorded edges: give --edges")
        with self._said():
            self._connection = sqlite3.connect(
                f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5.0, check_same_thread=False
            )
            (found,) = self._connection.execute("PRAGMA user_version").fetchone()
        if found != VERSION:
            self._connection.close()
            raise ConfigError(f"{path}: its layout is version {found}, this netaccel reads {VERSION}")

    def close(self) -> None:
        """Let the file go."""
        self._connection.close()

    def edges(self, since: float = 0.0) -> Iterator[Edge]:
        """Edges last met at ``since`` or later, in no order; one that is met meanwhile may show it."""
        last = 0
        while True:
            with self._said():
                rows = self._connection.execute(_EDGES, (last, since, _PAGE)).fetchall()
                page = [self._edge(row) for row in rows]
            yield from page
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]

    def by_rule(self) -> list[tuple[RuleRef, Verdict, Seen]]:
        """What each rule made of flows, as far as the record goes."""
        with self._said():
            rows = self._connection.execute(_BY_RULE).fetchall()
            found = [(self._rule(row[0]), Verdict(row[1]), Seen(*row[2:])) for row in rows]
        return [(rule, verdict, seen) for rule, verdict, seen in found if rule is not None]

    def window(self) -> Window:
        """What the record can tell of."""
        with self._said():
            runs = self._connection.execute("SELECT began, ended, lost FROM runs ORDER BY began").fetchall()
            forgotten = self._connection.execute("SELECT upto FROM forgotten").fetchone()
        gaps = tuple(
            (before[1], after[0]) for before, after in pairwise(runs) if after[0] - before[1] > PAUSE
        )
        return Window(
            since=runs[0][0] if runs else 0.0,
            until=max((run[1] for run in runs), default=0.0),
            gaps=gaps,
            forgotten=forgotten[0] if forgotten else None,
            lost=sum(run[2] for run in runs),
        )

    def _edge(self, row: tuple[Any, ...]) -> Edge:
        _, source, destination, protocol, port, direction, verdict, rule, first, last, count = row
        ends = self._end(source), self._end(destination)
        key = EdgeKey(*ends, protocol, port, Direction(direction), Verdict(verdict), self._rule(rule))
        return Edge(key, first, last, count)

    def _end(self, body: str) -> End:
        found = self._ends.get(body)
        if found is None:
            found = self._ends[body] = read_end(json.loads(body))
        return found

    def _rule(self, body: str) -> RuleRef | None:
        if body not in self._rules:
            self._rules[body] = read_rule(json.loads(body))
        return self._rules[body]

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self._path}: recorded edges can't be read: {error}: the agent sets a broken file aside"
            ) from error


def read(path: Path, since: float = 0.0) -> tuple[Window, list[Edge]]:
    """All of a file. Raises ConfigError."""
    with closing(Reader(path)) as reader:
        return reader.window(), list(reader.edges(since))
