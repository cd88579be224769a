# SPDX-License-Identifier: Apache-2.0
"""How the kinds of a source are joined. The API is a fake, to choose the order in which things happen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager

import pytest

from netaccel.errors import ApiError
from netaccel.model.event import Event, Synced, Upsert
from netaccel.sources.kubernetes import KubernetesSource, reflector
from netaccel.sources.kubernetes.standing import Timings

QUICK = Timings(retry=(0.001, 0.01), refused=(0.001, 0.01))
END = {"annotations": {"k8s.io/initial-events-end": "true"}, "resourceVersion": "9"}
WEB = {
    "metadata": {"name": "web", "namespace": "default", "resourceVersion": "5"},
    "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
}


def line(kind: str, content: object) -> bytes:
    return json.dumps({"type": kind, "object": content}).encode()


class Fake:
    """Lists of one Service and nothing else; ``refused`` resources are forbidden."""

    where = "https://fake"

    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)

    async def request(self, method: str, path: str, **_: object) -> bytes:
        raise AssertionError("not asked for")

    def stream(
        self, path: str, query: Mapping[str, str], *, silence: float
    ) -> AbstractAsyncContextManager[AsyncIterator[list[bytes]]]:
        return self._stream(path.rpartition("/")[2])

    @contextlib.asynccontextmanager
    async def _stream(self, resource: str) -> AsyncIterator[AsyncIterator[list[bytes]]]:
        if resource in self.refused:
            raise ApiError(f"{resource} is forbidden", 403, "Forbidden")
        yield self._lines(resource)

    async def _lines(self, resource: str) -> AsyncIterator[list[bytes]]:
        first = [line("ADDED", WEB)] if resource == "services" else []
        yield [*first, line("BOOKMARK", {"metadata": END})]
        await asyncio.Event().wait()


async def read(source: KubernetesSource, into: list[Event]) -> None:
    async for batch in source.events():
        into += batch


@contextlib.asynccontextmanager
async def reading(api: Fake) -> AsyncIterator[tuple[KubernetesSource, list[Event]]]:
    source = KubernetesSource(api, node_name="n", proxy_name="", timings=QUICK)
    events: list[Event] = []
    task = asyncio.create_task(read(source, events))
    try:
        yield source, events
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(holds: Callable[[], object]) -> None:
    for _ in range(20_000):
        if holds():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never held")


def synced(events: list[Event]) -> bool:
    return any(isinstance(event, Synced) for event in events)


async def test_synced_is_the_last_of_the_first() -> None:
    async with reading(Fake()) as (source, events):
        await until(lambda: synced(events))
        assert [type(event) for event in events] == [Upsert, Synced]
        assert source.status().problem == ""
        assert source.status().heard is not None


async def test_synced_waits_for_events_that_a_thread_has_read_and_nobody_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        reflector, "INLINE", 100
    )  # the Service's lines go to a thread, a bookmark alone does not
    told = threading.Event()
    digest = reflector.Reflector._digest

    def slow(self: reflector.Reflector, lines: list[bytes], received: float) -> object:
        found = digest(self, lines, received)
        if self.watched.name == "services":
            told.wait(20)
        return found

    monkeypatch.setattr(reflector.Reflector, "_digest", slow)
    async with reading(Fake()) as (source, events):
        await until(lambda: sum(not one.standing.listed for one in source._reflectors) == 1)
        await asyncio.sleep(0.05)
        assert events == []
        told.set()
        await until(lambda: synced(events))
        assert [type(event) for event in events] == [Upsert, Synced]


@pytest.mark.parametrize("resource", ["pods", "nodes"])
async def test_a_kind_of_use_that_is_forbidden_is_not_waited_for(resource: str) -> None:
    async with reading(Fake(resource)) as (source, events):
        await until(lambda: synced(events))
        status = source.status()
        assert status.problem.startswith(f"{resource}: {resource} is forbidden (for ")
        assert status.heard is not None


@pytest.mark.parametrize("resource", ["services", "endpointslices"])
async def test_a_kind_that_is_needed_is_waited_for(resource: str) -> None:
    api = Fake(resource, "pods")
    async with reading(api) as (source, events):
        await until(lambda: sum(bool(one.standing.problem) for one in source._reflectors) == 2)
        assert source.status().problem.startswith(f"{resource}: ")  # it matters more than the Pods
        assert source.status().heard is None
        assert not synced(events)
        api.refused.discard(resource)
        await until(lambda: synced(events))


def test_before_it_is_read_nothing_is_known() -> None:
    status = KubernetesSource(Fake(), node_name="n", proxy_name="").status()
    assert (status.kind, status.where, status.heard, status.problem) == (
        "kubernetes",
        "https://fake",
        None,
        "",
    )
