# SPDX-License-Identifier: Apache-2.0
"""Acceleration receipts: what pairs carried, by Service and pair of pods, as growing sums. Pure.

The programs count by end of a slot, from zero with each pair that joins. What is counted here is the growth
since the last look at the same pair, so slots may be used again; what was told is kept with the sums
(:class:`Ledger` is what an agent saves), so that a successor goes on where its predecessor stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import msgspec

from netaccel.accelerate.view import OTHERS, Receipt

RECEIPTS = "receipts"
"""The note beside the pins that names the file where an agent keeps them."""
ROWS = 1024
"""Receipts that have a row of their own; what comes later shares one."""


class Ends(msgspec.Struct, frozen=True):
    """Between which pods a pair is, and the Service that the client reached; "" where it is none's."""

    service: str
    client: str
    server: str


UNNAMED = Ends(OTHERS, OTHERS, OTHERS)
"""Of pairs that no row is left for, or whose pods are not known any more."""


class Sum(msgspec.Struct, frozen=True):
    """Of both ends of a pair, since it joined. ``tcp_bytes``: of messages that passed by TCP."""

    messages: int = 0
    bytes: int = 0
    tcp_bytes: int = 0
    passes: dict[str, int] = {}


class Row(msgspec.Struct):
    """A receipt that grows."""

    connections: int = 0
    messages: int = 0
    bytes: int = 0
    tcp_bytes: int = 0
    passes: dict[str, int] = {}

    def grow(self, before: Sum, now: Sum) -> None:
        """By what came in between. A sum never shrinks; where one did, it began anew."""
        if now.messages < before.messages or now.bytes < before.bytes or now.tcp_bytes < before.tcp_bytes:
            before = Sum()
        self.messages += now.messages - before.messages
        self.bytes += now.bytes - before.bytes
        self.tcp_bytes += now.tcp_bytes - before.tcp_bytes
        passes = Counter(self.passes)
        for reason, count in now.passes.items():
            passes[reason] += max(0, count - before.passes.get(reason, 0))
        self.passes = dict(passes)


class Counted(msgspec.Struct, frozen=True):
    """What was counted of one pair at the last look."""

    ends: Ends
    sum: Sum


PairKey = tuple[int, int]
"""Slot and generation."""


class _Saved(msgspec.Struct):
    boot: str
    rows: list[tuple[Ends, Row]]
    pairs: list[tuple[int, int, Counted]]


class Ledger:
    """All receipts of a node. ``boot``: the kernel's boot id; what another boot counted has ended."""

    def __init__(self, boot: str = "") -> None:
        self._boot = boot
        self._rows: dict[Ends, Row] = {}
        self._pairs: dict[PairKey, Counted] = {}

    def count(self, slot: int, generation: int, ends: Ends, now: Sum) -> None:
        """Take in what a pair's counters say."""
        key = (slot, generation)
        before = self._pairs.get(key)
        if before is None:
            row = self._row(ends)
            row.connections += 1
            row.grow(Sum(), now)
        else:
            ends = before.ends
            self._row(ends).grow(before.sum, now)
        self._pairs[key] = Counted(ends, now)

    def knows(self, pair: PairKey) -> bool:
        """Whether something was counted of it."""
        return pair in self._pairs

    def keep(self, pairs: Collection[PairKey]) -> None:
        """Forget the pairs that are not among these; their sums stay."""
        for key in self._pairs.keys() - set(pairs):
            del self._pairs[key]

    def receipts(self) -> tuple[Receipt, ...]:
        """By bytes, the most first."""
        found = [
            Receipt(*_names(ends), row.connections, row.messages, row.bytes, row.tcp_bytes, dict(row.passes))
            for ends, row in self._rows.items()
        ]
        return tuple(sorted(found, key=lambda one: (-one.bytes, one.service, one.client, one.server)))

    def save(self) -> bytes:
        """For a successor."""
        pairs = [(slot, generation, counted) for (slot, generation), counted in self._pairs.items()]
        return msgspec.json.encode(_Saved(self._boot, list(self._rows.items()), pairs))

    def load(self, saved: bytes) -> None:
        """What a predecessor saved. ValueError where it is none of it. Of another boot: nothing."""
        try:
            found = msgspec.json.decode(saved, type=_Saved)
        except msgspec.MsgspecError as error:
            raise ValueError(f"no receipts: {error}") from error
        if found.boot == self._boot:
            self._rows = dict(found.rows)
            self._pairs = {(slot, generation): counted for slot, generation, counted in found.pairs}

    def _row(self, ends: Ends) -> Row:
        if ends not in self._rows and len(self._rows) >= ROWS:
            ends = UNNAMED
        return self._rows.setdefault(ends, Row())


def _names(ends: Ends) -> tuple[str, str, str]:
    return ends.service, ends.client, ends.server


def both(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    """Counts of both ends together, without zeros."""
    total = Counter(first)
    total.update(second)
    return {reason: count for reason, count in total.items() if count}
