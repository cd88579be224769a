# SPDX-License-Identifier: Apache-2.0
"""What the maps hold, as last written or found, and how to come from there to what they shall hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set
from typing import Any, NamedTuple

from netaccel.compile.diff import Step
from netaccel.compile.policy.codes import DENY_ROW, SHUT_SUBJECT
from netaccel.compile.policy.identities import WORLD
from netaccel.compile.policy.tables import Danger, Image, Move, Shut, TableKey, steps, steps_without_room
from netaccel.records import Identity, IdentityKey

_ALL = 128
_SHUT = Shut(SHUT_SUBJECT, DENY_ROW)


class Touched(NamedTuple):
    """Keys of an image that may differ from what is held, in the order of its fields."""

    rules: Set[int]
    rows: Set[int]
    peers: Set[TableKey]
    identities: Set[IdentityKey]
    endpoints: Set[int]

    def of(self, image: Image) -> Image:
        """That part of an image."""
        return Image(
            _some(image.rules, self.rules),
            _some(image.rows, self.rows),
            _some(image.peers, self.peers),
            _some(image.identities, self.identities),
            _some(image.endpoints, self.endpoints),
        )


class Held:
    """An image, and the lengths of its prefixes of addresses."""

    def __init__(self) -> None:
        self.image = Image()
        self._lengths: tuple[int, ...] = ()
        self.full = False
        """A map was full: what is gone has to go first."""

    def replace(self, image: Image, *, full: bool = False) -> None:
        """The maps hold all of this, and nothing else. The image is taken over."""
        self.image, self.full = image, full
        self._lengths = _lengths(image.identities)

    def carry(self, touched: Touched, image: Image) -> None:
        """What was touched is written."""
        held = self.image
        _carry(touched.rules, image.rules, held.rules)
        _carry(touched.rows, image.rows, held.rows)
        _carry(touched.peers, image.peers, held.peers)
        _carry(touched.identities, image.identities, held.identities)
        _carry(touched.endpoints, image.endpoints, held.endpoints)

    def steps(self, new: Image, lengths: Iterable[int], touched: Touched | None) -> list[Step]:
        """What to write. ``lengths``: of the new prefixes, longest first. ``touched`` None: compare all."""
        old = self.image
        if self.full:
            return list(steps_without_room(old, new, _SHUT))
        changed: Collection[TableKey]
        if touched is None:
            changed = {*old.peers, *new.peers}
            moved = {key for key, one in new.identities.items() if old.identities.get(key) != one}
            moved |= old.identities.keys() - new.identities.keys()
        else:
            changed, moved = touched.peers, set(touched.identities)
        now = tuple(lengths)
        moves = {
            Move(_longest(old.identities, self._lengths, key), _longest(new.identities, now, key))
            for key in moved
        }
        danger = Danger(old.peers, new.peers, changed).endangered(
            old.endpoints, new.endpoints, {move for move in moves if move.before != move.after}
        )
        if touched is not None:
            part = touched._replace(endpoints=touched.endpoints | danger)
            old, new = part.of(old), part.of(new)
        return list(steps(old, new, danger, _SHUT))

    def settle(self, lengths: Iterable[int]) -> None:
        """All is written; the lengths that are in use now."""
        self._lengths, self.full = tuple(lengths), False


def _lengths(identities: Iterable[IdentityKey]) -> tuple[int, ...]:
    return tuple(sorted({key.prefix_length for key in identities}, reverse=True))


def _longest(entries: Mapping[IdentityKey, Identity], lengths: Iterable[int], key: IdentityKey) -> int:
    """The identity of an address, or of what of a prefix no longer one has."""
    number = int.from_bytes(key.addr)
    for length in lengths:
        if length <= key.prefix_length:
            shift = _ALL - length
            found = entries.get(IdentityKey(length, (number >> shift << shift).to_bytes(16)))
            if found is not None:
                return found.identity
    return WORLD


def _some(whole: Mapping[Any, Any], keys: Iterable[Any]) -> dict[Any, Any]:
    return {key: whole[key] for key in keys if key in whole}


def _carry(keys: Iterable[Any], new: Mapping[Any, Any], held: dict[Any, Any]) -> None:
    for key in keys:
        if key in new:
            held[key] = new[key]
        else:
            held.pop(key, None)
