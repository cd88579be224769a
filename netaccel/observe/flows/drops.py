# SPDX-License-Identifier: Apache-2.0
"""Drops by reason, rule and pair, from the map drop_pairs: every drop is counted there, told or not."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

from netaccel.observe.flows.decode import Words, protocol
from netaccel.observe.flows.directory import Directory
from netaccel.observe.flows.naming import Stamp, wall_offset
from netaccel.observe.flows.record import FlowRecord, RuleName, Traffic
from netaccel.observe.flows.rules import Names
from netaccel.records import DropPair, DropPairKey, PolicyEndpoint

_WRAP = 1 << 32
_FRESH = 1.0


class Maps(Protocol):
    """What is read here of netaccel.datapath.maps.KernelMaps."""

    def names(self) -> Collection[str]:
        """Logical names."""
        ...

    def dump(self, name: str) -> Mapping[Any, Any]:
        """Every entry."""
        ...

    def capacity(self, name: str) -> int:
        """Entries that fit."""
        ...


class ReasonCount(msgspec.Struct, frozen=True, gc=False):
    """Drops of one reason. ``type``: ``drop`` or ``kernel_drop``."""

    reason: str
    type: str
    packets: int
    bytes: int


class RuleCount(msgspec.Struct, frozen=True, gc=False):
    """Drops of one rule."""

    rule: RuleName
    packets: int
    bytes: int


class DropTop(msgspec.Struct, frozen=True):
    """The most, largest first. ``kept``: pairs that the map holds of ``capacity``: the coldest go."""

    node: str
    packets: int
    bytes: int
    kept: int
    capacity: int
    reasons: list[ReasonCount]
    rules: list[RuleCount]
    pairs: list[FlowRecord]


class Pairs(NamedTuple):
    """One reading of the maps. ``devices``: pods' addresses by ifindex; ``now``: jiffies."""

    pairs: Mapping[DropPairKey, DropPair]
    devices: Mapping[int, PolicyEndpoint]
    capacity: int
    now: int


class PairReader:
    """Reads drop_pairs, once a second at most. Blocking: call it in a thread, one at a time."""

    def __init__(self, maps: Maps, jiffies: Callable[[], int]) -> None:
        self._maps = maps
        self._jiffies = jiffies
        self._last: tuple[float, Pairs] | None = None

    def read(self) -> Pairs:
        """DatapathError where the kernel refuses."""
        moment = time.monotonic()
        if self._last is None or moment - self._last[0] > _FRESH:
            names = self._maps.names()
            there = "drop_pairs" in names
            pairs = Pairs(
                self._maps.dump("drop_pairs") if there else {},
                self._maps.dump("policy_endpoints") if "policy_endpoints" in names else {},
                self._maps.capacity("drop_pairs") if there else 0,
                self._jiffies(),
            )
            self._last = moment, pairs
        return self._last[1]


class Growth(NamedTuple):
    """What one pair grew by."""

    key: DropPairKey
    pair: DropPair
    packets: int
    bytes: int


class PairGrowth:
    """What pairs grew by from one reading to the next. What the first one holds is an earlier agent's to
    tell.
    """

    def __init__(self) -> None:
        self._before: Mapping[DropPairKey, DropPair] | None = None

    def since(self, pairs: Mapping[DropPairKey, DropPair]) -> list[Growth]:
        """Pairs that grew; one with less than before was evicted and is there again."""
        before, self._before = self._before, pairs
        found: list[Growth] = []
        if before is None or before is pairs:
            return found
        for key, pair in pairs.items():
            old = before.get(key)
            if old is None or old.packets > pair.packets:
                found.append(Growth(key, pair, pair.packets, pair.bytes))
            elif old.packets < pair.packets:
                found.append(Growth(key, pair, pair.packets - old.packets, pair.bytes - old.bytes))
        return found


class DropNamer:
    """Pairs as records: ``traffic`` holds what was dropped, ``time`` the last event, ``sequence`` nothing."""

    def __init__(self, stamp: Stamp, words: Words, directory: Directory, names: Names) -> None:
        self._stamp = stamp
        self._words = words
        self._directory = directory
        self._names = names

    def begin(self) -> None:
        """Read names anew; before each reading of pairs."""
        self._names.begin()

    def record(self, key: DropPairKey, pair: DropPair, read: Pairs, hz: int) -> FlowRecord:
        """One pair of ``read``. DatapathError where a name can't be read."""
        age = (read.now - pair.window) % _WRAP
        moment = time.monotonic_ns() - (age if age < _WRAP // 2 else 0) * 1_000_000_000 // hz
        kind = self._words.type(key.type)
        return FlowRecord(
            node=self._stamp.node,
            boot=self._stamp.boot,
            sequence=0,
            time=moment + wall_offset(),
            monotonic=moment,
            type=kind,
            verdict="dropped",
            direction=self.direction(key, read.devices),
            protocol=protocol(key.proto),
            source=self._directory.end(key.src),
            destination=self._directory.end(key.dst),
            destination_port=key.dport,
            reason=self._words.reason(key.reason, kind),
            service=self._directory.service_at(key.dst, key.dport, key.proto),
            rule=self._names.rule(key.rule),
            device=key.ifindex,
            traffic=Traffic(pair.packets, pair.bytes),
        )

    def direction(self, key: DropPairKey, devices: Mapping[int, PolicyEndpoint]) -> str:
        """As the pod sees it whose device it was; of other devices as the pod that is one of the ends."""
        if device := devices.get(key.ifindex):
            return "ingress" if key.dst in (device.addr4, device.addr6) else "egress"
        return "egress" if self._directory.end(key.src).kind == "pod" else "ingress"


def top(read: Pairs, records: Iterable[FlowRecord], node: str, count: int) -> DropTop:
    """The ``count`` largest of everything. ``records``: those of ``read`` that are wanted."""
    reasons: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    rules: dict[RuleName, list[int]] = defaultdict(lambda: [0, 0])
    pairs = sorted(records, key=_packets, reverse=True)
    for record in pairs:
        carried = record.traffic or Traffic()
        sums = [reasons[record.reason, record.type]]
        if record.rule:
            sums.append(rules[record.rule])
        for one in sums:
            one[0] += carried.packets
            one[1] += carried.bytes
    by_reason = [ReasonCount(*key, *sums) for key, sums in reasons.items()]
    by_rule = [RuleCount(rule, *sums) for rule, sums in rules.items()]
    return DropTop(
        node=node,
        packets=sum(one.packets for one in by_reason),
        bytes=sum(one.bytes for one in by_reason),
        kept=len(read.pairs),
        capacity=read.capacity,
        reasons=sorted(by_reason, key=lambda one: one.packets, reverse=True)[:count],
        rules=sorted(by_rule, key=lambda one: one.packets, reverse=True)[:count],
        pairs=pairs[:count],
    )


def _packets(record: FlowRecord) -> int:
    return record.traffic.packets if record.traffic else 0
