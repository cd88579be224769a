# SPDX-License-Identifier: Apache-2.0
"""What an agent tells the cluster of policies: selected anew only where objects changed."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from netaccel.agent import policies
from netaccel.agent.policies import PolicyBoard
from netaccel.explain.policies import Decided, Facts
from netaccel.model.endpoint import Namespace, Pod, PodKey
from netaccel.model.event import Upsert, object_key
from netaccel.model.policy import Action, Direction, Kind, Policy, PolicyKey, Rule, RuleRef, Subject, Tier
from netaccel.model.snapshot import World
from netaccel.writers.state import PolicyState

KEY = PolicyKey(Kind.TRAFFIC, "shop", "web")
RULE = RuleRef(KEY, Direction.INGRESS, 0)
POLICY = Policy(KEY, Tier.NAMESPACED, Subject((), None), (Rule(Action.ALLOW, None, None),), generation=3)
HERE, THERE = (Pod(PodKey("shop", node), node) for node in ("here", "there"))


class Answers:
    """An agent's answers of policies."""

    def __init__(self) -> None:
        self.counts = [Decided(RULE, "allowed", 5, 300)]

    def policy_facts(self) -> Facts:
        return Facts("here")

    def decided(self) -> list[Decided]:
        return self.counts


def put(world: World, *objects: Any) -> None:
    for obj in objects:
        world.apply(Upsert(object_key(obj), obj, 0.0))


@pytest.fixture
def world() -> World:
    found = World("here")
    put(found, Namespace("shop"), HERE, THERE)
    return found


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def board(world: World, answers: Answers) -> PolicyBoard:
    agent: Any = SimpleNamespace(
        settings=SimpleNamespace(node_name="here"), reconciler=SimpleNamespace(world=world)
    )
    return PolicyBoard(agent, answers)  # type: ignore[arg-type]


async def test_a_node_tells_of_policies_of_its_own_pods_with_their_counts(
    board: PolicyBoard, world: World, answers: Answers
) -> None:
    assert await board.held() == ()
    put(world, POLICY, replace(POLICY, key=PolicyKey(Kind.TRAFFIC, "bank", "web")))
    assert await board.held() == (PolicyState("TrafficPolicy shop/web", 3, "InForce", "", (5, 0, 0)),)
    answers.counts = []
    assert [one.state for one in await board.held()] == ["Waiting"], "the maps don't have it"


async def test_where_all_stands_is_of_every_node(board: PolicyBoard, world: World) -> None:
    put(world, POLICY)
    (one,) = await board.standings()
    assert (one.pods, one.nodes) == (2, {"here", "there"})


async def test_nothing_is_selected_anew_until_something_changed(
    board: PolicyBoard, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(world, POLICY)
    calls = []
    for name in ("selected", "standings"):
        real = getattr(policies, name)
        monkeypatch.setattr(
            policies, name, lambda *given, name=name, real=real: calls.append(name) or real(*given)
        )
    for _ in range(2):
        await board.held()
        await board.standings()
    assert sorted(calls) == ["selected", "standings"]
    put(world, replace(THERE, labels=(("app", "x"),)))
    await board.held()
    await board.standings()
    assert sorted(calls) == ["selected", "standings", "standings"], "another node's pods are not held here"
    put(world, replace(POLICY, generation=4))
    assert [one.generation for one in await board.held()] == [4]
