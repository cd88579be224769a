# SPDX-License-Identifier: Apache-2.0
"""The documented uninstall, after everything else was done to this cluster: nothing of it stays on a node."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from load import inside, outside
from objects import deployment, service
from world import NODES, World, wait_for

from netaccel.cluster import groups
from netaccel.datapath import libbpf
from netaccel.datapath.attach import Attacher
from netaccel.datapath.instance import Instance

DEPLOY = Path(__file__).parents[2] / "deploy"
NODEVIEW = Path(__file__).with_name("nodeview.py")


def test_three_lines_leave_nothing(world: World) -> None:
    world.apply(deployment("web", 2), service("web"))
    world.rolled_out("deployment/web")
    world.served([*outside(world, "web")])
    made = [attached(world, node) for node in NODES]
    links, programs = (set().union(*(one[kind] for one in made)) for kind in (0, 1))
    assert len(links) > 20
    assert links <= set(libbpf.ids("link"))
    assert programs <= set(libbpf.ids("prog"))

    world.kubectl("apply", "-k", str(DEPLOY / "uninstall"))
    world.rolled_out("daemonset", "netaccel", "-n", "netaccel")
    world.kubectl("delete", "-k", str(DEPLOY))

    wait_for(lambda: not links & set(libbpf.ids("link")), "its links gone")
    wait_for(lambda: not programs & set(libbpf.ids("prog")), "its programs gone")
    for node in NODES:
        found = json.loads(world.run(node, sys.executable, str(NODEVIEW)))
        assert {tuple(on.values()) for on in found["programs"].values()} == {(0, 0, 0)}
        assert (found["mounts"], found["folder"], found["pins"], found["reserved"]) == ([], False, [], "")
    named = world.kubectl("get", "namespaces,crds,clusterroles,clusterrolebindings", "-o", "name")
    assert "netaccel" not in named
    assert world.answered(inside(world, "web")[0], "node-1") is None, "nobody serves them now"


def attached(world: World, node: str) -> tuple[set[int], set[int]]:
    """Ids of a node's links and of their programs."""
    root = Path(f"/proc/{groups.init_pid(world.cluster.name, node)}/root")
    found = Attacher(Instance(root / "run/netaccel/bpf")).attached().values()
    return {info.id for info in found}, {info.program for info in found}
