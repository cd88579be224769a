# SPDX-License-Identifier: Apache-2.0
"""tests/cases/policy/*.yaml: manifests and questions in, verdicts and the rules that gave them out.

A case has ``title``, ``why`` (by whose words), ``manifests`` (added to cluster.yaml) and ``questions``:

- ``from``, ``to``: as of `netaccel explain`; ``port``, ``protocol`` (TCP); of ICMP ``type``, ``code``;
- ``family``: 4 (the default) or 6;
- ``egress``, ``ingress``: what the policies of the source, and of the destination, say (both, unless that
  end is no pod):

  =============================== ====================================================
  ``allow``                       no rule says so
  ``allow|drop|reject KEY N``     by the N-th rule (from 0) of KEY, as TrafficPolicy shop/web
  ``isolated KEY``                denied: KEY isolates, and no rule allows
  ``X; monitor Y``                X is in force; Y would be if monitoring were enforcement
  ``exempt WHY``                  outside policy (oracle.Exempt, lower case)
  =============================== ====================================================

``refused``: objects of the case that must not be usable, by key, with the path of the mistake.
Every case is asked of every judge.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from policyjudges import JUDGES, every_judge

from netaccel.explain.ends import End, EndKind, parse_end, parse_protocol
from netaccel.explain.walk import WORLD
from netaccel.model.address import is_ipv4
from netaccel.model.endpoint import PodKey
from netaccel.model.event import Reject, Upsert
from netaccel.model.policy import ICMP, ICMPV6, Action, Direction
from netaccel.model.snapshot import World
from netaccel.oracle import Judgement, Outcome, Party, Question, locate, party_of_pod
from netaccel.sources.parse import Parsed, Refused, read

FOLDER = Path(__file__).parent / "policy"
CLUSTER = list(yaml.safe_load_all((Path(__file__).parent / "cluster.yaml").read_text()))
CASES = sorted(FOLDER.glob("*.yaml"))


def load(path: Path) -> dict[str, Any]:
    case = yaml.safe_load(path.read_text())
    assert case["title"], "a case says what it shows"
    assert case["why"], "a case says by whose words"
    return case  # type: ignore[no-any-return]


def build(case: dict[str, Any]) -> tuple[World, dict[str, str]]:
    """The world of a case, and what of it was refused: path by key."""
    world, refused = World(), {}
    for manifest in (*CLUSTER, *case["manifests"]):
        for outcome in read(manifest):
            if isinstance(outcome, Parsed):
                world.apply(Upsert(outcome.key, outcome.object, 0.0))
                continue
            assert isinstance(outcome, Refused)
            fallback = getattr(outcome, "fallback", None)
            world.apply(Reject(outcome.key, "case", outcome.path, outcome.reason, fallback))
            refused[str(outcome.key)] = outcome.path
    return world, refused


def party(world: World, written: str, family: int) -> Party:
    end = parse_end(written)
    return next(one for one in parties(world, end) if is_ipv4(one.address) == (family == 4))


def parties(world: World, end: End) -> tuple[Party, ...]:
    if end.kind is EndKind.WORLD:
        return WORLD
    if end.address is not None:
        return (locate(world, end.address),)
    if end.kind is EndKind.NODE:
        node = world.node(end.name)
        assert node is not None
        return tuple(Party(address, None, node.name) for address in node.addresses)
    pod = world.pod(PodKey(end.namespace, end.name))
    assert pod is not None, f"{end} is not in the case"
    return tuple(party_of_pod(pod, address) for address in pod.addresses)


def question(world: World, asked: dict[str, Any]) -> Question:
    ends = [asked["from"], asked["to"]]
    addressed = next((parse_end(end).address for end in ends if parse_end(end).address), None)
    family = asked.get("family", 4 if addressed is None or is_ipv4(addressed) else 6)
    source, destination = (party(world, end, family) for end in ends)
    protocol = parse_protocol(asked.get("protocol", "TCP"))
    port = asked.get("port", 0)
    if protocol in (ICMP, ICMPV6):
        port = asked["type"] * 256 + asked.get("code", 0)
    return Question(source, destination, protocol, port)


def told(judgement: Judgement, *, exempt: bool) -> str:
    """A judgement in the words of the cases."""
    if exempt and judgement.exempt is not None:
        return f"exempt {judgement.exempt.name.lower()}"
    words = outcome_text(judgement.enforced)
    if judgement.shadow != judgement.enforced:
        words += f"; monitor {outcome_text(judgement.shadow)}"
    return words


def outcome_text(outcome: Outcome) -> str:
    assert outcome.allowed is (outcome.action is Action.ALLOW)
    if outcome.isolated:
        assert outcome.rule is not None
        return f"isolated {outcome.rule.policy}"
    word = outcome.action.value.lower()
    return f"{word} {outcome.rule.policy} {outcome.rule.number}" if outcome.rule else word


@pytest.mark.parametrize("judge", every_judge())
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_question_gets_the_verdict_and_rule_that_the_case_names(path: Path, judge: str) -> None:
    case = load(path)
    world, refused = build(case)
    assert refused == case.get("refused", {})
    exempts = judge == "oracle"
    with JUDGES[judge](world) as ask:
        for asked in case["questions"]:
            posed = question(world, asked)
            for name, direction in (("egress", Direction.EGRESS), ("ingress", Direction.INGRESS)):
                if name not in asked:
                    continue
                expected = asked[name]
                if expected.startswith("exempt") and not exempts:
                    expected = "allow"
                found = ask(direction, posed)
                assert found is not None, f"{judge} can't say: {name} of {asked}"
                assert told(found, exempt=exempts) == expected, f"{name} of {asked}"
                if found.rule is not None:
                    assert found.rule.direction is direction
