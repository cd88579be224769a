# SPDX-License-Identifier: Apache-2.0
"""Between pods of one node past its stack: what is told of it, and when it isn't done."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from labworld import BOTH, World, pod, service, url
from reach import OPEN, REFUSED, Try, expect

from netaccel.lab.handle import wait_for
from policies import labels, network_policy, pods, sources, traffic_policy

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
MODES: dict[str, dict[str, Any]] = {
    "auto": {"nodes": 2},
    "without-policy": {"nodes": 2, "settings": {"policy": "off"}},
    "off": {"nodes": 2, "settings": {"peer": "off"}},
}
OFF = "the setting peer is off"
MASQUERADE = """
add table ip cni
add chain ip cni post { type nat hook postrouting priority 100; }
add rule ip cni post oifname "eth0" masquerade
"""
both_families = pytest.mark.parametrize("family", BOTH, ids=["IPv4", "IPv6"])


def prepare(world: World) -> None:
    world.write(
        "pods",
        pod("web", "node-1", udp=True),
        pod("near", "node-1", app="client", udp=True),
        pod("far", "node-2", app="client", udp=True),
        service("web"),
    )


def ask(world: World, *arguments: str) -> Any:
    done = world.lab.run("node-1", sys.executable, "-m", "netaccel", *arguments, "-o", "json")
    assert done.returncode in (0, 3), done.stderr  # 3: a tier is not in force
    return done.stdout


def tier(world: World) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(world, "accel", "status"))["peer"]
    return found


@pytest.fixture
def mode(world: World) -> str:
    """As in MODES, once it is in force."""
    settings = world.options.get("settings", {})
    found = next(name for name, options in MODES.items() if options.get("settings", {}) == settings)
    world.in_force("web", 1)
    wait_for(lambda: tier(world)["on"] == (found != "off"), f"peer {found}", 20)
    addresses = 0 if found == "off" else 2 * len(BOTH)
    wait_for(lambda: len(json.loads(ask(world, "map", "dump", "pod_peers"))) == addresses, "both pods", 20)
    return found


@pytest.fixture
def seen(world: World) -> Iterator[None]:
    """Netfilter counts what is forwarded: a rule that needs nothing."""
    rules = "add table inet seen; add chain inet seen forward { type filter hook forward priority 0; };"
    rules += " add rule inet seen forward meta l4proto tcp counter"
    assert world.lab.run("node-1", "nft", rules).returncode == 0
    yield
    world.lab.run("node-1", "nft", "delete table inet seen")


def rule_packets(world: World) -> int:
    done = world.lab.run("node-1", "nft", "-j", "list", "chain", "inet", "seen", "forward")
    rule = next(entry["rule"] for entry in json.loads(done.stdout)["nftables"] if "rule" in entry)
    return int(next(part["counter"]["packets"] for part in rule["expr"] if "counter" in part))


@both_families
def test_a_connection_between_two_pods(
    world: World, mode: str, seen: None, family: socket.AddressFamily
) -> None:
    before = rule_packets(world)
    service_ip = world.cluster_ip(family)
    for address, port in ((world.pod_ip("web", family), 8080), (service_ip, 80)):
        assert world.lab.answer("pod:default/near", url(address, port))
    assert (rule_packets(world) == before) == (mode != "off")


@both_families
def test_flows_say_their_path(world: World, mode: str, family: socket.AddressFamily) -> None:
    if mode == "without-policy":
        pytest.skip("nobody tells of flows")
    for source, expected in (("near", "tc" if mode == "off" else "peer"), ("far", "tc")):
        address = world.pod_ip("web", family)
        wanted = ("--from", f"ip:{world.pod_ip(source, family)}", "--to", f"ip:{address}")

        def paths(source: str = source, to: str = address, wanted: tuple[str, ...] = wanted) -> set[str]:
            world.lab.answer(f"pod:default/{source}", url(to, 8080))
            lines = ask(world, "flows", "--last", "4", "--type", "new", *wanted).splitlines()
            return {json.loads(line)["path"] for line in lines}

        assert wait_for(paths, f"flows from {source}", 30) == {expected}


def test_the_tier_says_why_not(world: World, mode: str) -> None:
    assert tier(world).get("reason", "") == (OFF if mode == "off" else "")


def test_netfilters_rules_take_it_back_and_give_it(world: World, mode: str) -> None:
    if mode == "off":
        pytest.skip("it is off anyway")
    code = (
        "import socket, sys\n"
        "s = socket.create_connection((sys.argv[1], 8080), 20)\n"
        "for _ in range(100):\n"
        "    s.sendall(b'GET /json HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'); assert s.recv(65536)\n"
        "    import time; time.sleep(0.2)\n"
    )
    address = world.pod_ip("web", socket.AF_INET)
    with world.lab.popen("pod:default/near", sys.executable, "-c", code, address) as client:
        assert world.lab.run("node-1", "nft", MASQUERADE).returncode == 0
        try:
            told = wait_for(lambda: (found := tier(world)) and not found["on"] and found, "off", 30)
            assert "chain ip cni post" in told["reason"]
            assert "masq" in told["reason"]
        finally:
            world.lab.run("node-1", "nft", "delete table ip cni")
        wait_for(lambda: tier(world)["on"], "on again", 30)
        _, said = client.communicate(timeout=60)
        assert client.returncode == 0, said


def test_an_agent_that_is_killed_changes_nothing(world: World, mode: str, seen: None) -> None:
    if mode == "off":
        pytest.skip("it is off anyway")
    before, killed = rule_packets(world), world.agent_pid("node-1")
    os.kill(killed, signal.SIGKILL)
    target = url(world.pod_ip("web", socket.AF_INET), 8080)

    def answered() -> bool:
        assert world.lab.answer("pod:default/near", target)
        return world.lab.agent_pid("node-1") not in (0, killed) and on_again()

    def on_again() -> bool:
        done = world.lab.run("node-1", sys.executable, "-m", "netaccel", "accel", "status", "-o", "json")
        return done.returncode in (0, 3) and json.loads(done.stdout)["peer"]["on"]

    wait_for(answered, "another agent", 60)
    for _ in range(10):
        assert world.lab.answer("pod:default/near", target)
    assert rule_packets(world) == before


def test_policies_of_both_ends_hold(world: World, mode: str) -> None:
    if mode == "without-policy":
        pytest.skip("there are none")
    near, web = "pod:default/near", "pod:default/web"
    world.write(
        "policies",
        network_policy("only", labels(app="web"), ingress=[sources(pods(app="nobody"))]),
        traffic_policy("answer", labels(app="client"), egress=[{"action": "Reject"}]),
    )
    try:
        expect(world, Try(near, web, "tcp/8080", REFUSED))
    finally:
        world.remove("policies")
    expect(world, Try(near, web, "tcp/8080", OPEN), Try(near, web, "udp/8007", OPEN))
