# SPDX-License-Identifier: Apache-2.0
"""Both families for whoever asks; a load balancer's view of the nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from load import inside, outside, url
from objects import deployment, service
from world import NODES, World, wait_for

from netaccel.errors import LabError
from netaccel.lab.plan import CLIENT4, CLIENT6

INGRESS = ("203.0.113.7", "2001:db8:203::7")
GET = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"
ECHO = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as asker:
    asker.settimeout(2)
    asker.connect((sys.argv[1], int(sys.argv[2])))
    asker.send(b"hello")
    try:
        print(asker.recv(2000).decode())
    except OSError:
        pass
"""


@pytest.fixture
def web(world: World) -> World:
    """One pod, on node-1."""
    made = deployment("web", 1)
    made["spec"]["template"]["spec"]["nodeName"] = "node-1"
    world.apply(made, service("web"))
    world.rolled_out("deployment/web")
    return world


def test_a_dual_stack_service_answers_in_both_families(web: World) -> None:
    web.served(outside(web, "web"))
    assert len(inside(web, "web")) == 2
    (pod,) = web.pods("web")
    name = pod["metadata"]["name"]
    own = {address["ip"] for address in pod["status"]["podIPs"]}
    assert len(own) == 2
    heard = [web.ask(one) for one in outside(web, "web")]
    assert {one["pod"] for one in heard} == {name}
    assert {one["local"] for one in heard} == own, "IPv4 goes to the pod's IPv4 address, IPv6 to the other"
    for one in inside(web, "web"):
        assert web.ask(one, "node-2")["pod"] == name
        answer = json.loads(web.exec(name, "python3", "-c", GET, one))
        assert answer["pod"] == name, "it reaches itself by its Service"


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_datagrams_too(web: World, family: int) -> None:
    port = web.node_port("web", "echo")
    for node in web.cluster.plan.nodes:
        address = (node.address4, node.address6)[family]
        answer = wait_for(lambda address=address: echo(web, address, port), f"{address} port {port} answers")
        assert answer["payload"] == "hello"
        assert answer["pod"] == web.pods("web")[0]["metadata"]["name"]


def echo(world: World, address: str, port: int) -> dict[str, Any] | None:
    """What the server says to one datagram; None where nothing comes."""
    said = world.run("client", "python3", "-c", ECHO, address, str(port))
    return dict(json.loads(said)) if said else None


@pytest.fixture
def balanced(web: World) -> Iterator[World]:
    """The Service behind a load balancer that keeps clients' addresses; who gives out its address is us."""
    web.apply(service("web", type="LoadBalancer", externalTrafficPolicy="Local"))
    ingress = json.dumps({"status": {"loadBalancer": {"ingress": [{"ip": one} for one in INGRESS]}}})
    web.kubectl("patch", "service", "web", "--subresource=status", "--type=merge", "-p", ingress)
    yield web
    for family, address in zip(("-4", "-6"), INGRESS, strict=True):
        web.run("control-plane", "ip", family, "route", "flush", "root", address)


def test_a_load_balancer_is_told_where_the_endpoints_are(balanced: World) -> None:
    port = int(balanced.get("service", "web")["spec"]["healthCheckNodePort"])
    wait_for(lambda: health(balanced, "node-1", port) == {(200, 1)}, "node-1 has the endpoint")
    wait_for(lambda: health(balanced, "node-2", port) == {(503, 0)}, "node-2 has none")
    balanced.kubectl("scale", "deployment/web", "--replicas=3")
    wait_for(lambda: health(balanced, "node-1", port) == {(200, 3)}, "node-1 has three")
    balanced.kubectl("scale", "deployment/web", "--replicas=0")
    wait_for(lambda: health(balanced, "node-1", port) == {(503, 0)}, "node-1 has none any more")


def health(world: World, node: str, port: int) -> set[tuple[int, int]]:
    """Status and count of local endpoints that a node answers, in either family."""
    plan = world.cluster.plan.node(node)
    found = set()
    for address in (plan.address4, plan.address6):
        words = ("curl", "-s", "-m", "10", "-w", "\n%{http_code}", url(address, port, "/"))
        try:
            body, _, status = world.run("client", *words).rpartition("\n")
        except LabError:  # nobody listens yet
            return set()
        found.add((int(status), int(json.loads(body)["localEndpoints"])))
    return found


def test_nodes_answer_load_balancers_on_the_usual_port(world: World) -> None:
    for node in NODES:
        plan = world.cluster.plan.node(node)
        for address in (plan.address4, plan.address6):
            world.run("client", "curl", "-sf", "-m", "10", url(address, 10256, "/healthz"))


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_a_local_policy_keeps_the_clients_address(balanced: World, family: int) -> None:
    address, client = INGRESS[family], (CLIENT4, CLIENT6)[family]
    node = balanced.cluster.plan.node("node-1")
    via = (node.address4, node.address6)[family]
    balanced.run("control-plane", "ip", ("-4", "-6")[family], "route", "replace", address, "via", via)
    wait_for(lambda: balanced.answered(url(address, 80)), f"{address} answers")
    assert balanced.ask(url(address, 80))["client"] == client
    assert balanced.ask(url(via, balanced.node_port("web")))["client"] == client
