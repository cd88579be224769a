# SPDX-License-Identifier: Apache-2.0
"""What a client outside may not open: dropped in XDP where that is on, at the pod's device else; told alike.

web is on node-1, and its Service keeps clients' addresses there.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from labworld import BOTH, CURL_REFUSED, CURL_TIMEOUT, World, pod, service, url

from netaccel.lab.handle import wait_for
from netaccel.lab.plan import CLIENT4, CLIENT6
from policies import labels, sources, traffic_policy

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
MODES: dict[str, dict[str, Any]] = {"xdp": {"nodes": 1}, "tc": {"nodes": 1, "uplink_mode": "tc"}}
CLIENT = {socket.AF_INET: CLIENT4, socket.AF_INET6: CLIENT6}
OUTSIDE = [{"cidr": "198.51.100.0/24"}, {"cidr": "2001:db8:100::/64"}]
PORTS = [
    {"name": "http", "port": 80, "targetPort": "http"},
    {"name": "echo", "port": 8007, "protocol": "UDP", "targetPort": "echo"},
]
RULE = {"kind": "TrafficPolicy", "namespace": "default", "name": "fence", "direction": "ingress", "number": 0}
both_families = pytest.mark.parametrize("family", BOTH, ids=["IPv4", "IPv6"])


def prepare(world: World) -> None:
    world.write(
        "pods",
        pod("web", "node-1", udp=True),
        service("web", type="NodePort", externalTrafficPolicy="Local", ports=PORTS),
    )


@pytest.fixture(autouse=True)
def _reachable(world: World) -> Iterator[None]:
    world.in_force("web", 1)
    wait_for(lambda: len(json.loads(ask(world, "map", "dump", "pod_peers"))) == 2, "nothing on web's way", 20)
    yield
    if (world.folder / "policies.yaml").exists():
        world.remove("policies")
    for family in BOTH:
        wait_for(lambda family=family: status(world, family) == 0, "the client gets through", 20)


def ask(world: World, *arguments: str) -> str:
    done = world.lab.run("node-1", sys.executable, "-m", "netaccel", *arguments, "-o", "json")
    assert done.returncode in (0, 3), done.stderr  # 3: a tier is not in force
    return done.stdout


def fence(world: World, action: str) -> None:
    rule = sources(*OUTSIDE, action=action, name="outside")
    world.write("policies", traffic_policy("fence", labels(app="web"), ingress=[rule]))


def status(world: World, family: socket.AddressFamily) -> int:
    return world.curl_status("client", url(world.node_ip("node-1", family), world.node_port()))


def echo_port(world: World) -> int:
    item = world.service("web")
    assert item
    return int(item["ports"][1]["nodePort"])


def drops(world: World, family: socket.AddressFamily) -> list[dict[str, Any]]:
    """Told last, of what the client sent."""
    source = f"ip:{CLIENT[family]}"
    lines = ask(world, "flows", "--last", "20", "--type", "drop", "--from", source).splitlines()
    return [json.loads(line) for line in lines]


def counted(world: World) -> int:
    """Packets that the rule dropped."""
    rules = json.loads(ask(world, "drops"))["rules"]
    return sum(one["packets"] for one in rules if one["rule"].get("name") == "fence")


def path(world: World) -> str:
    return "tc" if world.lab.state.uplink_mode == "tc" else "xdp"


@both_families
def test_the_rule_is_named_and_the_program_that_dropped(world: World, family: socket.AddressFamily) -> None:
    assert status(world, family) == 0
    fence(world, "Drop")
    wait_for(lambda: status(world, family) == CURL_TIMEOUT, "the client is shut out", 20)
    last = wait_for(lambda: _dropped(world, family), "a drop", 30)[-1]
    assert (last["verdict"], last["reason"], last["direction"]) == ("dropped", "policy_denied", "ingress")
    assert {key: last["rule"][key] for key in RULE} == RULE
    assert (last["destination"]["name"], last["destination_port"]) == ("web", 8080)
    before = counted(world)
    assert status(world, family) == CURL_TIMEOUT
    wait_for(lambda: counted(world) > before, "its packets are counted by the rule", 20)


def _dropped(world: World, family: socket.AddressFamily) -> list[dict[str, Any]]:
    """By the program that is to do it, of one more try: what was on its way when policy came has a flow."""
    assert status(world, family) == CURL_TIMEOUT
    return [drop for drop in drops(world, family) if drop["path"] == path(world)]


@both_families
def test_a_datagram_leaves_no_flow(world: World, family: socket.AddressFamily) -> None:
    fence(world, "Drop")
    wait_for(lambda: status(world, family) == CURL_TIMEOUT, "the client is shut out", 20)
    with world.lab.socket("client", family, socket.SOCK_DGRAM) as client:
        client.connect((world.node_ip("node-1", family), echo_port(world)))
        client.send(b"x")
        port = client.getsockname()[1]
        client.settimeout(0.7)
        with pytest.raises(TimeoutError):
            client.recv(1)
    told = wait_for(lambda: [d for d in drops(world, family) if d["source_port"] == port], "its drop", 20)
    assert {drop["path"] for drop in told} == {path(world)}
    flows = json.loads(ask(world, "map", "dump", "flows"))
    assert any(port in flow.values() for flow in flows) == (path(world) == "tc")


@both_families
def test_a_connection_from_before_is_stopped_at_the_pod(world: World, family: socket.AddressFamily) -> None:
    with world.lab.socket("client", family) as client:
        client.settimeout(5)
        client.connect((world.node_ip("node-1", family), world.node_port()))
        port = client.getsockname()[1]
        fence(world, "Drop")
        wait_for(lambda: status(world, family) == CURL_TIMEOUT, "the client is shut out", 20)
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        told = wait_for(lambda: [d for d in drops(world, family) if d["source_port"] == port], "its drop", 20)
        assert {drop["path"] for drop in told} == {"tc"}


@both_families
def test_a_rejection_is_heard_and_monitor_lets_pass(world: World, family: socket.AddressFamily) -> None:
    fence(world, "Reject")
    wait_for(lambda: status(world, family) == CURL_REFUSED, "the client is refused", 20)
    told = wait_for(lambda: [d for d in drops(world, family) if d["reason"] == "policy_rejected"], "it", 20)
    assert {drop["path"] for drop in told} == {"tc"}
    fence(world, "Monitor")
    wait_for(lambda: status(world, family) == 0, "the client gets through", 20)
