# SPDX-License-Identifier: Apache-2.0
"""Which addresses are alike to every policy, and the number that those have.

Alike are pods of the same namespace, labels of both and named ports; nodes of the same labels; and of all
only those within the same named prefix. What the map ``identities`` lacks is number 0: the world, in no
named prefix.

When all addresses of one identity become alike in another way together (a namespace gets a label, a policy
names a prefix around them), the number stays and means the new: no address has to be written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from netaccel.compile.policy.numbers import Numbers
from netaccel.model.address import Cidr
from netaccel.model.policy import Labels
from netaccel.records import Identity, IdentityKey

FIRST, LAST = 256, (1 << 16) - 1
"""Numbers of identities. Below are those that mean something by themselves."""
WORLD = 0


class PodClass(NamedTuple):
    """Pods that are alike. ``ports``: (name, protocol, number) of the named ones, sorted."""

    namespace: str
    namespace_labels: Labels
    labels: Labels
    ports: tuple[tuple[str, int, int], ...]
    leaf: Cidr | None


class NodeClass(NamedTuple):
    """Nodes that are alike. ``host``: this node."""

    labels: Labels
    host: bool
    leaf: Cidr | None


class CidrClass(NamedTuple):
    """What is neither pod nor node, within a named prefix; None: within none."""

    leaf: Cidr | None


Class = PodClass | NodeClass | CidrClass
OUTSIDE = CidrClass(None)


@dataclass(slots=True)
class Moves:
    """What became of identities. A number whose meaning changed is in both sets; ``entries``: of the map."""

    gone: dict[int, Class] = field(default_factory=dict)
    came: dict[int, Class] = field(default_factory=dict)
    entries: set[IdentityKey] = field(default_factory=set)


class Identities:
    """Numbers of classes, and the entries of the map ``identities``."""

    def __init__(self, flags: tuple[int, int, int]) -> None:
        """``flags``: IDENTITY_HOST, IDENTITY_NODE, IDENTITY_POD."""
        self.classes: dict[int, Class] = {WORLD: OUTSIDE}
        self.entries: dict[IdentityKey, Identity] = {}
        self.numbers: Numbers[Class] = Numbers("identities", FIRST, LAST)
        self._members: dict[int, set[IdentityKey]] = {}
        self._host, self._node, self._pod = flags

    def move(
        self, wanted: Mapping[IdentityKey, Class | None], wishes: Mapping[IdentityKey, Identity]
    ) -> Moves:
        """Give addresses and prefixes their classes; None: none any more. ``wishes``: found in the map.

        CapacityError, and then nothing is as it should be: begin anew with fewer.
        """
        moves = Moves()
        leaving: dict[int, dict[IdentityKey, Class | None]] = {}
        todo: dict[IdentityKey, Class | None] = {}
        for key, new in wanted.items():
            old = self.entries.get(key)
            if (None if old is None else self.classes[old.identity]) == new:
                continue
            todo[key] = new
            if old is not None:
                leaving.setdefault(old.identity, {})[key] = new
        emptied = [n for n, keys in leaving.items() if len(keys) == len(self._members[n])]
        self._rename(emptied, leaving, moves)
        for key, new in todo.items():
            self._put(key, new, wishes.get(key), moves)
        for number in emptied:
            if not self._members.get(number):
                self._forget(number, moves)
        return moves

    def _rename(
        self, emptied: list[int], leaving: dict[int, dict[IdentityKey, Class | None]], moves: Moves
    ) -> None:
        before = {number: self.classes[number] for number in emptied}
        targets = {number: set(leaving[number].values()) for number in emptied}
        taken = self.numbers.of
        for number, old in before.items():
            if len(targets[number]) != 1:
                continue
            (new,) = targets[number]
            if new is None or new in taken or self._flags(new) != self._flags(old):
                continue
            self.numbers.rename(old, new)
            self.classes[number] = new
            moves.gone[number], moves.came[number] = old, new

    def _put(self, key: IdentityKey, new: Class | None, wish: Identity | None, moves: Moves) -> None:
        old = self.entries.get(key)
        number = None
        if new is not None:
            number = self.numbers.of.get(new)
            if number is None:
                number = self.numbers.get(new, wish.identity if wish else None)
                self.classes[number] = moves.came[number] = new
        if old is not None:
            if old.identity == number:
                return
            self._members[old.identity].discard(key)
        moves.entries.add(key)
        if new is None or number is None:
            del self.entries[key]
            return
        self._members.setdefault(number, set()).add(key)
        self.entries[key] = Identity(number, self._flags(new))

    def _forget(self, number: int, moves: Moves) -> None:
        old = self.classes.pop(number)
        self._members.pop(number, None)
        self.numbers.free(old)
        if moves.came.pop(number, None) is None:
            moves.gone[number] = old

    def _flags(self, one: Class) -> int:
        match one:
            case PodClass():
                return self._pod
            case NodeClass(host=True):
                return self._node | self._host
            case NodeClass():
                return self._node
        return 0
