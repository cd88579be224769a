# SPDX-License-Identifier: Apache-2.0
"""What changes under load, and what no client notices of it."""

from __future__ import annotations

import pytest
from load import inside, kept, load, long_answers, outside
from objects import DRAIN, deployment, service
from world import NODES, World, wait_for


@pytest.fixture
def web(world: World) -> World:
    """A Service of two pods, one a node, that is answered on every road."""
    world.apply(deployment("web", 2), service("web"))
    world.rolled_out("deployment/web")
    world.served(outside(world, "web"))
    for node in NODES:
        world.served(inside(world, "web"), node)
    return world


def everywhere(world: World) -> tuple[list[str], dict[str, list[str]]]:
    """Each node's port in both families from outside; cluster addresses and the name from a pod."""
    return outside(world, "web"), {"node-1": [*inside(world, "web"), "http://web/json"]}


def every_one_has(world: World, node: str, count: int) -> bool:
    """Whether each frontend has so many endpoints."""
    return all(len(endpoints) == count for endpoints in world.in_force(node).values())


def test_a_deployment_is_scaled_up_and_down(web: World) -> None:
    with load(web, *everywhere(web)) as found:
        web.kubectl("scale", "deployment/web", "--replicas=20")
        web.rolled_out("deployment/web", timeout=240)
        for node in NODES:
            wait_for(lambda node=node: every_one_has(web, node, 20), f"all 20 in force on {node}")
        everybody = {one["metadata"]["name"] for one in web.pods("web")}
        web.kubectl("scale", "deployment/web", "--replicas=3")
        wait_for(lambda: len(web.get("pods", "-l", "app=web")["items"]) == 3, "three left", 60 + 10 * DRAIN)
    found.check()
    assert len(everybody) == 20
    assert len(found.servers & everybody) > 15, "the load went to all"


def test_an_application_is_replaced_pod_by_pod(web: World) -> None:
    before = {one["metadata"]["name"] for one in web.pods("web")}
    with load(web, *everywhere(web)) as found:
        web.kubectl("rollout", "restart", "deployment/web")
        web.rolled_out("deployment/web")
        wait_for(lambda: len(web.get("pods", "-l", "app=web")["items"]) == 2, "the old ones gone")
    found.check()
    after = {one["metadata"]["name"] for one in web.pods("web")}
    assert not before & after
    assert found.servers >= before | after


def test_netaccel_is_restarted_on_every_node(web: World) -> None:
    from_outside, from_pod = outside(web, "web"), inside(web, "web")
    pids = {node: web.status(node)["pid"] for node in NODES}
    held = [*kept(from_outside), *long_answers(from_outside)]
    held_by_pod = [*kept(from_pod), *long_answers(from_pod)]
    with load(
        web,
        [*from_outside, *held],
        {"node-1": [*from_pod, "http://web/json", *held_by_pod], "node-2": [*from_pod, *held_by_pod]},
    ) as found:
        web.netaccel("rollout", "restart", "daemonset/netaccel")
        web.rolled_out("daemonset/netaccel", "-n", "netaccel")
        again = {node: web.status(node)["pid"] for node in NODES}
        assert all(again[node] != pids[node] for node in NODES)
        for node in NODES:
            web.note(f"kill -9 of the agent on {node}")
            web.run(node, "kill", "-9", str(again[node]))
            wait_for(
                lambda node=node: (now := web.status(node)).get("ready") and now["pid"] != again[node],
                f"another agent ready on {node}",
            )
    found.check()
    assert all(web.status(node)["drift_repaired"] == 0 for node in NODES)
