# SPDX-License-Identifier: Apache-2.0
"""Sweeps expired flows, and counts what the maps hold while it passes through them.

The programs judge a flow's age themselves whenever a packet meets it; the sweep frees memory and SNAT
ports of flows that no packet meets any more. A flow goes only when both of its halves have expired, since
one of them alone may be carrying all the packets. Ages are jiffies' low 32 bits, so they wrap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from netaccel.config import Timeouts
from netaccel.observe.figures import Labels
from netaccel.records import Flow, FlowKey

_WRAP = 1 << 32
_GRACE = 5  # seconds: a packet may meet the flow between our look and our deletion

FLOW_MAPS = {"flows4": "IPv4", "flows6": "IPv6"}
# LRU maps and the stem of their counters in enum counter.
_LRU = {
    "flows4": "flow4",
    "flows6": "flow6",
    "affinity": "affinity",
    "fragments": "fragment",
    "sock_peer": "sock_peer",
    "sock_nat": "sock_nat",
    "sock_udp": "sock_udp",
}


class Maps(Protocol):
    """What is needed here of netaccel.datapath.maps.Maps."""

    def batches(self, name: str) -> Iterator[Sequence[tuple[Any, Any]]]:
        """Every entry, some thousand at a time."""
        ...

    def count(self, name: str) -> int:
        """Entries in use; of an array those that are not all zero."""
        ...

    def capacity(self, name: str) -> int:
        """Entries that fit."""
        ...

    def get(self, name: str, key: Any) -> Any:
        """One value; of a per-CPU map one for each CPU."""
        ...

    def write(self, name: str, entries: Sequence[tuple[Any, Any]]) -> None:
        """Write entries."""
        ...

    def delete(self, name: str, keys: Sequence[Any]) -> None:
        """Delete entries; absent ones are fine."""
        ...


class Fill(NamedTuple):
    """How full a map is."""

    entries: int
    capacity: int


@dataclass(frozen=True, slots=True)
class Census:
    """What one sweep saw."""

    flows: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Entries (two a flow) by family and state."""
    evictions: Mapping[str, int] = field(default_factory=dict)
    """Entries lost to the kernel's LRU since the datapath was made, by map."""
    fill: Mapping[str, Fill] = field(default_factory=dict)
    """By map."""
    swept: int = 0
    """Expired entries that this sweep deleted."""
    open: int = 0
    """Flows that these programs translate and that have not ended."""
    stack: int = 0
    """Flows that are the node's stack's, since they are older than this datapath."""


def limits(timeouts: Timeouts, constants: Mapping[str, int]) -> tuple[dict[int, int], dict[int, int]]:
    """Seconds without a packet by state (enum flow_state), of TCP and of UDP."""
    by_state = {
        "FLOW_UNREPLIED": timeouts.unreplied,
        "FLOW_SYN": timeouts.syn,
        "FLOW_ESTABLISHED": timeouts.established,
        "FLOW_FIN_FORWARD": timeouts.closing,
        "FLOW_FIN_REVERSE": timeouts.closing,
        "FLOW_CLOSED": timeouts.closed,
        "FLOW_RESET": timeouts.closed,
    }
    tcp = {constants[name]: seconds for name, seconds in by_state.items()}
    return tcp, {**tcp, constants["FLOW_ESTABLISHED"]: timeouts.udp}


class Expiry:
    """Judges ages. ``constants``: enumerators of abi.h by name; ``hz``: jiffies a second."""

    def __init__(self, timeouts: Timeouts, constants: Mapping[str, int], hz: int) -> None:
        self._tcp, self._udp = (
            {state: (seconds + _GRACE) * hz for state, seconds in by_state.items()}
            for by_state in limits(timeouts, constants)
        )

    def expired(self, key: FlowKey, flow: Flow, now: int) -> bool:
        """Whether no packet has met this half for longer than its state allows. ``now``: jiffies."""
        age = (now - flow.seen) % _WRAP
        if age >= _WRAP // 2:  # seen after `now` was read
            return False
        limits = self._tcp if key.proto == 6 else self._udp
        return age > limits.get(flow.state, 0)


def other_half(key: FlowKey, flow: Flow) -> FlowKey:
    """The key of the packets that answer what ``key`` is translated to."""
    return FlowKey(
        src=flow.new_dst,
        dst=flow.new_src,
        sport=flow.new_dport,
        dport=flow.new_sport,
        proto=key.proto,
        direction=1 - key.direction,
    )


def sweep(maps: Maps, labels: Labels, expiry: Expiry, now: int, filled: Mapping[str, int]) -> Census:
    """Delete expired flows and take a census. ``filled``: entries of other maps, to be in it too."""
    states = labels.labels("flow_state")
    flows: dict[tuple[str, str], int] = {(f, s): 0 for f in FLOW_MAPS.values() for s in states.values()}
    live: dict[str, int] = {}
    left: Counter[Kind] = Counter()
    swept = 0
    for name, family in FLOW_MAPS.items():
        found, gone = _sweep_flows(maps, labels, expiry, now, name)
        swept += gone.total()
        live[name] = found.total() - gone.total()
        left += found - gone
        for kind, count in found.items():
            flows[family, states.get(kind.state, str(kind.state))] += count
    live.update({name: maps.count(name) for name in _LRU if name not in FLOW_MAPS})
    live.update(filled)
    is_open, is_stack = count_flows(left, labels)
    return Census(
        flows=flows,
        evictions=_evictions(maps, labels, live),
        fill={name: Fill(count, maps.capacity(name)) for name, count in live.items()},
        swept=swept,
        open=is_open,
        stack=is_stack,
    )


class Kind(NamedTuple):
    """What is counted of an entry: enum flow_direction, flow_state, flow_flag."""

    direction: int
    state: int
    flags: int


def count_flows(kinds: Counter[Kind], labels: Labels) -> tuple[int, int]:
    """Flows that have not ended: those that the programs translate, and those of the node's stack."""
    forward, stack = (number(labels, *of) for of in (("flow_direction", "forward"), ("flow_flag", "stack")))
    ended = {number(labels, "flow_state", label) for label in ("closed", "reset")}
    counts = [0, 0]
    for kind, count in kinds.items():
        if kind.direction == forward and kind.state not in ended:
            counts[bool(kind.flags & stack)] += count
    return counts[0], counts[1]


def _sweep_flows(
    maps: Maps, labels: Labels, expiry: Expiry, now: int, name: str
) -> tuple[Counter[Kind], Counter[Kind]]:
    """Entries before the sweep, and those that went."""
    kinds: Counter[Kind] = Counter()
    stale: dict[FlowKey, Flow] = {}
    fresh: set[FlowKey] = set()  # other halves of those that were seen lately
    for batch in maps.batches(name):
        kinds.update(Kind(key.direction, flow.state, flow.flags) for key, flow in batch)
        stale.update((key, flow) for key, flow in batch if expiry.expired(key, flow, now))
    if stale:
        halves = {other_half(key, flow) for key, flow in stale.items()}
        for batch in maps.batches(name):
            fresh.update(key for key, flow in batch if key in halves and not expiry.expired(key, flow, now))
    gone = Counter(
        Kind(key.direction, flow.state, flow.flags)
        for key, flow in stale.items()
        if other_half(key, flow) not in fresh and _delete_stale(maps, expiry, now, name, key)
    )
    if gone:
        add_to_counter(maps, labels, f"{_LRU[name]}_swept", gone.total())
    return kinds, gone


def _delete_stale(maps: Maps, expiry: Expiry, now: int, name: str, key: FlowKey) -> bool:
    """Delete one entry, unless a new flow has taken its tuple since it was read: then it is young again.

    One by one, each looked at just before: a batch of deletions, judged by a reading that is some tenths of
    a second old, would take live flows' entries with it.
    """
    flow = maps.get(name, key)
    if flow is None or not expiry.expired(key, flow, now):
        return False
    maps.delete(name, (key,))
    return True


def add_to_counter(maps: Maps, labels: Labels, name: str, count: int) -> None:
    """Add to a counter that only we write, so that evictions stay derivable after a restart."""
    index = number(labels, "counter", name)
    first, *others = maps.get("counters", index)
    maps.write("counters", [(index, [first + count, *others])])


def number(labels: Labels, enum: str, label: str) -> int:
    """The value of an enumerator."""
    return next(value for value, name in labels.labels(enum).items() if name == label)


def _evictions(maps: Maps, labels: Labels, live: Mapping[str, int]) -> dict[str, int]:
    """What came less what went and what is live; what came while we counted makes it less than zero."""
    values = {label: sum(maps.get("counters", index)) for index, label in labels.labels("counter").items()}
    found = {}
    for name, stem in _LRU.items():
        gone = values.get(f"{stem}_delete", 0) + values.get(f"{stem}_swept", 0)
        came = values.get(f"{stem}_insert", 0) + values.get(f"{stem}_imported", 0)
        found[name] = max(0, came - gone - live[name])
    return found
