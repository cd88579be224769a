# SPDX-License-Identifier: Apache-2.0
"""Enrols connections without any evidence, and stops, goes on, evicts and forgets at random.

By the agent's own order of steps (netaccel.accelerate: slots, life, pairing), faster and without reason.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from netaccel.accelerate.life import Drain, Phase
from netaccel.accelerate.pairing import Place, pair
from netaccel.accelerate.slots import Party, Slot, Slots
from netaccel.datapath import netlink
from netaccel.datapath.accel.sockets import AccelSockets
from netaccel.datapath.bpfmap import KernelMap
from netaccel.datapath.clock import jiffies_per_second
from netaccel.model.address import parse_address
from netaccel.model.endpoint import PodKey
from netaccel.records import AccelPair, AccelSeen

PAUSE = 0.03  # seconds between rounds
REVISION = 4  # bytes of struct policy_revision's number


class Ground(NamedTuple):
    """Where sockets are looked for: names of namespaces, and the addresses of each."""

    namespaces: Mapping[str, tuple[str, ...]]


class Driver:
    """A thread that does it until :meth:`end`. ``redirected``: bytes past TCP by the sender's cookie."""

    def __init__(self, pins: Path, ground: Ground, spared: int = 0) -> None:
        """``pins``: a folder of a bpf file system; ``spared``: a port whose connections are left alone."""
        self._pins, self._ground, self._spared = pins, ground, spared
        self.redirected: Counter[int] = Counter()
        self.counts: Counter[str] = Counter()
        self.passes: Counter[str] = Counter()
        self.failed: BaseException | None = None
        self._dice = random.Random()
        self._held: set[int] = set()
        self._orphans: dict[int, Drain] = {}
        self._ending = threading.Event()
        self._programs = AccelSockets.open(pins, jiffies_per_second())
        self._revision_map = KernelMap.open_pinned(pins / "policy_revision")
        self._revision = 0
        self._slots = Slots(self._programs)
        self._places = self._find_places()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def end(self) -> None:
        """Wait until all that is enrolled has left. Raises what the thread raised."""
        self._ending.set()
        self._thread.join()
        self._programs.close()
        self._revision_map.close()
        if self.failed:
            raise self.failed

    def _find_places(self) -> dict[int, Place]:
        places = {}
        for name, addresses in self._ground.namespaces.items():
            with netlink.inside_namespace(name):
                key = PodKey("chaos", name)
                places[netlink.netns_cookie()] = Place(key, tuple(map(parse_address, addresses)))
        return places

    def _work(self) -> None:
        rounds = 0
        try:
            while not (self._ending.is_set() and (not self._slots.used or rounds > 300)):
                rounds += self._ending.is_set()
                self._round()
                time.sleep(PAUSE)
        except BaseException as error:  # noqa: BLE001 it is raised in end()
            self.failed = error

    # ------------------------------------------------------------------- rounds

    def _round(self) -> None:
        if self._dice.random() < 0.01:
            self._restart()
        members = frozenset(self._programs.members())
        seen: dict[int, AccelSeen] = {}
        for name in self._ground.namespaces:
            with netlink.inside_namespace(name):
                seen.update((one.cookie, one) for one in self._programs.scan(everything=True))
        self._leave(seen, members)
        self._disturb(members)
        if not self._ending.is_set():
            self._join(seen)

    def _restart(self) -> None:
        """As if the agent had been killed: what is enrolled goes on, a successor takes it over."""
        self.counts["restarts"] += 1
        self._programs.close()
        self._programs = AccelSockets.open(self._pins, jiffies_per_second())
        self._slots = Slots(self._programs)
        self._slots.adopt(0.0)
        self._held.clear()
        self._orphans = {cookie: Drain() for cookie in self._slots.orphans}

    def _leave(self, seen: Mapping[int, AccelSeen], members: frozenset[int]) -> None:
        for slot in list(self._slots.used.values()):
            if slot.phase is Phase.STOPPED and slot.drain.look(*self._slots.sights(slot, seen, members)):
                self._harvest(slot)
                self._slots.free(slot)
        for cookie, drain in list(self._orphans.items()):
            sight = self._slots.sight(cookie, seen, members)
            if drain.look(sight, sight):
                self._programs.remove([cookie])
                del self._orphans[cookie]

    def _harvest(self, slot: Slot) -> None:
        for side, cookie in enumerate(slot.cookies):
            end = self._programs.end(2 * slot.number + side)
            if end.cookie != cookie:
                continue
            self.redirected[cookie] += end.sent_bytes
            self.counts["messages"] += end.sent_messages
            for name in end._fields:
                if name.startswith("pass_"):
                    self.passes[name.removeprefix("pass_")] += getattr(end, name)

    def _disturb(self, members: frozenset[int]) -> None:
        if self._dice.random() < 0.05:
            self.counts["revisions"] += 1
            self._revision += 1
            key, value = bytes(4), self._revision.to_bytes(REVISION, "little") + bytes(4)
            self._revision_map.update(key, value)
        for slot in list(self._slots.used.values()):
            if slot.phase is not Phase.LIVE:
                continue
            chance = self._dice.random()
            if self._ending.is_set() or not members.issuperset(slot.cookies) or chance < 0.02:
                self.counts["evictions" if members.issuperset(slot.cookies) else "closed"] += 1
                self._held.discard(slot.number)
                self._slots.stop(slot, "chance", 0.0)
            elif slot.number in self._held:
                if chance < 0.5:
                    self._held.discard(slot.number)
                    self._slots.arm(slot, slot.revision)
            elif slot.revision != self._revision and chance < 0.5:
                self._slots.arm(slot, self._revision)
            elif chance > 0.97:
                self.counts["stops"] += 1
                self._held.add(slot.number)
                state = self._programs.constants["ACCEL_STOPPED"]
                self._programs.write_pairs({slot.number: AccelPair(slot.generation, state, slot.revision)})

    def _join(self, seen: Mapping[int, AccelSeen]) -> None:
        enrolled = self._slots.enrolled | self._orphans.keys()
        nonblocking = self._programs.constants["ACCEL_NONBLOCK"]
        taken: list[Slot] = []
        for one in pair(seen.values(), self._places).pairs:
            ends = (seen[one.first], seen[one.second])
            if not enrolled.isdisjoint((one.first, one.second)) or not self._slots.has_room():
                continue
            if self._spared in (ends[0].sport, ends[1].sport) or self._dice.random() < 0.3:
                continue
            if not all(end.flags & nonblocking for end in ends):
                continue
            first, second = (Party(end.cookie, end.netns, None, end.src, end.sport) for end in ends)
            taken.append(self._slots.take((first, second), 0.0, inside=one.inside, revision=self._revision))
        joined = self._enrol(taken)
        for slot in taken:
            if joined.issuperset(slot.cookies):
                self._slots.go_live(slot)
                self.counts["promotions"] += 1
            else:
                self.counts["refused"] += 1
                self._slots.stop(slot, "refused", 0.0)

    def _enrol(self, taken: list[Slot]) -> set[int]:
        joined: set[int] = set()
        wanted = {}
        for slot in taken:
            for side in (0, 1):
                wanted.update(self._slots.wanted(slot, side))
        for name in self._ground.namespaces if wanted else ():
            with netlink.inside_namespace(name):
                results = self._programs.enrol(wanted)
            joined.update(cookie for cookie, result in results.items() if not result.error)
        return joined
