# SPDX-License-Identifier: Apache-2.0
"""A policy's rules as the compiler reads them: peers as specs, what each does in force and in the shadow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from netaccel.compile.policy.selectors import Block, Nodes, Pods, Ports, Spec, Whole
from netaccel.model.address import Cidr
from netaccel.model.policy import (
    Action,
    CidrPeer,
    Direction,
    EntityPeer,
    Kind,
    Mode,
    NamedPort,
    NodePeer,
    Operator,
    Peer,
    PodPeer,
    Policy,
    PolicyKey,
    Port,
    PortRange,
    Requirement,
    Rule,
    ServicePeer,
    Tier,
    UnknownPeer,
)
from netaccel.model.service import ServiceKey
from netaccel.model.snapshot import World

_ALL = 128

Spans = Mapping[int, Sequence[tuple[int, int]]]
"""First port and the one after the last, by protocol."""


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """What a rule does to the flows of the peers that it matches; rules that do the same share one.

    ``enforced`` and ``shadow``: what it does under each reading, None: it is none there.
    ``ports`` None: every protocol and port.
    """

    tier: Tier
    enforced: Action | None
    shadow: Action | None
    ports: tuple[Port, ...] | None
    spans: Spans
    """The ports that are numbers."""
    named: frozenset[str]
    """Names of ports that have to be looked up at the destination."""
    whole: Form | None
    """The form that does the same to all flows; None: this one does."""


@dataclass(frozen=True, slots=True, eq=False)
class CompiledRule:
    """One rule. ``specs`` None: every peer."""

    number: int
    written: Action
    form: Form
    specs: tuple[Spec, ...] | None


@dataclass(frozen=True, slots=True, eq=False)
class CompiledPolicy:
    """A policy as it is compiled now. ``order``: policies of one tier are evaluated, or named, by it."""

    policy: Policy
    order: tuple[int, int, float, str, str]
    rules: tuple[tuple[CompiledRule, ...], tuple[CompiledRule, ...]]
    """By direction."""
    services: frozenset[ServiceKey] = field(default_factory=frozenset)
    """Services that its peers name."""

    @property
    def key(self) -> PolicyKey:
        """The policy's."""
        return self.policy.key

    def means(self, other: CompiledPolicy) -> bool:
        """Whether it is the same policy, and its peers mean the same."""
        return self.policy == other.policy and all(self.says(d, other) for d in Direction)

    def says(self, direction: Direction, other: CompiledPolicy) -> bool:
        """Whether another says the same of a direction, whomever it selects."""
        mine, theirs = self.policy, other.policy
        return (
            (mine.tier, mine.mode, self.order) == (theirs.tier, theirs.mode, other.order)
            and (direction in mine.isolates) == (direction in theirs.isolates)
            and mine.rules(direction) == theirs.rules(direction)
            and [a.specs for a in self.rules[direction]] == [b.specs for b in other.rules[direction]]
        )

    def keeping(self, old: CompiledPolicy) -> CompiledPolicy:
        """The same, with the old rules of a direction that nothing is new in: what was made of them holds."""
        ingress, egress = (old.rules[d] if self.says(d, old) else self.rules[d] for d in Direction)
        return replace(self, rules=(ingress, egress))

    def specs(self, direction: Direction) -> Iterator[Spec]:
        """What it names in a direction; on egress whoever has a port of a name that it names, too."""
        for rule in self.rules[direction]:
            yield from rule.specs or ()
            if direction is Direction.EGRESS:
                yield from map(Ports, rule.form.named)

    def concerns(self, direction: Direction) -> bool:
        """Whether it says anything of a direction."""
        return bool(self.rules[direction]) or direction in self.policy.isolates

    def denies(self, direction: Direction) -> bool:
        """Whether it may deny in force: then what can't be judged is dropped."""
        if self.policy.mode is Mode.MONITOR:
            return False
        return direction in self.policy.isolates or any(
            rule.form.enforced is not None for rule in self.rules[direction]
        )

    def prefixes(self) -> Iterator[Cidr]:
        """Every prefix that has to have a name in the map ``identities``."""
        for direction in Direction:
            for spec in self.specs(direction):
                if isinstance(spec, Block):
                    yield spec.cidr
                    yield from spec.excepts


def compile_policy(policy: Policy, world: World) -> CompiledPolicy:
    """What a policy's rules mean; of the world only the Services that it names are read."""
    monitored = policy.mode is Mode.MONITOR
    services = {
        peer.service
        for direction in Direction
        for rule in policy.rules(direction)
        for peer in rule.peers or ()
        if isinstance(peer, ServicePeer)
    }
    rules = [
        tuple(
            _rule(policy, number, rule, world, monitored)
            for number, rule in enumerate(policy.rules(direction))
        )
        for direction in Direction
    ]
    return CompiledPolicy(policy, _order(policy), (rules[0], rules[1]), frozenset(services))


def stricter(policy: Policy) -> Policy:
    """What holds of a policy that does not fit: its subject is denied in its directions, at its place."""
    deny = (Rule(Action.DROP, None, None),)
    ingress, egress = (
        deny if policy.rules(direction) or direction in policy.isolates else () for direction in Direction
    )
    return replace(policy, ingress=ingress, egress=egress)


def _order(policy: Policy) -> tuple[int, int, float, str, str]:
    key = policy.key
    match policy.tier:
        case Tier.ADMIN:
            return policy.priority, key.kind is not Kind.CLUSTER_NETWORK, policy.created, key.name, ""
        case Tier.NAMESPACED:
            return key.kind is not Kind.NETWORK, 0, 0.0, key.namespace, key.name
        case Tier.BASELINE:
            return policy.priority, 0, 0.0, key.name, ""


def _rule(policy: Policy, number: int, rule: Rule, world: World, monitored: bool) -> CompiledRule:
    shadow = Action.DROP if rule.action is Action.MONITOR else rule.action
    peers, ports = rule.peers, rule.ports
    unknown = any(isinstance(peer, UnknownPeer) for peer in peers or ())
    if unknown and rule.action is not Action.ALLOW:  # fails closed: everything is denied, what passes too
        peers = ports = None
        shadow = Action.DROP if shadow is Action.PASS else shadow
    specs = None if peers is None else tuple(s for peer in peers for s in _specs(peer, policy, world))
    enforced = None if monitored or rule.action is Action.MONITOR else shadow
    return CompiledRule(number, rule.action, _form(policy.tier, enforced, shadow, ports), specs)


@lru_cache(maxsize=65536)  # one that is made again is another: correct, only not known to be alike
def _form(tier: Tier, enforced: Action | None, shadow: Action | None, ports: tuple[Port, ...] | None) -> Form:
    if ports is None:
        return Form(tier, enforced, shadow, None, {}, frozenset(), None)
    spans: dict[int, list[tuple[int, int]]] = {}
    for port in ports:
        if isinstance(port, PortRange):
            spans.setdefault(port.protocol, []).append((port.first, port.last + 1))
    named = frozenset(port.name for port in ports if isinstance(port, NamedPort))
    whole = _form(tier, enforced, shadow, None)
    return Form(tier, enforced, shadow, ports, spans, named, whole)


def _specs(peer: Peer, policy: Policy, world: World) -> Iterator[Spec]:
    match peer:
        case PodPeer(pods, None):
            yield Pods(pods, None, policy.key.namespace)
        case PodPeer(pods, namespaces):
            yield Pods(pods, namespaces, "")
        case CidrPeer(cidr, excepts):
            yield Block(cidr, tuple(excepts))
        case EntityPeer(entity):
            yield Whole(entity)
        case NodePeer(nodes):
            yield Nodes(nodes)
        case ServicePeer(key):
            yield from _service(key, world)
        case UnknownPeer():
            return


def _service(key: ServiceKey, world: World) -> Iterator[Spec]:
    """The pods that a Service selects, else the addresses of its slices; of one that is not there none."""
    service = world.service(key)
    if service is None:
        return
    if service.selector:
        selector = tuple(Requirement(name, Operator.IN, (value,)) for name, value in service.selector)
        yield Pods(selector, None, key.namespace)
        return
    for address in sorted({e.address for one in world.slices(key) for e in one.endpoints}):
        yield Block(Cidr(address, _ALL), ())
