# SPDX-License-Identifier: Apache-2.0
"""Reads a node's maps whole, and counts what differs from what was written."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from netaccel.compile.adopt import Dump
from netaccel.compile.diff import Image


class Maps(Protocol):
    """What is used here of netaccel.datapath.maps."""

    def dump(self, name: str) -> dict[Any, Any]:
        """All entries of a map."""
        ...

    def batches(self, name: str) -> Iterator[list[tuple[Any, Any]]]:
        """All entries of a map, some thousand at a time."""
        ...

    def write(self, name: str, entries: Sequence[tuple[Any, Any]]) -> None:
        """Add or replace entries, in order."""
        ...

    def delete(self, name: str, keys: Sequence[Any]) -> None:
        """Remove entries."""
        ...

    def capacity(self, name: str) -> int:
        """Entries that fit."""
        ...


def read(maps: Maps) -> Dump:
    """Every map that Services are written to. DatapathError."""
    slots = array("I", bytes(4 * maps.capacity("maglev")))
    for batch in maps.batches("maglev"):
        for index, number in batch:
            if number:
                slots[index] = number
    return Dump(
        services=maps.dump("services"),
        backends=maps.dump("backends"),
        frontends=maps.dump("frontends"),
        source_ranges=maps.dump("source_ranges"),
        slots=slots,
    )


def differences(written: Image, found: Dump, free_state: int) -> Counter[str]:
    """Entries that are other than written, missing or nobody's, by map."""
    in_use = {number: backend for number, backend in found.backends.items() if backend.state != free_state}
    counts = Counter(
        services=_count(written.services, found.services),
        backends=_count(written.backends, in_use),
        frontends=_count(written.frontends, found.frontends),
        source_ranges=_count(written.source_ranges, found.source_ranges),
        maglev=sum(
            sum(a != b for a, b in zip(table, held, strict=True))
            for offset, table in written.slots.items()
            if (held := found.slots[offset : offset + len(table)]) != table
        ),
    )
    return +counts


def _count(written: Mapping[Any, Any], found: Mapping[Any, Any]) -> int:
    changed = sum(1 for key, value in written.items() if found.get(key) != value)
    return changed + sum(1 for key in found if key not in written)
