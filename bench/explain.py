# SPDX-License-Identifier: Apache-2.0
"""Answers of `netaccel explain --batch`: 1,000 pods, 200 NetworkPolicies, questions from any pod to any."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping

from bench.results import Result
from netaccel.explain.batch import answers
from netaccel.explain.kernel import Kernel
from netaccel.explain.model import Judge, Model
from netaccel.explain.walk import Walker
from netaccel.model.address import parse_address
from netaccel.model.endpoint import Namespace, Node, Pod, PodKey
from netaccel.model.event import Object, Upsert, object_key
from netaccel.model.policy import (
    Action,
    Direction,
    Kind,
    Operator,
    PodPeer,
    Policy,
    PolicyKey,
    PortRange,
    Requirement,
    Rule,
    Subject,
    Tier,
)
from netaccel.model.snapshot import World

SPACES, PODS, POLICIES, NODES = 20, 50, 10, 4
QUESTIONS = 20_000
WARM_UP = 2_000
TCP = 6


def run() -> list[Result]:
    """Every row of the part."""
    chance = random.Random(7)
    model = Model(world(chance))
    lines = [question(chance) for _ in range(QUESTIONS)]
    with Kernel(model.world) as kernel:
        by: dict[str, Mapping[str, Judge]] = {
            "model": {"model": model},
            "kernel": {"kernel": kernel},
            "both": {"model": model, "kernel": kernel},
        }
        return [price(name, Walker(model, judges), lines) for name, judges in by.items()]


def price(name: str, walker: Walker, lines: list[bytes]) -> Result:
    wrong = sum("error" in one for one in answers(walker, lines[:WARM_UP]))
    begun = time.process_time()
    wrong += sum("error" in one for one in answers(walker, lines))
    rate = len(lines) / (time.process_time() - begun)
    assert not wrong, f"{wrong} questions could not be answered"
    return Result(f"answers by {name}", rate, "a second of CPU", budget=1000, at_least=True)


def question(chance: random.Random) -> bytes:
    source, destination = (
        f"pod:ns-{chance.randrange(SPACES)}/p-{chance.randrange(PODS)}" for _ in ("source", "destination")
    )
    asked = {"from": source, "to": destination, "port": 80 + chance.randrange(6), "protocol": "TCP"}
    return json.dumps(asked).encode()


def world(chance: random.Random) -> World:
    found = World()
    objects: list[Object] = [Node(f"node-{n}", (parse_address(f"172.18.0.{n + 1}"),)) for n in range(NODES)]
    for space in range(SPACES):
        name = f"ns-{space}"
        objects.append(Namespace(name, (("team", f"t{space % 5}"),)))
        objects += [
            Pod(
                PodKey(name, f"p-{n}"),
                f"node-{n % NODES}",
                (parse_address(f"10.{space}.0.{n + 1}"), parse_address(f"fd00:{space:x}::{n + 1:x}")),
                (("app", f"a{n % 5}"),),
            )
            for n in range(PODS)
        ]
        objects += [policy(chance, name, n) for n in range(POLICIES)]
    found.apply_all(Upsert(object_key(one), one, 0.0) for one in objects)
    return found


def policy(chance: random.Random, space: str, number: int) -> Policy:
    peer = PodPeer(label("app", f"a{chance.randrange(5)}"), label("team", f"t{chance.randrange(5)}"))
    port = 80 + chance.randrange(5)
    return Policy(
        PolicyKey(Kind.NETWORK, space, f"np-{number}"),
        Tier.NAMESPACED,
        Subject(label("app", f"a{number % 5}"), None),
        (Rule(Action.ALLOW, (peer,), (PortRange(TCP, port, port),)),),
        isolates=frozenset((Direction.INGRESS,)),
    )


def label(key: str, value: str) -> tuple[Requirement, ...]:
    return (Requirement(key, Operator.IN, (value,)),)
