# SPDX-License-Identifier: Apache-2.0
"""How a verdict came about, for people: which policies select the pod, and what each of their rules said."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from netaccel.model.policy import Action, Direction, Mode, Policy, Rule, RuleRef, Tier
from netaccel.model.snapshot import World
from netaccel.oracle.judge import exemption, in_order, judge, selecting
from netaccel.oracle.match import ends, is_unknown, matches, matches_peers, matches_ports
from netaccel.oracle.party import Question


class Match(enum.Enum):
    """What became of a rule."""

    DECIDES = "decides"
    WOULD_DECIDE = "would decide if monitoring were enforcement"
    MATCHES = "matches, but another rule decides"
    OTHER_PEER = "is about other peers"
    OTHER_PORT = "is about other ports"
    UNKNOWN_PEER = "has a peer that can't be resolved, and allows nothing by it"


class Step(NamedTuple):
    """One rule of a policy that selects the pod. ``isolates``: the policy does, in this direction.

    ``refused``: why the policy stands in for one that can't be used (Policy.denies).
    """

    tier: Tier
    rule: RuleRef
    name: str
    action: Action
    mode: Mode
    isolates: bool
    match: Match
    refused: str = ""


def steps(
    world: World, direction: Direction, question: Question, policies: Sequence[Policy] | None = None
) -> tuple[Step, ...]:
    """Every rule that could decide, tier by tier, in order; nothing where no policy is asked."""
    subject = ends(direction, question)[0].pod
    if subject is None or exemption(direction, question) is not None:
        return ()
    if policies is None:
        policies = selecting(world, subject)
    return tuple(_steps(world, direction, question, policies))


def _steps(
    world: World, direction: Direction, question: Question, policies: Sequence[Policy]
) -> Iterator[Step]:
    judgement = judge(world, direction, question, policies)
    for tier in Tier:
        for policy in in_order(policies, tier):
            isolates = direction in policy.isolates
            for number, rule in enumerate(policy.rules(direction)):
                ref = RuleRef(policy.key, direction, number)
                if ref == judgement.enforced.rule:
                    match = Match.DECIDES
                elif ref == judgement.shadow.rule:
                    match = Match.WOULD_DECIDE
                else:
                    match = _match(world, policy, rule, direction, question)
                yield Step(tier, ref, rule.name, rule.action, policy.mode, isolates, match, policy.denies)


def _match(world: World, policy: Policy, rule: Rule, direction: Direction, question: Question) -> Match:
    if matches(world, policy, rule, direction, question):
        return Match.MATCHES
    if not matches_ports(rule, question):
        return Match.OTHER_PORT
    if is_unknown(rule) and not matches_peers(world, policy, rule, direction, question):
        return Match.UNKNOWN_PEER
    return Match.OTHER_PEER
