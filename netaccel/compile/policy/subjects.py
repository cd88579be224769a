# SPDX-License-Identifier: Apache-2.0
"""Pods that the same policies select share a subject: a table of rows by peer for each direction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from netaccel.compile.policy.identities import PodClass
from netaccel.compile.policy.rows import Fallback, Named, Ruled
from netaccel.compile.policy.rules import CompiledPolicy, CompiledRule, Form
from netaccel.compile.policy.selectors import FEW, Meant, Peers, Ports, bits, mask_of
from netaccel.model.policy import NO_RULE, Direction, Mode, PolicyKey, RuleRef, Tier


class SubjectKey(NamedTuple):
    """What makes pods alike as subjects: policies by direction, in order; their own ports where asked."""

    ingress: tuple[PolicyKey, ...]
    egress: tuple[PolicyKey, ...]
    ports: Named

    def policies(self, direction: Direction) -> tuple[PolicyKey, ...]:
        """Those that say something of a direction."""
        return self.ingress if direction is Direction.INGRESS else self.egress


@dataclass(slots=True)
class Table:
    """Rows of one subject and direction. ``peers``: the identities of each row that isn't the ``default``."""

    default: int
    peers: dict[int, int] = field(default_factory=dict)
    """Masks by row."""

    def row(self, identity: int) -> int | None:
        """The row of an identity; None: the default."""
        return next((row for row, mask in self.peers.items() if mask >> identity & 1), None)


class Class(NamedTuple):
    """Peers that the same rules match. ``named``: ports of the destination that rules name."""

    rules: tuple[Ruled, ...]
    named: Named


def key_of(policies: Sequence[CompiledPolicy], ports: Named) -> SubjectKey:
    """The subject of a pod with these named ports that these policies select."""
    ordered = sorted(policies, key=lambda p: (p.policy.tier, p.order))
    keys = [tuple(p.key for p in ordered if p.concerns(direction)) for direction in Direction]
    asked = frozenset(
        name for p in policies for rule in p.rules[Direction.INGRESS] for name in rule.form.named
    )
    return SubjectKey(keys[0], keys[1], tuple(port for port in ports if port[0] in asked))


@dataclass(frozen=True, slots=True)
class Numbered:
    """What a policy says of a direction, with the ids of its rules. ``isolation``: as if it were alone."""

    read: tuple[CompiledRule, ...]
    rules: tuple[Ruled, ...]
    isolation: Fallback


def numbered(one: CompiledPolicy, direction: Direction, ids: Mapping[RuleRef, int], peers: Peers) -> Numbered:
    """Of a policy whose rules have ids and whose peers are known."""
    meant = peers.meant
    rules = tuple(
        Ruled(
            rule.form,
            ids[RuleRef(one.key, direction, rule.number)],
            None if rule.specs is None else tuple(meant[spec] for spec in rule.specs),
        )
        for rule in one.rules[direction]
    )
    isolation = 0
    if one.policy.tier is Tier.NAMESPACED and direction in one.policy.isolates:
        isolation = ids[RuleRef(one.key, direction, NO_RULE)]
    enforced = isolation if one.policy.mode is Mode.ENFORCE else 0
    return Numbered(one.rules[direction], rules, Fallback(enforced, isolation))


def fallback(policies: Iterable[Numbered]) -> Fallback:
    """The first policies that isolate, in force and in the shadow."""
    enforced = shadow = 0
    for one in policies:
        enforced = enforced or one.isolation.enforced
        shadow = shadow or one.isolation.shadow
    return Fallback(enforced, shadow)


def partition(
    rules: Sequence[Ruled], direction: Direction, peers: Peers, own: Named
) -> Iterator[tuple[Class, int]]:
    """Classes of peers with the identities of each; the first is that of everybody else, with mask 0."""
    always = [n for n, one in enumerate(rules) if one.peers is None]
    groups: dict[tuple[int, ...], int] = {}
    sparse: dict[int, list[int]] = {}
    for number, one in enumerate(rules):
        if one.peers is None:
            continue
        few = _few(one.peers)
        if few is None:
            groups = _refined(groups, number, _any(one.peers))
            continue
        for identity in few:
            sparse.setdefault(identity, []).append(number)
    groups = _with_sparse(groups, sparse)

    names = frozenset(name for one in rules for name in one.form.named)
    if direction is Direction.INGRESS or not names:
        named = own if direction is Direction.INGRESS else ()
        for signature, mask in [((), 0), *groups.items()]:
            yield _class(rules, always, signature, named), mask
        return
    yield _class(rules, always, (), ()), 0
    by_ports = _by_ports(names, peers)
    anyone = 0
    for having in by_ports.values():
        anyone |= having
    matched = 0
    for signature, mask in groups.items():
        matched |= mask
        for named, having in by_ports.items():
            if mask & having:
                yield _class(rules, always, signature, named), mask & having
        if mask & ~anyone:
            yield _class(rules, always, signature, ()), mask & ~anyone
    for named, having in by_ports.items():
        if having & ~matched:
            yield _class(rules, always, (), named), having & ~matched


def _class(rules: Sequence[Ruled], always: Sequence[int], signature: tuple[int, ...], named: Named) -> Class:
    """Without rules that others before them leave nothing to, so that more classes are alike."""
    found: dict[Form, Ruled] = {}
    for number in sorted((*always, *signature)) if signature else always:
        one = rules[number]
        if one.form not in found and one.form.whole not in found:
            found[one.form] = one
    return Class(tuple(found.values()), named if any(form.named for form in found) else ())


def _few(peers: Sequence[Meant]) -> Iterable[int] | None:
    """Identities of any of them, each once; None: there are very many."""
    if len(peers) == 1:
        return peers[0].few()
    found: dict[int, None] = {}
    for one in peers:
        few = one.few()
        if few is None or len(found) > FEW:
            return None
        found.update(dict.fromkeys(few))
    return found


def _any(peers: Iterable[Meant]) -> int:
    mask = 0
    for one in peers:
        mask |= one.mask
    return mask


def _refined(groups: Mapping[tuple[int, ...], int], number: int, mask: int) -> dict[tuple[int, ...], int]:
    found: dict[tuple[int, ...], int] = {}
    left = mask
    for signature, members in groups.items():
        both, rest = members & mask, members & ~mask
        if both:
            found[(*signature, number)] = both
            left &= ~both
        if rest:
            found[signature] = rest
    if left:
        found[(number,)] = left
    return found


def _with_sparse(
    groups: dict[tuple[int, ...], int], sparse: Mapping[int, list[int]]
) -> dict[tuple[int, ...], int]:
    """Add the rules of few peers, peer by peer."""
    members: dict[tuple[int, ...], list[int]] = {}
    left = mask_of(sparse)
    for signature, mask in list(groups.items()):
        found = mask & left
        for identity in bits(found):
            members.setdefault((*signature, *sparse[identity]), []).append(identity)
        if found:
            groups[signature] = mask & ~found
            left &= ~found
    for identity in bits(left):
        members.setdefault(tuple(sparse[identity]), []).append(identity)
    for signature, identities in members.items():
        groups[signature] = groups.get(signature, 0) | mask_of(identities)
    return {signature: mask for signature, mask in groups.items() if mask}


def _by_ports(names: frozenset[str], peers: Peers) -> dict[Named, int]:
    """Pods by those of their named ports that rules ask for."""
    members: dict[Named, list[int]] = {}
    having = 0
    for name in names:
        having |= peers.meant[Ports(name)].mask
    for identity in bits(having):
        one = peers.class_of(identity)
        assert isinstance(one, PodClass)
        members.setdefault(tuple(port for port in one.ports if port[0] in names), []).append(identity)
    return {named: mask_of(identities) for named, identities in members.items()}


def table(classes: Iterator[tuple[Class, int]], row_of: Callable[[Class], int]) -> Table:
    """The rows of all classes; classes with the same row are one."""
    first, _ = next(classes)
    found = Table(row_of(first))
    for one, mask in classes:
        row = row_of(one)
        if row != found.default:
            found.peers[row] = found.peers.get(row, 0) | mask
    return found
