# SPDX-License-Identifier: Apache-2.0
"""What the model says: the oracle over one state of the world, with what every question needs kept."""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

from netaccel.model.address import Address
from netaccel.model.endpoint import Pod, PodKey
from netaccel.model.policy import Direction, Policy
from netaccel.model.snapshot import World
from netaccel.oracle import Judgement, Party, Question, Step, census, judge, selecting, steps


class Judge(Protocol):
    """Who can be asked for a verdict: the model, the kernel."""

    def ask(self, direction: Direction, question: Question) -> Judgement | None:
        """The verdict at the destination (INGRESS) or the source (EGRESS); None where it can't be known."""
        ...

    def why_unknown(self, direction: Direction, question: Question) -> str:
        """Of a question that was answered by None: why, and what helps."""
        ...


class Model:
    """The world as it is at one moment. Implements Judge; a change of the world needs a new one."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._selecting: dict[PodKey, tuple[Policy, ...]] = {}

    def ask(self, direction: Direction, question: Question) -> Judgement:
        """What the policies say."""
        return judge(self.world, direction, question, self._policies(direction, question))

    def why_unknown(self, direction: Direction, question: Question) -> str:
        """The model always knows."""
        return ""

    def refusal(self, judgement: Judgement) -> str:
        """Why the policy that decides was refused, and denies for that; "" of a rule that somebody wrote."""
        rule = judgement.rule
        policy = self.world.policies().get(rule.policy) if rule else None
        return policy.denies if policy else ""

    def steps(self, direction: Direction, question: Question) -> tuple[Step, ...]:
        """How they came to it."""
        return steps(self.world, direction, question, self._policies(direction, question))

    def locate(self, address: Address) -> Party:
        """Whose address this is."""
        return self._census.get(address) or Party(address)

    @cached_property
    def _census(self) -> dict[Address, Party]:
        return census(self.world)

    def _policies(self, direction: Direction, question: Question) -> tuple[Policy, ...]:
        pod = (question.destination if direction is Direction.INGRESS else question.source).pod
        return () if pod is None else self._of(pod)

    def _of(self, pod: Pod) -> tuple[Policy, ...]:
        found = self._selecting.get(pod.key)
        if found is None:
            found = self._selecting[pod.key] = selecting(self.world, pod)
        return found
