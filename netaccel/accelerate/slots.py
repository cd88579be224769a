# SPDX-License-Identifier: Apache-2.0
"""The pairs that are enrolled, and every write that enrols, stops or frees one.

Writes are ordered so that whatever happens to this process between two of them, no byte is lost and none goes
where it should not, and a successor finds out how far it came (:meth:`Slots.adopt`):

1. ``accel_pairs[slot]`` = new generation, STOPPED, while no socket of it is enrolled.
2. Both sockets are enrolled, one after the other. One that is enrolled alone, or of a pair that is not LIVE,
   sends by TCP. A successor stops, drains and frees such a pair.
3. ``accel_pairs[slot]`` = LIVE. From here on it goes on without an agent; a successor adopts it.
4. To leave: STOPPED. Messages go by TCP; what was redirected waits at its reader. A successor drains it on.
5. Drained (:mod:`.life`): both sockets leave ``accel_map``. One that left alone is no other than one that
   was closed.
6. The slot's ends are forgotten: the same sockets may have another slot by and by, and an old claim on them
   would take them out of the map there.
7. ``accel_pairs[slot]`` = next generation, FREE. What a socket remembers of the generation before is void.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from netaccel.accelerate.evidence import Watch
from netaccel.accelerate.life import Drain, Phase, Sight, Step, after, next_generation
from netaccel.model.endpoint import PodKey
from netaccel.records import AccelEnd, AccelPair, AccelResult, AccelSeen, AccelWanted


class Programs(Protocol):
    """What is used here of netaccel.datapath.accel.sockets.AccelSockets; it says what each does."""

    constants: Mapping[str, int]

    @property
    def capacity(self) -> int:
        """Slots."""
        ...

    def scan(self, *, everything: bool = False) -> list[AccelSeen]:
        """In this thread's namespace."""
        ...

    def enrol(self, wanted: Mapping[int, AccelWanted]) -> dict[int, AccelResult]:
        """In this thread's namespace."""
        ...

    def pairs(self) -> dict[int, AccelPair]:
        """By slot."""
        ...

    def ends(self) -> dict[int, AccelEnd]:
        """By number."""
        ...

    def end(self, number: int) -> AccelEnd:
        """One of them."""
        ...

    def write_pairs(self, pairs: Mapping[int, AccelPair]) -> None:
        """By slot."""
        ...

    def members(self) -> set[int]:
        """Cookies."""
        ...

    def remove(self, cookies: Iterable[int]) -> None:
        """By cookie."""
        ...

    def forget(self, slot: int) -> None:
        """Its ends."""
        ...

    def close(self) -> None:
        """Free them."""
        ...


class Party(NamedTuple):
    """One end of a pair. ``netns``: cookie of its namespace, 0 where it was taken over and not seen yet.

    ``device``: ifindex of its pod's device, 0 where both ends are in one namespace.
    """

    cookie: int
    netns: int
    pod: PodKey | None
    address: bytes
    port: int
    device: int = 0


@dataclass(slots=True)
class Slot:
    """One pair that is enrolled, or on its way in or out. ``client``: which of the two opened it, 0 or 1.

    ``since``: when it joined or was stopped, seconds of the engine's clock. ``reason``: why it leaves.
    """

    number: int
    generation: int
    phase: Phase
    parties: tuple[Party, Party]
    since: float
    inside: bool = False
    client: int = 0
    service: str = ""
    revision: int = 0
    drain: Drain = field(default_factory=Drain)
    watch: Watch | None = None
    reason: str = ""
    deferred: bool = False

    @property
    def cookies(self) -> tuple[int, int]:
        """Of both ends."""
        return self.parties[0].cookie, self.parties[1].cookie

    @property
    def key(self) -> tuple[int, int]:
        """Unlike any other pair's."""
        return self.number, self.generation

    def go(self, step: Step) -> None:
        """Take a step."""
        self.phase = after(self.phase, step)


class Slots:
    """Of one node."""

    def __init__(self, programs: Programs) -> None:
        self.used: dict[int, Slot] = {}
        self.orphans: set[int] = set()
        """Cookies of enrolled sockets that are no pair's."""
        self._programs = programs
        names = programs.constants
        self._free_state, self._stopped, self._live = (
            names[f"ACCEL_{state}"] for state in ("FREE", "STOPPED", "LIVE")
        )
        self._generations: dict[int, int] = {}
        self._next = 0
        self._spare: list[int] = []

    def adopt(self, now: float) -> int:
        """Take over what an earlier agent left; how many pairs go on. DatapathError."""
        pairs, ends, members = self._programs.pairs(), self._programs.ends(), self._programs.members()
        owned: set[int] = set()
        for number, pair in pairs.items():
            self._generations[number] = pair.generation
            if pair.state == self._free_state:
                continue
            found = [ends.get(2 * number + side) for side in (0, 1)]
            parties = (_party(found[0]), _party(found[1]))
            whole = all(party.cookie in members for party in parties)
            inside = not any(end and end.ifindex for end in found)
            slot = Slot(number, pair.generation, Phase.LIVE, parties, now, inside, revision=pair.revision)
            self.used[number] = slot
            owned |= {party.cookie for party in parties}
            if pair.state != self._live or not whole:
                self.stop(slot, "half enrolled" if pair.state != self._live else "closed", now)
        self._next = max(pairs, default=-1) + 1
        self._spare = [number for number in range(self._next) if number not in self.used]
        self.orphans = members - owned
        return sum(slot.phase is Phase.LIVE for slot in self.used.values())

    @property
    def enrolled(self) -> set[int]:
        """Cookies of all sockets that have a slot."""
        return {cookie for slot in self.used.values() for cookie in slot.cookies}

    def has_room(self) -> bool:
        """Whether another pair fits."""
        return bool(self._spare) or self._next < self._programs.capacity

    def take(self, parties: tuple[Party, Party], now: float, *, inside: bool, revision: int) -> Slot:
        """A slot for a pair; there is room. DatapathError."""
        if self._spare:
            number = self._spare.pop()
        else:
            number, self._next = self._next, self._next + 1
        generation = next_generation(self._generations.get(number, 0))
        self._generations[number] = generation
        slot = Slot(number, generation, Phase.FREE, parties, now, inside, revision=revision)
        slot.go(Step.ENROL)
        self.used[number] = slot
        self._write(slot, self._stopped)
        return slot

    def wanted(self, slot: Slot, side: int) -> dict[int, AccelWanted]:
        """What the programs have to know to enrol one end."""
        party = slot.parties[side]
        device = 0 if slot.inside else party.device
        return {party.cookie: AccelWanted(2 * slot.number + side, slot.generation, device)}

    def go_live(self, slot: Slot) -> None:
        """Both ends are enrolled. DatapathError."""
        slot.go(Step.JOINED)
        self._write(slot, self._live)

    def arm(self, slot: Slot, revision: int) -> None:
        """Both ends were let through under another revision of policy. DatapathError."""
        slot.revision = revision
        self._write(slot, self._live)

    def stop(self, slot: Slot, reason: str, now: float) -> None:
        """From now on it goes by TCP. DatapathError."""
        if slot.phase is Phase.STOPPED:
            return
        slot.go(Step.STOP)
        slot.reason, slot.since = reason, now
        slot.drain = Drain()
        self._write(slot, self._stopped)

    def free(self, slot: Slot) -> None:
        """It is drained. DatapathError."""
        if slot.phase is Phase.STOPPED:
            slot.go(Step.DRAINED)
        self._programs.remove(slot.cookies)
        self._programs.forget(slot.number)
        self._generations[slot.number] = next_generation(slot.generation)
        self._programs.write_pairs(
            {slot.number: AccelPair(self._generations[slot.number], self._free_state, 0)}
        )
        slot.go(Step.FREED)
        del self.used[slot.number]
        self._spare.append(slot.number)

    def sights(self, slot: Slot, seen: Mapping[int, AccelSeen], members: Collection[int]) -> list[Sight]:
        """Both ends, as a look found them."""
        return [self.sight(cookie, seen, members) for cookie in slot.cookies]

    def sight(self, cookie: int, seen: Mapping[int, AccelSeen], members: Collection[int]) -> Sight:
        """One socket."""
        if cookie not in members:
            return Sight(member=False)
        if (found := seen.get(cookie)) is None:
            return Sight(member=True)
        busy, unread = (
            bool(found.flags & self._programs.constants[name]) for name in ("ACCEL_BUSY", "ACCEL_UNREAD")
        )
        return Sight(True, True, busy, unread)

    def _write(self, slot: Slot, state: int) -> None:
        self._programs.write_pairs({slot.number: AccelPair(slot.generation, state, slot.revision)})


def _party(end: AccelEnd | None) -> Party:
    if end is None:
        return Party(0, 0, None, bytes(16), 0)
    return Party(end.cookie, 0, None, end.src, end.sport, end.ifindex)
