# SPDX-License-Identifier: Apache-2.0
"""What the first policy changes: all Pods and Nodes are asked for, and kinds that a cluster lacks.

The API is a fake, to choose the order in which things happen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import pytest

from netaccel.errors import ApiError
from netaccel.model.event import Event, ObjectKey, Synced, Upsert
from netaccel.model.snapshot import World
from netaccel.sources.kubernetes import KubernetesSource
from netaccel.sources.kubernetes.standing import Timings

QUICK = Timings(retry=(0.001, 0.01), refused=(0.001, 0.01), absent=(0.001, 0.01), forget=1000.0, hold=1000.0)
META = {"namespace": "shop", "resourceVersion": "5"}
HERE = {"metadata": {**META, "name": "here"}, "spec": {"nodeName": "n"}}
THERE = {"metadata": {**META, "name": "there"}, "spec": {"nodeName": "m"}}
POLICY = {"metadata": {**META, "name": "p"}, "spec": {"podSelector": {}}}
TRAFFIC = {"metadata": {**META, "name": "t"}, "spec": {"subject": {}, "ingress": []}}
POLICY_KEY = ObjectKey("NetworkPolicy", "shop", "p")
TRAFFIC_KEY = ObjectKey("TrafficPolicy", "shop", "t")
THERE_KEY = ObjectKey("Pod", "shop", "there")


class Cluster:
    """Objects by resource, as streaming lists give them. Without selectors ``everywhere`` comes too."""

    where = "https://fake"

    def __init__(self) -> None:
        self.objects: dict[str, list[dict[str, Any]]] = {"pods": [HERE]}
        self.everywhere: dict[str, list[dict[str, Any]]] = {"pods": [HERE, THERE]}
        self.absent = {"trafficpolicies", "clustertrafficpolicies", "clusternetworkpolicies"}
        self.forbidden: set[str] = set()
        self.asked: list[tuple[str, bool]] = []
        self.wide_pods = asyncio.Event()
        self.wide_pods.set()
        self._changed: dict[str, asyncio.Queue[tuple[str, dict[str, Any]]]] = {}

    def add(self, resource: str, content: dict[str, Any]) -> None:
        self._changed[resource].put_nowait(("ADDED", content))

    def end(self, resource: str) -> None:
        """End the watch that is under way."""
        self._changed[resource].put_nowait(("END", {}))

    async def request(self, method: str, path: str, **_: object) -> bytes:
        resource = path.rpartition("/")[2]
        if resource in self.absent:
            raise ApiError(f"no {resource} here", 404, "NotFound")
        return b"{}"

    def stream(
        self, path: str, query: Mapping[str, str], *, silence: float
    ) -> AbstractAsyncContextManager[AsyncIterator[list[bytes]]]:
        return self._stream(path.rpartition("/")[2], "fieldSelector" in query, "sendInitialEvents" in query)

    @contextlib.asynccontextmanager
    async def _stream(
        self, resource: str, narrow: bool, initial: bool
    ) -> AsyncIterator[AsyncIterator[list[bytes]]]:
        self.asked.append((resource, narrow))
        if resource in self.absent:
            raise ApiError(f"no {resource} here", 404)
        if resource in self.forbidden and not narrow:
            raise ApiError(f"{resource} is forbidden", 403, "Forbidden")
        self._changed[resource] = asyncio.Queue()
        yield self._lines(resource, narrow, initial)

    async def _lines(self, resource: str, narrow: bool, initial: bool) -> AsyncIterator[list[bytes]]:
        if resource == "pods" and not narrow:
            await self.wide_pods.wait()
        if initial:
            found = self.objects.get(resource, []) if narrow else self.everywhere.get(resource, [])
            yield [line("ADDED", one) for one in found or self.objects.get(resource, [])]
            end = {"annotations": {"k8s.io/initial-events-end": "true"}, "resourceVersion": "9"}
            yield [line("BOOKMARK", {"metadata": end})]
        while True:
            kind, content = await self._changed[resource].get()
            if kind == "END":
                return
            yield [line(kind, {**content, "metadata": {**content["metadata"], "resourceVersion": "10"}})]


def line(kind: str, content: object) -> bytes:
    return json.dumps({"type": kind, "object": content}).encode()


class Reader:
    """A source that is being read."""

    def __init__(self, source: KubernetesSource) -> None:
        self.source = source
        self.world = World("n")
        self.events: list[Event] = []

    async def read(self) -> None:
        async for batch in self.source.events():
            self.events += batch
            self.world.apply_all(batch)

    def place(self, key: ObjectKey) -> int:
        """Where in the order the object was first told; -1: never."""
        keys = [event.key if isinstance(event, Upsert) else None for event in self.events]
        return keys.index(key) if key in keys else -1

    @property
    def synced(self) -> int:
        return next((n for n, event in enumerate(self.events) if isinstance(event, Synced)), -1)

    async def until(self, holds: Callable[[], object]) -> None:
        for _ in range(20_000):
            if holds():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("it never held")


@contextlib.asynccontextmanager
async def reading(api: Cluster, *, policy: bool = True, timings: Timings = QUICK) -> AsyncIterator[Reader]:
    source = KubernetesSource(api, node_name="n", proxy_name="", policy=policy, timings=timings)
    reader = Reader(source)
    task = asyncio.create_task(reader.read())
    try:
        yield reader
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def pods(reader: Reader) -> set[str]:
    return {pod.key.name for pod in reader.world.pods()}


async def test_without_a_policy_pods_are_this_nodes_own() -> None:
    api = Cluster()
    async with reading(api) as reader:
        await reader.until(lambda: reader.world.synced)
        assert pods(reader) == {"here"}
        assert ("pods", False) not in api.asked


async def test_where_a_policy_was_all_pods_are_known_before_the_first_is_told_complete() -> None:
    api = Cluster()
    api.objects["networkpolicies"] = [POLICY]
    async with reading(api) as reader:
        await reader.until(lambda: reader.world.synced)
        assert pods(reader) == {"here", "there"}
        assert -1 < reader.place(THERE_KEY) < reader.place(POLICY_KEY) < reader.synced


async def test_the_first_policy_is_told_after_all_pods() -> None:
    api = Cluster()
    async with reading(api) as reader:
        await reader.until(lambda: reader.world.synced)
        api.wide_pods.clear()
        api.add("networkpolicies", POLICY)
        await reader.until(lambda: ("pods", False) in api.asked)
        await asyncio.sleep(0.05)
        assert reader.place(POLICY_KEY) == -1
        api.wide_pods.set()
        await reader.until(lambda: reader.place(POLICY_KEY) != -1)
        assert -1 < reader.place(THERE_KEY) < reader.place(POLICY_KEY)
        told = [event.key.name for event in reader.events if isinstance(event, Upsert)]
        assert told.count("here") == 1, "what was told is not told again"


async def test_a_server_that_gives_no_pods_delays_a_policy_for_a_while_only() -> None:
    api = Cluster()
    api.wide_pods.clear()
    async with reading(api, timings=replace(QUICK, hold=0.05)) as reader:
        await reader.until(lambda: reader.world.synced)
        api.add("networkpolicies", POLICY)
        await reader.until(lambda: reader.place(POLICY_KEY) != -1)
        assert pods(reader) == {"here"}


async def test_where_all_pods_are_forbidden_the_own_ones_stay_and_policy_goes_on() -> None:
    api = Cluster()
    api.forbidden.add("pods")
    api.objects["networkpolicies"] = [POLICY]
    async with reading(api) as reader:
        await reader.until(lambda: reader.world.synced)
        assert reader.place(POLICY_KEY) != -1
        assert pods(reader) == {"here"}
        assert "pods is forbidden" in reader.source.status().problem


async def test_without_policy_no_policy_is_asked_for_and_namespaces_keep_their_annotation() -> None:
    api = Cluster()
    api.objects["networkpolicies"] = [POLICY]
    wish = {"name": "shop", "annotations": {"netaccel.io/accelerate": "disabled"}, "resourceVersion": "1"}
    api.objects["namespaces"] = [{"metadata": wish}]
    async with reading(api, policy=False) as reader:
        await reader.until(lambda: reader.world.synced)
        asked = {resource for resource, _ in api.asked}
        assert asked == {"services", "endpointslices", "nodes", "pods", "namespaces"}
        assert [space.accelerate for space in reader.world.namespaces()] == ["disabled"]


async def test_without_policy_forbidden_namespaces_are_told_and_keep_nothing_from_being_served() -> None:
    api = Cluster()
    api.forbidden = {"namespaces"}
    async with reading(api, policy=False) as reader:
        await reader.until(lambda: reader.world.synced)
        assert "namespaces is forbidden" in reader.source.status().problem


# ------------------------------------------------------------ kinds that aren't there


async def test_kinds_that_a_cluster_lacks_are_no_problem_and_make_no_noise(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    api = Cluster()
    async with reading(api) as reader:
        await reader.until(lambda: reader.world.synced)
        await reader.until(lambda: api.asked.count(("trafficpolicies", False)) > 3)
        assert reader.source.status().problem == ""
        assert reader.source.status().heard is not None
    assert caplog.text == ""


async def test_a_kind_that_is_installed_later_is_found() -> None:
    api = Cluster()
    async with reading(api) as reader:
        await reader.until(lambda: reader.world.synced)
        api.objects["trafficpolicies"] = [TRAFFIC]
        api.absent.discard("trafficpolicies")
        await reader.until(lambda: reader.place(TRAFFIC_KEY) != -1)
        assert pods(reader) == {"here", "there"}


@pytest.mark.parametrize(("forget", "gone"), [(0.0, True), (1000.0, False)])
async def test_policies_of_a_kind_that_is_removed_go_once_it_is_certain(forget: float, gone: bool) -> None:
    api = Cluster()
    api.objects["trafficpolicies"] = [TRAFFIC]
    api.absent.discard("trafficpolicies")
    async with reading(api, timings=replace(QUICK, forget=forget)) as reader:
        await reader.until(lambda: reader.world.synced)
        api.absent.add("trafficpolicies")
        api.end("trafficpolicies")
        before = len(api.asked)
        if gone:
            await reader.until(lambda: not reader.world.policies())
        else:
            await reader.until(lambda: len(api.asked) > before + 5)
            assert len(reader.world.policies()) == 1
