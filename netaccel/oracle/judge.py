# SPDX-License-Identifier: Apache-2.0
"""The verdict on one direction of one flow, and which rule gave it (design: Policy, order).

1. Admin: ClusterNetworkPolicy of that tier and ClusterTrafficPolicy by priority; the first rule that matches
   decides, Pass goes on to 2.
2. Namespaced: Drop beats Reject beats Allow; else denied where a policy isolates.
3. Baseline, where no policy isolates.
4. Allowed.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from netaccel.model.endpoint import Pod
from netaccel.model.policy import (
    ICMPV6,
    NO_RULE,
    Action,
    Direction,
    Kind,
    Mode,
    Policy,
    Rule,
    RuleRef,
    Tier,
)
from netaccel.model.snapshot import World
from netaccel.oracle.match import ends, is_own_node, is_unknown, matches, selects_pod
from netaccel.oracle.party import Question

_NEIGHBOURS = frozenset((130, 131, 132, 133, 134, 135, 136, 137, 143))
"""ICMPv6 types of multicast listener discovery (RFC 2710, RFC 3810) and neighbour discovery (RFC 4861)."""


class Exempt(enum.Enum):
    """Why no policy is asked."""

    NO_POD = "no pod on a network of its own is the subject"
    SELF = "a pod always reaches itself"
    OWN_NODE = "a node always reaches its pods"
    NEIGHBOURS = "neighbour and multicast listener discovery"


class Outcome(NamedTuple):
    """A verdict. ``action`` is ALLOW, DROP or REJECT.

    ``rule`` None: allowed, and no rule says so. ``isolated``: denied since no rule allows it.
    """

    allowed: bool
    action: Action
    rule: RuleRef | None = None
    isolated: bool = False


ALLOWED = Outcome(True, Action.ALLOW)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Both verdicts: of what is in force, and with Monitor read as if it were."""

    enforced: Outcome
    shadow: Outcome
    exempt: Exempt | None = None

    @property
    def allowed(self) -> bool:
        """What becomes of the packet."""
        return self.enforced.allowed

    @property
    def audited(self) -> bool:
        """Whether only monitor mode would deny it."""
        return self.enforced.allowed and not self.shadow.allowed

    @property
    def rule(self) -> RuleRef | None:
        """The rule to name: the shadow's where it is audited."""
        return self.shadow.rule if self.audited else self.enforced.rule


class Candidate(NamedTuple):
    """A rule that could decide; ``action`` is what it does under this reading."""

    policy: Policy
    number: int
    rule: Rule
    action: Action

    def ref(self, direction: Direction) -> RuleRef:
        """Its name."""
        return RuleRef(self.policy.key, direction, self.number)


def judge(
    world: World, direction: Direction, question: Question, policies: Sequence[Policy] | None = None
) -> Judgement:
    """What the policies of the destination (INGRESS) or the source (EGRESS) say.

    ``policies``: those that select that pod, where the caller has them (:func:`selecting`).
    """
    exempt = exemption(direction, question)
    subject = ends(direction, question)[0].pod
    if exempt is not None or subject is None:
        return Judgement(ALLOWED, ALLOWED, exempt)
    if policies is None:
        policies = selecting(world, subject)
    if not policies:
        return Judgement(ALLOWED, ALLOWED)
    enforced = _evaluate(world, direction, question, policies, shadow=False)
    if not any(_monitors(policy, direction) for policy in policies):
        return Judgement(enforced, enforced)
    return Judgement(enforced, _evaluate(world, direction, question, policies, shadow=True))


def _monitors(policy: Policy, direction: Direction) -> bool:
    """Whether the two readings of a policy differ."""
    if policy.mode is Mode.MONITOR:
        return True
    return any(rule.action is Action.MONITOR for rule in policy.rules(direction))


def selecting(world: World, pod: Pod) -> tuple[Policy, ...]:
    """Policies of all tiers and modes that select the pod."""
    return tuple(policy for policy in world.policies().values() if selects_pod(world, policy, pod))


def exemption(direction: Direction, question: Question) -> Exempt | None:
    """Whether the flow is outside policy in this direction, and why."""
    subject, peer = ends(direction, question)
    if subject.pod is None:
        return Exempt.NO_POD
    if peer.pod is not None and peer.pod.key == subject.pod.key:
        return Exempt.SELF
    if direction is Direction.INGRESS and is_own_node(subject, peer):
        return Exempt.OWN_NODE
    if question.protocol == ICMPV6 and question.port >> 8 in _NEIGHBOURS:
        return Exempt.NEIGHBOURS
    return None


def _evaluate(
    world: World, direction: Direction, question: Question, policies: Iterable[Policy], *, shadow: bool
) -> Outcome:
    read = [policy for policy in policies if shadow or policy.mode is Mode.ENFORCE]

    def matching(tier: Tier) -> Iterator[Candidate]:
        for one in candidates(in_order(read, tier), direction, shadow=shadow):
            if matches(world, one.policy, one.rule, direction, question):
                yield one

    first = next(matching(Tier.ADMIN), None)
    if first is not None and first.action is not Action.PASS:
        return _decided(first, direction)

    found = list(matching(Tier.NAMESPACED))
    for action in (Action.DROP, Action.REJECT, Action.ALLOW):
        for one in found:
            if one.action is action:
                return _decided(one, direction)
    for policy in in_order(read, Tier.NAMESPACED):
        if direction in policy.isolates:
            return Outcome(False, Action.DROP, RuleRef(policy.key, direction, NO_RULE), isolated=True)

    first = next(matching(Tier.BASELINE), None)
    if first is not None and first.action is not Action.PASS:
        return _decided(first, direction)
    return ALLOWED


def _decided(one: Candidate, direction: Direction) -> Outcome:
    return Outcome(one.action is Action.ALLOW, one.action, one.ref(direction))


def candidates(policies: Iterable[Policy], direction: Direction, *, shadow: bool) -> Iterator[Candidate]:
    """Rules that count under this reading: a Monitor rule is none, and a Drop in the shadow.

    A rule that doesn't allow and whose peers can't be resolved denies, Pass too (ClusterNetworkPolicy:
    fail closed).
    """
    for policy in policies:
        for number, rule in enumerate(policy.rules(direction)):
            action = rule.action
            if action is Action.MONITOR:
                if not shadow:
                    continue
                action = Action.DROP
            if action is Action.PASS and is_unknown(rule):
                action = Action.DROP
            yield Candidate(policy, number, rule, action)


def in_order(policies: Iterable[Policy], tier: Tier) -> list[Policy]:
    """Policies of one tier in the order of evaluation; NAMESPACED: in the order in which they are named."""
    found = [policy for policy in policies if policy.tier is tier]
    match tier:
        case Tier.ADMIN:
            return sorted(found, key=_admin_order)
        case Tier.NAMESPACED:
            return sorted(found, key=lambda p: (p.key.kind.value, p.key.namespace, p.key.name))
        case Tier.BASELINE:
            return sorted(found, key=lambda p: (p.priority, p.key.name))


def _admin_order(policy: Policy) -> tuple[int, bool, float, str]:
    ours = policy.key.kind is not Kind.CLUSTER_NETWORK
    return policy.priority, ours, policy.created, policy.key.name
