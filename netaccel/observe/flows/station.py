# SPDX-License-Identifier: Apache-2.0
"""One node's flows and drops: everything that is told of them, from its maps to its readers.

All methods are for the event loop's thread but for :meth:`Flows.account` and :meth:`Flows.rule_counters`,
which block.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, TypeVar

from netaccel.model.event import Event
from netaccel.observe.figures import Labels, total
from netaccel.observe.flows import drops
from netaccel.observe.flows.account import Account, Accountant
from netaccel.observe.flows.counts import FlowCounts
from netaccel.observe.flows.decode import Decoder, EventCodec, Words
from netaccel.observe.flows.directory import Directory
from netaccel.observe.flows.drops import DropNamer, DropTop, PairGrowth, PairReader, Pairs
from netaccel.observe.flows.filters import Query
from netaccel.observe.flows.log import FlowLog, Wanted
from netaccel.observe.flows.naming import Judged, Namer, Stamp, Way
from netaccel.observe.flows.pump import Pump, Ring
from netaccel.observe.flows.record import FlowRecord
from netaccel.observe.flows.rules import Names
from netaccel.observe.flows.traffic import Entry, FlowTraffic, Moment, Redirections
from netaccel.records import PolicyRule, Traffic

_FLOWS = "policy_flows"
_CHUNK = 256  # records named before others have their turn
_T = TypeVar("_T")


class Maps(Protocol):
    """What is read here of netaccel.datapath.maps.KernelMaps."""

    def names(self) -> Sequence[str]:
        """Logical names."""
        ...

    def dump(self, name: str) -> Mapping[Any, Any]:
        """Every entry; of a per-CPU map a list of values each."""
        ...

    def batches(self, name: str) -> Iterator[Sequence[tuple[Any, Any]]]:
        """Every entry, some thousand at a time."""
        ...

    def get(self, name: str, key: Any) -> Any:
        """One value; of a per-CPU map one for each CPU."""
        ...

    def capacity(self, name: str) -> int:
        """Entries that fit."""
        ...


@dataclass(frozen=True, slots=True)
class Ground:
    """What the datapath gives. ``codec``: of struct flow_event. ``jiffies``: the programs' clock, blocking.

    ``kernel_reasons``: enum skb_drop_reason in words. ``waiting``: samples in the ring.
    """

    maps: Maps
    labels: Labels
    constants: Mapping[str, int]
    codec: EventCodec
    hz: int
    jiffies: Callable[[], int]
    waiting: Callable[[], int]
    kernel_reasons: Mapping[int, str] = field(default_factory=dict)


class Flows:
    """Of one node, from the agent's start on."""

    def __init__(self, stamp: Stamp, ground: Ground, directory: Directory, limit: int) -> None:
        """``limit``: records that are kept. DatapathError where the counters can't be read."""
        self.node = stamp.node
        self.words = words = Words(ground.labels, ground.kernel_reasons)
        self.log = FlowLog(limit)
        self.counts = FlowCounts()
        self.directory = directory
        self._ground = ground
        self._namer = Namer(stamp, words, directory, Names(ground.maps, words, directory))
        self._drop_namer = DropNamer(stamp, words, directory, Names(ground.maps, words, directory))
        self._pump = Pump(Decoder(ground.codec, ground.labels), self._namer, self.log)
        self.taken = self._pump.taken
        self._accountant = Accountant(ground.maps, ground.labels, self._pump.taken, ground.waiting)
        self._pairs = PairReader(ground.maps, ground.jiffies)
        self._growth = PairGrowth()
        self._traffic = FlowTraffic(ground.hz, ground.constants)
        self._reading = asyncio.Lock()
        self._judging = asyncio.Lock()
        self.log.listeners.append(self.counts.told)

    # ----------------------------------------------------------------- tasks

    def hear(self, event: Event) -> None:
        """Learn from a source's event whose addresses are."""
        self.directory.hear(event)

    def ask_way(self, way: Way) -> None:
        """Have the path of flows told that ended or last, by who knows it."""
        self._namer.way = way

    def ask_redirections(self, redirections: Redirections) -> None:
        """Have what goes from socket to socket told too, by who accelerates."""
        self._traffic.redirections = redirections

    async def read(self, ring: Ring) -> None:
        """Read events for ever. DatapathError."""
        await self._pump.run(ring)

    async def summarise(self) -> None:
        """Tell what lasting flows carried; every minute or so. DatapathError."""
        if _FLOWS in self._ground.maps.names():
            async with self._judging:
                found = await asyncio.to_thread(self._summaries)
            await self._tell(found)

    async def ended(self, entries: Sequence[Entry], devices: Collection[int] | None = None) -> None:
        """Tell what flows carried whose entries were deleted. ``devices``: ifindexes that there were then.

        DatapathError.
        """
        async with self._judging:
            found = self._traffic.ended(entries, await asyncio.to_thread(self._now), devices)
        await self._tell(found)

    async def count_drops(self) -> None:
        """Take in what drop_pairs grew by; now and then. DatapathError."""
        read = await self._read_pairs()
        async for growth in _in_turn(self._growth.since(read.pairs)):
            record = self._drop_namer.record(growth.key, growth.pair, read, self._ground.hz)
            self.counts.dropped(record, growth.packets, growth.bytes)

    # ------------------------------------------------------------- questions

    def wanted(self, query: Query) -> Wanted:
        """The function that tells records. ConfigError names the filter."""
        return query.wanted(self.words.known())

    async def drops(self, wanted: Wanted, since: int, count: int) -> DropTop:
        """The ``count`` largest by reason, rule and pair of what is wanted. DatapathError."""
        read = await self._read_pairs()
        records: list[FlowRecord] = []
        async for key, pair in _in_turn(read.pairs.items()):
            record = self._drop_namer.record(key, pair, read, self._ground.hz)
            if record.time >= since and wanted(record):
                records.append(record)
        return drops.top(read, records, self.node, count)

    def account(self) -> Account:
        """Whether events were lost. DatapathError."""
        return self._accountant.account()

    def rule_counters(self) -> tuple[dict[int, PolicyRule], dict[int, Traffic]]:
        """Names of rules and what they decided, by id. DatapathError."""
        maps = self._ground.maps
        if not {"policy_rules", "rule_counters"} <= set(maps.names()):
            return {}, {}
        counters = {id_: total(per_cpu) for id_, per_cpu in maps.dump("rule_counters").items()}
        return dict(maps.dump("policy_rules")), counters

    def status(self) -> dict[str, object]:
        """What /status says of flows. DatapathError."""
        return {
            "events": self.account()._asdict(),
            "lag": round(self.taken.lag, 3),
            "records": len(self.log),
            "forgotten": self.log.forgotten,
            "followers": self.log.followers,
            "missed": self.log.missed,
            "summaries_left_out": self._traffic.left_out,
        }

    # --------------------------------------------------------------- helpers

    async def _read_pairs(self) -> Pairs:
        async with self._reading:
            self._drop_namer.begin()
            return await asyncio.to_thread(self._pairs.read)

    def _now(self) -> Moment:
        return Moment(self._ground.jiffies(), time.monotonic_ns())

    def _summaries(self) -> list[Judged]:
        batches = self._ground.maps.batches(_FLOWS)
        return self._traffic.summaries(entry for batch in batches for entry in batch)

    async def _tell(self, judged: Sequence[Judged]) -> None:
        """Name and tell, some at a time."""
        for at in range(0, len(judged), _CHUNK):
            self._namer.begin()
            self.log.append([self._namer.of_flow(one) for one in judged[at : at + _CHUNK]])
            await asyncio.sleep(0)


async def _in_turn(items: Iterable[_T]) -> AsyncIterator[_T]:
    """Items, with a turn for other tasks now and then."""
    rest = iter(items)
    while chunk := list(islice(rest, _CHUNK)):
        for item in chunk:
            yield item
        await asyncio.sleep(0)
