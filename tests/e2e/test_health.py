# SPDX-License-Identifier: Apache-2.0
"""What a load balancer hears of each node, while pods and agents come and go."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest
from downloads import download, under_way
from labworld import BOTH, World, pod, service, url

from netaccel.lab.handle import wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
both_families = pytest.mark.parametrize("family", BOTH, ids=["IPv4", "IPv6"])
OPTIONS = {"nodes": 2}
HEALTHZ = 10256
NODES = ("node-1", "node-1", "node-2")
DRAIN = 30.0  # seconds: as long as anyone looks


def prepare(world: World) -> None:
    world.write("web", service(type="LoadBalancer", externalTrafficPolicy="Local"))
    for number, node in enumerate(NODES):
        world.write(f"web-{number}", pod(f"web-{number}", node, drain=DRAIN))


@pytest.fixture(autouse=True)
def _restored(world: World) -> None:
    """Each test begins with all three."""
    prepare(world)
    for number in range(len(NODES)):
        world.wait_pod(f"web-{number}", ready=True, terminating=False)
    world.in_force("web", 3)


def hear(
    world: World, node: str, family: socket.AddressFamily = socket.AF_INET, port: int = 0, path: str = "/"
) -> tuple[int, dict[str, object]]:
    """Status and body of what the client hears at a node; (0, {}) where nobody listens."""
    port = port or int(world.rendered("Service", "web")[0]["spec"]["healthCheckNodePort"])
    address = url(world.node_ip(node, family), port)
    done = world.lab.run("client", "curl", "-s", "-m", "10", "-w", "\n%{http_code}", address + path)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body or "{}")


def weight(world: World, node: str, family: socket.AddressFamily = socket.AF_INET) -> tuple[int, object]:
    status, body = hear(world, node, family)
    return status, body.get("localEndpoints")


@both_families
def test_each_node_tells_its_own_endpoints(world: World, family: socket.AddressFamily) -> None:
    wait_for(lambda: weight(world, "node-1", family) == (200, 2), "two pods on node-1")
    wait_for(lambda: weight(world, "node-2", family) == (200, 1), "one pod on node-2")
    for path in ("/healthz", "/livez"):
        wait_for(lambda path=path: hear(world, "node-2", family, HEALTHZ, path)[0] == 200, path)


def test_a_pod_that_is_not_ready_is_not_told(world: World) -> None:
    backend = url(world.pod_ip("web-1", socket.AF_INET), 8080)
    world.lab.curl("node-1", f"{backend}/unready")
    wait_for(lambda: weight(world, "node-1") == (200, 1), "one of two")
    world.lab.curl("node-1", f"{backend}/ready")
    wait_for(lambda: weight(world, "node-1") == (200, 2), "both again")


def test_new_load_stays_away_while_the_last_pod_finishes_its_own(world: World) -> None:
    """KEP-1669: the check fails as soon as the pod terminates; what it serves goes on."""
    wait_for(lambda: weight(world, "node-2") == (200, 1), "one pod on node-2")
    address = url(world.node_ip("node-2", socket.AF_INET), world.node_port())
    with download(world, "client", address):
        wait_for(lambda: under_way(world, "web-2"), "the download under way")
        world.remove("web-2")
        wait_for(lambda: weight(world, "node-2") == (503, 0), "node-2 is no target")
        assert world.lab.answer("client", address)["pod"] == "web-2", "who still comes is served"
        assert weight(world, "node-1") == (200, 2)
    world.kill("web-2")
    world.wait_gone("web-2")
    assert weight(world, "node-2") == (503, 0)


def test_an_agent_that_is_killed_answers_again(world: World) -> None:
    wait_for(lambda: weight(world, "node-1") == (200, 2), "two pods on node-1")
    before = world.agent_pid("node-1")
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: world.lab.agent_pid("node-1") not in (0, before), "another agent", 30)
    wait_for(lambda: weight(world, "node-1") == (200, 2), "its answer", 60)
