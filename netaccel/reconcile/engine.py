# SPDX-License-Identifier: Apache-2.0
"""One pass of reconciling: without clock, threads or asyncio, so that tests drive it step by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import nullcontext

from netaccel import records
from netaccel.compile.adopt import adopt
from netaccel.compile.desired import NOTHING, Codes, Placed
from netaccel.compile.diff import Delete, Image, Step, Write, steps
from netaccel.compile.ids import Ids
from netaccel.compile.services import CompiledService, NodeFacts, compile_service
from netaccel.errors import DatapathError, MapFullError
from netaccel.model.address import is_ipv4
from netaccel.model.endpoint import EndpointSlice
from netaccel.model.event import Event
from netaccel.model.service import Service, ServiceKey
from netaccel.model.snapshot import World
from netaccel.reconcile.collector import quiet_gc
from netaccel.reconcile.dump import Maps, differences, read
from netaccel.reconcile.mode import MapsInMode, Mode
from netaccel.reconcile.plan import Planner, Room
from netaccel.reconcile.status import Condition, Report, State

_Inputs = tuple[Service, tuple[EndpointSlice, ...], NodeFacts]


class Engine:
    """Holds the world, what is in force, and what is still to do."""

    def __init__(
        self, maps: Maps, constants: Mapping[str, int], node: NodeFacts, mode: Mode = Mode.SERVE
    ) -> None:
        """``constants``: enumerators of abi.h by name (netaccel.datapath.abi)."""
        self.world = World(node.name)
        self.conditions: dict[ServiceKey, Condition] = {}
        """Of every Service that a pass has seen and that is still there."""
        self.states: Counter[State] = Counter()
        """How many Services have each state."""
        self.placed: dict[ServiceKey, Placed] = {}
        """What is in force, as last written or found."""
        self._maps = MapsInMode(maps, constants, mode)
        self._switched = False  # the mode is another since the frontends were written
        self._codes = Codes(constants)
        self._node = node
        self._node_written: records.Node | None = None
        self._ids = Ids(maps.capacity("services"), maps.capacity("backends"), maps.capacity("maglev"))
        self._room = Room(maps.capacity("frontends"), maps.capacity("source_ranges"))
        self._planner = Planner(self._ids, self._room, self._codes)
        self._inputs: dict[ServiceKey, _Inputs] = {}
        self._compiled: dict[ServiceKey, CompiledService] = {}
        self._pending: dict[ServiceKey, None] = {}
        self._moved_frontends = 0  # added and removed since the last report
        self._full: set[ServiceKey] = set()  # did not fit; looked at again when room is made
        self._barred: dict[ServiceKey, str] = {}  # did not fit although there seemed to be room
        self._good: dict[ServiceKey, Placed] | None = (
            None  # in force before the first pass of a row that failed
        )
        self._trusted = False  # the maps are as `placed` says
        self._compare = False
        self._cautious = False  # the last pass met a map that was full: one Service at a time

    # ------------------------------------------------------------- what is to do

    def take(self, events: Iterable[Event]) -> int:
        """Take events; the number of Services that have to be looked at again because of them."""
        affected = self.world.apply_all(events)
        self._look_at(affected)
        return len(affected)

    def set_node(self, node: NodeFacts) -> None:
        """The node has other addresses, or another name: every Service is compiled again."""
        if node != self._node:
            self._node = node
            self._look_at(self.world.services())

    @property
    def mode(self) -> Mode:
        """What the frontends say, or will after the next pass."""
        return self._maps.mode

    def set_mode(self, mode: Mode) -> None:
        """Rewrite every frontend in the next pass; nothing is compiled for it."""
        if mode != self._maps.mode:
            self._maps.mode = mode
            self._switched = True

    def request_compare(self) -> None:
        """Read the maps in the next pass, repair what is other than written, try again what was refused."""
        self._compare = True
        self._look_at(self._full)

    @property
    def backlog(self) -> int:
        """Services that the next pass looks at."""
        return len(self._pending)

    @property
    def due(self) -> bool:
        """Whether a pass has something to do. Never before the source has told all that there is."""
        if not self.world.synced:
            return False
        to_do = self._pending or self._compare or self._switched or not self._trusted
        return bool(to_do or self._node_record())

    @property
    def heavy(self) -> bool:
        """Whether the next pass may take longer than an event loop should wait."""
        return not self._trusted or self._compare or self._switched or len(self._pending) > 100

    def _look_at(self, keys: Iterable[ServiceKey]) -> None:
        for key in keys:
            self._pending[key] = None
            self._barred.pop(key, None)

    # -------------------------------------------------------------------- a pass

    def run(self) -> Report:
        """Do what is to do. Raises DatapathError: the next pass then reads the maps and does it again."""
        if not self.due:
            return Report()
        try:
            with quiet_gc() if self.heavy else nullcontext():
                return self._run()
        except DatapathError as error:
            if self._good is None:
                self._good = dict(self.placed)
            self._trusted = False
            self._cautious = isinstance(error, MapFullError)
            self._ids.abandon()
            raise

    def _run(self) -> Report:
        drift: Counter[str] = Counter()
        image: Image | None = None
        written = self._write_mode() if self._switched and self._trusted else 0
        compared = self._compare or not self._trusted
        if compared:
            image, drift = self._read()
        written += self._write_node()
        removed = 0
        looked_at = len(self._pending)
        if image is not None and not self._cautious:
            count, removed = self._pass(list(self._pending), image)
            written += count
        elif self._cautious:
            count, removed = self._one_by_one(image)
            written += count
        elif self._pending:
            count, removed = self._pass(list(self._pending), None)
            written += count
        if compared and self._maps.others:
            written += self._write_mode()
        self._trusted, self._compare, self._cautious, self._good = True, False, False, None
        self._switched = False
        frontends, self._moved_frontends = self._moved_frontends, 0
        return Report(looked_at, written, removed, frontends, drift, compared)

    def _pass(self, keys: list[ServiceKey], image: Image | None) -> tuple[int, int]:
        """Plan and write these Services. ``image``: all that the maps hold; None: as ``placed`` says."""
        self._compile(keys)
        plan = self._planner.plan(self._compiled, keys, self.placed, self._barred)
        old = image or Image.of(self.placed[key] for key in plan.placed if key in self.placed)
        new = Image.of(plan.placed.values())
        written = self._apply(steps(old, new, self._codes.free))
        removed = len(old.backends.keys() - new.backends.keys())
        self._moved_frontends += len(old.frontends.keys() ^ new.frontends.keys())
        self._ids.commit()
        for key, after in plan.placed.items():
            self._room.replace(self.placed.get(key, NOTHING), after)
            self._settle(key, after, plan.conditions[key])
        made_room = removed or len(old.frontends.keys() - new.frontends.keys())
        self._full.update(plan.full)
        self._full.difference_update(plan.placed.keys() - plan.full)
        for key in keys:
            self._pending.pop(key, None)
        if made_room and self._full:
            self._look_at(self._full - self._barred.keys())
        if image is not None and (image.services or image.backends or image.frontends):
            self._retain()
        return written, removed

    def _one_by_one(self, image: Image | None) -> tuple[int, int]:
        """A map was full that has room by its size: find the Service that it was full for, and bar it."""
        self._compile(self._pending)
        written, removed = self._apply(self._strays(image)), 0
        there = self.world.service
        for key in sorted(self._pending, key=lambda key: there(key) is not None):
            try:
                count, gone = self._pass([key], None)
            except MapFullError as error:
                self._barred[key] = str(error)
                raise
            written += count
            removed += gone
            if self._good is not None:
                self._good[key] = self.placed.get(key, NOTHING)
        return written, removed

    def _strays(self, image: Image | None) -> Iterable[Step]:
        """Removals of what belongs to no Service."""
        if image is None:
            return ()
        known = Image.of(self.placed.values())
        return steps(image, _common(image, known), self._codes.free)

    def _settle(self, key: ServiceKey, after: Placed, condition: Condition) -> None:
        if after.groups or after.frontends:
            self.placed[key] = after
        else:
            self.placed.pop(key, None)
        before = self.conditions.pop(key, None)
        if before:
            self.states[before.state] -= 1
        if self.world.service(key) is not None:
            self.conditions[key] = condition
            self.states[condition.state] += 1

    # ------------------------------------------------------------------ its parts

    def _compile(self, keys: Iterable[ServiceKey]) -> None:
        for key in keys:
            service = self.world.service(key)
            if service is None:
                self._compiled.pop(key, None)
                self._inputs.pop(key, None)
                continue
            inputs = (service, self.world.slices(key), self._node)
            before = self._inputs.get(key)
            if before is None or any(a is not b for a, b in zip(before, inputs, strict=True)):
                self._inputs[key] = inputs
                self._compiled[key] = compile_service(*inputs)

    def _apply(self, todo: Iterable[Step]) -> int:
        written = 0
        for step in todo:
            match step:
                case Write(name, entries):
                    self._maps.write(name, entries)
                    written += len(entries)
                case Delete(name, keys):
                    self._maps.delete(name, keys)
                    written += len(keys)
        return written

    def _write_node(self) -> int:
        record = self._node_record()
        if record is None:
            return 0
        self._maps.write("node", [(0, record)])
        self._node_written = record
        return 1

    def _write_mode(self) -> int:
        """Every frontend that is in force, in the mode that is asked for."""
        frontends = [entry for placed in self.placed.values() for entry in placed.frontends.items()]
        self._maps.write("frontends", frontends)
        return len(frontends)

    def _node_record(self) -> records.Node | None:
        """What the map ``node`` shall hold, None where it does."""
        four = next((a for a in self._node.primary if is_ipv4(a)), bytes(16))
        six = next((a for a in self._node.primary if not is_ipv4(a)), bytes(16))
        record = records.Node(four, six)
        return None if record == self._node_written else record

    # ------------------------------------------------------------------- the maps

    def _read(self) -> tuple[Image | None, Counter[str]]:
        """Take what the maps hold for what is in force, look at every Service. None: all is as written."""
        dump = read(self._maps)
        drift: Counter[str] = Counter()
        if self._trusted:
            drift = differences(Image.of(self.placed.values()), dump, self._codes.free)
        self._node_written = self._maps.dump("node").get(0)
        if self._trusted and self._node_record():
            drift["node"] += 1
        if self._trusted and self._maps.others:
            drift["frontends"] += self._maps.others
        if self._trusted and not drift:
            return None, drift
        adopted = adopt(dump, self._ids.ports, self._ids.backends, self._codes.free)
        self._ids.adopt(adopted.ports, adopted.backends, adopted.generations, adopted.ranges)
        self.placed = adopted.placed
        for key in self._barred.keys() & adopted.placed.keys():
            self.placed[key] = _less(adopted.placed[key], (self._good or {}).get(key, NOTHING))
        self._room.count(adopted.placed.values())
        pending = dict.fromkeys((*self._pending, *self.world.services(), *adopted.placed))
        self._pending = pending
        self._trusted = False
        return adopted.image, drift

    def _retain(self) -> None:
        """Give back ids and ranges that were found in the maps and belong to nobody."""
        groups = [(key, g) for placed in self.placed.values() for key, g in placed.groups.items()]
        self._ids.retain(
            {key for key, _ in groups},
            {group.number: group.backends for _, group in groups},
            [(table.offset, len(table.slots)) for _, group in groups for table in group.tables],
        )


def _less(found: Placed, good: Placed) -> Placed:
    """What a failed write has added to a Service that does not fit is none of it."""
    return Placed(
        found.groups,
        {where: frontend for where, frontend in found.frontends.items() if where in good.frontends},
        found.source_ranges & good.source_ranges,
    )


def _common(image: Image, known: Image) -> Image:
    return Image(
        {key: value for key, value in image.services.items() if key in known.services},
        {key: value for key, value in image.backends.items() if key in known.backends},
        image.slots,
        {key: value for key, value in image.source_ranges.items() if key in known.source_ranges},
        {key: value for key, value in image.frontends.items() if key in known.frontends},
    )
