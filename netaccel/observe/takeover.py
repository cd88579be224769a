# SPDX-License-Identifier: Apache-2.0
"""Flows that are older than this datapath: imported from the kernel's conntrack as the node's stack's own.

Such a flow has FLOW_STACK, names no backend, and its packets pass untouched, so that conntrack goes on
translating them. docs/decisions/0012-taking-over.md says when what is read, and why nothing falls between.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from netaccel.config import Timeouts
from netaccel.datapath.conntrack import SEEN_REPLY, Connection, Place, Way
from netaccel.model.address import is_ipv4
from netaccel.observe import conntrack
from netaccel.observe.conntrack import FLOW_MAPS, add_to_counter, other_half
from netaccel.observe.figures import Labels
from netaccel.records import Flow, FlowKey, Frontend, FrontendKey

_TCP, _UDP = 6, 17
_NO_HOP = bytes(6)
# States of enum tcp_conntrack; FIN_WAIT is either side's first FIN. Others are still opening.
_STATES = {
    "ESTABLISHED": "FLOW_ESTABLISHED",
    "FIN_WAIT": "FLOW_FIN_FORWARD",
    "CLOSE_WAIT": "FLOW_FIN_FORWARD",
    "LAST_ACK": "FLOW_CLOSED",
    "TIME_WAIT": "FLOW_CLOSED",
    "CLOSE": "FLOW_RESET",
}


class Maps(conntrack.Maps, Protocol):
    """What is needed here of netaccel.datapath.maps.KernelMaps."""

    def dump(self, name: str) -> Mapping[Any, Any]:
        """All entries."""
        ...

    def add(self, name: str, entries: Sequence[tuple[Any, Any]]) -> int:
        """Add entries whose keys are absent; how many were."""
        ...


class Codes:
    """Constants of abi.h and settings as flows of the stack need them."""

    def __init__(self, timeouts: Timeouts, constants: Mapping[str, int], hz: int) -> None:
        self.hz = hz
        self.stack = constants["FLOW_STACK"]
        self.path = constants["PATH_STACK"]
        self.forward, self.reverse = constants["FLOW_FORWARD"], constants["FLOW_REVERSE"]
        self.backend_free = constants["BACKEND_FREE"]
        self.unsettled = constants["FRONTEND_DRAIN"] | constants["FRONTEND_TAKEOVER"]
        self._constants = constants
        self._tcp, self._udp = conntrack.limits(timeouts, constants)

    def state(self, connection: Connection) -> int:
        """Its enum flow_state."""
        if connection.proto == _UDP:
            replied = connection.status & SEEN_REPLY
            return self._constants["FLOW_ESTABLISHED" if replied else "FLOW_UNREPLIED"]
        return self._constants[_STATES.get(connection.state, "FLOW_SYN")]

    def age(self, connection: Connection) -> int:
        """Jiffies since its last packet, such that it ends here when the kernel's ends, or before."""
        limit = (self._udp if connection.proto == _UDP else self._tcp)[self.state(connection)]
        return max(0, limit - connection.left) * self.hz


class Imported(NamedTuple):
    """What one import did, in entries, of which a flow has one or two."""

    added: int
    left_out: int
    """For want of room."""


# ------------------------------------------------------------------ when


def is_fresh(maps: Maps, codes: Codes) -> bool:
    """Whether the stack has served new flows until now: nothing is in force, or it was drained."""
    frontends: Collection[Frontend] = maps.dump("frontends").values()
    return not frontends or any(frontend.flags & codes.unsettled for frontend in frontends)


# ------------------------------------------------------------------ what


def places(frontends: Mapping[FrontendKey, Frontend]) -> set[Place]:
    """Where the connections go that concern us."""
    return {(key.addr, key.port, key.proto) for key in frontends}


def flows_of(
    connections: Iterable[Connection], frontends: Mapping[FrontendKey, Frontend], codes: Codes, now: int
) -> Iterator[tuple[FlowKey, Flow]]:
    """The entries that stand for the kernel's flows; ``now``: jiffies.

    Two for a flow to a frontend: the reverse one keeps ours off the port that answers come to. One for the
    answers to a connection that the node opened (or masqueraded) from what is a frontend's port now.
    """
    for connection in connections:
        original, reply, proto = connection.original, connection.reply, connection.proto
        frontend = frontends.get(FrontendKey(original.dst, original.dport, proto))
        if frontend and (connection.translated or connection.status & SEEN_REPLY):
            key = _key(original, proto, codes.forward)
            flow = _flow(connection, reply.answer, frontend.service, codes, now)
            yield key, flow
            yield (
                _key(reply, proto, codes.reverse),
                _flow(connection, original.answer, frontend.service, codes, now),
            )
        frontend = frontends.get(FrontendKey(reply.dst, reply.dport, proto))
        if frontend:
            yield _key(reply, proto, codes.forward), _flow(connection, reply, frontend.service, codes, now)


def _key(way: Way, proto: int, direction: int) -> FlowKey:
    return FlowKey(way.src, way.dst, way.sport, way.dport, proto, direction)


def _flow(connection: Connection, new: Way, service: int, codes: Codes, now: int) -> Flow:
    seen = (now - codes.age(connection)) % (1 << 32)
    return Flow(
        new_src=new.src,
        new_dst=new.dst,
        new_sport=new.sport,
        new_dport=new.dport,
        service=service,
        backend=0,
        generation=0,
        seen=seen,
        repaired=seen,
        state=codes.state(connection),
        flags=codes.stack,
        path=codes.path,
        hop_dst=_NO_HOP,
        hop_src=_NO_HOP,
        hop_ifindex=0,
        hop_seen=0,
        hop_mtu=0,
    )


# -------------------------------------------------------------- effects


def import_flows(maps: Maps, labels: Labels, entries: Iterable[tuple[FlowKey, Flow]]) -> Imported:
    """Put flows into the maps, but for those that a flow of ours has by now.

    Three quarters of a map at most, since the kernel makes room for what is new by taking what is old.
    """
    families: dict[bool, list[tuple[FlowKey, Flow]]] = {True: [], False: []}
    for entry in entries:
        families[is_ipv4(entry[0].src)].append(entry)
    added = left_out = 0
    for name, part in zip(FLOW_MAPS, families.values(), strict=True):
        room = maps.capacity(name) * 3 // 4
        left_out += max(0, len(part) - room)
        count = maps.add(name, part[:room])
        if count < len(part):
            maps.write(name, list(_better_known(maps, name, part)))
        if count:
            add_to_counter(maps, labels, f"{_stem(name)}_imported", count)
        added += count
    return Imported(added, left_out)


def _better_known(
    maps: Maps, name: str, entries: Iterable[tuple[FlowKey, Flow]]
) -> Iterator[tuple[FlowKey, Flow]]:
    """UDP flows that a program took for the stack's without knowing what that makes of them."""
    for key, flow in entries:
        if key.proto == _UDP and flow.new_dst != key.dst:
            there = maps.get(name, key)
            if there and there.flags == flow.flags and there.new_dst == key.dst:
                yield key, flow._replace(seen=there.seen)


def forget_unknown(maps: Maps, labels: Labels, codes: Codes, known: Collection[FlowKey]) -> int:
    """Delete UDP flows that a program took for the stack's and that the kernel has no entry of."""
    return _forget(maps, labels, codes, lambda key, flow: key not in known and flow.new_dst == key.dst)


def forget_ended(maps: Maps, labels: Labels, codes: Codes, known: Collection[FlowKey]) -> int:
    """Delete flows of the stack that the kernel has no entry of any more.

    A connection of the node's own processes is translated before any program sees it, so none sees its end.
    """
    protocols = (_TCP, _UDP)
    return _forget(maps, labels, codes, lambda key, _: key not in known, protocols)


def forget_gone(maps: Maps, labels: Labels, codes: Codes) -> int:
    """Delete the stack's UDP flows whose backend was removed, so that their clients get another.

    kube-proxy does the same to the kernel's entries; without one nobody would. TCP goes on as it can.
    """
    backends = {
        (backend.addr, backend.port)
        for backend in maps.dump("backends").values()
        if backend.state != codes.backend_free
    }
    return _forget(
        maps,
        labels,
        codes,
        lambda key, flow: flow.new_dst != key.dst and (flow.new_dst, flow.new_dport) not in backends,
    )


def _forget(
    maps: Maps,
    labels: Labels,
    codes: Codes,
    is_over: Callable[[FlowKey, Flow], bool],
    protocols: Collection[int] = (_UDP,),
) -> int:
    """Delete both halves of the stack's flows that are over; how many flows."""
    forgotten = 0
    for name in FLOW_MAPS:
        over = {
            key: other_half(key, flow)
            for batch in maps.batches(name)
            for key, flow in batch
            if flow.flags & codes.stack and key.proto in protocols and key.direction == codes.forward
            if is_over(key, flow)
        }
        # What a flow of ours has taken meanwhile stays.
        doomed = [k for k in (*over, *over.values()) if (f := maps.get(name, k)) and f.flags & codes.stack]
        if doomed:
            maps.delete(name, doomed)
            add_to_counter(maps, labels, f"{_stem(name)}_swept", len(doomed))
        forgotten += len(over)
    return forgotten


def _stem(name: str) -> str:
    """Of a map's counters: ``flow4`` for ``flows4``."""
    return f"flow{name[-1]}"
