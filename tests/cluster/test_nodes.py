# SPDX-License-Identifier: Apache-2.0
"""A cluster without a service proxy: what nodes and pods can do, and what they can't."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from clustercommand import UP_SECONDS, run

from netaccel.cluster.handle import Cluster
from netaccel.cluster.images import AGNHOST
from netaccel.errors import LabError

NODES = ("node-1", "node-2")


def web(name: str) -> list[dict[str, Any]]:
    """A web server on each node, its name's Service beside it."""
    labels = {"app": name}
    container = {
        "name": "web",
        "image": AGNHOST,
        "args": ["netexec", "--http-port=8080"],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
    }
    pod = {"terminationGracePeriodSeconds": 1, "containers": [container]}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": name},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {
                "selector": labels,
                "type": "NodePort",
                "ipFamilyPolicy": "RequireDualStack",
                "ports": [{"port": 80, "targetPort": 8080}],
            },
        },
    ]


def node_program(node: str, *, privileged: bool) -> dict[str, Any]:
    """A pod in a node's network, as the agent's is; it sees the node's /run/shared."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{'privileged' if privileged else 'plain'}-{node}"},
        "spec": {
            "nodeName": node,
            "hostNetwork": True,
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "shell",
                    "image": AGNHOST,
                    "securityContext": {"privileged": privileged},
                    "volumeMounts": [
                        {
                            "name": "shared",
                            "mountPath": "/run/shared",
                            "mountPropagation": "Bidirectional" if privileged else "HostToContainer",
                        },
                        {"name": "bpf", "mountPath": "/sys/fs/bpf"},
                    ],
                }
            ],
            "volumes": [
                {"name": "shared", "hostPath": {"path": "/run/shared", "type": "DirectoryOrCreate"}},
                {"name": "bpf", "hostPath": {"path": "/sys/fs/bpf", "type": "Directory"}},
            ],
        },
    }


@pytest.fixture(scope="module")
def bare_cluster() -> Iterator[Cluster]:
    """Two nodes without a service proxy."""
    name = f"test{os.getpid()}bare"
    try:
        run("up", "--proxy", "none", name=name, timeout=UP_SECONDS)
        yield Cluster(name)
    finally:
        run("down", name=name)


@pytest.fixture(scope="module")
def servers(bare_cluster: Cluster) -> Cluster:
    bare_cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(web("web")))
    bare_cluster.kubectl("rollout", "status", "daemonset/web", "--timeout=120s", timeout=130)
    return bare_cluster


def pods(cluster: Cluster, label: str = "app=web") -> dict[str, dict[str, Any]]:
    """Pods by their node."""
    items = json.loads(cluster.kubectl("get", "pods", "-l", label, "-o", "json"))["items"]
    return {item["spec"]["nodeName"]: item for item in items}


def addresses(pod: dict[str, Any]) -> list[str]:
    found = [item["ip"] for item in pod["status"]["podIPs"]]
    return [f"[{address}]" if ":" in address else address for address in found]


def curl(cluster: Cluster, pod: dict[str, Any], host: str, port: int) -> str:
    words = ("exec", pod["metadata"]["name"], "--", "curl", "-sS", "-m", "20")
    return cluster.kubectl(*words, f"http://{host}:{port}/hostname")


def eventually(question: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if question():
                return
            reason = "no"
        except LabError as error:
            reason = str(error)
        assert time.monotonic() < deadline, reason
        time.sleep(0.2)


def test_two_nodes_are_ready(bare_cluster: Cluster) -> None:
    found = bare_cluster.status()
    assert {node["name"]: node["ready"] for node in found["nodes"]} == dict.fromkeys(NODES, "True")
    assert found["missing"] == []


def test_pods_of_two_nodes_reach_each_other_in_both_families(servers: Cluster) -> None:
    found = pods(servers)
    assert set(found) == set(NODES)
    for asking in found.values():
        for asked in found.values():
            assert len(addresses(asked)) == 2
            for address in addresses(asked):
                assert curl(servers, asking, address, 8080) == asked["metadata"]["name"]


def test_the_outside_client_reaches_pods(servers: Cluster) -> None:
    for pod in pods(servers).values():
        for address in addresses(pod):
            answer = servers.run("client", "curl", "-sS", "-m", "20", f"http://{address}:8080/hostname")
            assert answer == pod["metadata"]["name"]


def test_nobody_answers_at_a_service_without_a_proxy(servers: Cluster) -> None:
    service = json.loads(servers.kubectl("get", "service", "web", "-o", "json"))["spec"]
    asking = pods(servers)["node-1"]
    assert len(service["clusterIPs"]) == 2
    for address in service["clusterIPs"]:
        with pytest.raises(LabError, match="curl"):
            curl(servers, asking, f"[{address}]" if ":" in address else address, 80)
    port = service["ports"][0]["nodePort"]
    with pytest.raises(LabError, match="curl"):
        servers.run("client", "curl", "-sS", "-m", "5", f"http://172.30.0.11:{port}/hostname")


@pytest.mark.parametrize("proxy", ["kube-proxy-nftables", "kube-proxy-iptables"])
def test_a_kube_proxy_serves_one_node_until_it_is_stopped(servers: Cluster, proxy: str) -> None:
    port = json.loads(servers.kubectl("get", "service", "web", "-o", "json"))["spec"]["ports"][0]["nodePort"]

    def answers(address: str) -> bool:
        try:
            return bool(servers.run("client", "curl", "-sS", "-m", "10", f"http://{address}:{port}/hostname"))
        except LabError:
            return False

    servers.set_proxy("node-1", proxy)
    eventually(lambda: answers("172.30.0.11") and answers("[fd00:30::11]"))
    assert not answers("172.30.0.12")
    servers.set_proxy("node-1", "none", keep_rules=True)
    assert answers("172.30.0.11")
    servers.set_proxy("node-1", "none")
    assert not answers("172.30.0.11")


def test_a_privileged_pod_hands_mounts_to_its_node_and_to_other_pods(bare_cluster: Cluster) -> None:
    plain, privileged = node_program("node-1", privileged=False), node_program("node-1", privileged=True)
    bare_cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all([plain, privileged]))
    try:
        for pod in (plain, privileged):
            name = f"pod/{pod['metadata']['name']}"
            bare_cluster.kubectl("wait", "--for=condition=Ready", name, "--timeout=120s", timeout=130)
        mount = "mkdir -p /run/shared/cgroup && mount -t cgroup2 none /run/shared/cgroup"
        bare_cluster.kubectl("exec", "privileged-node-1", "--", "sh", "-c", mount)
        seen = bare_cluster.kubectl("exec", "plain-node-1", "--", "ls", "/run/shared/cgroup")
        assert "cgroup.procs" in seen
        assert "cgroup.procs" in bare_cluster.run("node-1", "ls", "/run/shared/cgroup")
        # Its root is the node's: the other node's processes are not below it.
        ours = bare_cluster.run("node-1", "sh", "-c", "cat /proc/self/cgroup | grep ^0::").strip()
        assert ours in ("0::/", "0::/init")
        bare_cluster.run("node-1", "umount", "/run/shared/cgroup")
    finally:
        names = [pod["metadata"]["name"] for pod in (plain, privileged)]
        bare_cluster.kubectl("delete", "pod", *names)


def test_nodes_have_bpf_file_systems_of_their_own(bare_cluster: Cluster) -> None:
    bare_cluster.run("node-1", "mkdir", "/sys/fs/bpf/mine")
    try:
        assert "mine" not in bare_cluster.run("node-2", "ls", "/sys/fs/bpf")
    finally:
        bare_cluster.run("node-1", "rmdir", "/sys/fs/bpf/mine")


def test_nodes_hold_no_namespace_or_mount_of_the_machine(bare_cluster: Cluster) -> None:
    mounts = bare_cluster.run("node-1", "cat", "/proc/mounts")
    assert "/run/netns/nc-" not in mounts
    assert str(bare_cluster.plan.bpffs) not in mounts


def test_dns_answers_at_its_pod(servers: Cluster) -> None:
    server = json.loads(
        servers.kubectl("-n", "kube-system", "get", "pods", "-l", "k8s-app=kube-dns", "-o", "json")
    )["items"][0]["status"]["podIP"]
    service = json.loads(servers.kubectl("get", "service", "web", "-o", "json"))["spec"]
    words = ("exec", "daemonset/web", "--", "nslookup", "web.default.svc.cluster.local", server)
    eventually(lambda: all(ip in servers.kubectl(*words) for ip in service["clusterIPs"]))


def test_a_rebooted_node_brings_its_pods_back(servers: Cluster) -> None:
    before = servers.status()["nodes"][1]["pid"]
    restarts = pods(servers)["node-2"]["status"]["containerStatuses"][0]["restartCount"]

    run("node", "reboot", "node-2", name=servers.name)

    assert servers.status()["nodes"][1]["pid"] != before

    def back() -> bool:
        pod = pods(servers)["node-2"]
        state = pod["status"]["containerStatuses"][0]
        if not state["ready"] or state["restartCount"] != restarts + 1:
            return False
        asking = pods(servers)["node-1"]
        return all(curl(servers, asking, a, 8080) == pod["metadata"]["name"] for a in addresses(pod))

    eventually(back)


def test_pods_go_on_while_the_api_server_is_away(servers: Cluster) -> None:
    address = addresses(pods(servers)["node-1"])[0]
    run("apiserver", "stop", name=servers.name)
    try:
        with pytest.raises(LabError, match="status 3"):
            run("status", name=servers.name)
        servers.run("client", "curl", "-sS", "-m", "20", f"http://{address}:8080/hostname")
    finally:
        run("apiserver", "start", name=servers.name)
    eventually(lambda: [node["ready"] for node in servers.status()["nodes"]] == ["True", "True"])
