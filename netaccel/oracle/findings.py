# SPDX-License-Identifier: Apache-2.0
"""What is odd about a policy in this world, for people: what selects nothing, and rules that never match.

Only what is sure is told: a rule that another one shadows is found where the texts show it (the same peers,
a wider block, a wider range of ports), not where it takes the pods of this moment to see.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from netaccel.model.endpoint import Pod
from netaccel.model.policy import (
    NO_RULE,
    Action,
    CidrPeer,
    Direction,
    Entity,
    EntityPeer,
    Mode,
    NamedPort,
    NodePeer,
    Peer,
    PodPeer,
    Policy,
    Port,
    PortRange,
    Rule,
    RuleRef,
    ServicePeer,
    Subject,
    Tier,
)
from netaccel.model.snapshot import World
from netaccel.oracle.judge import in_order
from netaccel.oracle.match import contains, selects
from netaccel.oracle.party import namespace_labels, node_labels

_MOST = 2000
"""Rules of one tier and direction that are all compared with each other; of more, those of one policy."""


class Finding(NamedTuple):
    """``path``: where in the object. ``message``: what about it, and what follows."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class Selection:
    """Who is selected, in one state of the world: an index, since every policy asks."""

    def __init__(self, world: World, node: str | None = None) -> None:
        """``node``: its pods alone."""
        self.world = world
        self._by_namespace: dict[str, list[tuple[Pod, dict[str, str]]]] = defaultdict(list)
        for pod in world.pods(node):
            if not pod.host_network:
                self._by_namespace[pod.key.namespace].append((pod, dict(pod.labels)))
        self._labels = {name: namespace_labels(world, name) for name in self._by_namespace}

    def of(self, policy: Policy, peer: PodPeer | Subject) -> Iterator[Pod]:
        """Pods that a policy's subject or peer selects; never those on the host's network."""
        if peer.namespaces is None:
            spaces: Iterable[str] = (policy.key.namespace,)
        else:
            wanted = peer.namespaces
            spaces = (name for name, labels in self._labels.items() if selects(wanted, labels))
        for name in spaces:
            for pod, labels in self._by_namespace.get(name, ()):
                if selects(peer.pods, labels):
                    yield pod

    def subjects(self, policy: Policy) -> tuple[Pod, ...]:
        """The pods that a policy is about."""
        return tuple(self.of(policy, policy.subject))

    def pods(self) -> Iterator[Pod]:
        """All that policies can be about."""
        return (pod for pods in self._by_namespace.values() for pod, _ in pods)


def findings(selection: Selection, policy: Policy, subjects: Sequence[Pod] | None = None) -> list[Finding]:
    """Everything odd. ``subjects``: the policy's, where the caller has them."""
    subjects = selection.subjects(policy) if subjects is None else subjects
    found = [Finding(path, message) for path, message in policy.warnings]
    if not subjects:
        found.append(Finding("spec", "selects no pod: nothing is decided by it"))
    for direction in Direction:
        rules = policy.rules(direction)
        for number, rule in enumerate(rules):
            path = f"spec.{direction.name.lower()}[{number}]"
            found += _of_rule(_Case(selection, policy, direction, subjects), path, rule)
    return found


def shadowed(world: World) -> dict[RuleRef, RuleRef]:
    """Rules that can't decide anything, and the rule that always does in their stead."""
    found: dict[RuleRef, RuleRef] = {}
    for direction in Direction:
        for tier in Tier:
            read = in_order(world.policies().values(), tier)
            rules = [
                _Placed(policy, RuleRef(policy.key, direction, number), rule)
                for policy in read
                for number, rule in enumerate(policy.rules(direction))
            ]
            for later, stronger in _pairs(rules, tier):
                if later.ref not in found and _covers(stronger, later):
                    found[later.ref] = stronger.ref
    return found


class _Case(NamedTuple):
    selection: Selection
    policy: Policy
    direction: Direction
    subjects: Sequence[Pod]


class _Placed(NamedTuple):
    policy: Policy
    ref: RuleRef
    rule: Rule


# --------------------------------------------------------------- nothing there


def _of_rule(case: _Case, path: str, rule: Rule) -> Iterator[Finding]:
    if rule.peers == ():
        yield Finding(path, "has no peer: it never matches")
    if rule.ports == ():
        yield Finding(path, "has no port: it never matches")
    absent = [reason for reason in (_absent(case, peer) for peer in rule.peers or ()) if reason]
    for reason in dict.fromkeys(absent):
        yield Finding(path, _and_so(reason, all_of_it=len(absent) == len(rule.peers or ())))
    names = [port for port in rule.ports or () if isinstance(port, NamedPort)]
    missing = [port for port in names if not _is_held(case, rule, port)]
    for port in missing:
        reason = f"no pod that this is about has a port named {port.name!r}"
        yield Finding(path, _and_so(reason, all_of_it=len(missing) == len(rule.ports or ())))


def _and_so(reason: str, *, all_of_it: bool) -> str:
    return f"{reason}: it never matches" if all_of_it else reason


def _absent(case: _Case, peer: Peer) -> str:
    """Why nothing is this peer now; "" where something is, or may be."""
    world = case.selection.world
    match peer:
        case PodPeer():
            there = next(case.selection.of(case.policy, peer), None)
            return "" if there else "a peer's selectors select no pod"
        case ServicePeer(service=key):
            return "" if world.service(key) else f"there is no Service {key}"
        case NodePeer(nodes=wanted):
            there_is = any(selects(wanted, node_labels(world, node.name)) for node in world.nodes())
            return "" if there_is else "a peer's selector selects no node"
        case _:
            return ""


def _is_held(case: _Case, rule: Rule, port: NamedPort) -> bool:
    """Whether a destination that the rule can be about has this port."""
    return any(
        one.name == port.name and port.protocol in (None, int(one.protocol))
        for pod in _destinations(case, rule)
        for one in pod.ports
    )


def _destinations(case: _Case, rule: Rule) -> Iterable[Pod]:
    if case.direction is Direction.INGRESS:
        return case.subjects
    peers = rule.peers
    if peers is None or not all(isinstance(peer, PodPeer) for peer in peers):
        return case.selection.pods()
    chosen = (case.selection.of(case.policy, peer) for peer in peers if isinstance(peer, PodPeer))
    return chain.from_iterable(chosen)


# -------------------------------------------------------------------- shadowed


def _pairs(rules: Sequence[_Placed], tier: Tier) -> Iterator[tuple[_Placed, _Placed]]:
    """(rule, one that comes before it in the order of evaluation and decides where both match)."""
    if tier is not Tier.NAMESPACED:
        few = len(rules) <= _MOST
        for index, later in enumerate(rules):
            for earlier in rules[:index] if few else rules[index - later.ref.number : index]:
                if _decides(earlier, later):
                    yield later, earlier
        return
    by_space: dict[str, list[_Placed]] = defaultdict(list)
    for one in rules:
        if one.rule.action in _RANK:
            by_space[one.policy.key.namespace].append(one)
    for space in by_space.values():
        strong = [one for one in space if one.rule.action is not Action.ALLOW]
        for later in space:
            for one in strong:
                if _RANK[one.rule.action] < _RANK[later.rule.action] and _decides(one, later):
                    yield later, one


_RANK = {Action.DROP: 0, Action.REJECT: 1, Action.ALLOW: 2}


def _decides(one: _Placed, other: _Placed) -> bool:
    """Whether ``one`` is read wherever ``other`` is: a rule that only monitors shadows nothing."""
    same = one.policy.key == other.policy.key
    return one.rule.action is not Action.MONITOR and (same or one.policy.mode is Mode.ENFORCE)


def _covers(wide: _Placed, narrow: _Placed) -> bool:
    if not _covers_peers(wide.rule.peers, narrow.rule.peers):
        return False
    if not _covers_ports(wide.rule.ports, narrow.rule.ports):
        return False
    return wide.policy.key == narrow.policy.key or _covers_subject(wide.policy, narrow.policy)


def _covers_subject(wide: Policy, narrow: Policy) -> bool:
    here, there = wide.subject, narrow.subject
    spaces = here.namespaces in ((), there.namespaces) or (
        here.namespaces is None and wide.key.namespace == narrow.key.namespace
    )
    return spaces and set(here.pods) <= set(there.pods)


def _covers_peers(wide: tuple[Peer, ...] | None, narrow: tuple[Peer, ...] | None) -> bool:
    if wide is None:
        return True
    return bool(narrow) and all(any(_covers_peer(one, peer) for one in wide) for peer in narrow or ())


def _covers_peer(wide: Peer, narrow: Peer) -> bool:
    if wide == narrow:
        return True
    match wide, narrow:
        case CidrPeer(excepts=()), CidrPeer():
            inside = narrow.cidr.length >= wide.cidr.length
            return inside and contains(wide.cidr, narrow.cidr.addr)
        case PodPeer(), PodPeer():
            return wide.namespaces in ((), narrow.namespaces) and set(wide.pods) <= set(narrow.pods)
        case EntityPeer(entity=Entity.NODE), EntityPeer(entity=Entity.HOST):
            return True
        case NodePeer(), NodePeer():
            return set(wide.nodes) <= set(narrow.nodes)
        case _:
            return False


def _covers_ports(wide: tuple[Port, ...] | None, narrow: tuple[Port, ...] | None) -> bool:
    if wide is None:
        return True
    return bool(narrow) and all(any(_covers_port(one, port) for one in wide) for port in narrow or ())


def _covers_port(wide: Port, narrow: Port) -> bool:
    if wide == narrow:
        return True
    if isinstance(wide, PortRange) and isinstance(narrow, PortRange):
        same = wide.protocol == narrow.protocol
        return same and wide.first <= narrow.first and narrow.last <= wide.last
    if isinstance(wide, PortRange) and isinstance(narrow, NamedPort):
        whole = (wide.first, wide.last) == (0, 65535)
        return whole and wide.protocol == narrow.protocol
    return isinstance(narrow, NamedPort) and wide == NamedPort(narrow.name, None)


def place(rule: RuleRef) -> str:
    """``ingress[0]``, or ``ingress isolation``."""
    direction = rule.direction.name.lower()
    return f"{direction} isolation" if rule.number == NO_RULE else f"{direction}[{rule.number}]"
