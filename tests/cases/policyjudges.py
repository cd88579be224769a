# SPDX-License-Identifier: Apache-2.0
"""Who is asked the questions of tests/cases/policy/: each judge answers from one state of the world.

A judge is entered for a world and asked any number of questions; None where it can't say. What is outside
policy (Judgement.exempt) is the oracle's to tell; the others' answers are compared by their two outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from netaccel.explain.kernel import Kernel
from netaccel.explain.model import Model
from netaccel.model.policy import Direction
from netaccel.model.snapshot import World
from netaccel.oracle import Judgement, Question

Ask = Callable[[Direction, Question], Judgement | None]
Judge = Callable[[World], AbstractContextManager[Ask]]


@contextmanager
def oracle(world: World) -> Iterator[Ask]:
    """The evaluator itself, as `explain --by model` asks it."""
    yield Model(world).ask


@contextmanager
def kernel(world: World) -> Iterator[Ask]:
    """The programs of pods' devices over compiled maps, as `explain --by kernel` asks them."""
    with Kernel(world) as found:
        yield found.ask


JUDGES: dict[str, Judge] = {"oracle": oracle, "kernel": kernel}
_MARKS = {"kernel": [pytest.mark.root]}


def every_judge() -> list[Any]:
    """Names for parametrize."""
    return [pytest.param(name, marks=_MARKS.get(name, ())) for name in JUDGES]
