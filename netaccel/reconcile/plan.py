# SPDX-License-Identifier: Apache-2.0
"""Decides what the maps shall hold of some Services: claims, places, and what does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from netaccel.compile.claims import Claims
from netaccel.compile.desired import NOTHING, Codes, Placed, claims_of, place, release
from netaccel.compile.ids import Ids
from netaccel.compile.services import CompiledService
from netaccel.compile.shrink import shrink
from netaccel.errors import CapacityError
from netaccel.model.address import endpoint_text, is_ipv4
from netaccel.model.service import Protocol, ServiceKey
from netaccel.reconcile.status import Condition, State
from netaccel.records import FrontendKey


@dataclass(slots=True)
class Plan:
    """Services as they shall stand in the maps, with what becomes of each."""

    placed: dict[ServiceKey, Placed] = field(default_factory=dict)
    conditions: dict[ServiceKey, Condition] = field(default_factory=dict)
    full: set[ServiceKey] = field(default_factory=set)
    """Those that did not fit."""


class Room:
    """Entries of hash maps that are still free. Ids and ranges keep count of themselves."""

    _MAPS = ("frontends4", "frontends6", "source_ranges")

    def __init__(self, frontends: int, source_ranges: int) -> None:
        self._capacity = (frontends, frontends, source_ranges)
        self._used = [0, 0, 0]

    def count(self, placed: Iterable[Placed]) -> None:
        """Begin anew with these in force."""
        self._used = [0, 0, 0]
        for one in placed:
            self._add(_needs(one, NOTHING), 1)

    def take(self, before: Placed, after: Placed) -> None:
        """Room for what ``after`` has and ``before`` has not. CapacityError, and then nothing is taken."""
        needs = _needs(after, before)
        for name, count, used, capacity in zip(self._MAPS, needs, self._used, self._capacity, strict=True):
            if used + count > capacity:
                raise CapacityError(
                    f"map {name} has room for {capacity - used} more, {count} are needed; raise its size"
                )
        self._add(needs, 1)

    def replace(self, before: Placed, after: Placed) -> None:
        """After the write: what ``before`` had is gone but for what ``after`` has."""
        self._add(_needs(before, after), -1)

    def _add(self, needs: tuple[int, int, int], sign: int) -> None:
        for i, count in enumerate(needs):
            self._used[i] += sign * count


def _needs(placed: Placed, beyond: Placed) -> tuple[int, int, int]:
    """Entries of each map that ``placed`` has and ``beyond`` has not."""
    if placed is beyond or not placed.frontends:
        return 0, 0, len(placed.source_ranges - beyond.source_ranges)
    keys = placed.frontends.keys() - beyond.frontends.keys() if beyond.frontends else placed.frontends
    four = sum([is_ipv4(key.addr) for key in keys])
    return four, len(keys) - four, len(placed.source_ranges - beyond.source_ranges)


class Planner:
    """Makes plans. Ids, ranges and room that a plan takes are kept or taken back by the caller."""

    def __init__(self, ids: Ids, room: Room, codes: Codes) -> None:
        self.claims = Claims()
        self._ids = ids
        self._room = room
        self._codes = codes

    def plan(
        self,
        compiled: Mapping[ServiceKey, CompiledService],
        changed: Iterable[ServiceKey],
        in_force: Mapping[ServiceKey, Placed],
        barred: Mapping[ServiceKey, str],
    ) -> Plan:
        """Plan the changed Services and those that win or lose an address by it.

        ``compiled`` has every Service that is there; one that is changed and not in it is gone.
        ``barred``: Services that the kernel has refused, and why.
        """
        plan = Plan()
        queue = dict.fromkeys(sorted(changed, key=lambda key: self._turn(key, compiled, in_force)))
        for key in list(queue):
            before = in_force.get(key, NOTHING)
            queue.update(
                dict.fromkeys(self._claim(key, compiled.get(key), before if key in barred else None))
            )
        refused = dict(barred)
        while queue:
            key = next(iter(queue))
            del queue[key]
            before = in_force.get(key, NOTHING)
            self._undo(plan, key, before)
            try:
                plan.placed[key] = self._place(key, compiled.get(key), before, refused.get(key))
            except CapacityError as error:
                refused[key] = str(error)
                queue.update(dict.fromkeys((key, *self._claim(key, compiled[key], before))))
                continue
            plan.conditions[key] = self._condition(key, compiled.get(key), refused.get(key))
        plan.full = {key for key in refused if key in plan.placed}
        for key, after in plan.placed.items():
            release(in_force.get(key, NOTHING), after, self._ids)
        return plan

    def _turn(
        self,
        key: ServiceKey,
        compiled: Mapping[ServiceKey, CompiledService],
        in_force: Mapping[ServiceKey, Placed],
    ) -> tuple[bool, float, ServiceKey]:
        """Who is served first where room is short: what is in force, then what is older."""
        found = compiled.get(key)
        return key not in in_force, found.created if found else 0.0, key

    def _claim(
        self, key: ServiceKey, compiled: CompiledService | None, only: Placed | None
    ) -> set[ServiceKey]:
        """Claim all, or of it ``only`` what is held already: what is asked for in vain is free for others."""
        if compiled is None:
            return self.claims.replace(key, 0.0, ())
        claims = claims_of(compiled)
        if only is not None:
            claims = (where for where in claims if where in only.frontends)
        return self.claims.replace(key, compiled.created, claims)

    def _undo(self, plan: Plan, key: ServiceKey, before: Placed) -> None:
        """A Service that is planned again keeps its new ids, but its new tables and room are taken back."""
        first = plan.placed.pop(key, None)
        if first is None:
            return
        old = {table.offset for group in before.groups.values() for table in group.tables}
        for group in first.groups.values():
            for table in group.tables:
                if table.offset not in old:
                    self._ids.free((table.offset, len(table.slots)))
        self._room.replace(first, before)

    def _place(
        self, key: ServiceKey, compiled: CompiledService | None, before: Placed, refused: str | None
    ) -> Placed:
        if compiled is None:
            return NOTHING

        def holds(where: FrontendKey) -> bool:
            return self.claims.holder(where) == key

        if refused is not None:
            return shrink(compiled, self._ids, self._codes, holds, before)
        mark = self._ids.mark()
        try:
            after = place(compiled, self._ids, self._codes, holds, before)
            self._room.take(before, after)
        except CapacityError:
            self._ids.rollback(mark)
            raise
        return after

    def _condition(self, key: ServiceKey, compiled: CompiledService | None, refused: str | None) -> Condition:
        if compiled is None or compiled.ignored:
            return Condition(State.IGNORED, (compiled.ignored,) if compiled else ())
        if refused is not None:
            return Condition(State.REJECTED, (refused,))
        reasons = (*compiled.problems, *self._lost(key, compiled))
        return Condition(State.DEGRADED if reasons else State.ACCEPTED, reasons)

    def _lost(self, key: ServiceKey, compiled: CompiledService) -> Iterable[str]:
        for group in compiled.groups:
            for frontend in group.frontends:
                holder = self.claims.holder(FrontendKey(frontend.addr, frontend.port, frontend.proto))
                if holder not in (key, None) and not frontend.guards:
                    at = endpoint_text(frontend.addr, frontend.port)
                    yield f"{at}/{Protocol(frontend.proto).name} is held by the older Service {holder}"
