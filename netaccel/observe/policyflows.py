# SPDX-License-Identifier: Apache-2.0
"""Sweeps pods' ends of flows that have expired, or whose pod is gone, and hands on what it deleted.

As :mod:`.conntrack` does for translated flows; but an entry stands for itself, and what it counted is told
to whoever reports flows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from netaccel.config import Timeouts
from netaccel.observe.conntrack import Fill, Maps, add_to_counter, number
from netaccel.observe.figures import Labels
from netaccel.records import PolicyFlow, PolicyFlowKey

Entry = tuple[PolicyFlowKey, PolicyFlow]
_Judge = Callable[[PolicyFlowKey, PolicyFlow], bool]

_TCP = 6
_WRAP = 1 << 32
_GRACE = 5  # seconds: a packet may meet the flow between our look and our deletion
_MAPS = {"policy_flows4": "policy4", "policy_flows6": "policy6"}  # and the stems of their counters


@dataclass(frozen=True, slots=True)
class PolicyCensus:
    """What one sweep saw. ``fill``, ``evictions``: by map, as in netaccel.observe.conntrack.Census."""

    ended: tuple[Entry, ...] = ()
    """Entries that it deleted."""
    fill: Mapping[str, Fill] = field(default_factory=dict)
    evictions: Mapping[str, int] = field(default_factory=dict)
    devices: frozenset[int] = frozenset()
    """Ifindexes that there were."""


class PolicyExpiry:
    """Judges ages, as policy_expired() in policy_flow.h does. ``hz``: jiffies a second."""

    def __init__(self, timeouts: Timeouts, constants: Mapping[str, int], hz: int) -> None:
        tcp = {
            constants["POLICY_FLOW_NEW"]: timeouts.syn,
            constants["POLICY_FLOW_ESTABLISHED"]: timeouts.established,
            constants["POLICY_FLOW_CLOSING"]: timeouts.closing,
            constants["POLICY_FLOW_CLOSED"]: timeouts.closed,
        }
        others = {
            constants["POLICY_FLOW_NEW"]: timeouts.unreplied,
            constants["POLICY_FLOW_ESTABLISHED"]: timeouts.udp,
        }
        self._tcp = {state: (seconds + _GRACE) * hz for state, seconds in tcp.items()}
        self._others = self._tcp | {state: (seconds + _GRACE) * hz for state, seconds in others.items()}

    def expired(self, key: PolicyFlowKey, flow: PolicyFlow, now: int) -> bool:
        """Whether no packet has met it for longer than its state allows. ``now``: jiffies."""
        age = (now - flow.seen) % _WRAP
        if age >= _WRAP // 2:  # seen after `now` was read
            return False
        limits = self._tcp if key.proto == _TCP else self._others
        return age > limits.get(flow.state, 0)


def sweep(
    maps: Maps, labels: Labels, expiry: PolicyExpiry, now: int, devices: Callable[[], Collection[int]]
) -> PolicyCensus:
    """Delete what has ended and count the rest. ``now``: jiffies; ``devices``: ifindexes that there are."""
    ended: list[Entry] = []
    fill: dict[str, Fill] = {}
    evictions: dict[str, int] = {}
    there: Collection[int] = ()
    for name, stem in _MAPS.items():
        entries = [entry for batch in maps.batches(name) for entry in batch]
        there = devices()  # after the entries: an index that is not among them has no device any more
        ends = _judge(expiry, now, there)
        gone = [
            (key, last)
            for key, flow in entries
            if ends(key, flow) and (last := _delete(maps, name, key, ends)) is not None
        ]
        if gone:
            add_to_counter(maps, labels, f"{stem}_swept", len(gone))
        ended += gone
        live = len(entries) - len(gone)
        fill[name] = Fill(live, maps.capacity(name))
        evictions[name] = _evicted(maps, labels, stem, live)
    return PolicyCensus(tuple(ended), fill, evictions, frozenset(there))


def _judge(expiry: PolicyExpiry, now: int, there: Collection[int]) -> _Judge:
    def ends(key: PolicyFlowKey, flow: PolicyFlow) -> bool:
        return key.ifindex not in there or expiry.expired(key, flow, now)

    return ends


def _delete(maps: Maps, name: str, key: PolicyFlowKey, ends: _Judge) -> PolicyFlow | None:
    """Delete one entry and return what it held last; None where a new flow has taken its place."""
    flow: PolicyFlow | None = maps.get(name, key)
    if flow is None or not ends(key, flow):
        return None
    maps.delete(name, (key,))
    return flow


def _evicted(maps: Maps, labels: Labels, stem: str, live: int) -> int:
    came, deleted, swept = (
        sum(maps.get("counters", number(labels, "counter", f"{stem}_{what}")))
        for what in ("insert", "delete", "swept")
    )
    return max(0, int(came) - int(deleted) - int(swept) - live)
