# SPDX-License-Identifier: Apache-2.0
"""The agent is killed between any two writes: its successors find their way, and lose nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from hypothesis import example, given, settings
from hypothesis import strategies as st

from netaccel.accelerate.life import Phase, Sight
from netaccel.accelerate.slots import Party, Slot, Slots
from netaccel.records import AccelEnd, AccelPair, AccelResult, AccelSeen, AccelWanted

SOCKETS = [(10, 11), (20, 21), (30, 31)]
CONSTANTS = {name: number for number, name in enumerate(("ACCEL_FREE", "ACCEL_STOPPED", "ACCEL_LIVE"))} | {
    "ACCEL_BUSY": 128,
    "ACCEL_UNREAD": 256,
}


class KilledError(Exception):
    """kill -9."""


class Kernel:
    """Maps and enrolled sockets, that outlive agents. ``life``: writes until the agent is killed."""

    constants: Mapping[str, int] = CONSTANTS
    capacity = 3

    def __init__(self) -> None:
        self.life = 0
        self.slots: dict[int, AccelPair] = {}
        self.ends_: dict[int, AccelEnd] = {}
        self.enrolled: dict[int, tuple[int, int]] = {}  # end and generation, which the socket remembers

    def write(self) -> None:
        if not self.life:
            raise KilledError
        self.life -= 1

    def scan(self, *, everything: bool = False) -> list[AccelSeen]:
        return []

    def enrol(self, wanted: Mapping[int, AccelWanted]) -> dict[int, AccelResult]:
        self.write()
        for cookie, want in wanted.items():
            assert cookie not in self.enrolled
            self.ends_[want.end] = blank()._replace(cookie=cookie)
            self.enrolled[cookie] = (want.end, want.generation)
        return {cookie: AccelResult(cookie, 0, 0) for cookie in wanted}

    def pairs(self) -> dict[int, AccelPair]:
        return {number: pair for number, pair in self.slots.items() if any(pair)}

    def ends(self) -> dict[int, AccelEnd]:
        return {number: end for number, end in self.ends_.items() if end.cookie}

    def end(self, number: int) -> AccelEnd:
        return self.ends_.get(number, blank())

    def write_pairs(self, pairs: Mapping[int, AccelPair]) -> None:
        self.write()
        for number, pair in pairs.items():
            self.slots[number] = pair
            if pair.state == CONSTANTS["ACCEL_LIVE"]:
                assert self.goes_on(number), "no pair is live whose ends are not both enrolled as its own"

    def members(self) -> set[int]:
        return set(self.enrolled)

    def remove(self, cookies: Iterable[int]) -> None:
        for cookie in cookies:
            self.write()
            gone = self.enrolled.pop(cookie, None)
            if gone:
                pair = self.slots[gone[0] // 2]
                still = (pair.generation, pair.state) == (gone[1], CONSTANTS["ACCEL_LIVE"])
                assert not still, "it may get redirected bytes that nobody reads"

    def forget(self, slot: int) -> None:
        self.write()
        for number in (2 * slot, 2 * slot + 1):
            self.ends_.pop(number, None)

    def close(self) -> None:
        pass

    def goes_on(self, number: int) -> bool:
        ends = [(2 * number + side, self.slots[number].generation) for side in (0, 1)]
        return all(end in self.enrolled.values() for end in ends)


def blank() -> AccelEnd:
    return AccelEnd(*(bytes(16) if "bytes" in str(hint) else 0 for hint in AccelEnd.__annotations__.values()))


def parties(ends: tuple[int, int]) -> tuple[Party, Party]:
    first, second = (Party(cookie, 1, None, bytes(16), 1) for cookie in ends)
    return first, second


def enrol(kernel: Kernel, slots: Slots, number: int) -> None:
    ends = SOCKETS[number]
    if not slots.enrolled.isdisjoint(ends) or slots.orphans & set(ends) or not slots.has_room():
        return
    slot = slots.take(parties(ends), 0.0, inside=True, revision=0)
    for side in (0, 1):
        kernel.enrol(slots.wanted(slot, side))
    slots.go_live(slot)


def leave(slots: Slots, number: int) -> None:
    for slot in list(slots.used.values()):
        if slot.number == number:
            slots.stop(slot, "test", 0.0)


def drain(slots: Slots, kernel: Kernel) -> None:
    for _ in range(2):
        for slot in [one for one in slots.used.values() if one.phase is Phase.STOPPED]:
            if slot.drain.look(*(calm(cookie, kernel) for cookie in slot.cookies)):
                slots.free(slot)
    for cookie in list(slots.orphans):
        kernel.remove([cookie])
        slots.orphans.discard(cookie)


def calm(cookie: int, kernel: Kernel) -> Sight:
    return Sight(cookie in kernel.enrolled, seen=True)


STEPS = st.tuples(st.sampled_from(("enrol", "leave", "drain")), st.integers(0, 2))


SWAPPED = [("enrol", 0), ("enrol", 1), ("leave", 0), ("drain", 0), ("leave", 1), ("drain", 0)]
"""Then the first sockets have the second slot, and the first slot is free."""


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.lists(STEPS, max_size=12)), min_size=1, max_size=6))
@example([(23, [*SWAPPED, ("enrol", 0), ("enrol", 1)])])
@example([(21, [*SWAPPED, ("enrol", 0), ("enrol", 1)])])
def test_whenever_it_is_killed(lives: list[tuple[int, list[tuple[str, int]]]]) -> None:
    kernel = Kernel()
    for length, steps in lives:
        kernel.life = length
        slots = Slots(kernel)
        actions: dict[str, Callable[[int], None]] = {
            "enrol": lambda number, slots=slots: enrol(kernel, slots, number),  # type: ignore[misc]
            "leave": lambda number, slots=slots: leave(slots, number),  # type: ignore[misc]
            "drain": lambda _, slots=slots: drain(slots, kernel),  # type: ignore[misc]
        }
        try:
            slots.adopt(0.0)
            for action, number in steps:
                actions[action](number)
        except KilledError:
            continue
    kernel.life = 1000
    slots = Slots(kernel)
    slots.adopt(0.0)
    claimed = [cookie for slot in slots.used.values() for cookie in slot.cookies if cookie]
    assert len(claimed) == len(set(claimed)), "no two slots claim one socket"
    assert kernel.members() <= {*claimed, *slots.orphans}
    assert all(kernel.goes_on(slot.number) for slot in slots.used.values() if live(slot))
    for slot in list(slots.used.values()):
        slots.stop(slot, "test", 0.0)
    drain(slots, kernel)
    assert not slots.used
    assert not kernel.members()
    enrol(kernel, slots, 0)
    assert len(slots.used) == 1, "and everything can be used again"


def live(slot: Slot) -> bool:
    return slot.phase is Phase.LIVE
