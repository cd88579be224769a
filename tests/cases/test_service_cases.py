# SPDX-License-Identifier: Apache-2.0
"""tests/cases/services/*.yaml: manifests in, readable contents of the maps out.

A case has ``title``, ``why``, ``manifests``, ``expect`` (``node`` where it isn't the usual one), and steps
under ``then`` (``apply``, ``delete``, ``node``, ``expect``). ``expect``:

- ``frontends``: every line of the map (netaccel/compile/readable.py);
- ``backends``, ``source_ranges``: likewise, compared where they are given;
- ``conditions``: of every Service that isn't simply Accepted, "State: reason".

Each case also runs with writes that fail, one after the other, and must come to the same end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from netaccel.compile.invariants import violations
from netaccel.compile.readable import Readable
from netaccel.compile.services import NodeFacts
from netaccel.datapath.abi import Abi
from netaccel.datapath.fake import FakeMaps
from netaccel.errors import DatapathError
from netaccel.model.address import parse_address
from netaccel.model.event import Delete, ObjectKey, Synced, Upsert
from netaccel.reconcile import Engine, State
from netaccel.sources.parse import Parsed, read

FOLDER = Path(__file__).parent / "services"
CASES = sorted(FOLDER.glob("*.yaml"))
OBJECTS = Path(__file__).parents[2] / "netaccel" / "objects"
FREE = "BACKEND_FREE"


@pytest.fixture(scope="module")
def constants() -> dict[str, int]:
    return dict(Abi.from_elf((OBJECTS / "sock_cgroup.o").read_bytes()).constants)


def node_facts(node: dict[str, Any]) -> NodeFacts:
    addresses = tuple(parse_address(a) for a in node.get("addresses", ["172.18.0.1", "fd00:18::1"]))
    answering = [parse_address(a) for a in node["nodePorts"]] if "nodePorts" in node else addresses
    name, ports = node.get("name", "node-1"), tuple(node.get("nodePortRange", (1, 65535)))
    proxy = node.get("proxyName", "")
    return NodeFacts(
        name, frozenset(addresses), tuple(answering), addresses, node_ports=ports, proxy_name=proxy
    )


def events(step: dict[str, Any]) -> list[Upsert | Delete]:
    found: list[Upsert | Delete] = []
    for manifest in step.get("manifests", step.get("apply", ())):
        for outcome in read(manifest):
            assert isinstance(outcome, Parsed), outcome
            found.append(Upsert(outcome.key, outcome.object, 0.0))
    for text in step.get("delete", ()):
        kind, _, name = text.partition(" ")
        found.append(Delete(ObjectKey(kind, *name.split("/")), 0.0))
    return found


def readable(maps: FakeMaps, constants: dict[str, int]) -> Readable:
    tables = maps.tables
    return Readable(
        constants,
        tables["services"],
        tables["frontends"],
        tables["backends"],
        tables["maglev"],
        tables["source_ranges"],
    )


def conditions(engine: Engine) -> dict[str, str]:
    return {
        str(key): ": ".join((c.state.value, "; ".join(c.reasons)))
        for key, c in engine.conditions.items()
        if c.state is not State.ACCEPTED
    }


def check(step: dict[str, Any], engine: Engine, maps: FakeMaps, constants: dict[str, int]) -> None:
    lines = readable(maps, constants)
    expect = step["expect"]
    assert sorted(lines.frontend_lines()) == sorted(expect["frontends"])
    if "backends" in expect:
        assert sorted(lines.backend_lines()) == sorted(expect["backends"])
    if "source_ranges" in expect:
        assert lines.source_range_lines() == sorted(expect["source_ranges"])
    assert conditions(engine) == expect.get("conditions", {})


def load(path: Path) -> dict[str, Any]:
    case = yaml.safe_load(path.read_text())
    assert case["title"], "a case says what it shows"
    assert case["why"], "a case says by which rule"
    return case  # type: ignore[no-any-return]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_manifests_become_what_the_case_expects(path: Path, constants: dict[str, int]) -> None:
    case = load(path)
    maps = FakeMaps(**case.get("capacities", {}))
    engine = Engine(maps, constants, node_facts(case.get("node", {})))
    engine.take((*events(case), Synced()))
    engine.run()
    check(case, engine, maps, constants)
    for step in case.get("then", ()):
        if "node" in step:
            engine.set_node(node_facts(step["node"]))
        engine.take(events(step))
        while engine.due:
            engine.run()
        check(step, engine, maps, constants)
    again = Engine(maps, constants, engine._node)
    again.take((*(Upsert(ObjectKey("", "", ""), obj, 0.0) for obj in objects(engine)), Synced()))
    assert again.run().written == 0 or case.get("capacities"), "a restart finds all as it is"


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_failing_writes_leave_nothing_half_and_come_to_the_same_end(
    path: Path, constants: dict[str, int]
) -> None:
    case = load(path)
    maps = FakeMaps(**case.get("capacities", {}))

    def whole() -> None:
        t = maps.tables
        found = violations(t["services"], t["frontends"], t["backends"], t["maglev"], constants[FREE])
        assert not list(found)

    maps.after_write = whole
    engine = Engine(maps, constants, node_facts(case.get("node", {})))
    engine.take((*events(case), Synced()))
    for step in (case, *case.get("then", ())):
        if "node" in step and step is not case:
            engine.set_node(node_facts(step["node"]))
        if step is not case:
            engine.take(events(step))
        failures = 0
        while engine.due:
            maps.fail_after = failures if failures < 400 else None
            failures += 7
            try:
                engine.run()
            except DatapathError:
                continue
        maps.fail_after = None
        check(step, engine, maps, constants)


def objects(engine: Engine) -> list[Any]:
    world = engine.world
    services = [world.service(key) for key in world.services()]
    slices = [one for key in world.services() for one in world.slices(key)]
    return [*services, *slices]
