# SPDX-License-Identifier: Apache-2.0
"""What the policy maps hold or shall hold, and what to write in which order to come from one to the other.

The order is the promise: after any single write each flow gets the verdict of the old state or of the new
one, or is denied; and no write names what isn't there.

1. counters of new rules are zeroed                6. identities go, shortest prefix first
2. endpoints in danger are shut                    7. endpoints
3. rules, then rows that nothing names yet         8. endpoints that are gone
4. peers' rows                                     9. peers' rows that are gone
5. identities, longest prefix first               10. endpoints that were shut; rows and rules that are gone

An endpoint is in danger where neither order is safe: its subject and its peer's identity change together (a
namespace gets a label and both are in it), and old rules would meet a new peer or new rules an old one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from netaccel.compile.diff import Delete, Step, Write
from netaccel.compile.policy.rows import Row
from netaccel.compile.policy.selectors import bits, mask_of
from netaccel.records import (
    Identity,
    IdentityKey,
    PolicyEndpoint,
    PolicyPeerKey,
    PolicyRowKey,
    PolicyRule,
    PolicyVerdict,
)

_K = TypeVar("_K")
_V = TypeVar("_V")

MAPS = ("policy_rules", "policy_rows", "policy_peers", "identities", "policy_endpoints")
"""What is written here, in the order of :class:`Image`'s fields."""
_FEW = 512
"""Moves of identities up to which it is looked closely who is in danger."""

TableKey = tuple[int, int]
"""Subject and direction."""
Masks = Mapping[int, int]
"""Identities by row."""


@dataclass(slots=True)
class Image:
    """The maps, or part of them."""

    rules: dict[int, PolicyRule] = field(default_factory=dict)
    rows: dict[int, Row] = field(default_factory=dict)
    peers: dict[TableKey, Masks] = field(default_factory=dict)
    identities: dict[IdentityKey, Identity] = field(default_factory=dict)
    endpoints: dict[int, PolicyEndpoint] = field(default_factory=dict)

    @classmethod
    def of(cls, dump: Mapping[str, Mapping[Any, Any]]) -> Image:
        """From dumps of the maps by their names."""
        rows: dict[int, list[tuple[tuple[int, int, int], PolicyVerdict]]] = {}
        for key, verdict in dump["policy_rows"].items():
            rows.setdefault(key.row, []).append(((key.prefix_length, key.proto, key.port), verdict))
        peers: dict[TableKey, dict[int, list[int]]] = {}
        for key, row in dump["policy_peers"].items():
            table = peers.setdefault((key.subject, key.direction), {})
            table.setdefault(row, []).append(key.identity)
        return cls(
            dict(dump["policy_rules"]),
            {row: tuple(sorted(entries)) for row, entries in rows.items()},
            {key: {row: mask_of(found) for row, found in t.items()} for key, t in peers.items()},
            dict(dump["identities"]),
            dict(dump["policy_endpoints"]),
        )

    def dump(self) -> dict[str, dict[Any, Any]]:
        """As the maps hold it, by their names."""
        rows = {k: v for row, content in self.rows.items() for k, v in _row_entries(row, content)}
        peers = {
            PolicyPeerKey(subject, identity, direction): row
            for (subject, direction), masks in self.peers.items()
            for row, mask in masks.items()
            for identity in bits(mask)
        }
        return {
            "policy_rules": dict(self.rules),
            "policy_rows": rows,
            "policy_peers": peers,
            "identities": dict(self.identities),
            "policy_endpoints": dict(self.endpoints),
        }

    def copy(self) -> Image:
        """One that stays as it is now."""
        return Image(
            dict(self.rules),
            dict(self.rows),
            dict(self.peers),
            dict(self.identities),
            dict(self.endpoints),
        )


class Shut(NamedTuple):
    """How an endpoint is shut: a subject that no peer has a row of, and a row that denies."""

    subject: int
    row: int

    def apply(self, endpoint: PolicyEndpoint) -> PolicyEndpoint:
        """The same pod, denied in both directions."""
        return endpoint._replace(subject=self.subject, ingress_row=self.row, egress_row=self.row)


def steps(old: Image, new: Image, endangered: Collection[int], how: Shut) -> Iterator[Step]:
    """From ``old`` to ``new``. ``endangered``: ifindexes (:func:`endangered`)."""
    fresh = sorted(new.rules.keys() - old.rules.keys())
    if fresh:
        yield Delete("rule_counters", fresh)
    shut = [(n, how.apply(new.endpoints.get(n, old.endpoints[n]))) for n in endangered if n in old.endpoints]
    if shut:
        yield Write("policy_endpoints", shut)
    yield from _write("policy_rules", old.rules, new.rules)
    rows = [
        e
        for row, content in new.rows.items()
        if old.rows.get(row) != content
        for e in _row_changes(row, old.rows.get(row, ()), content)
    ]
    if rows:
        yield Write("policy_rows", rows)
    tables = [(key, old.peers.get(key, {}), new.peers.get(key, {})) for key in {**old.peers, **new.peers}]
    peers = [
        (PolicyPeerKey(key[0], identity, key[1]), row)
        for key, before, after in tables
        for row, mask in after.items()
        for identity in bits(mask & ~before.get(row, 0))
    ]
    if peers:
        yield Write("policy_peers", peers)
    yield from _write_identities(old.identities, new.identities)
    yield from _write(
        "policy_endpoints", old.endpoints, {n: e for n, e in new.endpoints.items() if n not in endangered}
    )
    yield from _delete("policy_endpoints", old.endpoints, new.endpoints)
    gone = [
        PolicyPeerKey(key[0], identity, key[1])
        for key, before, after in tables
        for identity in bits(_all(before) & ~_all(after))
    ]
    if gone:
        yield Delete("policy_peers", gone)
    opened = [(n, new.endpoints[n]) for n in endangered if n in new.endpoints]
    if opened:
        yield Write("policy_endpoints", opened)
    yield from _delete_rows(old.rows, new.rows)
    yield from _delete("policy_rules", old.rules, new.rules)


def steps_without_room(old: Image, new: Image, how: Shut) -> Iterator[Step]:
    """As :func:`steps`, but what is gone goes before anything is added: all pods are shut meanwhile."""
    shut = {ifindex: how.apply(endpoint) for ifindex, endpoint in old.endpoints.items()}
    if shut:
        yield Write("policy_endpoints", list(shut.items()))
    wanted = {key: _all(masks) for key, masks in new.peers.items()}
    kept = Image(
        _common(old.rules, new.rules),
        {row: content for row, content in old.rows.items() if new.rows.get(row) == content},
        {
            key: {row: mask & wanted.get(key, 0) for row, mask in masks.items()}
            for key, masks in old.peers.items()
        },
        _common(old.identities, new.identities),
        shut,
    )
    yield from steps(Image(old.rules, old.rows, old.peers, old.identities, shut), kept, (), how)
    yield from steps(kept, new, new.endpoints.keys(), how)


def differences(written: Image, found: Image) -> Counter[str]:
    """Entries that are other than written, missing or nobody's, by map."""
    counts: Counter[str] = Counter()
    for name, before, after in zip(MAPS, _parts(written), _parts(found), strict=True):
        if before != after:
            keys = before.keys() | after.keys()
            counts[name] = sum(before.get(key) != after.get(key) for key in keys)
    return counts


def _parts(image: Image) -> tuple[Mapping[Any, Any], ...]:
    """Without tables that are empty; one differing row or table counts as one."""
    peers = {key: dict(masks) for key, masks in image.peers.items() if masks}
    return image.rules, image.rows, peers, image.identities, image.endpoints


def _common(old: Mapping[_K, _V], new: Mapping[_K, _V]) -> dict[_K, _V]:
    return {key: value for key, value in old.items() if key in new}


def _row_entries(row: int, content: Row) -> Iterator[tuple[PolicyRowKey, PolicyVerdict]]:
    for (length, protocol, port), verdict in content:
        yield PolicyRowKey(length, row, protocol, port), verdict


def _row_changes(row: int, before: Row, after: Row) -> Iterator[tuple[PolicyRowKey, PolicyVerdict]]:
    known = set(before)
    return _row_entries(row, tuple(entry for entry in after if entry not in known))


def _delete_rows(old: Mapping[int, Row], new: Mapping[int, Row]) -> Iterator[Step]:
    keys = []
    for row, content in old.items():
        kept = {where for where, _ in new.get(row, ())}
        keys += [key for key, _ in _row_entries(row, tuple(e for e in content if e[0] not in kept))]
    if keys:
        yield Delete("policy_rows", keys)


def _write(name: str, old: Mapping[Any, Any], new: Mapping[Any, Any]) -> Iterator[Step]:
    entries = [(key, value) for key, value in new.items() if old.get(key) != value]
    if entries:
        yield Write(name, entries)


def _delete(name: str, old: Mapping[Any, Any], new: Mapping[Any, Any]) -> Iterator[Step]:
    keys = [key for key in old if key not in new]
    if keys:
        yield Delete(name, keys)


def _write_identities(
    old: Mapping[IdentityKey, Identity], new: Mapping[IdentityKey, Identity]
) -> Iterator[Step]:
    changed = sorted((key for key, value in new.items() if old.get(key) != value), reverse=True)
    if changed:
        yield Write("identities", [(key, new[key]) for key in changed])
    gone = sorted(key for key in old if key not in new)
    if gone:
        yield Delete("identities", gone)


def _all(masks: Masks) -> int:
    found = 0
    for mask in masks.values():
        found |= mask
    return found


# ------------------------------------------------------------------- danger


class Move(NamedTuple):
    """An address that has one identity before and another after."""

    before: int
    after: int


class _Pair(NamedTuple):
    """What decides an endpoint's verdicts in one direction, before and after."""

    before: TableKey
    before_default: int
    after: TableKey
    after_default: int


class Danger:
    """Finds the endpoints for which no order of writes is safe."""

    def __init__(
        self, old: Mapping[TableKey, Masks], new: Mapping[TableKey, Masks], changed: Iterable[TableKey]
    ) -> None:
        """``old``, ``new``: all tables; ``changed``: those that may differ."""
        self._old, self._new = old, new
        self._written: dict[TableKey, int] = {}
        self._removed: dict[TableKey, int] = {}
        for key in changed:
            before, after = old.get(key, {}), new.get(key, {})
            written = 0
            for row, mask in after.items():
                written |= mask & ~before.get(row, 0)
            self._written[key] = written
            self._removed[key] = _all(before) & ~_all(after)
        self._known: dict[_Pair, bool] = {}

    def endangered(
        self,
        old: Mapping[int, PolicyEndpoint],
        new: Mapping[int, PolicyEndpoint],
        moves: Collection[Move],
    ) -> set[int]:
        """Endpoints that have to be shut in between, or, if they are new, written last."""
        found = set()
        stirred = {key[0] for masks in (self._written, self._removed) for key, mask in masks.items() if mask}
        for ifindex, after in new.items():
            before = old.get(ifindex)
            if before is after and after.subject not in stirred:
                continue  # its tables stay: a peer that moves has its old row or its new one
            if before is None:  # it must not meet what is yet to be removed
                danger = any(self._removed.get((after.subject, direction)) for direction in (0, 1))
            else:
                danger = any(self._in_danger(pair, moves) for pair in _pairs(before, after))
            if danger:
                found.add(ifindex)
        for ifindex in old.keys() - new.keys():  # nor shall what leaves meet what is new
            subject = old[ifindex].subject
            if moves or any(self._written.get((subject, direction)) for direction in (0, 1)):
                found.add(ifindex)
        return found

    def _in_danger(self, pair: _Pair, moves: Collection[Move]) -> bool:
        found = self._known.get(pair)
        if found is None:
            found = self._known[pair] = self._mixed(pair, moves)
        return found

    def _mixed(self, pair: _Pair, moves: Collection[Move]) -> bool:
        written, removed = self._written.get(pair.before, 0), self._removed.get(pair.after, 0)
        if pair.before == pair.after:
            if not moves or (not written and not removed and pair.before_default == pair.after_default):
                return False
            still: Iterable[Move] = ()
        else:
            still = (Move(n, n) for n in bits(written | removed))
        if len(moves) > _FEW:
            return True
        return any(self._neither(pair, move) for move in (*moves, *still))

    def _neither(self, pair: _Pair, move: Move) -> bool:
        """Whether some order of this module's writes gives a row that is neither the old nor the new one."""
        before = _row(self._old, pair.before, move.before, pair.before_default)
        after = _row(self._new, pair.after, move.after, pair.after_default)
        return any(
            row not in (before, after)
            for row in (
                self._between(pair.before, move.before, pair.before_default),
                self._between(pair.before, move.after, pair.before_default),
                self._between(pair.after, move.after, pair.after_default),
            )
        )

    def _between(self, key: TableKey, identity: int, default: int) -> int:
        """The row once peers are written and none is removed."""
        return _row(self._new, key, identity, 0) or _row(self._old, key, identity, default)


def _row(tables: Mapping[TableKey, Masks], key: TableKey, identity: int, default: int) -> int:
    for row, mask in tables.get(key, {}).items():
        if mask >> identity & 1:
            return row
    return default


def _pairs(before: PolicyEndpoint, after: PolicyEndpoint) -> tuple[_Pair, _Pair]:
    """Both directions (enum policy_direction: 0, 1)."""
    return (
        _Pair((before.subject, 0), before.ingress_row, (after.subject, 0), after.ingress_row),
        _Pair((before.subject, 1), before.egress_row, (after.subject, 1), after.egress_row),
    )
