# SPDX-License-Identifier: Apache-2.0
"""Specs that are mostly wrong: the API server, by the CRDs, and the agent, by its models, say the same."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from feed import PATHS
from test_policy_kinds import CASES
from writers import connected, install_kinds

from netaccel.apiserver.connection import Connection
from netaccel.cluster.controlplane import ControlPlane
from netaccel.errors import ApiError
from netaccel.sources import parse
from netaccel.sources.parse import Parsed

SPECS = 300
VALID = [param.values[0] for param in CASES if "refuse" not in param.values[0]]  # type: ignore[index]
NUMBERS = (0, 1, 80, 255, 256, 65535, 65536, -1)
WORDS = ("", "a", "80", "http", "TCP", "ICMP", "Allow", "Drop", "Pass", "host", "node", "In", "Exists")
WORDS += ("a-", "A", "a.b", "x" * 64)
BLOCKS = ("10.0.0.0/8", "10.1.0.0/16", "::/0", "1.2.3.4/32", "10.0.0.0/8 ", "::ffff:1.2.3.4/128")
BLOCKS += ("fe80::%eth0/64", "10.0.0.0/+8", "FD00::/8", "fd00::1.2.3.4/128")
SHAPES = ({}, [], [{}], {"a": "b"}, ["a"], {"name": "a"}, {"action": "Drop"}, None, True)
POOL = (*NUMBERS, *WORDS, *BLOCKS, *SHAPES)
FIELDS = ("port", "endPort", "name", "type", "code", "protocol", "cidr", "except", "service", "entity")
FIELDS += ("podSelector", "namespaceSelector", "action", "from", "to", "ports", "mode", "priority")


@pytest.fixture
async def api(control_plane: ControlPlane, kubectl: Callable[..., str]) -> AsyncIterator[Connection]:
    install_kinds(kubectl)
    async with connected(control_plane.admin) as found:
        yield found


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a spec."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return [(value, key) for key, _ in items] + [place for _, item in items for place in places(item)]


def mutated(dice: random.Random, spec: Any) -> Any:
    """A spec of which one to three values were replaced, removed or added."""
    spec = copy.deepcopy(spec)
    for _ in range(dice.randint(1, 3)):
        found = places(spec)
        if not found:
            break
        container, key = dice.choice(found)
        change = dice.random()
        if change < 0.6:
            container[key] = copy.deepcopy(dice.choice(POOL))
        elif change < 0.8:
            del container[key]
        elif isinstance(container, dict):
            container[dice.choice(FIELDS)] = copy.deepcopy(dice.choice(POOL))
    return spec


async def refusal(api: Connection, content: dict[str, Any]) -> str:
    """The server's; "" where it accepts."""
    folder = PATHS[content["kind"]].format(namespace="default", name="").rstrip("/")
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    try:
        await api.request("POST", folder, query=query, body=json.dumps(content).encode())
    except ApiError as error:
        return str(error)
    return ""


async def test_mutations_are_judged_alike(api: Connection) -> None:
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    for _ in range(SPECS):
        case = dice.choice(VALID)
        spec = mutated(dice, case["spec"])
        content = {
            "apiVersion": "netaccel.io/v1alpha1",
            "kind": case["kind"],
            "metadata": {"name": "p"},
            "spec": spec,
        }
        refused = await refusal(api, content)
        (outcome,) = parse.read(content)
        assert isinstance(outcome, Parsed) == (not refused), (seed, spec, outcome, refused)
