# SPDX-License-Identifier: Apache-2.0
"""Who is asked the questions of tests/cases/policy/: each judge answers from one state of the world.

A judge is entered for a world and asked any number of questions; None where it can't say. What is outside
policy (Judgement.exempt) is the oracle's to tell; the others' answers are compared by their two outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from netaccel.model.policy import Direction
from netaccel.model.snapshot import World
from netaccel.oracle import Judgement, Question, judge

Ask = Callable[[Direction, Question], Judgement | None]
Judge = Callable[[World], AbstractContextManager[Ask]]


@contextmanager
def oracle(world: World) -> Iterator[Ask]:
    """The evaluator itself."""
    yield lambda direction, question: judge(world, direction, question)


JUDGES: dict[str, Judge] = {"oracle": oracle}
