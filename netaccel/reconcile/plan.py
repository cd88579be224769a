# SPDX-License-Identifier: Apache-2.0
"""Decides what the maps shall hold of some Services: claims, places, and what does not fit."""

from __future__ import annotations

from collections import Counter
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

    def __init__(self, frontends: int, source_ranges: int) -> None:
        self._capacity = {"frontends4": frontends, "frontends6": frontends, "source_ranges": source_ranges}
        self._used: Counter[str] = Counter()

    def count(self, placed: Iterable[Placed]) -> None:
        """Begin anew with these in force."""
        self._used = Counter()
        for one in placed:
            self._used.update(_needs(one))

    def take(self, before: Placed, after: Placed) -> None:
        """Room for what ``after`` has and ``before`` has not. CapacityError, and then nothing is taken."""
        needs = _needs(
            Placed(
                {},
                {key: value for key, value in after.frontends.items() if key not in before.frontends},
                after.source_ranges - before.source_ranges,
            )
        )
        for name, count in needs.items():
            if self._used[name] + count > self._capacity[name]:
                free = self._capacity[name] - self._used[name]
                raise CapacityError(
                    f"map {name} has room for {free} more, {count} are needed; raise its size"
                )
        self._used.update(needs)

    def replace(self, before: Placed, after: Placed) -> None:
        """After the write: what ``before`` had is gone but for what ``after`` has."""
        gone = Placed(
            {},
            {key: value for key, value in before.frontends.items() if key not in after.frontends},
            before.source_ranges - after.source_ranges,
        )
        self._used.subtract(_needs(gone))


def _needs(placed: Placed) -> Counter[str]:
    four = sum(1 for key in placed.frontends if is_ipv4(key.addr))
    return Counter(
        frontends4=four, frontends6=len(placed.frontends) - four, source_ranges=len(placed.source_ranges)
    )


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
