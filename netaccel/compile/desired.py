# SPDX-License-Identifier: Apache-2.0
"""Lowers a compiled Service to the records that the maps shall hold, with ids and ranges.

What is in force already keeps its id; a Maglev table that comes out as it was keeps its range, any other gets
a new one, so that the frontend's one update switches from a whole table to a whole table.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from netaccel import records
from netaccel.compile.ids import BackendKey, Ids, PortKey
from netaccel.compile.maglev import maglev_table
from netaccel.compile.services import FAMILIES, CompiledService, Kind, Place, PortGroup, Scope, State
from netaccel.compile.services import Frontend as Wanted
from netaccel.records import Backend, Frontend, FrontendKey, SourceRangeKey

ALLOWED = records.SourceRange(allowed=1)
SERVICE_BITS = 32
"""Bits of a source range's prefix that are the service port's id."""


class Table(NamedTuple):
    """One Maglev table in force: backend ids from slot ``offset`` on; ``places`` are whom it was made of."""

    places: tuple[Place, ...]
    offset: int
    slots: array[int]


EMPTY = Table((), 0, array("I"))


@dataclass(frozen=True, slots=True)
class PlacedGroup:
    """One service port as it stands in the maps."""

    number: int
    service: records.Service
    backends: dict[Place, tuple[int, Backend]]
    tables: tuple[Table, ...]
    """Each once, without empty ones."""


@dataclass(frozen=True, slots=True)
class Placed:
    """One Service as it stands in the maps."""

    groups: dict[PortKey, PlacedGroup] = field(default_factory=dict)
    frontends: dict[FrontendKey, Frontend] = field(default_factory=dict)
    source_ranges: frozenset[SourceRangeKey] = frozenset()


NOTHING = Placed()

Holds = Callable[[FrontendKey], bool]
"""Whether the Service that is placed holds this address and port."""


class Codes:
    """Constants of abi.h as the compiler needs them."""

    def __init__(self, constants: Mapping[str, int]) -> None:
        self.kind = {kind: constants[kind.value] for kind in Kind}
        self.state = {state: constants[state.value] for state in State}
        self.free = constants["BACKEND_FREE"]
        self.local = constants["BACKEND_LOCAL"]
        self.wire_local = constants["FRONTEND_WIRE_LOCAL"]
        self.wire_drop = constants["FRONTEND_WIRE_DROP"]
        self.pod_local = constants["FRONTEND_POD_LOCAL"]
        self.pod_drop = constants["FRONTEND_POD_DROP"]
        self.affinity = constants["FRONTEND_AFFINITY"]
        self.source_ranges = constants["FRONTEND_SOURCE_RANGES"]
        self.node_allowed = constants["FRONTEND_NODE_ALLOWED"]


def claims_of(compiled: CompiledService) -> Iterator[FrontendKey]:
    """Every address and port that a Service asks for."""
    for group in compiled.groups:
        yield from map(_where, group.frontends)


def place(
    compiled: CompiledService,
    ids: Ids,
    codes: Codes,
    holds: Holds,
    before: Placed = NOTHING,
    patch: bool = False,
) -> Placed:
    """The records of one Service. CapacityError where an id or a range can't be had: roll back then.

    ``patch``: there is no room for new tables; old ones are changed in place, slot by slot.
    """
    placed = Placed({}, {}, frozenset(_source_ranges(compiled, ids)))
    # Of two ports of a Service that ask for the same the last has it; tables are for what a port really has.
    owners = {where: group for group in compiled.groups for where in map(_where, group.frontends)}
    for group in compiled.groups:
        key = PortKey(compiled.key, group.port, group.proto, group.family)
        number = ids.port(key)
        backends = _backends(group, number, ids, codes)
        old = before.groups.get(key)
        held = {
            where: frontend
            for frontend in group.frontends
            if owners[where := _where(frontend)] is group and holds(where)
        }
        scopes = {scope for frontend in held.values() for scope in (frontend.wire, frontend.pod)}
        tables = _tables(group, scopes, backends, old.tables if old else (), ids, patch)
        found = PlacedGroup(
            number,
            records.Service(
                *compiled.key,
                group.port_name,
                group.port,
                group.proto,
                group.family,
            ),
            backends,
            tuple({table.offset: table for table in tables.values() if table.slots}.values()),
        )
        placed.groups[key] = old if old == found and old is not None else found
        for where, frontend in held.items():
            placed.frontends[where] = _frontend(
                frontend, number, group.usable, tables, compiled.affinity_timeout, codes
            )
    return placed


def release(before: Placed, after: Placed, ids: Ids) -> None:
    """Free at the next commit what one Service no longer has."""
    for key, old in before.groups.items():
        new = after.groups.get(key)
        if new is old:
            continue
        if new is None:
            ids.free(key)
        for place_ in old.backends:
            if new is None or place_ not in new.backends:
                ids.free(BackendKey(old.number, place_))
        kept = {table.offset for table in new.tables} if new else ()
        for table in old.tables:
            if table.offset not in kept:
                ids.free((table.offset, len(table.slots)))


# ------------------------------------------------------------------- the parts


def _where(frontend: Wanted) -> FrontendKey:
    return FrontendKey(frontend.addr, frontend.port, frontend.proto)


def _backends(group: PortGroup, number: int, ids: Ids, codes: Codes) -> dict[Place, tuple[int, Backend]]:
    found = {}
    slots, generations = ids.backends_of(number, group.backends), ids.generations
    proto, local, states, new = group.proto, codes.local, codes.state, tuple.__new__
    for where, (state, is_local, _) in group.backends.items():
        slot = slots[where]
        addr, port = where
        flags = local if is_local else 0
        # Backend(...), without the 0.2 microseconds of its keyword-capable constructor
        fields = (addr, port, proto, states[state], flags, 0, 0, number, generations[slot])
        found[where] = (slot, new(Backend, fields))
    return found


def _tables(
    group: PortGroup,
    scopes: Set[Scope],
    backends: dict[Place, tuple[int, Backend]],
    old: Sequence[Table],
    ids: Ids,
    patch: bool,
) -> dict[Scope, Table]:
    """The table of each scope that a frontend asks for (others could not be found again)."""
    tables = {Scope.NONE: EMPTY}
    known = {table.places: table for table in old}
    for scope in (Scope.LOCAL, Scope.CLUSTER):
        if scope not in scopes:
            continue
        places = group.local if scope is Scope.LOCAL else group.cluster
        table = known.get(places) if places else EMPTY
        if table is None and patch:
            table = _patched(places, backends, old, tables)
        elif table is None:
            slots = _slots(places, backends)
            table = Table(places, ids.range(len(slots)), slots)
        tables[scope] = known[places] = table
    return tables


def _slots(places: Sequence[Place], backends: dict[Place, tuple[int, Backend]]) -> array[int]:
    numbers = [backends[where][0] for where in places]
    return array("I", maglev_table(places, numbers))


def _patched(
    places: tuple[Place, ...],
    backends: dict[Place, tuple[int, Backend]],
    old: Sequence[Table],
    taken: Mapping[Scope, Table],
) -> Table:
    """An old table of this group whose slots of other backends are given to these, in place.

    Without one left, the table of the other scope (this node's backends are some of the cluster's).
    """
    in_use = {table.offset for table in taken.values() if table.slots}
    left = [table for table in old if table.offset not in in_use]
    if not left:
        return taken.get(Scope.LOCAL, EMPTY)
    wanted = set(places)
    best = max(left, key=lambda table: len(wanted.intersection(table.places)))
    numbers = {backends[where][0] for where in places}
    heirs = _slots(places, backends)
    slots = array("I", [n if n in numbers else heirs[i % len(heirs)] for i, n in enumerate(best.slots)])
    return Table((), best.offset, slots)


def _frontend(
    wanted: Wanted, number: int, usable: bool, tables: Mapping[Scope, Table], timeout: int, codes: Codes
) -> Frontend:
    wire, pod = tables[wanted.wire], tables[wanted.pod]
    flags = 0
    if wanted.wire is Scope.LOCAL:
        flags |= codes.wire_local | (codes.wire_drop if usable and not wire.slots else 0)
    if wanted.pod is Scope.LOCAL:
        flags |= codes.pod_local | (codes.pod_drop if usable and not pod.slots else 0)
    if timeout and not wanted.guards:
        flags |= codes.affinity
    if wanted.source_ranges:
        flags |= codes.source_ranges
    if wanted.node_allowed:
        flags |= codes.node_allowed
    return Frontend(
        service=number,
        flags=flags,
        kind=codes.kind[wanted.kind],
        zone=0,
        wire_offset=wire.offset,
        wire_length=len(wire.slots),
        pod_offset=pod.offset,
        pod_length=len(pod.slots),
        affinity_timeout=0 if wanted.guards else timeout,
    )


def _source_ranges(compiled: CompiledService, ids: Ids) -> Iterator[SourceRangeKey]:
    for group in compiled.groups:
        ranges = compiled.source_ranges[FAMILIES.index(group.family)]
        if not ranges:
            continue
        number = ids.port(PortKey(compiled.key, group.port, group.proto, group.family))
        for cidr in ranges:
            yield SourceRangeKey(SERVICE_BITS + cidr.length, number, cidr.addr)
