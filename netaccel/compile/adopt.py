# SPDX-License-Identifier: Apache-2.0
"""From dumps of the maps back to Services: what an agent that starts finds in force.

The maps alone say it: ``services`` names every id that backends and frontends carry. What carries an id that
has no name, or stands twice, belongs to nobody and goes when the Services are written.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from netaccel.compile.desired import Placed, PlacedGroup, Table
from netaccel.compile.diff import Image
from netaccel.compile.ids import PortKey
from netaccel.compile.maglev import maglev_table
from netaccel.compile.services import Place
from netaccel.model.address import Address
from netaccel.model.service import ServiceKey
from netaccel.records import Backend, Frontend, FrontendKey, Service, SourceRange, SourceRangeKey


@dataclass(slots=True)
class Dump:
    """The maps as they are. ``slots``: the whole Maglev array."""

    services: Mapping[int, Service]
    backends: Mapping[int, Backend]
    frontends: Mapping[FrontendKey, Frontend]
    source_ranges: Mapping[SourceRangeKey, SourceRange]
    slots: array[int]


@dataclass(slots=True)
class Adopted:
    """What the dump means. ``image`` is all of it, what belongs to nobody too."""

    placed: dict[ServiceKey, Placed] = field(default_factory=dict)
    ports: dict[PortKey, int] = field(default_factory=dict)
    backends: dict[int, dict[Place, int]] = field(default_factory=dict)
    generations: dict[int, int] = field(default_factory=dict)
    ranges: set[tuple[int, int]] = field(default_factory=set)
    image: Image = field(default_factory=Image)


def adopt(
    dump: Dump, known: Mapping[PortKey, int], known_backends: Mapping[int, Mapping[Place, int]], free: int
) -> Adopted:
    """Read a dump. ``known`` ids are this agent's own, and right where the maps say otherwise."""
    found = Adopted()
    owners = {number: _port_key(service) for number, service in dump.services.items()}
    found.ports = {key: number for number, key in sorted(owners.items(), reverse=True)} | dict(known)
    owners = {number: key for key, number in found.ports.items()}
    backends_of = _backends(dump.backends, owners, known_backends, free, found)
    frontends_of: dict[int, dict[FrontendKey, Frontend]] = {}
    for where, frontend in dump.frontends.items():
        frontends_of.setdefault(frontend.service, {})[where] = frontend
        found.ranges.update(_ranges(frontend))
    ranges_of: dict[int, set[SourceRangeKey]] = {}
    for source_range in dump.source_ranges:
        ranges_of.setdefault(source_range.service, set()).add(source_range)
    for number, key in owners.items():
        before = found.placed.get(key.service)
        groups = before.groups if before else {}
        frontends = frontends_of.get(number, {})
        service = dump.services.get(number)
        if service is not None:
            backends = backends_of.get(number, {})
            tables = _tables(frontends.values(), backends, dump.slots)
            groups[key] = PlacedGroup(number, service, backends, tables)
        found.placed[key.service] = Placed(
            groups,
            {**(before.frontends if before else {}), **frontends},
            (before.source_ranges if before else frozenset()) | ranges_of.get(number, frozenset()),
        )
    found.image = Image(
        dict(dump.services),
        {number: backend for number, backend in dump.backends.items() if backend.state != free},
        {t.offset: t.slots for p in found.placed.values() for g in p.groups.values() for t in g.tables},
        dict(dump.source_ranges),
        dict(dump.frontends),
    )
    return found


def _port_key(service: Service) -> PortKey:
    key = ServiceKey(service.namespace, service.name)
    return PortKey(key, service.port, service.proto, service.family)


def _backends(
    dump: Mapping[int, Backend],
    owners: Mapping[int, PortKey],
    known: Mapping[int, Mapping[Place, int]],
    free: int,
    found: Adopted,
) -> dict[int, dict[Place, tuple[int, Backend]]]:
    by_service: dict[int, dict[Place, tuple[int, Backend]]] = {}
    found.backends = {service: dict(places) for service, places in known.items() if service in owners}
    owner_of = {
        number: (service, place)
        for service, places in found.backends.items()
        for place, number in places.items()
    }
    for number, backend in dump.items():
        found.generations[number] = backend.generation
        service, place = backend.service, (Address(backend.addr), backend.port)
        if backend.state == free or service not in owners:
            continue
        if owner_of.get(number, (service, place)) != (service, place):
            continue
        if found.backends.setdefault(service, {}).setdefault(place, number) == number:
            by_service.setdefault(service, {})[place] = (number, backend)
    return by_service


def _tables(
    frontends: Iterable[Frontend], backends: Mapping[Place, tuple[int, Backend]], slots: array[int]
) -> tuple[Table, ...]:
    """The tables that frontends name. One that isn't what Maglev makes of its backends is nobody's."""
    place_of = {number: place for place, (number, _) in backends.items()}
    tables = []
    for offset, length in sorted({r for frontend in frontends for r in _ranges(frontend)}):
        held = slots[offset : offset + length]
        places: tuple[Place, ...] = tuple(sorted({place_of[n] for n in set(held) if n in place_of}))
        expected = array("I", maglev_table(places, [backends[place][0] for place in places]))
        tables.append(Table(places if expected == held else (), offset, held))
    return tuple(tables)


def _ranges(frontend: Frontend) -> Iterable[tuple[int, int]]:
    """Ranges that a frontend names, without empty ones."""
    if frontend.wire_length:
        yield frontend.wire_offset, frontend.wire_length
    if frontend.pod_length:
        yield frontend.pod_offset, frontend.pod_length
