# SPDX-License-Identifier: Apache-2.0
"""Policies from a real API server: what the first one widens, kinds that come later, objects that go bad."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from feed import BRISK, NODE, Feed, Hand, feeding, hand, pod
from writers import install_cluster_network_policies, install_kinds

from netaccel.cluster.controlplane import ControlPlane
from netaccel.model.event import ObjectKey, Reject, Upsert
from netaccel.model.policy import Direction, Policy
from netaccel.sources import parse


@pytest.fixture
async def made(control_plane: ControlPlane, namespace: str) -> AsyncIterator[Hand]:
    async with hand(control_plane.admin, namespace) as found:
        yield found


def network_policy(name: str = "p", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {"podSelector": {}, **spec},
    }


def traffic_policy(name: str = "t") -> dict[str, Any]:
    return {
        "apiVersion": "netaccel.io/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": {"name": name},
        "spec": {"subject": {}, "ingress": []},
    }


def cluster_policy(name: str, **spec: Any) -> dict[str, Any]:
    subject = {"namespaces": {"matchLabels": {"nobody": "has-it"}}}
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"tier": "Admin", "priority": 1, "subject": subject, **spec},
    }


def found(feed: Feed, key: ObjectKey) -> Policy | None:
    by_key = {str(one): policy for one, policy in feed.world.policies().items()}
    return by_key.get(str(key))


def place(feed: Feed, key: ObjectKey) -> int:
    return next(n for n, one in enumerate(feed.events) if isinstance(one, Upsert) and one.key == key)


async def test_the_first_policy_brings_all_pods_and_nodes_before_itself(
    control_plane: ControlPlane, made: Hand
) -> None:
    nodes = [
        await made.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        for name in (NODE, "n2")
    ]
    pods = [await made.put(pod("here", NODE)), await made.put(pod("there", "n2"))]
    try:
        async with feeding(control_plane.admin) as feed:
            await feed.synced()
            assert feed.last(pods[0]) is Upsert
            policy = await made.put(network_policy(policyTypes=["Egress"]))
            await feed.has(policy)
            assert feed.last(pods[1]) is feed.last(nodes[1]) is Upsert
            assert place(feed, pods[1]) < place(feed, policy)
            assert len(feed.of(pods[0])) == 1
            stored = found(feed, policy)
            assert stored is not None
            assert stored.isolates == {Direction.EGRESS}
            assert stored.uid
            assert stored.created < float("inf")
            later = await made.put(pod("later", "n2"))
            await feed.has(later)
            await made.remove(later)
            await feed.lost(later)
        async with feeding(control_plane.admin) as feed:
            await feed.synced()
            assert feed.last(policy) is feed.last(pods[1]) is feed.last(nodes[1]) is Upsert
            name = feed.world.namespace(made.namespace)
            assert name is not None
            assert ("kubernetes.io/metadata.name", made.namespace) in name.labels
    finally:
        await made.remove(*pods, *nodes)


async def test_what_the_api_server_fills_in_is_filled_in_for_files_too(
    control_plane: ControlPlane, made: Hand
) -> None:
    specs: list[dict[str, Any]] = [
        {},
        {"ingress": [{}]},
        {"egress": [{"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]}]},
        {"policyTypes": ["Egress"]},
        {"ingress": [{"from": [{"podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{}]}]},
    ]
    async with feeding(control_plane.admin) as feed:
        await feed.synced()
        for number, spec in enumerate(specs):
            written = network_policy(f"p{number}", **spec)
            key = await made.put(written)
            await feed.has(key)
            stored = found(feed, key)
            written["metadata"]["namespace"] = made.namespace
            from_file = parse.decode(written)
            assert stored is not None
            assert isinstance(from_file, Policy)
            assert (stored.subject, stored.ingress, stored.egress, stored.isolates) == (
                from_file.subject,
                from_file.ingress,
                from_file.egress,
                from_file.isolates,
            )


async def test_kinds_that_are_installed_later_are_found(
    own_control_plane: ControlPlane, caplog: pytest.LogCaptureFixture
) -> None:
    kubectl = own_control_plane.kubectl
    async with (
        feeding(own_control_plane.admin, timings=BRISK) as feed,
        hand(own_control_plane.admin, "default") as admin,
    ):
        await feed.synced()
        assert feed.status.problem == ""
        assert [one.getMessage() for one in caplog.records if one.levelname == "WARNING"] == []
        await asyncio.to_thread(install_kinds, kubectl)
        await asyncio.to_thread(install_cluster_network_policies, kubectl)
        for policy in (traffic_policy(), cluster_policy("c")):
            await feed.has(await admin.put(policy))
        name = "crd/trafficpolicies.netaccel.io"
        await asyncio.to_thread(kubectl, "delete", name, "--timeout=60s", timeout=90)
        await feed.lost(admin.key("TrafficPolicy", "t"))
        await feed.until(lambda: feed.status.problem == "")


async def test_an_object_that_goes_bad_and_is_mended(
    control_plane: ControlPlane, made: Hand, kubectl: Callable[..., str]
) -> None:
    await asyncio.to_thread(install_cluster_network_policies, kubectl)
    name = made.namespace
    bad = cluster_policy(name, ingress=[{"action": "Deny", "from": 7}])
    good = cluster_policy(name, ingress=[{"action": "Deny", "from": [{"namespaces": {}}]}])
    key = made.key("ClusterNetworkPolicy", name)
    try:
        async with feeding(control_plane.admin) as feed:
            await feed.synced()
            await made.put(bad)
            await feed.until(lambda: found(feed, key))
            standing = found(feed, key)
            assert standing is not None
            assert standing.denies == "spec.ingress[0].from: is a whole number: give a list"
            await made.put(good)
            await feed.has(key)
            assert not found(feed, key).denies  # type: ignore[union-attr]
            await made.put(bad)
            await feed.until(lambda: feed.last(key) is Reject)
            assert not found(feed, key).denies, "the last good one stays"  # type: ignore[union-attr]
            await made.remove(key)
            await feed.lost(key)
            assert found(feed, key) is None
            assert [one for one in feed.world.rejections() if one.key == key] == []
    finally:
        await made.remove(key)
