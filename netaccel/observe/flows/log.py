# SPDX-License-Identifier: Apache-2.0
"""The last records of this node in memory, and those who follow.

Bounded on every side: the oldest record goes for a new one, a follower that does not keep up loses records
and is told how many. Used from one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import islice
from types import TracebackType
from typing import Self

from netaccel.errors import CapacityError
from netaccel.observe.flows.record import FlowRecord, Lost

Wanted = Callable[[FlowRecord], bool]

FOLLOWERS = 32
"""Who may follow at once."""
QUEUE = 4096
"""Records that wait for one follower."""
_CHUNK = 1024
"""Records that are looked at before others have their turn."""


class FlowLog:
    """What was told lately. ``listeners`` get every batch as it comes, in this process; they must not
    raise.
    """

    def __init__(self, limit: int) -> None:
        self._records: deque[FlowRecord] = deque(maxlen=limit)
        self._followers: set[Follower] = set()
        self.listeners: list[Callable[[Sequence[FlowRecord]], None]] = []
        self.limit = limit
        self.taken = 0
        """Records since the agent started."""
        self.forgotten = 0
        """Of these, gone for newer ones."""
        self.missed = 0
        """Records that some follower did not get."""

    def __len__(self) -> int:
        return len(self._records)

    @property
    def followers(self) -> int:
        """Who follows now."""
        return len(self._followers)

    def append(self, records: Sequence[FlowRecord]) -> None:
        """Take a batch in."""
        self.taken += len(records)
        self.forgotten += max(0, len(self._records) + len(records) - self.limit)
        self._records.extend(records)
        for follower in self._followers:
            self.missed += follower.offer(records)
        for listener in self.listeners:
            listener(records)

    async def last(self, count: int, wanted: Wanted, since: int = 0) -> list[FlowRecord]:
        """The newest ``count`` that are wanted and not older than ``since`` (nanoseconds), oldest first.

        Other tasks have their turn meanwhile; what comes after the call isn't in it.
        """
        found: list[FlowRecord] = []
        if not count:
            return found
        newest_first = reversed(list(self._records))
        while chunk := list(islice(newest_first, _CHUNK)):
            found += islice((one for one in chunk if one.time >= since and wanted(one)), count - len(found))
            if len(found) >= count or any(_is_older(one, since) for one in chunk):
                break
            await asyncio.sleep(0)
        found.reverse()
        return found

    def follow(self, wanted: Wanted) -> Follower:
        """Records from now on; use it as a context manager. CapacityError where too many follow."""
        if len(self._followers) >= FOLLOWERS:
            raise CapacityError(f"{FOLLOWERS} already follow: end one of them, or ask without follow")
        follower = Follower(wanted, self._followers.discard)
        self._followers.add(follower)
        return follower

    def end(self) -> None:
        """Send all followers away."""
        for follower in tuple(self._followers):
            follower.close()

    def __iter__(self) -> Iterator[FlowRecord]:
        return iter(tuple(self._records))


def _is_older(record: FlowRecord, since: int) -> bool:
    """Whether what was told before this record is older, too: one that ended may have done so long ago."""
    return record.type != "closed" and record.time < since


class Follower:
    """One who follows. Made by :meth:`FlowLog.follow`."""

    def __init__(self, wanted: Wanted, leave: Callable[[Follower], None]) -> None:
        self._wanted = wanted
        self._leave = leave
        self._queue: deque[FlowRecord] = deque()
        self._lost = 0
        self._stirred = asyncio.Event()
        self._open = True

    def offer(self, records: Sequence[FlowRecord]) -> int:
        """Take what is wanted and fits; how many were wanted and did not."""
        fresh = [one for one in records if self._wanted(one)]
        if not fresh:
            return 0
        room = QUEUE - len(self._queue)
        # Once some are lost, the others wait for the line that says so: it stands where they are missing.
        taken = 0 if self._lost else min(room, len(fresh))
        self._queue.extend(islice(fresh, taken))
        self._lost += len(fresh) - taken
        self._stirred.set()
        return len(fresh) - taken

    async def batches(self, patience: float) -> AsyncIterator[list[FlowRecord | Lost]]:
        """What came, whenever something did; an empty batch after ``patience`` seconds without. Until
        closed.
        """
        while self._open:
            self._stirred.clear()
            if not self._queue and not self._lost:
                try:
                    async with asyncio.timeout(patience):
                        await self._stirred.wait()
                except TimeoutError:
                    yield []
                    continue
            lines: list[FlowRecord | Lost] = [*self._queue]
            self._queue.clear()
            if self._lost:
                lines.append(Lost(self._lost))
                self._lost = 0
            if lines:
                yield lines

    def close(self) -> None:
        """No more records."""
        self._open = False
        self._stirred.set()
        self._leave(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
