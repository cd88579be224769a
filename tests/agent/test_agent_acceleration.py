# SPDX-License-Identifier: Apache-2.0
"""From a busy connection of two pods to one past TCP, and back: with a real agent."""

from __future__ import annotations

import signal
import subprocess
from typing import Any

import pytest
from accelworld import FAST, Load, Pod, accel, connections, live, namespace, service, stop_before_reading
from ground import Node

from netaccel.datapath import libbpf
from netaccel.datapath.bpfmap import KernelMap

pytestmark = pytest.mark.root


def receipt(node: Node) -> dict[str, Any]:
    """The only one; without anything where there is none yet."""
    found: list[dict[str, Any]] = accel(node)["receipts"]
    assert len(found) <= 1
    return found[0] if found else {"bytes": 0}


def test_a_busy_connection_goes_past_tcp_and_receipts_add_up(node: Node, pods: tuple[Pod, Pod]) -> None:
    agent = node.serve(**FAST)
    load = Load(pods[0], pods[1].address)
    node.until(lambda: live(node) == 1, agent)
    node.until(load.grows)
    shown = connections(node, "a")
    assert [(one["carried"]["path"], one["peer"]) for one in shown] == [("socket", "shop/b")]
    load.say("rest")
    node.until(lambda: load.told.get("resting"))
    done = load.told["bytes"]
    node.until(lambda: receipt(node)["bytes"] + shown_tcp(node) == done)
    assert receipt(node)["client"] == "shop/a"
    assert receipt(node)["connections"] == 1
    load.end()
    node.until(lambda: live(node) == 0)
    assert node.stop(agent, signal.SIGTERM) == 0


def enrolled(node: Node, pods: tuple[Pod, Pod], agent: Any = None) -> Load:
    """A load whose connection goes past TCP."""
    load = Load(pods[0], pods[1].address)
    node.until(lambda: live(node) == 1, agent)
    return load


def path(node: Node) -> str:
    return str(connections(node, "a")[0]["carried"]["path"])


@pytest.mark.parametrize("policy", ["on", "off"])
def test_both_families_with_and_without_policy(node: Node, pods: tuple[Pod, Pod], policy: str) -> None:
    pods[1].serve(pods[1].address6)
    # Without policy Namespaces are not watched.
    node.put("pods.yaml", *(pod.manifest(accelerate="enabled") for pod in pods))
    agent = node.serve(**FAST, policy=policy)
    loads = [Load(pods[0], address) for address in (pods[1].address, pods[1].address6)]
    node.until(lambda: live(node) == 2, agent)
    for load in loads:
        node.until(load.grows)
    assert {one["carried"]["path"] for one in connections(node, "a")} == {"socket"}
    for load in loads:
        load.end()


def test_it_goes_on_without_the_agent_and_the_next_one_takes_it_over(
    node: Node, pods: tuple[Pod, Pod]
) -> None:
    agent = node.serve(**FAST)
    load = enrolled(node, pods, agent)
    for number in (signal.SIGKILL, signal.SIGTERM):
        node.stop(agent, number)
        node.until(load.grows)
        agent = node.serve(**FAST)
        node.until(lambda: live(node) == 1, agent)
        assert accel(node)["totals"].get("promotions", 0) == 0, "it is the same pair"
        node.until(load.grows)
        node.until(lambda: [one["carried"]["path"] for one in connections(node, "a")] == ["socket"])
    node.until(lambda: receipt(node).get("client") == "shop/a")
    load.end()


def test_what_policy_denies_by_now_is_not_carried_past_it(node: Node, pods: tuple[Pod, Pod]) -> None:
    agent = node.serve(**FAST)
    load = enrolled(node, pods, agent)
    node.put("other.yaml", policy("other", {"app": "nobody"}))
    node.until(load.grows)
    node.until(lambda: path(node) == "socket" and load.grows())
    node.put("deny.yaml", policy("deny", {"app": "b"}))
    node.until(lambda: load.told.get("stuck"))
    node.until(lambda: live(node) == 0)
    assert accel(node)["totals"]["out"] == {"denied by policy": 1}
    (node.manifests / "deny.yaml").unlink()
    node.until(load.grows)
    node.until(lambda: live(node) == 1)
    load.end()


def policy(name: str, labels: dict[str, str]) -> dict[str, Any]:
    """Nothing comes to these pods."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress"], "ingress": []},
    }


def test_an_owner_takes_it_back(node: Node, pods: tuple[Pod, Pod]) -> None:
    agent = node.serve(**FAST)
    load = enrolled(node, pods, agent)
    node.put("pods.yaml", namespace(), pods[0].manifest(), pods[1].manifest(accelerate="disabled"))
    node.until(lambda: path(node) != "socket")
    node.until(load.grows)
    assert accel(node)["totals"]["out"] == {"disabled by its owner": 1}
    node.put("pods.yaml", namespace(), pods[0].manifest(), pods[1].manifest(accelerate="off"))
    node.until(lambda: live(node) == 1)
    assert any("Pod shop/b" in line and "enabled or disabled" in line for line in warnings(node))
    load.end()


def test_a_headless_service_speaks_for_the_pods_that_it_selects(node: Node, pods: tuple[Pod, Pod]) -> None:
    node.put("pods.yaml", *(pod.manifest() for pod in pods))  # nobody else's word goes before it
    agent = node.serve(**FAST, accelerate="enabled")
    load = enrolled(node, pods, agent)
    headless = service()
    headless["metadata"]["annotations"] = {"netaccel.io/accelerate": "disabled"}
    headless["spec"] |= {"clusterIP": "None", "selector": {"app": "b"}}
    node.put("service.yaml", headless)
    node.until(lambda: live(node) == 0)
    assert accel(node)["totals"]["out"] == {"disabled by its owner": 1}
    node.until(load.grows)
    load.end()


def test_a_pod_whose_bandwidth_is_bounded_keeps_its_bound(node: Node, pods: tuple[Pod, Pod]) -> None:
    agent = node.serve(**FAST)
    load = enrolled(node, pods, agent)
    shape(node, "vethb")
    node.until(lambda: path(node) != "socket")
    assert connections(node, "a")[0]["reason"] == "its pod's bandwidth is bounded"
    load.end()


def shape(node: Node, device: str) -> None:
    """Bound what it carries."""
    bucket = ("tbf", "rate", "1gbit", "burst", "1mb", "latency", "9ms")
    subprocess.run(node.command("tc", "qdisc", "add", "dev", device, "root", *bucket), check=True)


def test_what_keeps_a_pods_packets_with_the_nodes_stack_is_shown(node: Node, pods: tuple[Pod, Pod]) -> None:
    shape(node, "vethb")
    agent = node.serve(**FAST)
    load = Load(pods[0], pods[1].address)
    reason = "shop/b: vethb has a queueing discipline (tbf)"
    node.until(lambda: [one.get("tcp_reason") for one in connections(node, "a")] == [reason], agent)
    assert accel(node)["through_stack"] == [reason]
    for pod in ("a", "b"):
        shown = node.netaccel("accel", "show", f"pod:shop/{pod}")
        assert f"packets go through the node's stack: {reason}" in shown.stdout, shown.stderr
    load.end()


def warnings(node: Node) -> list[str]:
    found = node.status()
    assert found is not None
    return list(found["warnings"])


def test_detach_takes_it_back_without_losing_a_byte(node: Node, pods: tuple[Pod, Pod]) -> None:
    agent = node.serve(**FAST)
    load = enrolled(node, pods, agent)
    node.stop(agent)
    done = node.netaccel("detach")
    assert done.returncode == 0, done.stderr
    assert "acceleration of 1 connections" in done.stdout
    assert not node.pins.exists()
    node.until(load.grows)
    load.end()


def test_detach_keeps_what_a_reader_has_not_read(node: Node, pods: tuple[Pod, Pod]) -> None:
    agent = node.serve(**FAST)
    load = enrolled(node, pods, agent)
    server = pods[1].processes[0]
    stop_before_reading(node, server, load)
    node.stop(agent)
    done = node.netaccel("detach")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "left acceleration of 10.244." in done.stdout
    assert (node.pins / "maps" / "accel_map").exists()
    assert not (node.pins / "links").exists()
    server.send_signal(signal.SIGCONT)
    node.until(load.grows)
    again = node.netaccel("detach")
    assert again.returncode == 0, again.stdout + again.stderr
    assert not node.pins.exists()
    load.end()


def test_nothing_is_loaded_where_nobody_wants_it_and_what_was_is_drained(
    node: Node, pods: tuple[Pod, Pod]
) -> None:
    node.put("pods.yaml", *(pod.manifest() for pod in pods))
    agent = node.serve(**FAST, accelerate="disabled")
    load = Load(pods[0], pods[1].address)
    node.until(load.grows, agent)
    assert not (node.pins / "maps" / "accel_map").exists()
    assert accel(node)["socket"]["reason"] == "the setting accelerate is disabled"
    node.put("pods.yaml", *(pod.manifest(accelerate="enabled") for pod in pods))
    node.until(lambda: live(node) == 1)
    assert path(node) == "socket"
    node.stop(agent)
    node.put("pods.yaml", *(pod.manifest() for pod in pods))
    agent = node.serve(**FAST, accelerate="disabled")
    node.until(lambda: not list_sockets(node))
    node.until(load.grows)
    load.end()


def list_sockets(node: Node) -> bool:
    """Whether any socket is enrolled."""
    with KernelMap.open_pinned(node.pins / "maps" / "accel_map") as found:
        return libbpf.map_next_key(found.fd, None, 8) is not None


def test_loopbacks_of_two_pods_are_not_mixed(node: Node, pods: tuple[Pod, Pod]) -> None:
    for pod in pods:
        pod.serve("127.0.0.1")
    agent = node.serve(**FAST)
    loads = [Load(pod, "127.0.0.1") for pod in pods]
    node.until(lambda: live(node) == 2, agent)
    for load in loads:
        node.until(load.grows)
    inside = {("shop/a", "shop/a"), ("shop/b", "shop/b")}
    node.until(lambda: {(one["client"], one["server"]) for one in accel(node)["receipts"]} == inside)
    for load in loads:
        load.end()


def shown_tcp(node: Node) -> int:
    """Bytes that the client's connection carried by TCP, both ways."""
    carried = connections(node, "a")[0]["carried"]
    return int(carried["tcp_sent_bytes"] + carried["tcp_received_bytes"])
