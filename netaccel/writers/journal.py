# SPDX-License-Identifier: Apache-2.0
"""Which notices become Events, and when again: aggregation and limits. Pure: the caller tells the time.

Kubernetes' own recorder (client-go tools/record, EventCorrelator) does the same for a stream of events; here
notices are what is true now, so nothing that a limit holds back is lost: it is told once there is a token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from netaccel.model.event import ObjectKey
from netaccel.writers.bucket import Bucket, Buckets, Rate
from netaccel.writers.notices import Notice

COMBINED = "(several messages like this one) "


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds and counts. Those of one object are what client-go's correlator has by default."""

    object_burst: int = 25
    """Events on one object at once, then one each ``object_refill`` seconds."""
    object_refill: float = 300.0
    burst: int = 50
    """Events of this agent at once, then one each ``refill`` seconds."""
    refill: float = 1.0
    similar: int = 10
    """Messages with one reason on one object within ``window`` that get an Event each."""
    window: float = 600.0
    repeat: float = 1800.0
    """What is still true is told again after so long: the API server forgets Events after an hour."""
    memory: float = 3600.0
    size: int = 4096
    """Notices and objects that are remembered."""


class _Subject(NamedTuple):
    """What notices are alike in."""

    key: ObjectKey
    uid: str
    reason: str


class _Line(NamedTuple):
    subject: _Subject
    message: str


@dataclass(slots=True)
class _Told:
    count: int
    last: float
    combined: bool
    true: bool = True
    """Whether it was among the notices at the last look."""


@dataclass(frozen=True, slots=True)
class Telling:
    """One Event to write. ``count`` 1: a new one. ``combined``: for all of its object and reason."""

    notice: Notice
    count: int
    combined: bool = False

    def name(self, uid: str, instance: str) -> str:
        """The Event's name, the same each time. ``uid``: the object's. ``instance``: who tells it, or "".

        A name that is known beforehand makes an agent that starts anew, or is newly elected, find the Event
        instead of adding one.
        """
        notice = self.notice
        what = (notice.key.kind, uid, notice.reason, "" if self.combined else notice.message, instance)
        digest = hashlib.blake2b("\0".join(what).encode(), digest_size=8).hexdigest()
        return f"{notice.key.name[:200].rstrip('.-')}.{digest}"


class Journal:
    """What was told. Ask :meth:`due`, write, tell :meth:`done` after each before taking the next."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._told: dict[_Line, _Told] = {}
        self._firsts: dict[_Subject, list[float]] = {}  # when its messages were told first, of late
        self._each = Buckets(Rate(self._limits.object_burst, self._limits.object_refill), self._limits.size)
        self._all = Bucket(Rate(self._limits.burst, self._limits.refill))
        self.held_back = 0
        """Notices that the limits held back at the last look."""

    def due(self, notices: Iterable[Notice], now: float) -> Iterator[Telling]:
        """What to write now."""
        self.held_back = 0
        lines = {_line(notice): notice for notice in notices}
        self._forget(lines.keys(), now)
        for line, notice in lines.items():
            told = self._told.get(line)
            if told and told.true and now - told.last < self._limits.repeat:
                continue
            if not self._allowed(notice.key, now):
                self.held_back += 1
                continue
            if told.combined if told else self._similar(line.subject, now) >= self._limits.similar:
                told = self._told.get(_Line(line.subject, ""))
                yield Telling(notice, told.count + 1 if told else 1, combined=True)
            else:
                yield Telling(notice, told.count + 1 if told else 1)

    def done(self, telling: Telling, now: float, count: int | None = None) -> None:
        """It was written. ``count``: how often the API server says that it was told by now."""
        for bucket in (self._all, self._each.of(telling.notice.key)):
            bucket.take()
        line = _line(telling.notice)
        if line not in self._told:
            self._firsts.setdefault(line.subject, []).append(now)
        for each in (line, _Line(line.subject, "")) if telling.combined else (line,):
            self._told[each] = _Told(count or telling.count, now, telling.combined)

    def _allowed(self, key: ObjectKey, now: float) -> bool:
        return self._all.has(now) and self._each.of(key).has(now)

    def _similar(self, subject: _Subject, now: float) -> int:
        firsts = [first for first in self._firsts.pop(subject, ()) if now - first < self._limits.window]
        if firsts:
            self._firsts[subject] = firsts
        return len(firsts)

    def _forget(self, true: Iterable[_Line], now: float) -> None:
        """Mark what is no longer true; forget it after a while, sooner where there is much of it."""
        kept = set(true)
        for line, told in list(self._told.items()):
            if line in kept:
                continue
            if line.message:
                told.true = False
            if now - told.last >= self._limits.memory or len(self._told) > self._limits.size:
                del self._told[line]
                self._firsts.pop(line.subject, None)


def _line(notice: Notice) -> _Line:
    return _Line(_Subject(notice.key, notice.uid, notice.reason), notice.message)
