# SPDX-License-Identifier: Apache-2.0
"""Policies of a real cluster: watched, enforced, told, by kubectl alone."""

from __future__ import annotations

from typing import Any

import pytest
from load import inside
from objects import Object, deployment, service
from world import World, wait_for

GET = """
import sys, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=3).status)
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture
def pair(world: World) -> World:
    """A server on node-1; friend and stranger, which ask it, on node-2."""
    for app, node in (("web", "node-1"), ("friend", "node-2"), ("stranger", "node-2")):
        made = deployment(app, 1)
        made["spec"]["template"]["spec"]["nodeName"] = node
        world.apply(made)
    world.apply(service("web"))
    for app in ("web", "friend", "stranger"):
        world.rolled_out(f"deployment/{app}")
    wait_for(lambda: served(world, "friend") and served(world, "stranger"), "both are served at first")
    return world


def served(world: World, app: str) -> bool | None:
    """Whether an app's pod gets an answer of the Service; None where the families differ.

    One is asked after the other: so they do while a policy comes or goes, and only then.
    """
    (pod,) = world.pods(app)
    said = {world.exec(pod["metadata"]["name"], "python3", "-c", GET, one) for one in inside(world, "web")}
    world.note(f"{app}: {said}")
    return said == {"200\n"} if len(said) == 1 else None


def settled(world: World, **wanted: bool) -> None:
    """Wait until the askers are served as wanted, then look once more: it stays so."""
    for _ in range(2):
        wait_for(lambda: all(served(world, app) is want for app, want in wanted.items()), f"served: {wanted}")


def policy(kind: str, name: str, **spec: Any) -> Object:
    version = "networking.k8s.io/v1" if kind == "NetworkPolicy" else "netaccel.io/v1alpha1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}


def test_a_policy_is_watched_then_enforced_and_its_status_says_so(pair: World) -> None:
    shut = policy(
        "TrafficPolicy", "shut", mode="Monitor", subject={"pods": {"matchLabels": {"app": "web"}}}, ingress=[]
    )
    pair.apply(shut)
    wait_for(lambda: status(pair, "shut").get("nodes") == {"enforcing": 1, "expected": 1}, "node-1 has it")
    settled(pair, friend=True, stranger=True)
    audited = ("netaccel", "flows", "--verdict", "audited", "-o", "json")
    said = wait_for(lambda: pair.run("node-1", *audited).splitlines(), "it is told what would be denied")
    assert pair.namespace in said[-1]
    assert "shut" in said[-1]

    pair.kubectl("patch", "trafficpolicy", "shut", "--type=merge", "-p", '{"spec":{"mode":"Enforce"}}')
    settled(pair, friend=False, stranger=False)
    wait_for(lambda: status(pair, "shut").get("observedGeneration") == 2, "its status is of this generation")
    told = status(pair, "shut")
    assert told["selectedPods"] == 1
    assert {(one["type"], one["status"]) for one in told["conditions"]} >= {("Accepted", "True")}
    (web,) = pair.pods("web")
    ready = {one["type"]: one["status"] for one in web["status"]["conditions"]}["Ready"]
    assert ready == "True", "the kubelet reaches it all the same"

    pair.kubectl("delete", "trafficpolicy", "shut")
    settled(pair, friend=True, stranger=True)


def status(world: World, name: str) -> dict[str, Any]:
    found: dict[str, Any] = world.get("trafficpolicy", name).get("status", {})
    return found


def test_a_network_policy_is_enforced_as_it_is(pair: World) -> None:
    pair.apply(
        policy(
            "NetworkPolicy",
            "friends",
            podSelector={"matchLabels": {"app": "web"}},
            ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}],
        )
    )
    settled(pair, friend=True, stranger=False)
    pair.kubectl("delete", "networkpolicy", "friends")
    settled(pair, friend=True, stranger=True)
