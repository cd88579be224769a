# SPDX-License-Identifier: Apache-2.0
"""A policy without rules is all isolation: what changes of it has to be compiled all the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from netaccel.compile.policy import Compiler, everything
from netaccel.datapath.abi import Abi
from netaccel.model.address import parse_address
from netaccel.model.endpoint import Namespace, Pod, PodKey
from netaccel.model.event import ObjectKey, Upsert
from netaccel.model.policy import Direction, Kind, Mode, Policy, PolicyKey, Subject, Tier
from netaccel.model.snapshot import World

OBJECT = Path(__file__).parents[2] / "netaccel/objects/tc_pod.o"
POD = Pod(PodKey("shop", "web"), "n1", (parse_address("10.0.0.2"),), (("app", "web"),))
DEVICES = {POD.key: 7}
BOTH = frozenset(Direction)
SHUT = Policy(
    PolicyKey(Kind.TRAFFIC, "shop", "shut"),
    Tier.NAMESPACED,
    Subject((), None),
    isolates=BOTH,
    mode=Mode.MONITOR,
)


@pytest.fixture
def constants() -> dict[str, int]:
    return dict(Abi.from_elf(OBJECT.read_bytes()).constants)


def put(world: World, policy: Policy) -> None:
    world.apply(Upsert(ObjectKey("TrafficPolicy", "shop", "shut"), policy, 0.0))


def verdicts(compiler: Compiler) -> tuple[Any, Any]:
    """What the pod's endpoint says of everybody: the contents of its rows."""
    endpoint, rows = compiler.image.endpoints[7], compiler.image.rows
    return rows[endpoint.ingress_row], rows[endpoint.egress_row]


@pytest.mark.parametrize(
    "change",
    [{"mode": Mode.ENFORCE}, {"isolates": frozenset({Direction.INGRESS})}, {"isolates": frozenset()}],
    ids=["enforced", "one direction", "none"],
)
def test_a_change_is_compiled_as_if_it_had_been_so_from_the_start(
    constants: dict[str, int], change: dict[str, Any]
) -> None:
    world = World("n1")
    world.apply(Upsert(ObjectKey("Namespace", "", "shop"), Namespace("shop"), 0.0))
    world.apply(Upsert(ObjectKey("Pod", "shop", "web"), POD, 0.0))
    put(world, SHUT)
    changing = Compiler(constants, "n1")
    changing.update(world, world.drain_changes(), DEVICES)
    changing.commit()
    before = verdicts(changing)
    put(world, replace(SHUT, **change))
    assert changing.update(world, world.drain_changes(), DEVICES), "something is written"
    changing.commit()
    anew = Compiler(constants, "n1")
    anew.update(world, everything(world), DEVICES)
    anew.commit()
    assert verdicts(changing) == verdicts(anew) != before
