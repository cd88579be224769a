# SPDX-License-Identifier: Apache-2.0
"""The status of policies as a real API server keeps it: written by one agent from what all of them say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from writers import (
    SNAPSHOT,
    Kubectl,
    connected,
    eventually,
    get,
    install_cluster_network_policies,
    install_kinds,
    remembered,
    running,
)

from netaccel.apiserver.connection import Connection
from netaccel.apiserver.election import Election, Terms
from netaccel.cluster.controlplane import ControlPlane
from netaccel.explain.policies import Standing
from netaccel.model.event import ObjectKey
from netaccel.model.policy import Kind, PolicyKey
from netaccel.writers.cluster import ClusterWriter
from netaccel.writers.events import EventWriter
from netaccel.writers.nodestate import NodeStateWriter, Rhythm
from netaccel.writers.notices import Notice, Scope
from netaccel.writers.policies import LOOK, PolicyStatusWriter
from netaccel.writers.state import PATH, NodeSnapshot, PolicyState

QUICK = Rhythm(gap=0.0, figures=0.0, spread=0.0, silence=0.0)
TERMS = Terms(duration=60, deadline=50, renew=0.3, refused=0.3)


@pytest.fixture(autouse=True, scope="module")
def _kinds(control_plane: ControlPlane) -> None:
    install_kinds(control_plane.kubectl)
    install_cluster_network_policies(control_plane.kubectl)


@pytest.fixture
async def api(control_plane: ControlPlane) -> AsyncIterator[Connection]:
    async with connected(control_plane.admin) as connection:
        yield connection


@pytest.fixture
def web(apply: Callable[..., str], namespace: str) -> PolicyKey:
    """A TrafficPolicy in the API."""
    spec = {"subject": {"pods": {}}, "ingress": [{"action": "Allow"}]}
    meta = {"name": "web", "namespace": namespace}
    apply({"apiVersion": "netaccel.io/v1alpha1", "kind": "TrafficPolicy", "metadata": meta, "spec": spec})
    return PolicyKey(Kind.TRAFFIC, namespace, "web")


def standing(key: PolicyKey, nodes: Sequence[str], **fields: Any) -> Standing:
    return Standing(key, 1, pods=3, nodes=frozenset(nodes), **fields)


async def tell(api: Connection, node: str, *policies: PolicyState) -> None:
    async def snapshot() -> NodeSnapshot:
        return replace(SNAPSHOT, policies=policies)

    writer = NodeStateWriter(api, node, snapshot, rhythm=QUICK)
    await writer.step()
    assert writer.problem == ""
    await remembered(api, PATH, node)  # where the elected agent reads it


def writer(api: Connection, now: list[float], *found: Standing) -> PolicyStatusWriter:
    async def standings() -> Sequence[Standing]:
        return found

    return PolicyStatusWriter(api, standings, clock=lambda: now[0])


def status(kubectl: Kubectl, key: PolicyKey) -> Any:
    return get(kubectl, "-n", key.namespace, key.kind.value.lower(), key.name)["status"]


async def test_one_agent_sums_up_what_all_say(
    api: Connection, kubectl: Kubectl, web: PolicyKey, namespace: str
) -> None:
    nodes = [f"{namespace}-{n}" for n in (1, 2)]
    await tell(api, nodes[0], PolicyState(str(web), 1, "InForce", counts=(10, 2, 0)))
    await tell(api, nodes[1], PolicyState(str(web), 1, "Refused", "policy_rows is full", (5, 0, 1)))
    now = [0.0]
    one = writer(api, now, standing(web, nodes, warnings=(("spec.ingress[0]", "never matches"),)))
    assert await one.step() == 0
    assert one.problem == ""
    found = status(kubectl, web)
    assert found["nodes"] == {"enforcing": 1, "expected": 2}
    assert found["counts"] == {"allowed": 15, "dropped": 2, "audited": 1}
    assert (found["selectedPods"], found["observedGeneration"]) == (3, 1)
    assert found["warnings"] == [
        {"message": f"not in force on {nodes[1]}: policy_rows is full"},
        {"path": "spec.ingress[0]", "message": "never matches"},
    ]
    (condition,) = found["conditions"]
    assert (condition["type"], condition["status"], condition["observedGeneration"]) == (
        "Accepted",
        "True",
        1,
    )
    columns = kubectl("-n", namespace, "get", "trafficpolicy", "web")
    assert "True" in columns

    await tell(api, nodes[1], PolicyState(str(web), 1, "InForce", counts=(6, 0, 1)))
    now[0] = 10.0
    await one.step()
    assert status(kubectl, web)["nodes"] == {"enforcing": 2, "expected": 2}, "that is not waited for"
    await tell(api, nodes[1], PolicyState(str(web), 1, "InForce", counts=(7, 0, 1)))
    now[0] = 20.0
    await one.step()
    assert status(kubectl, web)["counts"]["allowed"] == 16, "counts alone wait for their minute"
    now[0] = 20.0 + LOOK
    await one.step()
    assert status(kubectl, web)["counts"]["allowed"] == 17
    for node in nodes:
        kubectl("delete", "nodestate", node)


async def test_a_write_of_status_is_no_new_generation(
    api: Connection, kubectl: Kubectl, web: PolicyKey
) -> None:
    await writer(api, [0.0], standing(web, ())).step()
    found = get(kubectl, "-n", web.namespace, "trafficpolicy", "web")
    assert found["metadata"]["generation"] == 1
    assert found["spec"] == {"subject": {"pods": {}}, "ingress": [{"action": "Allow"}], "mode": "Enforce"}


async def test_the_next_elected_agent_keeps_the_conditions_time(
    api: Connection, kubectl: Kubectl, web: PolicyKey
) -> None:
    async def written_at(wall: float, **fields: Any) -> str:
        one = writer(api, [0.0], standing(web, (), **fields))
        one._wall = lambda: wall
        await one.step()
        folder = f"/apis/netaccel.io/v1alpha1/namespaces/{web.namespace}/trafficpolicies"
        await remembered(api, folder, web.name)  # where the next one reads it
        (condition,) = status(kubectl, web)["conditions"]
        return str(condition["lastTransitionTime"])

    assert await written_at(1e9) == "2001-09-09T01:46:40Z"
    assert await written_at(1.5e9) == "2001-09-09T01:46:40Z"
    assert await written_at(1.6e9, refused=("spec: nonsense",)) == "2020-09-13T12:26:40Z"


async def test_cluster_kinds_have_theirs(
    api: Connection, kubectl: Kubectl, apply: Callable[..., str]
) -> None:
    apply(
        [
            {
                "apiVersion": "netaccel.io/v1alpha1",
                "kind": "ClusterTrafficPolicy",
                "metadata": {"name": "status-test"},
                "spec": {"priority": 5, "subject": {"namespaces": {}}, "ingress": [{"action": "Pass"}]},
            },
            {
                "apiVersion": "policy.networking.k8s.io/v1alpha2",
                "kind": "ClusterNetworkPolicy",
                "metadata": {"name": "status-test"},
                "spec": {},
            },
        ]
    )
    ours = PolicyKey(Kind.CLUSTER_TRAFFIC, "", "status-test")
    theirs = PolicyKey(Kind.CLUSTER_NETWORK, "", "status-test")
    one = writer(api, [0.0], standing(ours, ("nowhere",)), standing(theirs, ("nowhere",)))
    assert await one.step() == 0
    assert one.problem == ""
    assert get(kubectl, "clustertrafficpolicy", "status-test")["status"]["nodes"]["expected"] == 1
    found = get(kubectl, "clusternetworkpolicy", "status-test")["status"]
    assert list(found) == ["conditions"], "they have conditions only"
    assert found["conditions"][0]["type"] == "netaccel.io/Accepted"
    assert "0 of 1 nodes enforce it" in found["conditions"][0]["message"]
    for kind in ("clustertrafficpolicy", "clusternetworkpolicy"):
        kubectl("delete", kind, "status-test")


async def test_a_policy_that_is_gone_by_now_is_nobodys_fault(
    api: Connection, kubectl: Kubectl, web: PolicyKey
) -> None:
    kubectl("-n", web.namespace, "delete", "trafficpolicy", "web")
    one = writer(api, [0.0], standing(web, ()))
    assert await one.step() == 0
    assert one.problem == ""


async def test_the_elected_agent_writes_it(
    api: Connection, kubectl: Kubectl, web: PolicyKey, namespace: str
) -> None:
    async def standings() -> Sequence[Standing]:
        return [standing(web, ())]

    election = Election(api, namespace=namespace, identity="a", terms=TERMS)
    cluster = ClusterWriter(api, "node-1", election, lambda: (), standings)
    async with running(cluster.run()):
        await eventually(lambda: get(kubectl, "-n", namespace, "trafficpolicy", "web").get("status"))
    assert cluster.problem == ""


async def test_events_stand_at_policies_of_every_kind(
    api: Connection, kubectl: Kubectl, web: PolicyKey, apply: Callable[..., str]
) -> None:
    apply(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "net", "namespace": web.namespace},
            "spec": {"podSelector": {}},
        }
    )
    found = [
        Notice(ObjectKey(kind, web.namespace, name), "Rejected", "spec: nonsense", Scope.NODE)
        for kind, name in (("TrafficPolicy", "web"), ("NetworkPolicy", "net"))
    ]
    assert await EventWriter(api, "node-1", lambda: found).step() == 0
    for target in ("TrafficPolicy/web", "NetworkPolicy/net"):
        assert "spec: nonsense" in kubectl("-n", web.namespace, "events", "--for", target)
