# SPDX-License-Identifier: Apache-2.0
"""``deploy/`` as docs/operations.md says it: installed by one command, gone without a trace by three."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from world import wait_for

from netaccel.cluster import groups, install, lifecycle
from netaccel.cluster.handle import Cluster
from netaccel.cluster.state import State
from netaccel.datapath import libbpf
from netaccel.datapath.attach import AttachType
from netaccel.errors import LabError

DEPLOY = Path(__file__).parents[2] / "deploy"
NODES = ("node-1", "node-2")
CGROUP_HOOKS = (AttachType.CGROUP_INET4_CONNECT, AttachType.CGROUP_UDP6_SENDMSG)
CAPABILITIES = 1 << 12 | 1 << 19 | 1 << 21  # NET_ADMIN, SYS_PTRACE, SYS_ADMIN of linux/capability.h


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One with a kube-proxy, whose nodes have the image."""
    name = f"deploy{os.getpid()}"
    try:
        lifecycle.up(State(name, proxy="kube-proxy-nftables"), print)
        made = Cluster(name)
        made.load(install.IMAGE)
        yield made
    finally:
        lifecycle.down(name, print)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A kustomization of a user's own: ``config.yaml`` in it replaces the settings."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "config.yaml").write_text((DEPLOY / "base/config.yaml").read_text())
    own = install.kustomization(os.path.relpath(DEPLOY / "base", folder))
    (folder / "kustomization.yaml").write_text(json.dumps(own))
    return folder


@pytest.fixture
def gone_after(cluster: Cluster) -> Iterator[None]:
    """Whatever becomes of the test, the next one finds a cluster without netaccel."""
    yield
    if "namespace/netaccel" in cluster.kubectl("get", "namespaces", "-o", "name").split():
        uninstall(cluster)


def seen(cluster: Cluster, node: str) -> dict[str, Any]:
    found = json.loads(cluster.run(node, sys.executable, str(Path(__file__).with_name("nodeview.py"))))
    found["sockets"] = on_sockets(groups.node(cluster.name, node))
    return dict(found)


def on_sockets(cgroup: Path) -> int:
    folder = os.open(cgroup, os.O_RDONLY)
    try:
        return sum(len(libbpf.prog_query(folder, kind)) for kind in CGROUP_HOOKS)
    finally:
        os.close(folder)


def roll_out(cluster: Cluster) -> None:
    words = ("-n", "netaccel", "rollout", "status", "daemonset", "netaccel", "--timeout=180s")
    cluster.kubectl(*words, timeout=190)


def uninstall(cluster: Cluster) -> None:
    """The three lines of the page."""
    cluster.kubectl("apply", "-k", str(DEPLOY / "uninstall"))
    roll_out(cluster)
    cluster.kubectl("delete", "-k", str(DEPLOY), timeout=120)


def in_pod(cluster: Cluster, *words: str) -> str:
    return cluster.kubectl("-n", "netaccel", "exec", "daemonset/netaccel", "--", *words)


def test_one_command_installs_it_and_three_leave_nothing_on_any_node(
    cluster: Cluster, site: Path, gone_after: None
) -> None:
    before = {node: seen(cluster, node) for node in NODES}
    assert before["node-1"]["programs"]["eth0"] == {"ingress": 0, "egress": 0, "xdp": 0}
    with (site / "config.yaml").open("a") as config:
        config.write('snatPorts: "40000-40099"\n')  # among the kernel's own: must be reserved
    cluster.kubectl("apply", "-k", str(site))
    roll_out(cluster)
    for node in NODES:
        now = seen(cluster, node)
        assert now["programs"]["eth0"] == {"ingress": 1, "egress": 1, "xdp": 1}
        assert now["sockets"] == before[node]["sockets"] + len(CGROUP_HOOKS)
        assert now["mounts"] == ["bpf", "cgroup"]
        assert now["pins"] == ["netaccel"], "where people and tools look for them"
        assert now["reserved"] == "40000-40099"
    uninstall(cluster)
    assert {node: seen(cluster, node) for node in NODES} == before
    assert "netaccel" not in cluster.kubectl("get", "namespaces,crds,clusterroles", "-o", "name")


def test_commands_answer_in_the_agents_pod_which_has_three_capabilities(
    cluster: Cluster, site: Path, gone_after: None
) -> None:
    cluster.kubectl("apply", "-k", str(site))
    roll_out(cluster)
    status = json.loads(in_pod(cluster, "netaccel", "status", "-o", "json"))
    assert status["ready"]
    assert not status["warnings"]
    assert in_pod(cluster, "netaccel", "service", "list").count("ClusterIP") >= 2
    assert "affinity" in in_pod(cluster, "netaccel", "map", "dump")
    effective = in_pod(cluster, "grep", "CapEff", "/proc/self/status").split()[1]
    assert int(effective, 16) == CAPABILITIES
    with pytest.raises(LabError, match="Read-only file system"):
        in_pod(cluster, "touch", "/file")


def test_a_node_without_a_bpf_file_system_gets_one_of_our_own(
    cluster: Cluster, site: Path, gone_after: None
) -> None:
    cluster.run("node-2", "umount", "/sys/fs/bpf")
    try:
        cluster.kubectl("apply", "-k", str(site))
        roll_out(cluster)
        now = seen(cluster, "node-2")
        assert now["mounts"] == ["bpf", "cgroup"]
        assert now["pins"] == []
        assert "link" in cluster.run("node-2", "ls", "/run/netaccel/bpf/netaccel")
        uninstall(cluster)
        assert not seen(cluster, "node-2")["folder"]
    finally:
        cluster.run("node-2", "mount", "-t", "bpf", "bpf", "/sys/fs/bpf")


def test_a_setting_that_does_not_exist_is_told_where_people_look(
    cluster: Cluster, site: Path, gone_after: None
) -> None:
    with (site / "config.yaml").open("a") as config:
        config.write("uplink: eth0\n")
    cluster.kubectl("apply", "-k", str(site))
    form = "{.items[0].status.containerStatuses[0].lastState.terminated.message}"
    where = ("-n", "netaccel", "get", "pods", "-o")
    ended = "{.items[0].status.containerStatuses[0].lastState.terminated.exitCode}"
    wait_for(lambda: len(cluster.kubectl(*where, "name").split()) == len(NODES), "a pod on each node")
    for name in cluster.kubectl(*where, "name").split():
        limit = (f"--for=jsonpath={ended.replace('.items[0]', '')}=1", "--timeout=120s")
        cluster.kubectl("-n", "netaccel", "wait", name, *limit, timeout=130)
    told = cluster.kubectl(*where, f"jsonpath={form}").strip()
    assert told.startswith("netaccel: /etc/netaccel/config.yaml: uplink: no such setting; known are")
    assert "\n" not in told


def test_the_page_says_what_is_done_here() -> None:
    page = (DEPLOY.parent / "docs/operations.md").read_text(encoding="utf-8")
    for line in (
        "kubectl apply -k deploy/\n",
        "kubectl apply -k deploy/uninstall\n",
        "kubectl -n netaccel rollout status daemonset netaccel\n",
        "kubectl delete -k deploy/\n",
    ):
        assert line in page
