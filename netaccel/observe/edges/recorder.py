# SPDX-License-Identifier: Apache-2.0
"""Adds edges up in memory and has a thread write them now and then. Flows never wait for it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from netaccel.config import Settings
from netaccel.errors import DatapathError
from netaccel.observe.edges.edge import Edge, EdgeKey
from netaccel.observe.edges.store import BATCH, Limits, Store

log = logging.getLogger(__name__)

EDGES = "edges"
"""The note beside the pins that names the file, for whoever removes all traces."""
FLUSH = 10.0
"""Seconds between two writes; as much is lost when the agent is killed."""
MOST_WAITING = 50_000
"""Edges in memory. What is new beyond is not recorded, and counted."""
_ALIVE = 60.0  # seconds between signs of life, where nothing is met
_PRUNE = 600.0  # seconds between looks at age and room
_RETRY = 60.0  # seconds between tries of what failed


def edge_file(settings: Settings) -> Path:
    """Where this node's edges are."""
    return settings.state / "edges" / f"{quote(settings.node_name, safe='')}.db"


@dataclass(slots=True)
class Tally:
    """Since the start of this agent. Flows, or drops that were told."""

    recorded: int = 0
    lost: int = 0
    """Not recorded: memory, disk or the events themselves had no room."""
    removed: int = 0
    """Edges removed for their age or for room."""


class EdgeRecorder:
    """One node's recorder. :meth:`add` from the event loop; :meth:`run` in a task of its own."""

    def __init__(self, path: Path, limits: Limits, wall: Callable[[], float] = time.time) -> None:
        self.path = path
        self.tally = Tally()
        self.missed: Callable[[], int] = lambda: 0
        """How many flows the programs could not tell of, ever; it may block, and raise DatapathError."""
        self._missed: int | None = None
        self._store = Store(path, limits)
        self._wall = wall
        self._waiting: dict[EdgeKey, Edge] = {}
        self._lost = 0  # not yet told to the store
        self._problem = ""
        self._not_before = 0.0
        self._told = 0.0  # the last sign of life
        self._pruned = 0.0
        self._lock = asyncio.Lock()  # one flush at a time
        self._busy = threading.Lock()  # one call into the store

    @classmethod
    def of(cls, settings: Settings) -> EdgeRecorder:
        """As the settings say."""
        return cls(edge_file(settings), Limits(settings.edge_days, int(settings.edge_megabytes * (1 << 20))))

    def add(self, key: EdgeKey, at: float, count: int = 1) -> None:
        """One flow more; ``at``: seconds since the epoch. Cheap, never fails."""
        edge = Edge(key, at, at, count)
        known = self._waiting.get(key)
        if known is not None:
            self._waiting[key] = known.plus(edge)
        elif len(self._waiting) < MOST_WAITING:
            self._waiting[key] = edge
        else:
            self.lose(count)

    def lose(self, count: int) -> None:
        """Flows that nobody could tell of."""
        self._lost += count
        self.tally.lost += count

    @property
    def waiting(self) -> int:
        """Edges in memory."""
        return len(self._waiting)

    def size(self) -> int:
        """Bytes on disk; 0 where nothing can be read."""
        try:
            return self._store.size()
        except OSError:
            return 0

    def notes(self) -> list[str]:
        """What a person should know."""
        return [line for line in (self._problem, self._store.broke) if line]

    def close(self) -> None:
        """Let the file go; what is in memory is not written."""
        with self._busy:
            self._store.close()

    async def run(self) -> None:
        """Write for ever; what is in memory at the end is written too."""
        try:
            while True:
                await self.flush()
                await asyncio.sleep(FLUSH)
        finally:
            # The loop ends, and its threads with it: here, at once, after a batch that is under way.
            while (batch := self._take()) and self._turn(batch, 0):
                pass
            self._turn({}, self._lost)
            self.close()

    async def flush(self) -> None:
        """Write what is in memory now. Raises nothing for what the disk does: it is said, and tried again."""
        async with self._lock:
            if self._problem and self._wall() < self._not_before:
                return
            while True:
                batch, lost = self._take(), self._lost
                self._lost = 0
                if not await asyncio.to_thread(self._turn, batch, lost):
                    self._lost += lost
                    self._take_back(batch)
                    return
                if len(batch) < BATCH:
                    return

    def _take(self) -> dict[EdgeKey, Edge]:
        """The next batch, out of what waits."""
        keys = list(islice(self._waiting, BATCH))
        return {key: self._waiting.pop(key) for key in keys}

    def _take_back(self, batch: dict[EdgeKey, Edge]) -> None:
        """What was not written waits again, with what came meanwhile."""
        came, self._waiting = self._waiting, batch
        for edge in came.values():
            known = self._waiting.get(edge.key)
            if known is not None:
                self._waiting[edge.key] = known.plus(edge)
            elif len(self._waiting) < MOST_WAITING:
                self._waiting[edge.key] = edge
            else:
                self.lose(edge.count)

    # ------------------------------------------------------------- in a thread

    def _turn(self, batch: dict[EdgeKey, Edge], lost: int) -> bool:
        """Write a batch; whether that was possible."""
        with self._busy:
            now = self._wall()
            self._count_missed()
            try:
                self._write(batch, now, lost)
            except (sqlite3.Error, OSError) as error:
                self._failed(error, now)
                return False
            if self._problem:
                log.info("edges are recorded again")
            self._problem = ""
            return True

    def _count_missed(self) -> None:
        try:
            missed = self.missed()
        except DatapathError as error:
            log.debug("events that were lost are not counted now: %s", error)
            return
        if self._missed is not None and missed > self._missed:
            self.lose(missed - self._missed)
        self._missed = missed

    def _write(self, batch: dict[EdgeKey, Edge], now: float, lost: int) -> None:
        store = self._store
        if not store.is_open:
            store.open(now)
        if abs(now - self._pruned) > _PRUNE:
            store.prune(now)
            self._pruned = now
        if batch or lost or abs(now - self._told) > _ALIVE:
            store.write(list(batch.values()), now, lost)
            self._told = now
            self.tally.recorded += sum(edge.count for edge in batch.values())
            store.make_room()
        self.tally.removed = store.removed

    def _failed(self, error: sqlite3.Error | OSError, now: float) -> None:
        self._not_before = now + _RETRY
        self._store.close()  # opened anew next time: the disk may be another one by then
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        problem = f"edges are not recorded in {self.path}: {reason}: see `state`, `edgeDays`, `edgeMegabytes`"
        if problem != self._problem:
            log.warning("%s", problem)
        self._problem = problem
