# SPDX-License-Identifier: Apache-2.0
"""A cluster that is up: netaccel alone carries its Services, its DNS and the `kubernetes` Service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from objects import pod
from world import NODES, World, wait_for

from netaccel.cluster import groups
from netaccel.cluster.handle import Cluster
from netaccel.cluster.plan import DNS4, DNS6

NAME = "kubernetes.default.svc.cluster.local"
# One question for an A record (RFC 1035, section 4); the answer's last four bytes are the address.
ASK_DNS = """
import socket, struct, sys
server, kind, name = sys.argv[1:]
family = socket.AF_INET6 if ":" in server else socket.AF_INET
labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
query = struct.pack("!6H", 0x1234, 0x0100, 1, 0, 0, 0) + labels + b"\\0" + struct.pack("!2H", 1, 1)
with socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as asker:
    asker.settimeout(10)
    asker.connect((server, 53))
    if kind == "tcp":
        asker.sendall(struct.pack("!H", len(query)) + query)
        size, = struct.unpack("!H", asker.recv(2, socket.MSG_WAITALL))
        answer = asker.recv(size, socket.MSG_WAITALL)
    else:
        asker.send(query)
        answer = asker.recv(1500)
    peer = asker.getpeername()[0]
number, flags, _, count, _, _ = struct.unpack("!6H", answer[:12])
assert number == 0x1234 and flags & 0xf == 0 and count == 1, answer
print(peer, socket.inet_ntoa(answer[-4:]))
"""
ASK_API = """
import json, os, ssl, urllib.request
account = "/var/run/secrets/kubernetes.io/serviceaccount/"
address = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
trusted = ssl.create_default_context(cafile=account + "ca.crt")
asked = urllib.request.Request(address + "/version")
asked.add_header("Authorization", "Bearer " + open(account + "token").read())
print(address, json.load(urllib.request.urlopen(asked, context=trusted, timeout=10))["gitVersion"])
"""


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[str]:
    """A pod on node-1 that waits."""
    world = World(cluster, "default")
    world.apply(pod("client", "node-1", "import time; time.sleep(3600)"))
    world.kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=120s", timeout=130)
    yield "client"
    world.kubectl("delete", "pod", "client", "--now", "--wait=false")


def test_no_kube_proxy_ever_ran(cluster: Cluster) -> None:
    for node in cluster.plan.nodes:
        assert groups.named(groups.node(cluster.name, node.name), "kube-proxy") == []
        assert not list((cluster.plan.node_disk(node) / "var/log").glob("kube-proxy*"))
        chains = cluster.run(node.name, "nft", "list", "chains")
        assert "KUBE-SERVICES" not in chains
        assert "kube-proxy" not in chains


def test_every_node_has_an_agent_that_is_ready_and_says_so(cluster: Cluster, world: World) -> None:
    found = json.loads(world.netaccel("get", "daemonset", "netaccel", "-o", "json"))["status"]
    assert (found["numberReady"], found["desiredNumberScheduled"]) == (2, 2)
    for node in NODES:
        status = world.status(node)
        assert status["ready"], status["reasons"]
        assert status["warnings"] == []
        assert status["mode"] == "instead"


def test_a_pod_reaches_the_api_server_by_its_service(cluster: Cluster, client: str) -> None:
    world = World(cluster, "default")
    before = connects(world, "default", "kubernetes")
    address, version = world.exec(client, "python3", "-c", ASK_API).split()
    assert address == "https://10.96.0.1:443"
    assert version == world.get("node", "node-1")["status"]["nodeInfo"]["kubeletVersion"]
    assert connects(world, "default", "kubernetes") == before + 1, "it was netaccel that served it"


@pytest.mark.parametrize("server", [DNS4, DNS6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_dns_is_served_by_netaccel(cluster: Cluster, client: str, kind: str, server: str) -> None:
    world = World(cluster, "default")
    before = connects(world, "kube-system", "kube-dns", kind, server)
    peer, address = world.exec(client, "python3", "-c", ASK_DNS, server, kind, NAME).split()
    assert peer == server, "the program sees the Service's address"
    assert address == "10.96.0.1"
    assert connects(world, "kube-system", "kube-dns", kind, server) == before + 1


def test_kubectl_shows_each_nodes_state(world: World) -> None:
    def state(node: str) -> dict[str, Any]:
        found: dict[str, Any] = world.get("nodestate", node)
        return found

    for node in NODES:
        owner = state(node)["metadata"]["ownerReferences"][0]
        assert (owner["kind"], owner["name"]) == ("Node", node)
        wait_for(
            lambda node=node: state(node)["status"]["frontends"] == world.status(node)["counts"]["frontends"],
            "as many frontends as the node's maps hold",
        )
        # The first state may have been written before the node was ready; the next follows within Rhythm.gap.
        wait_for(
            lambda node=node: (
                [c["status"] for c in state(node)["status"]["conditions"] if c["type"] == "Ready"] == ["True"]
            ),
            f"{node} is ready by its state",
        )
    table = world.kubectl("get", "nodestates").splitlines()
    for column in ("VERSION", "READY", "MODE", "FRONTENDS", "BACKENDS", "DRIFT", "LAST SYNC", "WARNINGS"):
        assert column in table[0]
    assert [line.split()[:4] for line in table[1:]] == [
        [node, state(node)["status"]["version"], "True", "instead"] for node in NODES
    ]


def connects(world: World, namespace: str, name: str, kind: str = "tcp", address: str = "") -> int:
    """How often netaccel translated a connect() on node-1 to a Service."""
    services = json.loads(world.run("node-1", "netaccel", "service", "list", "-o", "json"))
    return sum(
        port["counters"]["connects"]
        for one in services
        if (one["namespace"], one["name"]) == (namespace, name)
        for port in one["ports"]
        if port["protocol"] == kind.upper() and address in ("", port["frontends"][0]["address"])
    )
