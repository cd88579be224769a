# SPDX-License-Identifier: Apache-2.0
"""What is every frontend's at once and no Service's own: whether new flows are taken at all.

A mode is a flag of each frontend in the maps. It is added on the way in and taken off on the way out, so that
compiling, comparing and adopting know nothing of it, and a switch is one rewrite of the frontends.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from netaccel.reconcile.dump import Maps


class Mode(enum.Enum):
    """A value is the name of the mode's flag in enum frontend_flag, "" where there is none."""

    SERVE = ""
    TAKE_OVER = "FRONTEND_TAKEOVER"
    """New TCP connections are served; what may be in the middle of something goes to the node's stack."""
    DRAIN = "FRONTEND_DRAIN"
    """Flows that are open are served; everything else goes to the node's stack."""


class MapsInMode:
    """The maps, whose frontends carry :attr:`mode`."""

    def __init__(self, maps: Maps, constants: Mapping[str, int], mode: Mode) -> None:
        self.mode = mode
        self.others = 0
        """Frontends of another mode in the last dump."""
        self._maps = maps
        self._flag = {each: constants[each.value] if each.value else 0 for each in Mode}
        self._mask = sum(self._flag.values())

    def dump(self, name: str) -> dict[Any, Any]:
        """All entries; of frontends without their modes, which are compared here."""
        found = self._maps.dump(name)
        if name == "frontends":
            flag, mask = self._flag[self.mode], self._mask
            self.others = sum(1 for value in found.values() if value.flags & mask != flag)
            if flag or self.others:
                return {key: value._replace(flags=value.flags & ~mask) for key, value in found.items()}
        return found

    def batches(self, name: str) -> Iterator[list[tuple[Any, Any]]]:
        """All entries, some thousand at a time; not of frontends."""
        return self._maps.batches(name)

    def write(self, name: str, entries: Sequence[tuple[Any, Any]]) -> None:
        """Add or replace entries, in order."""
        flag = self._flag[self.mode]
        if flag and name == "frontends":
            entries = [(key, value._replace(flags=value.flags | flag)) for key, value in entries]
        self._maps.write(name, entries)

    def delete(self, name: str, keys: Sequence[Any]) -> None:
        """Remove entries."""
        self._maps.delete(name, keys)

    def capacity(self, name: str) -> int:
        """Entries that fit."""
        return self._maps.capacity(name)
