# SPDX-License-Identifier: Apache-2.0
"""Objects that a real API server accepts and that are unusual: one clear line, the rest goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from feed import NODE, Hand, endpoint_slice, feeding, hand, service

from netaccel.cluster.controlplane import ControlPlane
from netaccel.compile.health import local_endpoints
from netaccel.compile.services import NodeFacts, compile_service
from netaccel.model.event import Reject
from netaccel.model.service import ServiceKey


@pytest.fixture
async def made(control_plane: ControlPlane, namespace: str) -> AsyncIterator[Hand]:
    async with hand(control_plane.admin, namespace) as found:
        yield found


async def test_a_slice_of_host_names_is_one_line_beside_what_is_served(
    control_plane: ControlPlane, made: Hand
) -> None:
    await made.put(service("web"))
    names = endpoint_slice("web-names", "web", ["web.example.com"]) | {"addressType": "FQDN"}
    names["endpoints"] = [{"addresses": ["web.example.com"]}]
    odd = await made.put(names)
    good = await made.put(endpoint_slice("web-1", "web", ["10.244.1.5"]))
    async with feeding(control_plane.admin) as feed:
        await feed.synced()
        (told,) = feed.of(odd)
        assert isinstance(told, Reject)
        assert (told.path, told.reason) == (
            "addressType",
            "FQDN can't be served, only DNS knows its names: give IPv4 or IPv6",
        )
        await feed.has(good)
        assert [one.key.name for one in feed.world.slices(ServiceKey(made.namespace, "web"))] == ["web-1"]


async def test_the_largest_slice_that_there_can_be_comes_whole(
    control_plane: ControlPlane, made: Hand
) -> None:
    web = await made.put(service("web"))
    addresses = [f"10.244.{number // 250}.{number % 250 + 1}" for number in range(1000)]
    large = await made.put(endpoint_slice("web-1", "web", addresses))
    async with feeding(control_plane.admin) as feed:
        await feed.has(web)  # each kind has a stream of its own: the slice may come first
        await feed.has(large)
        key = ServiceKey(made.namespace, "web")
        found = feed.world.service(key)
        assert found is not None
        (group,) = compile_service(found, feed.world.slices(key), NodeFacts(NODE)).groups
        assert len(group.backends) == 1000


async def test_an_endpoint_in_several_slices_is_one(control_plane: ControlPlane, made: Hand) -> None:
    web = await made.put(service("web"))
    pieces = [
        await made.put(endpoint_slice(f"web-{number}", "web", ["10.244.1.5", f"10.244.1.{number + 6}"]))
        for number in range(3)
    ]
    async with feeding(control_plane.admin) as feed:
        for one in (web, *pieces):
            await feed.has(one)
        key = ServiceKey(made.namespace, "web")
        found, slices = feed.world.service(key), feed.world.slices(key)
        assert found is not None
        (group,) = compile_service(found, slices, NodeFacts(NODE)).groups
        assert len(group.backends) == 4
        assert local_endpoints(found, slices, NODE) == 4


async def test_a_slice_without_its_service_says_what_it_waits_for(
    control_plane: ControlPlane, made: Hand
) -> None:
    piece = await made.put(endpoint_slice("web-1", "web", ["10.244.1.5"]))
    async with feeding(control_plane.admin) as feed:
        await feed.has(piece)
        waits = f"EndpointSlice {made.namespace}/web-1 waits for Service {made.namespace}/web"
        assert waits in map(str, feed.world.waiting_slices())
        await feed.has(await made.put(service("web")))
        assert waits not in map(str, feed.world.waiting_slices())
