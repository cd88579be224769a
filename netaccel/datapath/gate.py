# SPDX-License-Identifier: Apache-2.0
"""Strict mode's gate: which addresses the programs at the node's cgroup let through (map ``gate_addresses``).

An address is let in once its pod's policy is in force at its device, and shut out before anything else of a
pod that goes. What an agent left is taken over as it is, so that a restart cuts nobody off.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from netaccel.errors import MapFullError
from netaccel.model.address import Address
from netaccel.records import GateKey

_MAP = "gate_addresses"
_OPEN = 1


class Maps(Protocol):
    """What is used here of netaccel.datapath.maps.KernelMaps."""

    def dump(self, name: str) -> dict[Any, Any]:
        """All entries."""
        ...

    def write(self, name: str, entries: Sequence[tuple[Any, Any]]) -> None:
        """Add or replace entries."""
        ...

    def delete(self, name: str, keys: Sequence[Any]) -> None:
        """Remove entries."""
        ...


class Gate:
    """Keeps the map; blocks for microseconds. One owner."""

    def __init__(self, maps: Maps) -> None:
        """Take over what is there. DatapathError."""
        self.problem = ""
        """Why an address that shall be let through is not; "" where all are."""
        self._maps = maps
        self._let = frozenset(key.addr for key in maps.dump(_MAP))

    def set(self, addresses: Iterable[Address]) -> None:
        """Let these through, and no others. DatapathError; what does not fit stays shut (``problem``)."""
        wanted = frozenset(addresses)
        if gone := self._let - wanted:
            self._maps.delete(_MAP, [GateKey(address) for address in gone])
            self._let &= wanted
        self.problem = ""
        new = sorted(wanted - self._let)
        try:
            self._maps.write(_MAP, [(GateKey(address), _OPEN) for address in new])
            self._let |= wanted
        except MapFullError as error:
            self._let |= frozenset(new[: error.written])
            left = len(new) - error.written
            self.problem = f"{left} addresses of pods stay shut: raise mapSizes {_MAP}: {error}"
