# SPDX-License-Identifier: Apache-2.0
"""What the API server takes and netaccel can't serve is told where people look, and harms nothing else."""

from __future__ import annotations

from typing import Any

from load import inside
from objects import deployment, service
from world import NODES, World, wait_for


def described(world: World, kind: str, name: str) -> str:
    return world.kubectl("describe", kind, name)


def warnings(world: World, node: str) -> list[dict[str, Any]]:
    """What a node's NodeState says of this test's objects."""
    found = world.get("nodestate", node)["status"].get("warnings", [])
    return [one for one in found if world.namespace in one["object"]]


def test_a_slice_of_host_names_is_told_by_event_and_node_state(world: World) -> None:
    world.apply(deployment("web", 1), service("web"))
    world.rolled_out("deployment/web")
    world.served(inside(world, "web"), "node-1")
    names = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "names", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "FQDN",
        "endpoints": [{"addresses": ["web.example.com"]}],
        "ports": [{"name": "http", "port": 80}],
    }
    world.apply(names)
    told = "addressType: FQDN can't be served"
    wait_for(lambda: told in described(world, "endpointslice", "names"), "its event")
    for node in NODES:
        (one,) = wait_for(lambda node=node: warnings(world, node), f"a warning in {node}'s NodeState")
        assert one["object"] == f"EndpointSlice {world.namespace}/names"
        assert told in one["message"]
    world.served(inside(world, "web"), "node-1")
    events = world.get("events")["items"]
    assert sum(one["involvedObject"]["name"] == "names" for one in events) == 1, "one for all nodes"

    world.kubectl("delete", "endpointslice", "names")
    for node in NODES:
        wait_for(lambda node=node: not warnings(world, node), f"{node}'s NodeState without it")


def test_of_two_services_with_one_address_the_second_is_told(world: World) -> None:
    external = {"externalIPs": ["192.0.2.77"], "ipFamilyPolicy": "SingleStack"}
    world.apply(service("first", "web", **external))
    wait_for(lambda: "192.0.2.77" in frontends(world, "first"), "the first has it")
    world.apply(service("second", "web", **external))
    other = f"{world.namespace}/first"
    wait_for(lambda: other in described(world, "service", "second"), "an event that names the other")
    for node in NODES:
        wait_for(
            lambda node=node: (
                [one["object"] for one in warnings(world, node)] == [f"Service {world.namespace}/second"]
            ),
            f"a warning in {node}'s NodeState",
        )
    assert "192.0.2.77" not in frontends(world, "second")
    assert "192.0.2.77" in frontends(world, "first")


def frontends(world: World, name: str) -> str:
    """A Service's lines of ``netaccel service list``."""
    lines = world.run("node-1", "netaccel", "service", "list").splitlines()
    return "\n".join(line for line in lines if line.split()[:2] == [world.namespace, name])
