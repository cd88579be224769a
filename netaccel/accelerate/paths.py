# SPDX-License-Identifier: Apache-2.0
"""What connections carried past TCP and by TCP, by their addresses, for records of flows. Pure.

A connection may join, leave and join again; its sums go on. They are remembered for a while after its end,
since a flow's last record is told when its entry expires. Reading is for any thread, all else for one.
"""

from __future__ import annotations

from typing import NamedTuple

from netaccel.accelerate.view import Carried

SOCKET, TC = "socket", "tc"
"""How a connection goes."""
KEEP = 600.0  # seconds after a connection's last look
MOST = 16_384  # connections; beyond, those that ended first are forgotten first

Quad = tuple[bytes, int, bytes, int]
"""Own address and port, the peer's address and port."""


class Moved(NamedTuple):
    """Of one end: what it sent and got from socket to socket, and what by TCP meanwhile."""

    sent_messages: int = 0
    sent_bytes: int = 0
    received_messages: int = 0
    received_bytes: int = 0
    tcp_sent_bytes: int = 0
    tcp_received_bytes: int = 0

    def plus(self, other: Moved) -> Moved:
        """Both together."""
        return Moved(*(own + more for own, more in zip(self, other, strict=True)))

    @property
    def mirrored(self) -> Moved:
        """As the other end sees it."""
        return Moved(
            self.received_messages,
            self.received_bytes,
            self.sent_messages,
            self.sent_bytes,
            self.tcp_received_bytes,
            self.tcp_sent_bytes,
        )


class _Entry(NamedTuple):
    ends: frozenset[int]  # cookies: the same addresses may be another connection's later
    pair: tuple[int, int]
    before: Moved  # of earlier pairs of the same connection
    now: Moved
    path: str
    at: float


class Paths:
    """Of one node's connections."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._known: dict[Quad, _Entry] = {}

    def note(
        self, quad: Quad, ends: frozenset[int], pair: tuple[int, int], now: Moved, path: str, at: float
    ) -> None:
        """Take in what a pair moved since it joined. ``ends``: both cookies; ``pair``: unlike any other's."""
        known = self._known.pop(quad, None)
        before = Moved()
        if known and known.ends == ends:
            before = known.before if known.pair == pair else known.before.plus(known.now)
        self._known[quad] = _Entry(ends, pair, before, now, path, at)  # the last one now: dicts keep order
        while len(self._known) > self._most:
            del self._known[next(iter(self._known))]

    def forget(self, at: float) -> None:
        """Those that ended long ago."""
        while self._known:
            oldest = next(iter(self._known))
            if at - self._known[oldest].at < KEEP:
                return
            del self._known[oldest]

    def find(self, src: bytes, sport: int, dst: bytes, dport: int) -> Carried | None:
        """Of a connection, as this end sees it; None where it never was accelerated."""
        if found := self._known.get((src, sport, dst, dport)):
            return Carried(found.path, *found.before.plus(found.now))
        if found := self._known.get((dst, dport, src, sport)):
            return Carried(found.path, *found.before.plus(found.now).mirrored)
        return None
