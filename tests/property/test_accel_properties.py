# SPDX-License-Identifier: Apache-2.0
"""Whatever the order of events: no socket leaves the map with unread bytes, no pair mixes pods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from netaccel.accelerate.life import Drain, Phase, Sight, Step, after, next_generation
from netaccel.accelerate.pairing import Place, pair
from netaccel.model.endpoint import PodKey


@dataclass
class Socket:
    """One end in the kernel. ``calls``: sends under way, by whether they read LIVE before it was stopped."""

    member: bool = True
    calls: list[bool] = field(default_factory=list)
    unread: int = 0


@dataclass
class Kernel:
    """Two sockets and the state that sends read when they begin."""

    live: bool = True
    ends: tuple[Socket, Socket] = field(default_factory=lambda: (Socket(), Socket()))

    def do(self, action: str, side: int) -> None:
        end, other = self.ends[side], self.ends[1 - side]
        if action == "begin" and end.member:
            end.calls.append(self.live)
        elif action == "finish" and end.calls and end.calls.pop(0) and other.member:
            other.unread += 1  # it judged LIVE when it began, however long ago
        elif action == "read":
            end.unread = 0
        elif action == "close":
            end.member, end.unread, end.calls = False, 0, []

    def sight(self, side: int, *, visited: bool) -> Sight:
        end = self.ends[side]
        if not end.member or not visited:
            return Sight(end.member)
        return Sight(True, True, bool(end.calls), bool(end.unread))


ACTIONS = st.tuples(st.sampled_from(("begin", "finish", "read", "close")), st.integers(0, 1))
LOOKS = st.tuples(st.just("look"), st.integers(0, 3))


@settings(max_examples=400, deadline=None)
@given(st.lists(ACTIONS, max_size=12), st.lists(st.one_of(ACTIONS, LOOKS), max_size=60))
def test_nothing_unread_is_ever_thrown_away(
    before: list[tuple[str, int]], later: list[tuple[str, int]]
) -> None:
    kernel, drain = Kernel(), Drain()
    for action, side in before:
        kernel.do(action, side)
    kernel.live = False
    for action, number in later:
        if action != "look":
            kernel.do(action, number)
            continue
        # The look visits the two namespaces one after the other; bit by bit, one may be out of reach.
        sights = [kernel.sight(side, visited=not number >> side & 1) for side in (0, 1)]
        if drain.look(*sights):
            assert not any(end.unread for end in kernel.ends if end.member)
            assert not any(call for end in kernel.ends for call in end.calls), "nobody will send past TCP"
            return


@settings(max_examples=200, deadline=None)
@given(st.lists(ACTIONS, max_size=30))
def test_readers_that_read_let_every_pair_go(before: list[tuple[str, int]]) -> None:
    kernel, drain = Kernel(), Drain()
    for action, side in before:
        kernel.do(action, side)
    kernel.live = False
    for side in (0, 1):
        while kernel.ends[side].calls:
            kernel.do("finish", side)
    for side in (0, 1):
        kernel.do("read", side)
    looks = [drain.look(kernel.sight(0, visited=True), kernel.sight(1, visited=True)) for _ in range(2)]
    assert looks[-1]


@given(st.lists(st.sampled_from(Step), max_size=30))
def test_a_slot_is_only_freed_after_it_was_stopped_and_drained(steps: list[Step]) -> None:
    phase, drained = Phase.FREE, True
    for step in steps:
        try:
            phase = after(phase, step)
        except ValueError:
            continue
        drained = step is Step.DRAINED or (drained and step in (Step.FREED, Step.STOP))
        assert phase is not Phase.FREE or drained


@given(st.integers(1, 2**32 - 1))
def test_generations_differ_and_are_never_zero(generation: int) -> None:
    assert 0 < next_generation(generation) < 2**32
    assert next_generation(generation) != generation


class Sock(NamedTuple):
    cookie: int
    netns: int
    src: bytes
    dst: bytes
    sport: int
    dport: int


NAMESPACES = st.integers(1, 3)
ADDRESSES = st.sampled_from([bytes([number]) for number in (1, 2, 3, 127)])
PORTS = st.integers(1, 2)
SOCKETS = st.lists(st.tuples(NAMESPACES, ADDRESSES, ADDRESSES, PORTS, PORTS), max_size=14)
PLACES = st.dictionaries(NAMESPACES, st.sets(ADDRESSES, min_size=1, max_size=2), max_size=3)


@settings(max_examples=400, deadline=None)
@given(SOCKETS, PLACES)
def test_pairing_never_mixes_pods(
    found: list[tuple[int, bytes, bytes, int, int]], owned: dict[int, set[bytes]]
) -> None:
    sockets = {cookie: Sock(cookie, *one) for cookie, one in enumerate(found, 1)}
    places = {netns: Place(PodKey("", str(netns)), tuple(own)) for netns, own in owned.items()}
    result = pair(sockets.values(), places)
    partners: dict[int, int] = {}
    for one in result.pairs:
        first, second = sockets[one.first], sockets[one.second]
        assert (first.src, first.sport, first.dst, first.dport) == (
            second.dst,
            second.dport,
            second.src,
            second.sport,
        )
        assert {first.netns, second.netns} <= places.keys()
        assert one.inside == (first.netns == second.netns)
        if not one.inside:
            for end in (first, second):
                assert end.src in owned[end.netns]
                assert sum(end.src in own for own in owned.values()) == 1, "nobody else claims it"
        assert partners.setdefault(one.first, one.second) == one.second
        assert partners.setdefault(one.second, one.first) == one.first
    known = {cookie for cookie, one in sockets.items() if one.netns in places}
    assert partners.keys() | result.alone.keys() == known
    assert not partners.keys() & result.alone.keys()
