# SPDX-License-Identifier: Apache-2.0
"""The rights of ``deploy/base/rbac.yaml``: enough for everything that an agent asks, and none too many.

An agent's parts run as its ServiceAccount against an API server of this test's own, whose audit log then says
what was asked. Streaming lists are off there: the agent lists where they are, so that both are asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

import pytest
import yaml
from writers import (
    REPOSITORY,
    SNAPSHOT,
    connected,
    eventually,
    install_cluster_network_policies,
    install_kinds,
    running,
)

from netaccel.apiserver.connection import Connection
from netaccel.apiserver.election import Election, Terms
from netaccel.cluster import audit
from netaccel.cluster.arguments import Options
from netaccel.cluster.controlplane import ControlPlane
from netaccel.explain.policies import Standing
from netaccel.model.event import ObjectKey, Synced
from netaccel.model.policy import Kind, PolicyKey
from netaccel.sources.kubernetes import KubernetesSource
from netaccel.writers.cluster import ClusterWriter, Warden
from netaccel.writers.events import EventWriter
from netaccel.writers.nodestate import NodeStateWriter
from netaccel.writers.notices import Notice, Scope
from netaccel.writers.state import NodeSnapshot

RBAC = REPOSITORY / "deploy/base/rbac.yaml"
AGENT = "system:serviceaccount:netaccel:netaccel"
TERMS = Terms(duration=60, deadline=50, renew=0.2)
OBJECTS = """
apiVersion: v1
kind: Node
metadata: {name: node-1}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1]}]
ports: [{port: 80}]
"""


POLICIES = (
    ("NetworkPolicy", "default", "web"),
    ("TrafficPolicy", "default", "web"),
    ("ClusterNetworkPolicy", "", "all"),
    ("ClusterTrafficPolicy", "", "all"),
)
"""None is there: what is asked of them is asked for nothing."""


class Right(NamedTuple):
    """One verb on one kind, cluster-wide ("") or in a namespace."""

    namespace: str
    group: str
    resource: str
    verb: str


def given() -> set[Right]:
    """What the rules give."""
    found = set()
    for document in yaml.safe_load_all(RBAC.read_text()):
        for rule in document.get("rules", ()):
            found |= {
                Right(document["metadata"].get("namespace", ""), group, resource, verb)
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
            }
    return found


def asked(control_plane: ControlPlane) -> list[tuple[Right, int]]:
    """What the agent asked for so far, and what it was answered."""
    found = []
    for request in audit.read(control_plane.audit_log):
        if request.user != AGENT or not request.resource or request.group == "authorization.k8s.io":
            continue  # the last: this test's own question
        home = "netaccel" if request.group == "coordination.k8s.io" else ""
        right = Right(home, request.group, request.resource, request.verb)
        found.append((right, request.code))
        if request.verb == "patch" and request.code == 201:
            # Server-side apply that creates needs the right to create too, which no audit log tells.
            found.append((right._replace(verb="create"), request.code))
    return found


@pytest.fixture(params=[False, True], ids=["lists", "streaming-lists"])
def ground(
    request: pytest.FixtureRequest, start_control_plane: Callable[[Options], ControlPlane]
) -> ControlPlane:
    """A cluster in which netaccel is installed, but for the DaemonSet."""
    made = start_control_plane(Options(audit=True, feature_gates={"WatchList": request.param}))
    install_kinds(made.kubectl)
    install_cluster_network_policies(made.kubectl)
    made.kubectl("create", "namespace", "netaccel")
    made.kubectl("apply", "--server-side", "-f", str(RBAC))
    made.kubectl("apply", "--server-side", "-f", "-", stdin=OBJECTS)
    for what in ("patch nodestates.netaccel.io", "update leases.coordination.k8s.io/netaccel -n netaccel"):
        while made.run_kubectl("auth", "can-i", *what.split(), f"--as={AGENT}").returncode:
            time.sleep(0.1)  # the authorizer hears of a binding a moment after it was written
    return made


async def test_an_agent_has_all_the_rights_that_it_uses_and_no_others(ground: ControlPlane) -> None:
    def unused() -> set[Right]:
        """Where an agent lists, it asks for all there is."""
        whole = not ground.options.feature_gates["WatchList"]
        return given() - {right for right, _ in asked(ground)} if whole else set()

    async with connected(ground.kubeconfig_of_account("netaccel", "netaccel")) as api:
        await _live(api, unused)
    refused = {right for right, code in asked(ground) if code in (401, 403)}
    assert refused == set()
    used = {right for right, _ in asked(ground)}
    assert used - given() == set(), "asked for and not given, and yet not refused"
    assert unused() == set(), "given and never used"


@pytest.mark.parametrize("ground", [False], indirect=True, ids=["lists"])
async def test_a_state_that_is_not_there_yet_needs_the_right_to_create(ground: ControlPlane) -> None:
    documents = list(yaml.safe_load_all(RBAC.read_text()))
    for document in documents:
        for rule in document.get("rules", ()):
            if "nodestates" in rule["resources"]:
                rule["verbs"].remove("create")
    ground.kubectl("replace", "-f", "-", stdin=yaml.safe_dump_all(documents))
    async with connected(ground.kubeconfig_of_account("netaccel", "netaccel")) as api:
        for _ in range(100):  # until the authorizer has heard of it
            ground.kubectl("delete", "nodestates", "--all")
            writer = NodeStateWriter(api, "node-1", _snapshot)
            await writer.step()
            if writer.problem:
                break
    assert "may not write nodestates" in writer.problem


async def _snapshot() -> NodeSnapshot:
    return SNAPSHOT


async def _standings() -> Sequence[Standing]:
    return [Standing(PolicyKey(Kind(kind), *name), 1) for kind, *name in POLICIES]


async def _live(api: Connection, unused: Callable[[], set[Right]]) -> None:
    """What agents do in their lives: start, refuse, repeat, elect, notice silent ones, start anew."""
    service, piece = ObjectKey("Service", "default", "web"), ObjectKey("EndpointSlice", "default", "web-1")
    notices = [
        Notice(service, "Rejected", "no room", Scope.NODE),
        Notice(piece, "Rejected", "nonsense", Scope.CLUSTER),
        *(Notice(ObjectKey(*key), "Rejected", "nonsense", Scope.NODE) for key in POLICIES),
    ]
    election = Election(api, namespace="netaccel", identity="node-1/1", terms=TERMS)
    cluster = ClusterWriter(api, "node-1", election, lambda: notices, _standings)
    source = KubernetesSource(api, node_name="node-1", proxy_name="")
    async with _synced(source), running(cluster.run()):
        for _ in range(2):
            await NodeStateWriter(api, "node-1", _snapshot).step()
        now = [0.0]
        for _ in range(2):
            events = EventWriter(api, "node-1", lambda: notices, clock=lambda: now[0])
            assert await events.step() == 0
            now[0] += 1800.0
            assert await events.step() == 0
        warden = Warden(api, lambda: None, clock=lambda: now[0])
        for _ in range(2):
            assert await warden.step() == 0
            now[0] += 200.0
        await eventually(lambda: election.leads)
        held = election._renewed
        await eventually(lambda: election._renewed > held)
        for _ in range(600):  # the elected one's duties begin with its term, beside what renews it
            if not unused():
                break
            await asyncio.sleep(0.1)
    assert cluster.problem == ""


@contextlib.asynccontextmanager
async def _synced(source: KubernetesSource) -> AsyncIterator[None]:
    synced = asyncio.Event()

    async def read() -> Any:
        async for batch in source.events():
            if any(isinstance(event, Synced) for event in batch):
                synced.set()

    async with running(read()):
        await synced.wait()
        yield
