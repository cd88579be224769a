# SPDX-License-Identifier: Apache-2.0
"""Whose other end a socket is: from scans of namespaces to pairs, or the reason why there is none. Pure.

A tuple means nothing by itself: two pods may have the same one on their loopbacks, and what is between two
namespaces may translate. So an end is looked for in one namespace only, that of the pod that has its address
(or the socket's own), and both ends' tuples must mirror each other exactly. That both name each other does
not prove that they are connected; the program proves it before each message, by sequence numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, Protocol

from netaccel.model.endpoint import PodKey


class Socket(Protocol):
    """What is read here of netaccel.records.AccelSeen. Ports in host order, addresses of 16 bytes."""

    @property
    def cookie(self) -> int:
        """The kernel's, unique in the machine."""
        ...

    @property
    def netns(self) -> int:
        """The cookie of its namespace."""
        ...

    @property
    def src(self) -> bytes:
        """Its own address."""
        ...

    @property
    def dst(self) -> bytes:
        """Its peer's."""
        ...

    @property
    def sport(self) -> int:
        """Its own port."""
        ...

    @property
    def dport(self) -> int:
        """Its peer's."""
        ...


class Place(NamedTuple):
    """The pod that a namespace is, and its addresses."""

    pod: PodKey
    addresses: tuple[bytes, ...]


class Pair(NamedTuple):
    """Two ends of one connection by cookie, the lower one first. ``inside``: both in one namespace."""

    first: int
    second: int
    inside: bool


class Pairing(NamedTuple):
    """``alone``: why a socket has no other end here, by cookie."""

    pairs: tuple[Pair, ...]
    alone: Mapping[int, str]


ELSEWHERE = "no other end on this node"
HOST = "host network"
TRANSLATED = "translated between the ends"
FOREIGN = "not from the pod's own address"
ITSELF = "connected to itself"
TWICE = "not the only one with its addresses"
UNREACHED = "the other end's pod can't be looked into"

_Tuple = tuple[int, bytes, int, bytes, int]


def pair(
    sockets: Iterable[Socket],
    places: Mapping[int, Place],
    of_node: Collection[bytes] = (),
    unreached: Collection[bytes] = (),
) -> Pairing:
    """Find the ends of connections. ``places``: by the namespace's cookie; sockets of others are left out.

    ``of_node``: the node's own addresses; ``unreached``: those of pods that no namespace is known of. A pod
    that stands at two namespaces is nowhere.
    """
    homes = _homes(places)
    known = [one for one in sockets if one.netns in places]
    at: dict[_Tuple, Socket | None] = {}
    for one in known:
        key = (one.netns, one.src, one.sport, one.dst, one.dport)
        at[key] = None if key in at else one
    pairs: dict[Pair, None] = {}
    alone: dict[int, str] = {}
    for one in known:
        found = _other(one, at, places, homes)
        if found == ELSEWHERE:
            found = HOST if one.dst in of_node else UNREACHED if one.dst in unreached else ELSEWHERE
        if isinstance(found, str):
            alone[one.cookie] = found
        else:
            ends = sorted((one.cookie, found.cookie))
            pairs[Pair(ends[0], ends[1], found.netns == one.netns)] = None
    return Pairing(tuple(pairs), alone)


def _homes(places: Mapping[int, Place]) -> dict[bytes, int | None]:
    """The one namespace of each pod's address."""
    homes: dict[bytes, int | None] = {}
    for netns, place in places.items():
        for address in place.addresses:
            homes[address] = None if address in homes else netns
    return homes


def _other(
    one: Socket,
    at: Mapping[_Tuple, Socket | None],
    places: Mapping[int, Place],
    homes: Mapping[bytes, int | None],
) -> Socket | str:
    if at[one.netns, one.src, one.sport, one.dst, one.dport] is None:
        return TWICE
    mirrored = (one.dst, one.dport, one.src, one.sport)
    if mirrored == (one.src, one.sport, one.dst, one.dport):
        return ITSELF
    key = (one.netns, *mirrored)
    if key not in at:
        home = homes.get(one.dst)
        if one.dst not in homes:
            return ELSEWHERE
        if home is None:
            return TWICE
        if one.src not in places[one.netns].addresses or homes.get(one.src) != one.netns:
            return FOREIGN
        key = (home, *mirrored)
        if home == one.netns or key not in at:
            return TRANSLATED
    found = at[key]
    return TWICE if found is None else found
