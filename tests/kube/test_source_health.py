# SPDX-License-Identifier: Apache-2.0
"""What health checks need, as a real API server tells it: node ports allocated, Nodes that leave, labels."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from feed import NODE, Feed, Hand, endpoint_slice, feeding, hand, service

from netaccel.cluster.controlplane import ControlPlane
from netaccel.compile.health import HealthCheck, health_checks
from netaccel.compile.services import NodeFacts, compile_service
from netaccel.model.event import ObjectKey, Upsert
from netaccel.model.service import ServiceKey
from netaccel.model.snapshot import World
from netaccel.sources.parse import Parsed, read

HERE = NodeFacts(NODE, node_ports=(30000, 32767))
TAINT = "ToBeDeletedByClusterAutoscaler"


@pytest.fixture
async def made(control_plane: ControlPlane, namespace: str) -> AsyncIterator[Hand]:
    async with hand(control_plane.admin, namespace) as found:
        yield found


@pytest.fixture
async def node(made: Hand) -> AsyncIterator[ObjectKey]:
    """This node's own object, for this test alone."""
    key = made.key("Node", NODE)
    yield key
    await made.put(a_node(finalizers=[]))
    await made.remove(key)


def a_node(finalizers: list[str] | None = None, **spec: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": NODE, "finalizers": finalizers or []}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec}


def local(**labels: str) -> dict[str, Any]:
    found = service("web", **labels)
    found["spec"] |= {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    return found


def of(feed: Feed, namespace: str, node: NodeFacts = HERE) -> dict[int, HealthCheck]:
    """Health checks of one namespace."""
    checks = health_checks(feed.world, node)
    return {port: check for port, check in checks.items() if check.namespace == namespace}


async def test_the_port_that_the_api_server_allocates_answers_for_local_endpoints(
    control_plane: ControlPlane, made: Hand
) -> None:
    web = await made.put(local())
    port = (await made.get(web))["spec"]["healthCheckNodePort"]
    async with feeding(control_plane.admin) as feed:
        await feed.synced()
        assert of(feed, made.namespace) == {port: HealthCheck(made.namespace, "web", 0)}
        piece = await made.put(endpoint_slice("web-1", "web", ["10.244.1.5", "10.244.1.6"]))
        await feed.has(piece)
        assert of(feed, made.namespace)[port].local_endpoints == 2
        assert of(feed, made.namespace, NodeFacts("another"))[port].local_endpoints == 0


async def test_a_node_that_leaves(control_plane: ControlPlane, made: Hand, node: ObjectKey) -> None:
    async with feeding(control_plane.admin) as feed:
        await feed.synced()
        await made.put(a_node(finalizers=["example.com/wait"]))
        await feed.has(node)
        assert not feed.world.node_leaving
        await made.put(a_node(["example.com/wait"], taints=[{"key": TAINT, "effect": "NoSchedule"}]))
        await feed.until(lambda: feed.world.node_leaving)
        await made.put(a_node(["example.com/wait"], taints=[]))
        await feed.until(lambda: not feed.world.node_leaving)
        await made.remove(node)
        await feed.until(lambda: feed.world.node_leaving)
        assert feed.world.node(NODE) is not None, "its deletion waits for the finalizer"
        await made.put(a_node(finalizers=[]))
        await feed.lost(node)
        assert feed.world.node_leaving


async def test_files_and_the_api_server_say_the_same_of_a_service_for_one_proxy(
    control_plane: ControlPlane, made: Hand
) -> None:
    label = {"service.kubernetes.io__service-proxy-name": "netaccel"}
    web = await made.put(local(**label))
    written = await made.get(web)
    (parsed,) = read(written)
    assert isinstance(parsed, Parsed)
    from_files = World(NODE)
    from_files.apply(Upsert(parsed.key, parsed.object, 0.0))
    key = ServiceKey(made.namespace, "web")
    async with feeding(control_plane.admin, proxy_name="netaccel") as feed:
        await feed.synced()
        for world in (from_files, feed.world):
            found = world.service(key)
            assert found is not None
            named = NodeFacts(NODE, node_ports=(30000, 32767), proxy_name="netaccel")
            assert compile_service(found, (), named).ignored == ""
            assert compile_service(found, (), HERE).ignored
        assert from_files.service(key) == feed.world.service(key)
