# SPDX-License-Identifier: Apache-2.0
"""What to write, and in which order, to come from one state of the maps to another.

The order is the promise: after any single write no frontend points at what isn't there.

1. counters of new service ports are zeroed     6. frontends are removed
2. backends are written                         7. source ranges are removed
3. names                                        8. backends become free (their generation stays)
4. Maglev tables, in ranges nobody names yet    9. names are removed
5. source ranges, then frontends
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, overload

from netaccel.compile.desired import ALLOWED, Placed
from netaccel.records import Backend, Frontend, FrontendKey, Service, SourceRange, SourceRangeKey


class Columns(Sequence[tuple[int, int]]):
    """Entries of a map whose keys and values are __u32, as two arrays: a million need no million tuples."""

    def __init__(self) -> None:
        self.numbers = array("I")
        self.values = array("I")

    def __len__(self) -> int:
        return len(self.numbers)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Columns):
            return NotImplemented
        return self.numbers == other.numbers and self.values == other.values

    __hash__ = None  # type: ignore[assignment]  # it changes

    @overload
    def __getitem__(self, at: int) -> tuple[int, int]: ...

    @overload
    def __getitem__(self, at: slice) -> list[tuple[int, int]]: ...

    def __getitem__(self, at: int | slice) -> tuple[int, int] | list[tuple[int, int]]:
        """One entry, or some."""
        if isinstance(at, slice):
            return list(zip(self.numbers[at], self.values[at], strict=True))
        return self.numbers[at], self.values[at]

    def add(self, first: int, values: array[int]) -> None:
        """Values of consecutive keys."""
        self.numbers.extend(range(first, first + len(values)))
        self.values.extend(values)


class Write(NamedTuple):
    """Add or replace entries of one map, in this order."""

    map: str
    entries: Sequence[tuple[Any, Any]]


class Delete(NamedTuple):
    """Remove keys of one map; absent ones are fine."""

    map: str
    keys: Sequence[Any]


Step = Write | Delete


@dataclass(slots=True)
class Image:
    """What the maps hold, or shall hold, of some Services. ``slots``: of a table by its offset."""

    services: dict[int, Service] = field(default_factory=dict)
    backends: dict[int, Backend] = field(default_factory=dict)
    slots: dict[int, array[int]] = field(default_factory=dict)
    source_ranges: dict[SourceRangeKey, SourceRange] = field(default_factory=dict)
    frontends: dict[FrontendKey, Frontend] = field(default_factory=dict)

    @classmethod
    def of(cls, placed: Iterable[Placed]) -> Image:
        """Everything of these Services."""
        image = cls()
        for one in placed:
            for group in one.groups.values():
                image.services[group.number] = group.service
                image.backends.update(group.backends.values())
                for table in group.tables:
                    image.slots[table.offset] = table.slots
            image.source_ranges.update(dict.fromkeys(one.source_ranges, ALLOWED))
            image.frontends.update(one.frontends)
        return image


def steps(old: Image, new: Image, free_state: int) -> Iterator[Step]:
    """From ``old`` to ``new``. ``free_state`` is BACKEND_FREE; old backends are those that aren't free."""
    fresh = sorted(new.services.keys() - old.services.keys())
    if fresh:
        yield Delete("service_counters", fresh)
    yield from _write("backends", old.backends, new.backends)
    yield from _write("services", old.services, new.services)
    slots = _slots(old.slots, new.slots)
    if slots:
        yield Write("maglev", slots)
    yield from _write("source_ranges", old.source_ranges, new.source_ranges)
    yield from _write("frontends", old.frontends, new.frontends)

    yield from _delete("frontends", old.frontends, new.frontends)
    yield from _delete("source_ranges", old.source_ranges, new.source_ranges)
    gone = [
        (number, freed(backend, free_state))
        for number, backend in old.backends.items()
        if number not in new.backends
    ]
    if gone:
        yield Write("backends", gone)
    yield from _delete("services", old.services, new.services)


def freed(backend: Backend, free_state: int) -> Backend:
    """A slot without a backend: only its generation stays."""
    return Backend(bytes(16), 0, 0, free_state, 0, 0, 0, 0, backend.generation)


def _write(name: str, old: Mapping[Any, Any], new: Mapping[Any, Any]) -> Iterator[Write]:
    get = old.get
    entries = [(key, value) for key, value in new.items() if get(key) != value] if old else list(new.items())
    if entries:
        yield Write(name, entries)


def _delete(name: str, old: Mapping[Any, Any], new: Mapping[Any, Any]) -> Iterator[Delete]:
    keys = [key for key in old if key not in new]
    if keys:
        yield Delete(name, keys)


def _slots(old: Mapping[int, array[int]], new: Mapping[int, array[int]]) -> Columns:
    entries = Columns()
    for offset, table in new.items():
        before = old.get(offset)
        if before is None or len(before) != len(table):
            entries.add(offset, table)
        elif before != table:
            for i, now in enumerate(table):
                if before[i] != now:
                    entries.add(offset + i, table[i : i + 1])
    return entries
