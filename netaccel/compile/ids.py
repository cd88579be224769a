# SPDX-License-Identifier: Apache-2.0
"""Ids of service ports and backends, and ranges of the flat Maglev array: stable, and never reused at once.

What a flow, a socket or a packet under way still names must not suddenly mean something else. So a freed id
goes to the end of the queue, a freed backend slot gets another generation, and nothing that is freed is
given out before :meth:`Ids.commit`, that is, before the maps have been written.

Everything given out since the last commit can be taken back: :meth:`Ids.mark` and :meth:`Ids.rollback`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import NamedTuple

from netaccel.compile.services import Place
from netaccel.errors import CapacityError
from netaccel.model.service import ServiceKey

_GENERATIONS = 1 << 32


class PortKey(NamedTuple):
    """What has an id of its own."""

    service: ServiceKey
    port: int
    proto: int
    family: int


class BackendKey(NamedTuple):
    """What has a backend slot of its own. ``service``: id of the service port."""

    service: int
    place: Place


class _Backends(NamedTuple):
    """Backends of one service port that were given ids together."""

    service: int
    places: list[Place]


class IdPool:
    """Ids 1..capacity-1: never used ones first, then the one that has been free for longest."""

    def __init__(self, what: str, capacity: int) -> None:
        self.what = what
        self.capacity = capacity
        self._fresh = 1
        self._free: deque[int] = deque()

    def take(self) -> int:
        """An id; CapacityError where there is none."""
        return self.take_many(1)[0]

    def take_many(self, count: int) -> Sequence[int]:
        """That many; CapacityError where there are fewer, and then none is taken."""
        if count > self.available:
            raise CapacityError(
                f"{self.what} are used up: {self.available} of {self.capacity - 1} are free, "
                f"{count} are needed; raise the map's size"
            )
        first = self._fresh
        self._fresh = min(first + count, self.capacity)
        fresh = range(first, self._fresh)
        if len(fresh) == count:
            return fresh
        return [*fresh, *(self._free.popleft() for _ in range(count - len(fresh)))]

    def give_back(self, number: int) -> None:
        """Undo :meth:`take`, latest first."""
        if number == self._fresh - 1:
            self._fresh -= 1
        else:
            self._free.appendleft(number)

    def free(self, number: int) -> None:
        """Put an id at the end of the queue."""
        self._free.append(number)

    def restart(self, used: Iterable[int], was_used: Iterable[int]) -> None:
        """Begin anew: ``used`` are taken, ``was_used`` are free but not fresh, lowest first."""
        taken = set(used)
        old = sorted(set(was_used) - taken)
        self._fresh = max(taken.union(old), default=0) + 1
        gaps = sorted(set(range(1, self._fresh)) - taken.union(old))
        self._free = deque(gaps + old)

    @property
    def available(self) -> int:
        """How many can be taken."""
        return self.capacity - self._fresh + len(self._free)


class RangeAllocator:
    """Ranges of a flat array: first fit, neighbours joined."""

    def __init__(self, what: str, capacity: int) -> None:
        self.what = what
        self.capacity = capacity
        self._starts = [0] if capacity else []
        self._lengths = {0: capacity} if capacity else {}

    def take(self, length: int) -> int:
        """Offset of a free range; CapacityError where none is long enough."""
        for index, start in enumerate(self._starts):
            room = self._lengths[start]
            if room >= length:
                del self._lengths[start]
                if room == length:
                    del self._starts[index]
                else:
                    self._starts[index] = start + length
                    self._lengths[start + length] = room - length
                return start
        raise CapacityError(
            f"{self.what} are used up: no {length} of {self.capacity} in a row are free; raise the map's size"
        )

    def free(self, start: int, length: int) -> None:
        """Give a range back."""
        index = bisect_left(self._starts, start)
        if index < len(self._starts) and self._starts[index] == start + length:
            length += self._lengths.pop(self._starts.pop(index))
        if index and self._starts[index - 1] + self._lengths[self._starts[index - 1]] == start:
            self._lengths[self._starts[index - 1]] += length
            return
        insort(self._starts, start)
        self._lengths[start] = length

    def restart(self, used: Iterable[tuple[int, int]]) -> None:
        """Begin anew with these ranges taken; they may overlap."""
        self._starts, self._lengths = [], {}
        at = 0
        for start, length in sorted(used):
            if start > at:
                self._starts.append(at)
                self._lengths[at] = start - at
            at = max(at, start + length)
        if at < self.capacity:
            self._starts.append(at)
            self._lengths[at] = self.capacity - at

    @property
    def available(self) -> int:
        """Slots that are free, in however many ranges."""
        return sum(self._lengths.values())


class Ids:
    """All that is given out of one node's maps."""

    def __init__(self, services: int, backends: int, slots: int) -> None:
        """Capacities of the maps ``services``, ``backends`` and ``maglev``."""
        self.ports: dict[PortKey, int] = {}
        self.backends: dict[int, dict[Place, int]] = {}
        """By the id of the service port."""
        self.generations: dict[int, int] = {}
        self._port_pool = IdPool("ids of service ports", services)
        self._backend_pool = IdPool("backends", backends)
        self._ranges = RangeAllocator("Maglev slots", slots)
        self._taken: list[PortKey | _Backends | tuple[int, int]] = []
        self._freed: list[PortKey | BackendKey | tuple[int, int]] = []

    # ------------------------------------------------------------ giving out

    def port(self, key: PortKey) -> int:
        """The id of a service port, a new one if need be. CapacityError."""
        number = self.ports.get(key)
        if number is None:
            number = self.ports[key] = self._port_pool.take()
            self._taken.append(key)
        return number

    def backends_of(self, service: int, places: Collection[Place]) -> Mapping[Place, int]:
        """Ids of at least these backends, new ones with a new generation where need be. CapacityError."""
        known = self.backends.setdefault(service, {})
        new = [place for place in places if place not in known]
        if new:
            generations = self.generations
            numbers = self._backend_pool.take_many(len(new))
            for number in numbers:
                generations[number] = generations.get(number, 0) % (_GENERATIONS - 1) + 1
            known.update(zip(new, numbers, strict=True))
            self._taken.append(_Backends(service, new))
        return known

    def range(self, length: int) -> int:
        """Offset of a new range. CapacityError."""
        start = self._ranges.take(length)
        self._taken.append((start, length))
        return start

    def free(self, what: PortKey | BackendKey | tuple[int, int]) -> None:
        """Take back at the next commit."""
        self._freed.append(what)

    # ------------------------------------------------------------ transaction

    def mark(self) -> int:
        """A point to roll back to."""
        return len(self._taken)

    def rollback(self, mark: int) -> None:
        """Take back all that was given out since the mark; nothing has been written of it."""
        while len(self._taken) > mark:
            match self._taken.pop():
                case PortKey() as key:
                    self._port_pool.give_back(self.ports.pop(key))
                case _Backends(service, places):
                    for place in reversed(places):
                        self._backend_pool.give_back(self._forget(service, place))
                case (start, length):
                    self._ranges.free(start, length)

    def abandon(self) -> None:
        """Take back all that was given out since the last commit, and free nothing."""
        self.rollback(0)
        self._freed.clear()

    def commit(self) -> None:
        """All is written: what was given out stays, what was freed may be given out again."""
        for what in self._freed:
            match what:
                case PortKey():
                    self._port_pool.free(self.ports.pop(what))
                case BackendKey(service, place):
                    self._backend_pool.free(self._forget(service, place))
                case (start, length):
                    self._ranges.free(start, length)
        self._taken.clear()
        self._freed.clear()

    # --------------------------------------------------------------- adoption

    def adopt(
        self,
        ports: Mapping[PortKey, int],
        backends: Mapping[int, Mapping[Place, int]],
        generations: Mapping[int, int],
        ranges: Iterable[tuple[int, int]],
    ) -> None:
        """Begin anew with what the maps hold. ``generations`` are of every slot ever used, free ones too."""
        self._taken.clear()
        self._freed.clear()
        self.ports = dict(ports)
        self.backends = {service: dict(places) for service, places in backends.items()}
        merged = dict(generations)
        for number, generation in self.generations.items():  # a slot that was wiped must not go back
            merged[number] = max(generation, merged.get(number, 0))
        self.generations = merged
        self._port_pool.restart(self.ports.values(), ())
        used = (number for places in self.backends.values() for number in places.values())
        self._backend_pool.restart(used, merged)
        self._ranges.restart(ranges)

    def retain(
        self,
        ports: Set[PortKey],
        backends: Mapping[int, Collection[Place]],
        ranges: Iterable[tuple[int, int]],
    ) -> None:
        """Free whatever else was adopted, now that the maps hold nothing else."""
        for port in [key for key in self.ports if key not in ports]:
            self._port_pool.free(self.ports.pop(port))
        for service in list(self.backends):
            kept = backends.get(service, ())
            for place in [place for place in self.backends[service] if place not in kept]:
                self._backend_pool.free(self._forget(service, place))
        self._ranges.restart(ranges)

    def _forget(self, service: int, place: Place) -> int:
        places = self.backends[service]
        number = places.pop(place)
        if not places:
            del self.backends[service]
        return number

    @property
    def available(self) -> dict[str, int]:
        """What can still be given out, by map."""
        return {
            "services": self._port_pool.available,
            "backends": self._backend_pool.available,
            "maglev": self._ranges.available,
        }
