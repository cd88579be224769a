# SPDX-License-Identifier: Apache-2.0
"""Peers of rules as sets of identities: bit n of a mask is identity n.

Each distinct peer is worked out once, from indexes by label, and kept as identities come and go: a new one is
tried only on the peers that could mean it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, assert_never

from netaccel.compile.policy.cidrs import Prefixes, contains
from netaccel.compile.policy.identities import CidrClass, Class, NodeClass, PodClass
from netaccel.model.address import Cidr
from netaccel.model.policy import Entity, Labels, Operator, Selector

_K = TypeVar("_K")
_V = TypeVar("_V")

_FEW_BITS = 32
"""Bits of a mask up to which it is quicker to take them one by one than to write it down."""
FEW = 64
"""Identities of a peer up to which they are looked at one by one, not as a set."""


class Pods(NamedTuple):
    """Pods by labels; ``namespaces`` None: of ``namespace`` alone, which is "" else."""

    pods: Selector
    namespaces: Selector | None
    namespace: str


class Block(NamedTuple):
    """Addresses of a named prefix, but for those of other named prefixes."""

    cidr: Cidr
    excepts: tuple[Cidr, ...]


class Nodes(NamedTuple):
    """Nodes by labels."""

    nodes: Selector
    kind: str = "nodes"  # keeps it apart from other tuples of one


class Whole(NamedTuple):
    """One of the entities."""

    entity: Entity


class Ports(NamedTuple):
    """Pods that have a port of this name."""

    port_name: str


Spec = Pods | Block | Nodes | Whole | Ports
"""What one peer means, without its policy: equal specs share one mask."""


def holds(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Whether all requirements hold."""
    for key, operator, values in selector:
        value = labels.get(key)
        if operator is Operator.IN:
            if value is None or value not in values:
                return False
        elif operator is Operator.NOT_IN:
            if value is not None and value in values:
                return False
        elif (value is not None) is not (operator is Operator.EXISTS):
            return False
    return True


def bits(mask: int) -> Iterator[int]:
    """Numbers of the bits that are set, low first."""
    if mask.bit_count() <= _FEW_BITS:
        yield from reversed(list(_high_first(mask)))
        return
    text = bin(mask)[:1:-1]
    at = text.find("1")
    while at >= 0:
        yield at
        at = text.find("1", at + 1)


def _high_first(mask: int) -> Iterator[int]:
    while mask:
        number = mask.bit_length() - 1
        yield number
        mask ^= 1 << number


def mask_of(numbers: Iterable[int]) -> int:
    """The mask with these bits."""
    numbers = list(numbers)
    if not numbers:
        return 0
    octets = bytearray((max(numbers) >> 3) + 1)
    for number in numbers:
        octets[number >> 3] |= 1 << (number & 7)
    return int.from_bytes(octets, "little")


_Change = Callable[[dict[Any, set[int]], Any, int], None]


class _Index:
    """Identities by what selectors ask for."""

    def __init__(self) -> None:
        self.classes: dict[int, Class] = {}
        self.pods: set[int] = set()
        self.nodes: set[int] = set()
        self.outside: set[int] = set()
        self.by_label: dict[tuple[str, str], set[int]] = {}
        self.by_key: dict[str, set[int]] = {}
        self.by_space: dict[tuple[str, Labels], set[int]] = {}
        self.by_namespace: dict[str, set[int]] = {}
        self.by_leaf: dict[Cidr, set[int]] = {}
        self.by_port: dict[str, set[int]] = {}

    def change(
        self, number: int, one: Class, change: Callable[[dict[Any, set[int]], Any, int], None]
    ) -> None:
        """Enter or remove one everywhere."""
        if one.leaf is not None:
            change(self.by_leaf, one.leaf, number)
        if not isinstance(one, PodClass):
            return
        for pair in one.labels:
            change(self.by_label, pair, number)
            change(self.by_key, pair[0], number)
        change(self.by_space, (one.namespace, one.namespace_labels), number)
        change(self.by_namespace, one.namespace, number)
        for name in {port[0] for port in one.ports}:
            change(self.by_port, name, number)

    def kind(self, one: Class) -> set[int]:
        """All of its kind."""
        match one:
            case PodClass():
                return self.pods
            case NodeClass():
                return self.nodes
            case CidrClass():
                return self.outside
        assert_never(one)


def _enter(index: dict[_K, set[int]], key: _K, number: int) -> None:
    index.setdefault(key, set()).add(number)


def _leave(index: dict[_K, set[int]], key: _K, number: int) -> None:
    group = index[key]
    group.discard(number)
    if not group:
        del index[key]


class Meant:
    """Whom a peer means, as identities come and go. One for each distinct peer as long as a rule names it."""

    __slots__ = ("_few", "mask")

    def __init__(self, mask: int) -> None:
        self.mask = mask
        self._few: tuple[int, ...] | None = None  # those of the mask, once asked for

    def flip(self, bit: int) -> None:
        """One comes or goes."""
        self.mask ^= bit
        self._few = None

    def few(self) -> tuple[int, ...] | None:
        """Their numbers; None: there are more than FEW."""
        if self._few is None and self.mask.bit_count() <= FEW:
            self._few = tuple(bits(self.mask))
        return self._few


class Peers:
    """Whom all peers mean that rules name."""

    def __init__(self, prefixes: Prefixes) -> None:
        self.meant: dict[Spec, Meant] = {}
        self._counts: dict[Spec, int] = {}
        self._prefixes = prefixes
        self._index = _Index()
        self._by_label: dict[tuple[str, str], set[Pods]] = {}
        self._by_namespace: dict[str, set[Pods]] = {}
        self._any: set[Pods] = set()
        self._blocks: dict[Cidr, set[Block]] = {}
        self._others: set[Nodes | Whole] = set()

    # ------------------------------------------------------------------ specs

    def acquire(self, spec: Spec) -> None:
        """Name a peer once more."""
        count = self._counts.get(spec, 0)
        self._counts[spec] = count + 1
        if not count:
            self.meant[spec] = Meant(mask_of(self._find(spec)))
            for index, key in self._places(spec):
                index.setdefault(key, set()).add(spec)
            if isinstance(spec, Nodes | Whole):
                self._others.add(spec)

    def release(self, spec: Spec) -> bool:
        """Undo one :meth:`acquire`; whether nobody names it any more."""
        self._counts[spec] -= 1
        if self._counts[spec]:
            return False
        del self._counts[spec], self.meant[spec]
        for index, key in self._places(spec):
            index[key].discard(spec)
            if not index[key]:
                del index[key]
        if isinstance(spec, Nodes | Whole):
            self._others.discard(spec)
        return True

    def _places(self, spec: Spec) -> list[tuple[dict[Any, set[Any]], Any]]:
        """Where a new identity finds the specs that could mean it."""
        if isinstance(spec, Block):
            return [(self._blocks, spec.cidr)]
        if not isinstance(spec, Pods):
            return []
        for key, operator, values in spec.pods:
            if operator is Operator.IN:
                return [(self._by_label, (key, value)) for value in dict.fromkeys(values)]
        if spec.namespaces is None:
            return [(self._by_namespace, spec.namespace)]
        return [({None: self._any}, None)]

    # ------------------------------------------------------------- identities

    def remove(self, number: int, one: Class) -> set[Spec]:
        """An identity is no more, or means something else; the peers that meant it."""
        index = self._index
        index.change(number, one, _leave)
        index.kind(one).discard(number)
        del index.classes[number]
        return self._flip(number, one)

    def add(self, number: int, one: Class) -> set[Spec]:
        """An identity is new; the peers that mean it."""
        index = self._index
        index.change(number, one, _enter)
        index.kind(one).add(number)
        index.classes[number] = one
        return self._flip(number, one)

    def class_of(self, number: int) -> Class:
        """What an identity means."""
        return self._index.classes[number]

    def _flip(self, number: int, one: Class) -> set[Spec]:
        bit = 1 << number
        found = set(self._meaning(one))
        for spec in found:
            self.meant[spec].flip(bit)
        return found

    def _meaning(self, one: Class) -> Iterator[Spec]:
        """Specs that mean an identity."""
        chain = list(self._prefixes.chain(one.leaf))
        for cidr in chain:
            for block in self._blocks.get(cidr, ()):
                if not any(cut in chain for cut in block.excepts):
                    yield block
        if isinstance(one, PodClass):
            yield from self._pods_meaning(one)
            for name in {port[0] for port in one.ports}:
                if Ports(name) in self.meant:
                    yield Ports(name)
            return
        for spec in self._others:
            if _means(spec, one):
                yield spec

    def _pods_meaning(self, one: PodClass) -> Iterator[Pods]:
        labels, spaces = dict(one.labels), dict(one.namespace_labels)
        tried = [self._any, self._by_namespace.get(one.namespace, ())]
        tried += [self._by_label.get(pair, ()) for pair in one.labels]
        for specs in tried:
            for spec in specs:
                if spec.namespaces is None:
                    if spec.namespace != one.namespace:
                        continue
                elif not holds(spec.namespaces, spaces):
                    continue
                if holds(spec.pods, labels):
                    yield spec

    def _find(self, spec: Spec) -> Iterable[int]:
        index = self._index
        match spec:
            case Pods():
                return self._find_pods(spec)
            case Block(cidr, excepts):
                leaves = (leaf for leaf in self._prefixes.within(cidr) if leaf in index.by_leaf)
                kept = (leaf for leaf in leaves if not any(contains(cut, leaf) for cut in excepts))
                return {number for leaf in kept for number in index.by_leaf[leaf]}
            case Ports(name):
                return index.by_port.get(name, ())
        return [n for n in (*index.nodes, *index.outside) if _means(spec, index.classes[n])]

    def _find_pods(self, spec: Pods) -> set[int]:
        index = self._index
        if spec.namespaces is None:
            found = index.by_namespace.get(spec.namespace, set())
        elif spec.namespaces:
            spaces = (s for s in index.by_space if holds(spec.namespaces, dict(s[1])))
            found = set().union(*(index.by_space[space] for space in spaces))
        else:
            found = index.pods
        for key, operator, values in spec.pods:
            labelled = [index.by_label.get((key, value), set()) for value in values]
            if operator is Operator.IN:
                found = found & (labelled[0] if len(labelled) == 1 else set().union(*labelled))
            elif operator is Operator.NOT_IN:
                found = found.difference(*labelled)
            elif operator is Operator.EXISTS:
                found = found & index.by_key.get(key, set())
            else:
                found = found - index.by_key.get(key, set())
        return found


def _means(spec: Nodes | Whole, one: Class) -> bool:
    match spec:
        case Nodes(selector):
            return isinstance(one, NodeClass) and holds(selector, dict(one.labels))
        case Whole(Entity.HOST):
            return isinstance(one, NodeClass) and one.host
        case Whole(Entity.NODE):
            return isinstance(one, NodeClass)
        case Whole(Entity.WORLD):
            return isinstance(one, CidrClass)
    raise AssertionError(spec)
