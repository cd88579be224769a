# SPDX-License-Identifier: Apache-2.0
"""Which pods' packets go from pod to pod past the node's stack (maps ``pod_peers``, ``peer_hints``).

What an agent left is taken over as it is, so that a restart changes no connection's way.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from netaccel.datapath.bpfmap import KernelMap
from netaccel.datapath.bpfobject import Program
from netaccel.errors import MapFullError
from netaccel.model.address import Address
from netaccel.records import PeerHints, PodPeer, PodPeerKey

_MAP, _HINTS, _PROGRAM = "pod_peers", "peer_hints", "peer_program"


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


def hints(addresses: Iterable[Address], constants: Mapping[str, int]) -> PeerHints:
    """What tells programs that an address may be one of these. ``constants``: of abi.h. Pure."""
    factor, shift = constants["PEER_HASH_FACTOR"], constants["PEER_HASH_SHIFT"]
    likely = bytearray(constants["PEER_HINTS"])
    for address in addresses:
        word = int.from_bytes(address[12:], sys.byteorder)
        likely[(word * factor & 0xFFFFFFFF) >> shift] = 1
    return PeerHints(bytes(likely))


def arm(maps: Path, program: Program) -> None:
    """Let programs of pods' devices call this one. ``maps``: the folder of the pins. DatapathError."""
    with KernelMap.open_pinned(maps / _PROGRAM) as pinned:
        pinned.update(bytes(4), program.fd.to_bytes(4, sys.byteorder))


def disarm(maps: Path) -> None:
    """Have programs of pods' devices call none: all packets at once go through the stack. DatapathError."""
    with contextlib.suppress(FileNotFoundError), KernelMap.open_pinned(maps / _PROGRAM) as pinned:
        pinned.delete(bytes(4))


class Peers:
    """Keeps the maps; blocks for microseconds. One owner."""

    def __init__(self, maps: Maps, constants: Mapping[str, int]) -> None:
        """Take over what is there. ``constants``: of abi.h. DatapathError."""
        self.problem = ""
        """Why an entry that shall be there is not; "" where all are."""
        self._maps, self._constants = maps, constants
        self._there: dict[Address, PodPeer] = {key.addr: value for key, value in maps.dump(_MAP).items()}

    @property
    def there(self) -> Mapping[Address, PodPeer]:
        """What is in force."""
        return self._there

    def set(self, wanted: Mapping[Address, PodPeer]) -> None:
        """Have these, and no others. DatapathError; where not all fit there are none (``problem``).

        A packet in between may go the other way than the one before; none is lost by that.
        """
        changed = {a: peer for a, peer in wanted.items() if self._there.get(a) != peer}
        gone = self._there.keys() - wanted.keys()
        self.problem = ""
        if gone:
            self._hint(wanted.keys() & self._there.keys())
            self._maps.delete(_MAP, [PodPeerKey(address) for address in gone])
            for address in gone:
                del self._there[address]
        if not changed:
            return
        try:
            self._maps.write(_MAP, [(PodPeerKey(address), peer) for address, peer in changed.items()])
        except MapFullError as error:
            self.problem = f"raise mapSizes {_MAP}: {error}"
            self._there |= changed  # some of them
            self.clear()
            return
        self._there |= changed
        self._hint(wanted)

    def clear(self) -> None:
        """Have none. DatapathError."""
        self._hint(())
        self._maps.delete(_MAP, [PodPeerKey(address) for address in self._there])
        self._there.clear()

    def _hint(self, addresses: Iterable[Address]) -> None:
        self._maps.write(_HINTS, [(0, hints(addresses, self._constants))])
