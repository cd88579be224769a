# SPDX-License-Identifier: Apache-2.0
"""NodeState at a real API server: what kubectl shows, who owns it, what happens where it can't be written."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from writers import SNAPSHOT, Kubectl, connected, eventually, get, install_kinds, running

from netaccel.apiserver.connection import Connection
from netaccel.cluster.arguments import Options
from netaccel.cluster.controlplane import ControlPlane
from netaccel.writers.nodestate import NodeStateWriter, Rhythm
from netaccel.writers.state import Mode, NodeSnapshot, Warned

QUICK = Rhythm(gap=0.0, figures=0.0, spread=0.0, refused=0.2)


class Told:
    """An agent's view of its node that a test changes."""

    def __init__(self) -> None:
        self.now: NodeSnapshot = SNAPSHOT

    async def __call__(self) -> NodeSnapshot:
        return self.now


@pytest.fixture(autouse=True, scope="module")
def _kinds(control_plane: ControlPlane) -> None:
    install_kinds(control_plane.kubectl)


@pytest.fixture
def node(kubectl: Kubectl, apply: Callable[..., str]) -> Iterator[str]:
    name = f"node-{uuid.uuid4().hex[:8]}"
    apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    yield name
    kubectl("delete", "node", name, "--ignore-not-found", "--wait=false")
    kubectl("delete", "nodestate", name, "--ignore-not-found", "--wait=false")


@pytest.fixture
async def api(control_plane: ControlPlane, node: str) -> AsyncIterator[Connection]:
    async with connected(control_plane.admin, node) as connection:
        yield connection


def state(kubectl: Kubectl, node: str) -> dict[str, Any]:
    found: dict[str, Any] = get(kubectl, "nodestate", node)
    return found


def condition(kubectl: Kubectl, node: str) -> dict[str, str]:
    found: dict[str, str] = state(kubectl, node)["status"]["conditions"][0]
    return found


async def test_kubectl_shows_a_line_for_each_node(api: Connection, kubectl: Kubectl, node: str) -> None:
    told = Told()
    warnings = (Warned("Service default/web", "Rejected", "no room"), Warned("", "NoXdp", "eth0: no driver"))
    told.now = replace(
        SNAPSHOT, mode=Mode.INSTEAD, drift=3, warnings=warnings, acceleration=("peer", "socket")
    )
    await NodeStateWriter(api, node, told).step()
    head, line = kubectl("get", "nodestates", node).splitlines()
    expected = "NAME VERSION READY MODE FRONTENDS BACKENDS DRIFT LAST SYNC WARNINGS AGE"
    assert head.split() == expected.split()
    assert line.split()[:7] == [node, "0.4.0", "True", "instead", "7", "31", "3"]
    assert line.split()[8] == "2"
    wide = kubectl("get", "nst", node, "-o", "wide").splitlines()[1]
    assert "Serving" in wide
    assert "peer,socket" in wide
    assert wide.rstrip().endswith("no room")


async def test_a_node_that_is_not_served_says_why(api: Connection, kubectl: Kubectl, node: str) -> None:
    told = Told()
    told.now = replace(SNAPSHOT, not_ready=("no program is attached", "nothing was heard yet"))
    writer = NodeStateWriter(api, node, told, rhythm=QUICK)
    await writer.step()
    found = condition(kubectl, node)
    assert (found["status"], found["reason"]) == ("False", "NotServing")
    assert found["message"] == "no program is attached; nothing was heard yet"
    told.now = SNAPSHOT
    await writer.step()
    assert condition(kubectl, node)["status"] == "True"


async def test_it_belongs_to_its_node(api: Connection, kubectl: Kubectl, node: str) -> None:
    writer = NodeStateWriter(api, node, Told(), rhythm=QUICK)
    await writer.step()
    uid = get(kubectl, "node", node)["metadata"]["uid"]
    owners = state(kubectl, node)["metadata"]["ownerReferences"]
    assert owners == [{"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}]


async def test_a_node_made_anew_owns_it_anew(
    api: Connection, kubectl: Kubectl, node: str, apply: Callable[..., str]
) -> None:
    told = Told()
    writer = NodeStateWriter(api, node, told, rhythm=QUICK)
    await writer.step()
    kubectl("delete", "node", node)
    await eventually(lambda: not kubectl("get", "nodestate", node, "--ignore-not-found"))
    apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
    told.now = replace(SNAPSHOT, mode=Mode.DRAINING)
    await writer.step()
    uid = get(kubectl, "node", node)["metadata"]["uid"]
    assert state(kubectl, node)["metadata"]["ownerReferences"][0]["uid"] == uid


async def test_it_is_written_only_when_something_changed(
    api: Connection, kubectl: Kubectl, node: str
) -> None:
    now, told = [0.0], Told()
    writer = NodeStateWriter(
        api, node, told, rhythm=Rhythm(), clock=lambda: now[0], wall=lambda: 1e9 + now[0]
    )

    async def written_at(moment: float) -> bool:
        before = state(kubectl, node)["metadata"]["resourceVersion"]
        now[0] = moment
        await writer.step()
        return bool(state(kubectl, node)["metadata"]["resourceVersion"] != before)

    assert await writer.step() >= 45
    told.now = replace(SNAPSHOT, last_sync=2e9)
    assert not await written_at(44), "that time went on is no change"
    told.now = replace(SNAPSHOT, mode=Mode.DRAINING)
    assert not await written_at(5), "ten seconds between two writes"
    assert await written_at(10)
    told.now = replace(told.now, backends=32)
    assert not await written_at(39), "a figure waits"
    assert await written_at(40)
    assert await written_at(100), "a heartbeat within a minute"


async def test_the_time_of_the_last_transition_outlives_the_agent(
    api: Connection, kubectl: Kubectl, node: str
) -> None:
    await NodeStateWriter(api, node, Told()).step()
    kubectl(
        *("patch", "nodestate", node, "--type=json", "-p"),
        '[{"op":"replace","path":"/status/conditions/0/lastTransitionTime","value":"2020-01-01T00:00:00Z"}]',
    )
    await NodeStateWriter(api, node, Told()).step()
    assert condition(kubectl, node)["lastTransitionTime"] == "2020-01-01T00:00:00Z"


async def test_warnings_are_bounded_and_counted(api: Connection, kubectl: Kubectl, node: str) -> None:
    told = Told()
    many = (Warned(f"Service default/{n}", "Rejected", "x" * 5000) for n in range(120))
    told.now = replace(SNAPSHOT, warnings=tuple(many), not_ready=("y" * 50000,))
    writer = NodeStateWriter(api, node, told)
    await writer.step()
    assert writer.problem == ""
    status = state(kubectl, node)["status"]
    assert (status["warningCount"], len(status["warnings"])) == (120, 50)


async def test_a_node_without_an_object_has_a_state_all_the_same(
    control_plane: ControlPlane, kubectl: Kubectl, namespace: str
) -> None:
    name = f"outside-{namespace}"
    async with connected(control_plane.admin) as api:
        await NodeStateWriter(api, name, Told()).step()
    assert "ownerReferences" not in state(kubectl, name)["metadata"]
    kubectl("delete", "nodestate", name)


async def test_it_says_that_it_has_no_rights_and_goes_on(
    control_plane: ControlPlane, kubectl: Kubectl, node: str, kubeconfig_for: Callable[..., Path]
) -> None:
    user = f"user-{node}"
    async with connected(kubeconfig_for(user), node) as api:
        writer = NodeStateWriter(api, node, Told(), rhythm=QUICK)
        async with running(writer.run()):
            await eventually(lambda: writer.problem)
            assert "rbac.yaml" in writer.problem
            assert "\n" not in writer.problem
            kubectl("create", "clusterrolebinding", user, "--clusterrole=cluster-admin", f"--user={user}")
            try:
                await eventually(lambda: not writer.problem)
                assert condition(kubectl, node)["status"] == "True"
            finally:
                kubectl("delete", "clusterrolebinding", user)


async def test_without_its_kind_it_says_so_and_goes_on(
    start_control_plane: Callable[[Options], ControlPlane],
) -> None:
    """On a control plane of its own, killed at the end: with no server it stays quiet."""
    bare = start_control_plane(Options())
    async with connected(bare.admin) as api:
        told = Told()
        writer = NodeStateWriter(api, "node-1", told, rhythm=QUICK)
        async with running(writer.run()):
            await eventually(lambda: writer.problem)
            assert "kubectl apply -k policies/" in writer.problem
            install_kinds(bare.kubectl)
            await eventually(lambda: not writer.problem)
            assert condition(bare.kubectl, "node-1")["status"] == "True"
            bare.kill_api_server()
            told.now = replace(SNAPSHOT, mode=Mode.DRAINING)
            writer.stir()
            bare.start_api_server()
            await eventually(lambda: condition(bare.kubectl, "node-1")["reason"] == "Draining")
            assert writer.problem == ""
