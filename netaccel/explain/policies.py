# SPDX-License-Identifier: Apache-2.0
"""Policies as one node has them: what they select, what they decided, what is odd about them. Pure.

What was decided is read from the kernel's maps (``policy_rules``, ``rule_counters``) and, for what maps
forget, from recorded edges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict

from netaccel.model.endpoint import Pod
from netaccel.model.event import ObjectKey
from netaccel.model.policy import NO_RULE, Direction, Kind, Mode, Policy, PolicyKey, RuleRef, Tier
from netaccel.model.snapshot import World
from netaccel.observe.edges.edge import Verdict
from netaccel.observe.edges.reader import Seen
from netaccel.observe.figures import Labels
from netaccel.oracle.findings import Selection, findings, place, shadowed
from netaccel.reconcile.status import Condition, State
from netaccel.records import PolicyRule, Traffic

ISOLATION = 0xFFFF
"""``number`` of policy_rule (abi.h) for a policy's isolation."""
DECISIONS = ("allowed", "dropped", "audited")


class Decided(NamedTuple):
    """A rule as the kernel has it: packets of new flows, and of drops each one. ``decision``: DECISIONS."""

    rule: RuleRef
    decision: str
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Held:
    """One policy that selects pods of this node, as this node has it. ``state``: as PolicyView's."""

    key: PolicyKey
    generation: int
    state: str
    message: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


class RuleView(TypedDict):
    """One rule, or what isolation denied, or what is denied since the policy was refused.

    ``place``: as ``ingress[0]``, ``ingress isolation``, ``ingress refusal``.
    """

    place: str
    name: str
    action: str
    packets: int
    bytes: int
    shadowed_by: str


class PolicyView(TypedDict):
    """One policy. ``pods``: selected on this node and in all; ``nodes``: that those are on.

    ``state``: ``in force``, ``idle`` (it selects no pod here), ``waiting`` (the maps don't have it yet),
    ``degraded``, ``refused`` or ``off``; ``reasons`` say why. ``first``, ``last``: seconds since the epoch of
    the first and last flow on record that it denied, or in monitor mode would have; None: none is.
    """

    kind: str
    namespace: str
    name: str
    mode: str
    tier: str
    priority: int | None
    generation: int
    state: str
    reasons: list[str]
    pods: dict[str, int]
    isolates: list[str]
    rules: list[RuleView]
    counts: dict[str, int]
    first: float | None
    last: float | None
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known beside the world. ``troubled``: of netaccel.reconcile. ``enforcing``: policy is on."""

    node: str
    troubled: Mapping[ObjectKey, Condition] = field(default_factory=dict)
    decided: Sequence[Decided] | None = None
    """None: no maps to ask."""
    seen: Sequence[tuple[RuleRef, Verdict, Seen]] = ()
    enforcing: bool = True


def decided(
    rules: Mapping[int, PolicyRule], counters: Mapping[int, Traffic], labels: Labels
) -> list[Decided]:
    """Dumps of policy_rules and rule_counters (summed over CPUs) as decisions."""
    kinds, actions = labels.labels("policy_kind"), labels.labels("rule_action")
    zero = Traffic(0, 0)
    found = []
    for id_, one in rules.items():
        kind = _KINDS.get(kinds.get(one.kind, ""))
        if kind is None:
            continue
        number = NO_RULE if one.number == ISOLATION else one.number
        rule = RuleRef(PolicyKey(kind, one.namespace, one.name), Direction(one.direction), number)
        traffic = counters.get(id_, zero)
        found.append(Decided(rule, _decision(actions.get(one.action, ""), one), *traffic))
    return found


_KINDS = {
    "network_policy": Kind.NETWORK,
    "cluster_network_policy": Kind.CLUSTER_NETWORK,
    "traffic_policy": Kind.TRAFFIC,
    "cluster_traffic_policy": Kind.CLUSTER_TRAFFIC,
}


def _decision(action: str, rule: PolicyRule) -> str:
    if action == "monitor" or (rule.monitor and action in ("drop", "reject", "isolation")):
        return "audited"
    return "dropped" if action in ("drop", "reject", "isolation") else "allowed"


@dataclass(frozen=True, slots=True)
class Standing:
    """What is true of one policy in the whole cluster, whichever node looks.

    ``refused``: why it can't be used at all. ``stricter``: parts (path, message) that could not be read, and
    are read as denials or as nothing. ``warnings``: (path, message) of what never matches. ``nodes``: those
    with pods that it selects.
    """

    key: PolicyKey
    generation: int
    refused: tuple[str, ...] = ()
    stricter: tuple[tuple[str, str], ...] = ()
    warnings: tuple[tuple[str, str], ...] = ()
    pods: int = 0
    nodes: frozenset[str] = frozenset()


def standings(world: World) -> list[Standing]:
    """Of every policy, those that could not be read too."""
    selection, shadows = Selection(world), shadowed(world)
    refused: dict[PolicyKey, list[str]] = {}
    for reject in world.rejections():
        if reject.key and reject.key.kind in _NAMES:
            key = PolicyKey(Kind(reject.key.kind), reject.key.namespace, reject.key.name)
            where = f"{reject.path}: " if reject.path else ""
            refused.setdefault(key, []).append(f"{where}{reject.reason}")
    hidden: dict[PolicyKey, list[tuple[str, str]]] = {}
    for rule, by in shadows.items():
        hidden.setdefault(rule.policy, []).append((f"spec.{place(rule)}", _hidden(_named(world, by))))
    found = []
    for key, policy in world.policies().items():
        pods = selection.subjects(policy)
        odd = [tuple(one) for one in findings(selection, policy, pods) if tuple(one) not in policy.warnings]
        reasons = refused.pop(key, [policy.denies] if policy.denies else [])
        found.append(
            Standing(
                key,
                policy.generation,
                tuple(reasons),
                policy.warnings,
                tuple((path, message) for path, message in (*odd, *hidden.get(key, ()))),
                len(pods),
                frozenset(pod.node_name for pod in pods if pod.node_name),
            )
        )
    return found + [Standing(key, 0, tuple(reasons)) for key, reasons in refused.items()]


_NAMES = frozenset(kind.value for kind in Kind)


def _named(world: World, rule: RuleRef) -> str:
    """``NetworkPolicy shop/web ingress[0]``; of a policy that was refused the policy alone."""
    policy = world.policies().get(rule.policy)
    if policy and policy.denies:
        return f"{rule.policy}, which was refused and denies for that,"
    return f"{rule.policy} {place(rule)}"


def _hidden(by: str) -> str:
    return f"{by} always decides before it: it never does"


def held(world: World, facts: Facts, pods: Mapping[PolicyKey, int]) -> list[Held]:
    """The policies of this node's own pods. ``pods``: how many of them each selects (:func:`selected`)."""
    counts: dict[PolicyKey, Counter[str]] = {}
    for one in facts.decided or ():
        counts.setdefault(one.rule.policy, Counter())[one.decision] += one.packets
    found = []
    for key, number in sorted(pods.items(), key=lambda item: _order(item[0])):
        policy = world.policies().get(key)
        if policy is not None:
            there = key in counts
            state, reasons = _state(facts, policy, number, there)
            found.append(Held(key, policy.generation, state, "; ".join(reasons), dict(counts.get(key, {}))))
    return found


def selected(world: World, node: str) -> dict[PolicyKey, int]:
    """Policies that select pods of a node, and how many."""
    selection = Selection(world, node)
    counted = ((key, len(selection.subjects(policy))) for key, policy in world.policies().items())
    return {key: count for key, count in counted if count}


def policy_views(world: World, facts: Facts) -> list[PolicyView]:
    """Every policy by kind, namespace and name; those that could not be read too."""
    selection = Selection(world)
    shadows = {
        rule: place(by) if by.policy == rule.policy else _named(world, by)
        for rule, by in shadowed(world).items()
    }
    by_policy: dict[PolicyKey, list[Decided]] = {}
    for one in facts.decided or ():
        by_policy.setdefault(one.rule.policy, []).append(one)
    seen = _first_and_last(facts.seen)
    found = []
    for key, policy in sorted(world.policies().items(), key=lambda item: _order(item[0])):
        case = _Case(facts, policy, selection.subjects(policy), by_policy.get(key, []))
        warnings = [str(finding) for finding in findings(selection, policy, case.pods)]
        found.append(_view(case, shadows, seen.get(key), warnings))
    return found + _unreadable(world, facts)


class _Case(NamedTuple):
    facts: Facts
    policy: Policy
    pods: Sequence[Pod]
    decided: Sequence[Decided]


def _order(key: PolicyKey) -> tuple[str, str, str]:
    return key.kind.value, key.namespace, key.name


def _view(
    case: _Case,
    shadows: Mapping[RuleRef, str],
    seen: tuple[float, float] | None,
    warnings: Sequence[str],
) -> PolicyView:
    policy = case.policy
    counts: Counter[str] = Counter(dict.fromkeys(DECISIONS, 0))
    for one in case.decided:
        counts[one.decision] += one.packets
    here = sum(pod.node_name == case.facts.node for pod in case.pods)
    state, reasons = _state(case.facts, policy, here, bool(case.decided))
    rules = list(_rules(case, shadows))
    hidden = [
        f"spec.{rule['place']}: {_hidden(rule['shadowed_by'])}" for rule in rules if rule["shadowed_by"]
    ]
    return PolicyView(
        kind=policy.key.kind.value,
        namespace=policy.key.namespace,
        name=policy.key.name,
        mode=policy.mode.value,
        tier=policy.tier.name.lower(),
        priority=None if policy.tier is Tier.NAMESPACED else policy.priority,
        generation=policy.generation,
        state=state,
        reasons=reasons,
        pods={
            "here": here,
            "known": len(case.pods),
            "nodes": len({pod.node_name for pod in case.pods if pod.node_name}),
        },
        isolates=sorted(direction.name.lower() for direction in policy.isolates),
        rules=rules,
        counts=dict(counts),
        first=seen[0] if seen else None,
        last=seen[1] if seen else None,
        warnings=[*warnings, *hidden],
    )


def _state(facts: Facts, policy: Policy, here: int, there: bool) -> tuple[str, list[str]]:
    """``here``: pods that it selects on this node. ``there``: whether the maps have its rules."""
    trouble = facts.troubled.get(ObjectKey(policy.key.kind.value, policy.key.namespace, policy.key.name))
    if policy.denies:
        return "refused", [f"{policy.denies}; what it selects is denied meanwhile"]
    if trouble and trouble.state is State.REJECTED:
        return "refused", list(trouble.reasons)
    if trouble and trouble.state is State.DEGRADED:
        return "degraded", list(trouble.reasons)
    if not facts.enforcing:
        return "off", ["this node enforces no policy: see the setting `policy`"]
    if not here:
        return "idle", []
    if facts.decided is not None and not there and _has_rules(policy):
        return "waiting", ["the kernel's maps don't have it yet"]
    return ("in force" if facts.decided is not None else "unknown"), []


def _has_rules(policy: Policy) -> bool:
    return bool(policy.ingress or policy.egress or policy.isolates)


def _rules(case: _Case, shadows: Mapping[RuleRef, str]) -> Iterator[RuleView]:
    """``shadows``: rules that never decide, and which one always does."""
    by_rule = {one.rule: one for one in case.decided}
    for direction in Direction:
        for number, rule in enumerate(case.policy.rules(direction)):
            ref = RuleRef(case.policy.key, direction, number)
            if case.policy.denies:
                where = f"{direction.name.lower()} refusal"
                yield _rule_view(where, "", "Refusal", by_rule.get(ref))
            else:
                view = _rule_view(place(ref), rule.name, rule.action.value, by_rule.get(ref))
                view["shadowed_by"] = shadows.get(ref, "")
                yield view
        if direction in case.policy.isolates:
            ref = RuleRef(case.policy.key, direction, NO_RULE)
            yield _rule_view(place(ref), "", "Isolation", by_rule.get(ref))


def _rule_view(where: str, name: str, action: str, counts: Decided | None) -> RuleView:
    return RuleView(
        place=where,
        name=name,
        action=action,
        packets=counts.packets if counts else 0,
        bytes=counts.bytes if counts else 0,
        shadowed_by="",
    )


NO_RULES = frozenset(("Isolation", "Refusal"))
"""Actions of RuleView that nobody wrote."""


def _first_and_last(
    seen: Iterable[tuple[RuleRef, Verdict, Seen]],
) -> dict[PolicyKey, tuple[float, float]]:
    """Of flows that a policy denied, or would have."""
    found: dict[PolicyKey, tuple[float, float]] = {}
    for rule, verdict, one in seen:
        if verdict is not Verdict.ALLOWED:
            first, last = found.get(rule.policy, (one.first, one.last))
            found[rule.policy] = min(first, one.first), max(last, one.last)
    return found


def _unreadable(world: World, facts: Facts) -> list[PolicyView]:
    """Policies that were refused whole: nothing of them is known but why."""
    there = {(key.kind.value, key.namespace, key.name) for key in world.policies()}
    return [
        PolicyView(
            kind=key.kind,
            namespace=key.namespace,
            name=key.name,
            mode=Mode.ENFORCE.value,
            tier="",
            priority=None,
            generation=0,
            state="refused",
            reasons=[f"{reason}; it has no effect" for reason in condition.reasons],
            pods={"here": 0, "known": 0, "nodes": 0},
            isolates=[],
            rules=[],
            counts=dict.fromkeys(DECISIONS, 0),
            first=None,
            last=None,
            warnings=[],
        )
        for key, condition in sorted(facts.troubled.items())
        if key.kind in _NAMES and tuple(key) not in there and condition.state is State.REJECTED
    ]
