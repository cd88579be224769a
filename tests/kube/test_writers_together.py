# SPDX-License-Identifier: Apache-2.0
"""All writers of one agent together, at a real API server: what a user sees of a refused Service."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from writers import SNAPSHOT, Kubectl, connected, eventually, get, install_kinds, running

from netaccel.apiserver.connection import Connection
from netaccel.apiserver.election import Election
from netaccel.cluster.controlplane import ControlPlane
from netaccel.model.event import ObjectKey, Reject
from netaccel.model.snapshot import World
from netaccel.reconcile import Condition, State
from netaccel.writers.cluster import ClusterWriter
from netaccel.writers.events import EventWriter
from netaccel.writers.nodestate import NodeStateWriter
from netaccel.writers.notices import Notice, notices, warnings
from netaccel.writers.state import NodeSnapshot


@pytest.fixture
async def api(control_plane: ControlPlane) -> AsyncIterator[Connection]:
    install_kinds(control_plane.kubectl)
    async with connected(control_plane.admin) as connection:
        yield connection


class Node:
    """An agent's world with one Service that was refused and one that has no room."""

    def __init__(self, namespace: str) -> None:
        self.world = World("node-1")
        bad, full = (ObjectKey("Service", namespace, name) for name in ("bad", "full"))
        self.world.apply(Reject(bad, "services", "spec.ports[0].port", "70000 is no port"))
        self.conditions = {full: Condition(State.REJECTED, ("map backends is full",))}

    async def snapshot(self) -> NodeSnapshot:
        return replace(SNAPSHOT, warnings=warnings(self.world, self.conditions))

    def notices(self) -> tuple[Notice, ...]:
        return notices(self.world, self.conditions)


async def test_a_user_sees_what_was_refused_and_why(
    api: Connection, kubectl: Kubectl, namespace: str, apply: Callable[..., str]
) -> None:
    spec = {"ports": [{"port": 80}]}
    for name in ("bad", "full"):
        apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}, namespace)
    node, name = Node(namespace), f"node-{uuid.uuid4().hex[:8]}"
    election = Election(api, namespace=namespace, identity=name)
    writers = (
        NodeStateWriter(api, name, node.snapshot),
        EventWriter(api, name, node.notices),
        ClusterWriter(api, name, election, node.notices),
    )

    def described(service: str) -> str:
        return kubectl("-n", namespace, "describe", "service", service)

    def written(node: str) -> Any:
        """A NodeState; other nodes may have theirs."""
        items = get(kubectl, "nodestates")["items"]
        return next((one for one in items if one["metadata"]["name"] == node), None)

    async with running(*(writer.run() for writer in writers)):
        await eventually(lambda: "70000 is no port" in described("bad"))
        await eventually(lambda: f"node {name}: map backends is full" in described("full"))
        mine = await eventually(lambda: written(name))
        assert [one["object"] for one in mine["status"]["warnings"]] == [
            f"Service {namespace}/bad",
            f"Service {namespace}/full",
        ]
        assert [writer.problem for writer in writers] == ["", "", ""]
        assert election.leads
    kubectl("delete", "nodestate", name)
