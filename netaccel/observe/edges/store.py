# SPDX-License-Identifier: Apache-2.0
"""The file of recorded edges as its one writer sees it. Every call blocks: a thread's work."""

from __future__ import annotations

import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import msgspec

from netaccel.model.policy import RuleRef
from netaccel.observe.edges import schema
from netaccel.observe.edges.edge import Edge, End, end_object, rule_object

log = logging.getLogger(__name__)

BATCH = 1000
"""Edges that fit into one call of :meth:`Store.write`."""
_DAY = 86400.0
_FULL = 0.9  # of the room: from there on the oldest go ...
_ROOMY = 0.8  # ... down to here, ...
_HALF = 0.5  # ... or to here where a batch did not fit
_SLICE = 20_000  # edges removed in one transaction
_CACHED = 20_000  # ends whose ids are remembered
_VACUUM = 2048  # pages given back to the file system at a time
_LEAST = 4 << 20  # bytes: BATCH edges between ends never met before fit into half of it
_WAL_SHARE = 8 << 20  # bytes of the room for the log and its index

_UPSERT = """
INSERT INTO edges (source, destination, protocol, port, direction, verdict, rule, first, last, count)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (source, destination, protocol, port, direction, verdict, rule) DO UPDATE SET
  first = min(first, excluded.first), last = max(last, excluded.last), count = count + excluded.count
"""
_FORGET = """
INSERT INTO forgotten (id, upto) VALUES (0, ?)
ON CONFLICT (id) DO UPDATE SET upto = max(upto, excluded.upto)
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how much is kept. ``bytes``: of all the files on disk; 4 MiB at least."""

    days: float = 7.0
    bytes: int = 256 << 20

    @property
    def database(self) -> int:
        """Bytes for the database itself; the rest is for its log."""
        return max(self.bytes - _WAL_SHARE, self.bytes // 2, _LEAST)


class Store:
    """Writes edges. ``open`` first; any call may raise sqlite3.Error or OSError, and nothing else."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        self.broke = ""
        """What was set aside last, and why; "" where nothing was."""
        self.removed = 0
        """Edges removed for their age or for room, since this object was made."""
        self._limits = limits
        self._connection: sqlite3.Connection | None = None
        self._ends: OrderedDict[End, int] = OrderedDict()
        self._rules: dict[RuleRef | None, int] = {}
        self._run = 0

    @property
    def is_open(self) -> bool:
        """Whether edges can be written."""
        return self._connection is not None

    def open(self, now: float) -> None:
        """Open the file and begin a run; one that is broken is set aside and started anew."""
        try:
            connection = schema.open_file(self.path, self._limits.database)
        except schema.BrokenError as error:
            connection = self._anew(str(error), now)
        except sqlite3.Error as error:
            if not schema.is_broken(error):
                raise
            connection = self._anew(str(error), now)
        self._ends.clear()
        self._rules.clear()
        try:
            self._run = self._begin_run(connection, now)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _anew(self, reason: str, now: float) -> sqlite3.Connection:
        aside = schema.set_aside(self.path, now)
        self.broke = f"{self.path} was broken ({reason}): it is {aside.name} now, and edges start anew"
        log.warning("%s", self.broke)
        return schema.open_file(self.path, self._limits.database)

    def close(self) -> None:
        """Close the file; what was written stays."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def write(self, edges: Sequence[Edge], now: float, lost: int = 0) -> None:
        """Add up to BATCH edges to those that are there, all or none, and say that the run goes on.

        ``lost``: flows since the last call that could not be recorded. A file that turns out to be broken is
        set aside, and the edges go to a new one.
        """
        try:
            self._write(edges, now, lost)
        except sqlite3.Error as error:
            if schema.is_broken(error):
                self.close()
                self._connection = self._anew(str(error), now)
                self._run = self._begin_run(self._connection, now)
            elif not schema.is_full(error) or not self._made_room():
                raise
            self._write(edges, now, lost)

    def prune(self, now: float) -> None:
        """Remove what is too old, and the oldest where there is too little room."""
        if self._remove_older(now - self._limits.days * _DAY):
            self._remove_unused()
            self._give_back()
        self.make_room()

    def make_room(self) -> None:
        """Remove the oldest edges where the room is nearly used up. Cheap where it is not."""
        if self._used() > _FULL * self._limits.database:
            self._make_room(_ROOMY)

    def size(self) -> int:
        """Bytes on disk."""
        return schema.size_on_disk(self.path)

    # ------------------------------------------------------------------ writing

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        assert connection is not None, "open() comes first"
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            if connection.in_transaction:  # a full disk ends it by itself
                connection.execute("ROLLBACK")
            self._ends.clear()  # ids of what was rolled back
            self._rules.clear()
            raise
        connection.execute("COMMIT")

    @staticmethod
    def _begin_run(connection: sqlite3.Connection, now: float) -> int:
        cursor = connection.execute("INSERT INTO runs (began, ended, lost) VALUES (?, ?, 0)", (now, now))
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _write(self, edges: Iterable[Edge], now: float, lost: int) -> None:
        with self._transaction() as connection:
            connection.executemany(_UPSERT, (self._row(connection, edge) for edge in edges))
            connection.execute(
                "UPDATE runs SET ended = max(ended, ?), lost = lost + ? WHERE id = ?", (now, lost, self._run)
            )

    def _row(self, connection: sqlite3.Connection, edge: Edge) -> tuple[object, ...]:
        key = edge.key
        ends = self._end(connection, key.source), self._end(connection, key.destination)
        judged = int(key.direction), key.verdict.value, self._rule(connection, key.rule)
        return (*ends, key.protocol, key.port, *judged, edge.first, edge.last, edge.count)

    def _end(self, connection: sqlite3.Connection, end: End) -> int:
        known = self._ends.get(end)
        if known is not None:
            self._ends.move_to_end(end)
            return known
        body = msgspec.json.encode(end_object(end))
        digest = blake2b(body, digest_size=16).digest()
        connection.execute("INSERT OR IGNORE INTO ends (digest, body) VALUES (?, ?)", (digest, body.decode()))
        (found,) = connection.execute("SELECT id FROM ends WHERE digest = ?", (digest,)).fetchone()
        self._ends[end] = found
        if len(self._ends) > _CACHED:
            self._ends.popitem(last=False)
        return int(found)

    def _rule(self, connection: sqlite3.Connection, rule: RuleRef | None) -> int:
        known = self._rules.get(rule)
        if known is None:
            body = msgspec.json.encode(rule_object(rule)).decode()
            connection.execute("INSERT OR IGNORE INTO rules (body) VALUES (?)", (body,))
            (known,) = connection.execute("SELECT id FROM rules WHERE body = ?", (body,)).fetchone()
            self._rules[rule] = known
        return known

    # ----------------------------------------------------------------- removing

    def _remove_older(self, limit: float) -> int:
        gone = 0
        with self._transaction() as connection:
            connection.execute("DELETE FROM runs WHERE ended < ? AND id <> ?", (limit, self._run))
        while True:
            with self._transaction() as connection:
                removed = self._remove(connection, "last < ?", limit)
            gone += removed
            self.removed += removed
            if removed < _SLICE:
                return gone

    def _made_room(self) -> bool:
        """After a batch that did not fit: whether there is room now. If not, it is the disk that is full.

        A transaction that is tried again on a full disk may seem to succeed and not be there (SQLite 3.40 on
        tmpfs): the file has to be opened anew first.
        """
        before = self.removed
        self._make_room(_HALF)
        return self.removed > before

    def _make_room(self, share: float) -> None:
        while self._used() > share * self._limits.database and self._has_edges():
            self._remove_oldest()
            self._remove_unused()
        self._give_back()

    def _remove_oldest(self) -> None:
        with self._transaction() as connection:
            (edges,) = connection.execute("SELECT count(*) FROM edges").fetchone()
            removed = self._remove(connection, "?", 1, limit=max(1, min(_SLICE, edges // 10)))
        self.removed += removed

    @staticmethod
    def _remove(connection: sqlite3.Connection, where: str, value: float, limit: int = _SLICE) -> int:
        found = f"SELECT id, last FROM edges WHERE {where} ORDER BY last LIMIT {limit}"
        (newest,) = connection.execute(f"SELECT max(last) FROM ({found})", (value,)).fetchone()
        if newest is None:
            return 0
        connection.execute(_FORGET, (newest,))
        return connection.execute(
            f"DELETE FROM edges WHERE id IN (SELECT id FROM ({found}))", (value,)
        ).rowcount

    def _remove_unused(self) -> None:
        """Ends and rules that no edge names any more."""
        with self._transaction() as connection:
            connection.execute(
                "DELETE FROM ends WHERE id NOT IN"
                " (SELECT source FROM edges UNION SELECT destination FROM edges)"
            )
            connection.execute("DELETE FROM rules WHERE id NOT IN (SELECT rule FROM edges)")
            self._ends.clear()
            self._rules.clear()

    def _give_back(self) -> None:
        assert self._connection is not None
        self._connection.execute(f"PRAGMA incremental_vacuum({_VACUUM})").fetchall()

    def _has_edges(self) -> bool:
        assert self._connection is not None
        return self._connection.execute("SELECT 1 FROM edges LIMIT 1").fetchone() is not None

    def _used(self) -> int:
        """Bytes of pages that hold something."""
        assert self._connection is not None
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)
