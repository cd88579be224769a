# SPDX-License-Identifier: Apache-2.0
"""What the agent tells the cluster of policies: what this node holds, and where each stands.

Selecting pods takes seconds of CPU in a large cluster, so it is done again only where objects changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from netaccel.agent.report import Answers
from netaccel.agent.standing import Standing as Agent
from netaccel.explain.policies import DECISIONS, Facts, Held, Standing, held, selected, standings
from netaccel.model.event import Object
from netaccel.model.plain import Told, of_told, told
from netaccel.model.policy import PolicyKey
from netaccel.model.snapshot import World
from netaccel.writers.state import PolicyState

_STATES = {
    "in force": "InForce",
    "degraded": "Degraded",
    "refused": "Refused",
    "waiting": "Waiting",
    "off": "Off",
}
"""Of explain.policies, as NodeState spells them."""


class PolicyBoard:
    """For the writers; every answer is of this moment."""

    def __init__(self, agent: Agent, answers: Answers) -> None:
        self._agent = agent
        self._answers = answers
        self._selected: tuple[Told | None, Mapping[PolicyKey, int]] = (None, {})
        self._standings: tuple[Told | None, Sequence[Standing]] = (None, ())

    async def held(self) -> tuple[PolicyState, ...]:
        """Policies that select pods of this node. DatapathError."""
        world = self._agent.reconciler.world
        if not world.policies():
            return ()
        found = await asyncio.to_thread(self._held, self._here(world), self._answers.policy_facts())
        return tuple(_state(one) for one in found if one.state in _STATES)

    async def standings(self) -> Sequence[Standing]:
        """Of all policies."""
        now = told(self._agent.reconciler.world)
        if self._standings[0] != now:
            self._standings = now, await asyncio.to_thread(lambda: standings(of_told(now)))
        return self._standings[1]

    def _here(self, world: World) -> Told:
        """What decides which policies select pods of this node."""
        node = self._agent.settings.node_name
        objects: dict[str, tuple[Object, ...]] = {
            "Pod": world.pods(node),
            "Namespace": world.namespaces(),
            "Policy": tuple(world.policies().values()),
        }
        return Told(node, world.synced, objects, ())

    def _held(self, now: Told, facts: Facts) -> list[Held]:
        world = of_told(now)
        if self._selected[0] != now:
            self._selected = now, selected(world, now.node)
        return held(world, replace(facts, decided=self._answers.decided()), self._selected[1])


def _state(one: Held) -> PolicyState:
    allowed, dropped, audited = (one.counts.get(decision, 0) for decision in DECISIONS)
    counts = allowed, dropped, audited
    return PolicyState(str(one.key), one.generation, _STATES[one.state], one.message, counts)
