# SPDX-License-Identifier: Apache-2.0
"""From a manifest to a connection, and what the node says of it: with the agent, without it, after it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from ground import PATIENCE, Node

from netaccel.cli import netaccel
from netaccel.datapath import netlink
from netaccel.datapath.bpfmap import KernelMap
from netaccel.datapath.plane import SET_RETVAL, kernel_version

pytestmark = pytest.mark.root

SERVER = """
import socket
listener = socket.create_server(("10.77.0.2", 8080))
while True:
    connection, _ = listener.accept()
    connection.sendall(b"served\\n")
    connection.close()
"""
CLIENT = """
import os, socket, sys
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
with socket.create_connection((sys.argv[2], int(sys.argv[3])), timeout=5) as connection:
    sys.stdout.write(connection.recv(100).decode())
"""

REFUSED = "ConnectionRefusedError" if kernel_version() >= SET_RETVAL else "PermissionError"


def service(name: str = "web", address: str = "10.96.0.10", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": address, "ports": [{"name": "http", "port": 80}], **spec},
    }


def endpoints(*addresses: str, of: str = "web") -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{of}-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": of}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": [address]} for address in addresses],
    }


@pytest.fixture
def server(node: Node) -> Iterator[None]:
    """A server at the far end of the uplink, 10.77.0.2:8080."""
    command = ["nsenter", f"--net=/run/netns/{node.outside}", sys.executable, "-c", SERVER]
    process = subprocess.Popen(command)
    yield
    process.kill()
    process.wait()


def connect(node: Node, address: str = "10.96.0.10", port: int = 80) -> str:
    """What a process of the node's cgroup gets from there; else the error's class."""
    done = subprocess.run(
        node.command(sys.executable, "-c", CLIENT, str(node.cgroup), address, str(port)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1].partition(":")[0]


def listed(node: Node) -> list[dict[str, Any]]:
    """Services as the agent reads them from the maps."""
    found: list[dict[str, Any]] = json.loads(node.get("/api/v1/services"))
    return found


def names(node: Node) -> list[str]:
    return [view["name"] for view in listed(node)]


def metrics(node: Node) -> dict[str, float]:
    lines = (line for line in node.get("/metrics").splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def backends(node: Node) -> int:
    return int((node.status() or {"counts": {"backends": -1}})["counts"]["backends"])


@pytest.mark.usefixtures("server")
def test_a_manifest_becomes_connections_and_counters(node: Node) -> None:
    node.put("web.yaml", service(), endpoints("10.77.0.2"))
    agent = node.serve()
    node.until(lambda: connect(node) == "served", agent)
    assert connect(node, port=81) == REFUSED, "the address has no such port"
    (view,) = listed(node)
    (port,) = view["ports"]
    assert port["counters"]["connects"] >= 1
    assert [backend["address"] for backend in port["backends"]] == ["10.77.0.2"]
    found = metrics(node)
    connects = next(value for name, value in found.items() if name.startswith("netaccel_service_connects"))
    assert connects == port["counters"]["connects"]
    assert found['netaccel_dropped_packets_total{reason="no_such_port"}'] == 1
    assert found["netaccel_synced"] == 1


@pytest.mark.usefixtures("server")
def test_the_datapath_serves_while_no_agent_is_there(node: Node) -> None:
    node.put("web.yaml", service(), endpoints("10.77.0.2"))
    agent = node.serve()
    node.until(lambda: connect(node) == "served", agent)
    node.stop(agent, signal.SIGKILL)
    assert connect(node) == "served"
    shown = node.netaccel("service", "list", "-o", "json")
    assert [view["name"] for view in json.loads(shown.stdout)] == ["web"], "service list needs no agent"
    assert node.netaccel("status").returncode == 3


def test_backends_that_are_gone_are_not_counted_though_their_slots_remember_them(node: Node) -> None:
    node.put("web.yaml", service(), endpoints("10.77.0.2", "10.77.0.3", "10.77.0.4"))
    agent = node.serve()
    node.until(lambda: backends(node) == 3, agent)
    node.put("web.yaml", service(), endpoints("10.77.0.2"))
    node.until(lambda: backends(node) == 1, agent)
    node.stop(agent)
    assert json.loads(node.netaccel("status", "-o", "json").stdout)["counts"]["backends"] == 1


def test_headless_services_are_left_alone_and_no_fault_of_the_node(node: Node) -> None:
    node.put("web.yaml", service(address="None"))
    agent = node.serve()
    node.until(lambda: bool((node.status() or {})["ignored"]), agent)
    found = node.netaccel("status")
    assert found.returncode == 0
    assert "left alone: 1 Service: headless" in found.stdout


def test_what_changed_while_no_agent_was_there_is_caught_up(node: Node) -> None:
    node.put("web.yaml", service(), endpoints("10.77.0.2"))
    node.put("old.yaml", service("old", "10.96.0.11"))
    agent = node.serve()
    node.until(lambda: names(node) == ["old", "web"], agent)
    before = {view["name"]: view["ports"][0]["id"] for view in listed(node)}
    node.stop(agent, signal.SIGKILL)
    (node.manifests / "old.yaml").unlink()
    node.put("new.yaml", service("new", "10.96.0.12"))
    agent = node.serve()
    node.until(lambda: names(node) == ["new", "web"], agent)
    after = {view["name"]: view["ports"][0]["id"] for view in listed(node)}
    assert after["web"] == before["web"], "what stayed keeps its id, and so its counters"


def test_a_broken_object_harms_only_itself_and_is_told(node: Node) -> None:
    node.put("broken.yaml", service("broken", "10.96.0.300"))
    node.put("lonely.yaml", endpoints("10.77.0.2", of="nobody"))
    node.put("web.yaml", service(), endpoints("10.77.0.2"))
    agent = node.serve()
    node.until(lambda: names(node) == ["web"], agent)
    status = node.status()
    assert status is not None
    (refused,) = status["refused"]
    assert refused["object"] == "Service shop/broken"
    assert refused["where"].startswith("broken.yaml")
    assert "spec.clusterIP" in refused["where"]
    assert status["waiting"] == ["EndpointSlice shop/nobody-1 waits for Service shop/nobody"]
    assert metrics(node)['netaccel_rejected_objects{kind="Service"}'] == 1
    shown = node.netaccel("status")
    assert shown.returncode == 3
    assert "10.96.0.300" in shown.stdout
    node.put("broken.yaml", service("broken", "10.96.0.30"))
    node.until(lambda: (node.status() or {})["refused"] == [], agent)


def test_two_services_with_one_address_are_told_who_has_it(node: Node) -> None:
    node.put("a.yaml", service("a", "10.96.0.10"))
    node.put("b.yaml", service("b", "10.96.0.10"))
    agent = node.serve()
    node.until(lambda: names(node) == ["a", "b"] or names(node) == ["a"], agent)
    (refused,) = (node.status() or {})["refused"]
    assert refused["object"] == "Service shop/b"
    assert "held by the older Service shop/a" in refused["reason"]


def test_a_service_that_does_not_fit_is_refused_whole(node: Node) -> None:
    node.put("web.yaml", service(), endpoints(*(f"10.77.0.{last}" for last in range(2, 10))))
    node.put("tiny.yaml", service("tiny", "10.96.0.11"), endpoints("10.77.0.2", of="tiny"))
    agent = node.serve(map_sizes="backends=5")
    node.until(lambda: [r["object"] for r in (node.status() or {})["refused"]] == ["Service shop/web"], agent)
    views = {view["name"]: view for view in listed(node)}
    assert len(views["tiny"]["ports"][0]["backends"]) == 1
    assert "web" not in views or not views["web"]["ports"][0]["backends"]


def test_drift_is_found_repaired_and_counted(node: Node) -> None:
    node.put("web.yaml", service(), endpoints("10.77.0.2"))
    agent = node.serve(compare_interval="0.2")
    node.until(lambda: names(node) == ["web"], agent)
    pin = node.pins / "maps" / "services"
    with KernelMap.open_pinned(pin) as services:
        (entries,) = services.read()
        assert services.delete(entries.keys)
    node.until(lambda: (node.status() or {})["drift_repaired"] > 0, agent)
    assert names(node) == ["web"]


def test_every_map_can_be_dumped_in_words(node: Node) -> None:
    node.put(
        "web.yaml", service(type="NodePort", ports=[{"port": 80, "nodePort": 30080}]), endpoints("10.77.0.2")
    )
    agent = node.serve()
    node.until(lambda: names(node) == ["web"], agent)

    def dump(*name: str) -> Any:
        done = CliRunner().invoke(netaccel, ["map", "dump", *name, "-o", "json", "--bpffs", str(node.bpffs)])
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    maps = dump()
    assert {"frontends", "flows", "maglev"} <= {row["map"] for row in maps}
    for row in maps:
        assert len(dump(row["map"])) >= row["entries"], row
    frontends = dump("frontends")
    assert {"10.77.0.1", "10.96.0.10"} <= {row["addr"] for row in frontends}
    assert "node_port" in {row["kind"] for row in frontends}
    unknown = node.netaccel("map", "dump", "nonsense")
    assert unknown.returncode == 1
    assert re.match(r"netaccel: no map nonsense: there are affinity, .*\n$", unknown.stderr)


def test_service_show_says_who_gets_what_share(node: Node) -> None:
    node.put("web.yaml", service(), endpoints("10.77.0.2", "10.77.0.3"))
    agent = node.serve()
    node.until(lambda: names(node) == ["web"], agent)
    shown = json.loads(node.netaccel("service", "show", "shop/web", "-o", "json").stdout)
    shares = shown["ports"][0]["shares"]["pod"]
    assert sum(shares.values()) == pytest.approx(1, abs=0.001)
    assert all(0.4 < share < 0.6 for share in shares.values())
    assert node.netaccel("service", "show", "shop/none").returncode == 1


def test_a_new_address_of_the_node_answers_node_ports(node: Node) -> None:
    node.put("web.yaml", service(type="NodePort", ports=[{"name": "http", "port": 80, "nodePort": 30080}]))
    agent = node.serve(node_port_addresses="10.0.0.0/8")

    def addresses() -> set[str]:
        return {f["address"] for view in listed(node) for port in view["ports"] for f in port["frontends"]}

    node.until(lambda: "10.77.0.1" in addresses(), agent)
    with netlink.inside_namespace(node.name):
        netlink.add_address("eth0", "10.88.0.1/24")
    node.until(lambda: "10.88.0.1" in addresses(), agent)
