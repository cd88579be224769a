# SPDX-License-Identifier: Apache-2.0
"""What the programs counted: read once a round, and taken into receipts and paths."""

from __future__ import annotations

from collections.abc import Collection

from netaccel.accelerate.evidence import Counted
from netaccel.accelerate.life import Phase
from netaccel.accelerate.paths import SOCKET, TC, Moved, Paths
from netaccel.accelerate.receipts import UNNAMED, Ends, Ledger, Sum, both
from netaccel.accelerate.slots import Programs, Slot
from netaccel.model.endpoint import PodKey
from netaccel.records import AccelEnd

MANY = 300  # pairs, from which on the whole table is read
PASSES = ("stopped", "policy", "call", "reader", "peer", "unread", "full")
"""Why messages go by TCP, as struct accel_end counts them."""
_EXCUSED = ("stopped", "policy")  # these do not speak against the connection

Both = tuple[AccelEnd, AccelEnd]


class Accounts:
    """Of one node's pairs. ``ledger``: where receipts are kept."""

    def __init__(self, programs: Programs, ledger: Ledger) -> None:
        self.ledger = ledger
        self.paths = Paths()
        self._programs = programs
        self._read: dict[tuple[int, int], Both] = {}

    def ends(self, slot: Slot) -> Both:
        """Both ends of a pair, now. DatapathError."""
        return self._programs.end(2 * slot.number), self._programs.end(2 * slot.number + 1)

    def read(self, used: Collection[Slot]) -> None:
        """All pairs, once a round: each by itself, or where there are many, all at once. DatapathError."""
        if len(used) < MANY:
            self._read = {slot.key: self.ends(slot) for slot in used}
            return
        table, one = self._programs.ends(), self._programs.end
        self._read = {
            slot.key: (
                table.get(2 * slot.number) or one(2 * slot.number),
                table.get(2 * slot.number + 1) or one(2 * slot.number + 1),
            )
            for slot in used
        }

    def counted(self, slot: Slot) -> tuple[Counted, Counted]:
        """Messages of both ends, as of this round. DatapathError."""
        first, second = (_counted(end) for end in self._read.get(slot.key) or self.ends(slot))
        return first, second

    def take(self, used: Collection[Slot], now: float) -> None:
        """Take all pairs in, and forget those that are none any more. ``now``: seconds. DatapathError."""
        for slot in used:
            self._take(slot, self._read.get(slot.key) or self.ends(slot), now)
        self.paths.forget(now)
        self.ledger.keep([slot.key for slot in used])

    def close(self, slot: Slot, now: float) -> None:
        """The last that is to be taken in of a pair: it counted on until a moment ago. DatapathError."""
        self._take(slot, self.ends(slot), now, last=True)

    def _take(self, slot: Slot, found: Both, now: float, *, last: bool = False) -> None:
        first, second = found
        if not slot.inside:
            self._note(slot, first, second, now)
        ends = _named(slot)
        if ends is None and not last and not self.ledger.knows(slot.key):
            return  # taken over: its pods may be found yet
        total = Sum(
            first.sent_messages + second.sent_messages,
            first.sent_bytes + second.sent_bytes,
            first.passed_bytes + second.passed_bytes,
            both(passes(first), passes(second)),
        )
        self.ledger.count(*slot.key, ends or UNNAMED, total)

    def _note(self, slot: Slot, first: AccelEnd, second: AccelEnd, now: float) -> None:
        own, other = slot.parties
        moved = Moved(
            first.sent_messages,
            first.sent_bytes,
            second.sent_messages,
            second.sent_bytes,
            first.passed_bytes,
            second.passed_bytes,
        )
        quad = (own.address, own.port, other.address, other.port)
        path = SOCKET if slot.phase is Phase.LIVE else TC
        self.paths.note(quad, frozenset(slot.cookies), slot.key, moved, path, now)


def _counted(end: AccelEnd) -> Counted:
    passed = passes(end)
    excused = sum(passed.pop(reason, 0) for reason in _EXCUSED)
    return Counted(end.sent_messages, sum(passed.values()), excused)


def passes(end: AccelEnd) -> dict[str, int]:
    """Messages that went by TCP, by reason."""
    counts = {reason: int(getattr(end, f"pass_{reason}")) for reason in PASSES}
    return {reason: count for reason, count in counts.items() if count}


def _named(slot: Slot) -> Ends | None:
    """None where the pods are not known."""
    client, server = slot.parties[slot.client].pod, slot.parties[1 - slot.client].pod
    return Ends(slot.service, _text(client), _text(server)) if client and server else None


def _text(pod: PodKey) -> str:
    return f"{pod.namespace}/{pod.name}"
