# SPDX-License-Identifier: Apache-2.0
"""The life of a slot, which holds one pair: when it may go on, and when its sockets may leave the map. Pure.

::

    FREE ──enrol──▶ ENROLLING ──both joined──▶ LIVE
      ▲                 │                       │
      │                 └────────stop───────────┤
      └──freed── REMOVING ◀──drained── STOPPED ◀┘

Taking a socket out of the map throws away what it has not read of redirected bytes, without a word. So a
pair is stopped first: its messages go by TCP from then on. A call that was under way may still have read the
old state; a look that finds the sender in no call proves that there is none any more. What a later look finds
unread at the receiver is then all that there ever will be; when it is read, the pair may go. A socket that is
not in the map (its owner closed it, and the kernel took it out) sends nothing and has nothing to read.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Phase(enum.Enum):
    """Where a slot is."""

    FREE = "free"
    ENROLLING = "enrolling"
    LIVE = "live"
    STOPPED = "stopped"
    REMOVING = "removing"


class Step(enum.Enum):
    """What takes it on."""

    ENROL = "enrol"
    JOINED = "both joined"
    STOP = "stop"
    DRAINED = "drained"
    FREED = "freed"


_NEXT = {
    (Phase.FREE, Step.ENROL): Phase.ENROLLING,
    (Phase.ENROLLING, Step.JOINED): Phase.LIVE,
    (Phase.ENROLLING, Step.STOP): Phase.STOPPED,
    (Phase.LIVE, Step.STOP): Phase.STOPPED,
    (Phase.STOPPED, Step.STOP): Phase.STOPPED,
    (Phase.REMOVING, Step.STOP): Phase.REMOVING,
    (Phase.STOPPED, Step.DRAINED): Phase.REMOVING,
    (Phase.REMOVING, Step.FREED): Phase.FREE,
}


def after(phase: Phase, step: Step) -> Phase:
    """Where a step leads. ValueError where it may not be taken."""
    found = _NEXT.get((phase, step))
    if found is None:
        raise ValueError(f"a slot that is {phase.value} can't go on by {step.value}")
    return found


class Sight(NamedTuple):
    """An end as a look found it. ``member``: it was in the map before the look began.

    ``seen``: the look listed it. ``busy``: in a call, as far as can be told. ``unread``: bytes that
    were redirected wait.
    """

    member: bool
    seen: bool = False
    busy: bool = False
    unread: bool = False

    @property
    def calm(self) -> bool:
        """Whether it is in no call."""
        return not self.member or (self.seen and not self.busy)

    @property
    def empty(self) -> bool:
        """Whether nothing waits to be read."""
        return not self.member or (self.seen and not self.unread)


GONE = Sight(member=False)
UNSEEN = Sight(member=True)
"""Its namespace could not be looked into."""


class Drain:
    """What looks have proved since a pair was stopped. Looks must have begun after that was written."""

    def __init__(self) -> None:
        self._calm = [False, False]
        self._empty = [False, False]

    def look(self, first: Sight, second: Sight) -> bool:
        """Take one look at both ends; whether they may leave the map now."""
        ends = (first, second)
        before = tuple(self._calm)
        for side, end in enumerate(ends):
            self._empty[side] = self._empty[side] or (before[side ^ 1] and end.empty)
            self._calm[side] = self._calm[side] or end.calm
        return self.done

    @property
    def done(self) -> bool:
        """Whether both may leave the map."""
        return all(self._empty) and all(self._calm)


FIRST_GENERATION = 1
_LAST_GENERATION = 2**32 - 1


def next_generation(generation: int) -> int:
    """Of a slot that is free again: what a socket remembers of the one before fits it no more. Never 0."""
    return generation + 1 if generation < _LAST_GENERATION else FIRST_GENERATION
