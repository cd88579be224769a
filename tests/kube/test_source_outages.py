# SPDX-License-Identifier: Apache-2.0
"""The source while the API server itself dies, freezes, forgets, and comes back as it was before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from faults import FaultyProxy
from feed import BRISK, Feed, Hand, endpoint_slice, feeding, hand, service

from netaccel.cluster.controlplane import ControlPlane
from netaccel.model.event import Upsert

NAMESPACE = "default"


@pytest.fixture
async def made(own_control_plane: ControlPlane) -> AsyncIterator[Hand]:
    async with hand(own_control_plane.admin, NAMESPACE) as found:
        yield found


async def back(feed: Feed, made: Hand) -> None:
    """The source follows again."""
    await feed.has(await made.put(service("after")))
    await feed.until(lambda: not feed.status.problem)


async def test_a_server_that_is_killed_and_started_again(own_control_plane: ControlPlane, made: Hand) -> None:
    web, piece = (
        await made.put(service("web")),
        await made.put(endpoint_slice("web-1", "web", ["10.244.1.5"])),
    )
    async with feeding(own_control_plane.admin, timings=BRISK) as feed:
        await feed.synced()
        own_control_plane.kill_api_server()
        await feed.until(lambda: "no API server answers" in feed.status.problem)
        own_control_plane.start_api_server()
        await back(feed, made)
        assert len(feed.of(web)) == len(feed.of(piece)) == 1
        assert feed.deletes(made) == []


async def test_a_server_that_is_asked_to_end_closes_its_watches_in_order(
    own_control_plane: ControlPlane, made: Hand
) -> None:
    web = await made.put(service("web"))
    async with feeding(own_control_plane.admin, timings=BRISK) as feed:
        await feed.synced()
        own_control_plane.stop_api_server()
        await feed.until(lambda: "no API server answers" in feed.status.problem)
        own_control_plane.start_api_server()
        await back(feed, made)
        assert len(feed.of(web)) == 1
        assert feed.deletes(made) == []


async def test_what_was_deleted_before_a_compaction_and_a_restart_is_gone(
    own_control_plane: ControlPlane, made: Hand, tmp_path: Path
) -> None:
    kept, lost = await made.put(service("kept")), await made.put(service("lost"))
    changed = await made.put(service("changed", 80))
    async with (
        FaultyProxy(own_control_plane, tmp_path) as proxy,
        feeding(proxy.kubeconfig, timings=BRISK) as feed,
    ):
        await feed.synced()
        await proxy.down()
        await made.remove(lost)
        await made.put(service("changed", 81))
        own_control_plane.kill_api_server()
        own_control_plane.compact()
        own_control_plane.start_api_server()
        await proxy.up()
        await feed.lost(lost)
        await feed.until(lambda: len(feed.of(changed)) == 2)
        await back(feed, made)
        assert len(feed.of(kept)) == 1
        assert feed.deletes(made) == [lost]


async def test_a_server_that_comes_back_with_an_older_state_is_believed(
    own_control_plane: ControlPlane, made: Hand
) -> None:
    kept, changed = await made.put(service("kept")), await made.put(service("changed", 80))
    removed = await made.put(service("removed"))
    own_control_plane.save_state("before")
    await made.put(service("changed", 81))
    newer = await made.put(service("newer"))
    await made.remove(removed)
    async with feeding(own_control_plane.admin, timings=BRISK) as feed:
        await feed.synced()
        assert feed.last(newer) is Upsert
        assert feed.last(removed) is None
        own_control_plane.restore_state("before")
        await feed.lost(newer)
        await feed.has(removed)
        await feed.until(lambda: len(feed.of(changed)) == 2)
        told = feed.of(changed)[-1]
        assert isinstance(told, Upsert)
        assert told.object.ports[0].port == 80  # type: ignore[union-attr]
        await back(feed, made)
        assert len(feed.of(kept)) == 1
        assert feed.deletes(made) == [newer]


async def test_a_frozen_server_is_noticed_and_forgiven(own_control_plane: ControlPlane, made: Hand) -> None:
    web = await made.put(service("web"))
    async with feeding(own_control_plane.admin, timings=replace(BRISK, silence=3.0)) as feed:
        await feed.synced()
        own_control_plane.freeze_api_server()
        await feed.until(lambda: "services: " in feed.status.problem)
        own_control_plane.thaw_api_server()
        await feed.has(await made.put(service("after")))
        assert len(feed.of(web)) == 1
        assert feed.deletes(made) == []
