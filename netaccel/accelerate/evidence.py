# SPDX-License-Identifier: Apache-2.0
"""Which pairs are worth it: from two looks at a connection to joining, leaving and staying away. Pure.

A connection joins by what TCP counted of both its ends, and leaves by what the programs counted since. A pair
whose messages pass by TCP all the same pays for both ways, so it leaves, and stays away for longer each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Thresholds:
    """``rate``: data segments a second, each way, from which a connection joins.

    ``burst``: most bytes, both ways together, for each segment of the quieter way. ``passing``: share of
    messages that may pass by TCP; ``least``: messages below which passes prove nothing. ``cold``: share of
    ``rate`` below which it leaves after ``patience`` seconds. ``away``: seconds that one stays away that left
    because it passed, doubled each time up to ``longest``.
    """

    rate: float = 100.0
    burst: int = 64 * 1024
    passing: float = 0.25
    least: int = 32
    cold: float = 0.1
    patience: float = 10.0
    away: float = 10.0
    longest: float = 640.0


class Sample(NamedTuple):
    """What TCP counted of one end, since it began."""

    segments: int
    bytes: int


class Counted(NamedTuple):
    """What the programs counted of one end since it joined. ``passed``: messages that went by TCP.

    ``excused``: those that did for a reason which is not the connection's own, as a change of policy.
    """

    messages: int
    passed: int
    excused: int = 0


SLOW = "not busy enough"
LARGE = "large messages"
AWAY = "left lately, since its messages passed by TCP"
COLD = "not busy any more"
PASSING = "its messages passed by TCP"


def joins(
    before: tuple[Sample, Sample], now: tuple[Sample, Sample], seconds: float, limits: Thresholds
) -> str:
    """Why a connection does not join; "" where it does. Both ends, ``seconds`` apart."""
    if seconds <= 0:
        return SLOW
    sent = [after.segments - earlier.segments for earlier, after in zip(before, now, strict=True)]
    if min(sent) < limits.rate * seconds:
        return SLOW
    carried = sum(after.bytes - earlier.bytes for earlier, after in zip(before, now, strict=True))
    # Of a large answer every segment counts, of its question one: the smaller number is that of exchanges.
    return LARGE if carried > limits.burst * min(sent) else ""


class Watch:
    """One pair that has joined. ``now``: seconds of one clock."""

    def __init__(self, now: float, counted: tuple[Counted, Counted], limits: Thresholds) -> None:
        self._limits = limits
        self._at, self._last = now, counted
        self._warm_at = now

    def leaves(self, now: float, counted: tuple[Counted, Counted]) -> str:
        """Why it leaves; "" where it stays. Call it once a look."""
        seconds = now - self._at
        if seconds <= 0:
            return ""
        grown = [
            Counted(*(late - early for early, late in zip(before, after, strict=True)))
            for before, after in zip(self._last, counted, strict=True)
        ]
        self._at, self._last = now, counted
        limits = self._limits
        messages = sum(one.messages for one in grown)
        passed = sum(one.passed for one in grown)
        if passed + messages >= limits.least and passed > limits.passing * (passed + messages):
            return PASSING
        if min(sum(one) for one in grown) >= limits.cold * limits.rate * seconds:
            self._warm_at = now
        return COLD if now - self._warm_at >= limits.patience else ""


class Absences:
    """Pairs that stay away, by their ends' cookies."""

    def __init__(self, limits: Thresholds) -> None:
        self._limits = limits
        self._until: dict[tuple[int, int], tuple[float, float]] = {}  # and for how long it was

    def left(self, ends: tuple[int, int], now: float) -> None:
        """It left because its messages passed."""
        _, before = self._until.get(ends, (0.0, 0.0))
        pause = min(2 * before or self._limits.away, self._limits.longest)
        self._until[ends] = (now + pause, pause)

    def away(self, ends: tuple[int, int], now: float) -> bool:
        """Whether it is too early to join again."""
        return ends in self._until and now < self._until[ends][0]

    def keep(self, there: set[int]) -> None:
        """Forget all whose ends are not both among these cookies."""
        gone = [ends for ends in self._until if not there.issuperset(ends)]
        for ends in gone:
            del self._until[ends]
