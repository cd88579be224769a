# SPDX-License-Identifier: Apache-2.0
"""A node goes off and comes back: who doesn't need it notices nothing, and it is served again afterwards."""

from __future__ import annotations

import json
import time

import pytest
from load import inside, load, outside
from objects import daemon_set, service
from world import NODES, World, wait_for


@pytest.fixture
def web(world: World) -> World:
    """A pod on each node; ``web`` chooses any of them, ``near`` the one of the node that is asked."""
    near = service("near", "web", externalTrafficPolicy="Local", internalTrafficPolicy="Local")
    world.apply(daemon_set("web"), service("web"), near)
    world.rolled_out("daemonset/web")
    for name in ("web", "near"):
        world.served(outside(world, name))
        world.served(inside(world, name), "node-1")
    return world


def test_a_node_is_rebooted(web: World) -> None:
    before = web.status("node-2")
    near = {*outside(web, "near", ["node-1"]), *inside(web, "near")}
    urls = [*outside(web, "near", ["node-1"]), *outside(web, "web", ["node-1"])]
    with load(web, urls, {"node-1": [*inside(web, "near"), *inside(web, "web")]}) as found:
        web.note("node-2 is switched off and on")
        off = time.time()
        web.cluster.reboot("node-2")
        web.note("node-2 is Ready")
        wait_for(lambda: ready_agents(web) == 2, "netaccel Ready on both nodes")
        web.rolled_out("daemonset/web")
        web.served([*outside(web, "web", ["node-2"]), *outside(web, "near", ["node-2"])])
        web.served([*inside(web, "web"), *inside(web, "near")], "node-2")
        wait_for(
            lambda: web.in_force("node-1") == web.in_force("node-2"), "both nodes know its pod's addresses"
        )
        web.note("its pods serve again")
        back = time.time()
        wait_for(lambda: time.time() > back + 5, "some requests more")

    # What began before and ended in it failed by it, too.
    odd = [
        f
        for f in found.failures
        if f.road.split(" → ")[1] in near or not (off <= f.at + f.took and f.at <= back)
    ]
    assert not odd, "not explained by node-2's absence:\n" + found.explain(odd)
    (front,) = (one for one in web.pods("web") if one["spec"]["nodeName"] == "node-2")
    assert found.servers >= {one["metadata"]["name"] for one in web.pods("web")}
    assert front["status"]["containerStatuses"][0]["restartCount"] >= 1

    status = web.status("node-2")
    assert status["ready"]
    assert status["warnings"] == []
    assert web.in_force("node-2") == web.in_force("node-1")
    # Services of earlier tests may be on their way out.
    wait_for(lambda: web.status("node-2").get("counts") == web.status("node-1").get("counts"), "equal counts")
    assert {(h["hook"], h["where"]) for h in uplink(status)} == {
        (h["hook"], h["where"]) for h in uplink(before)
    }
    wait_for(
        lambda: (
            {n: web.get("nodestate", n)["status"]["frontends"] for n in NODES}
            == {n: web.status(n)["counts"]["frontends"] for n in NODES}
        ),
        "both NodeStates as the maps are",
    )


def ready_agents(world: World) -> int:
    found = json.loads(world.netaccel("get", "daemonset", "netaccel", "-o", "json"))["status"]
    return int(found.get("numberReady", 0))


def uplink(status: dict[str, list[dict[str, str]]]) -> list[dict[str, str]]:
    """Hooks that aren't a pod's: its device has another name each time."""
    return [hook for hook in status["hooks"] if not hook["where"].startswith("veth")]
