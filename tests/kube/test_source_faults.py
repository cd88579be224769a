# SPDX-License-Identifier: Apache-2.0
"""The source through a proxy that does what networks and API servers do; see faults."""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faults import ALWAYS, Asked, FaultyProxy
from feed import BRISK, Feed, Hand, endpoint_slice, feeding, hand, service

from netaccel.cluster.controlplane import ControlPlane
from netaccel.model.event import ObjectKey, Reject, Upsert

EXPIRED = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version: 1 (2)"}


@pytest.fixture
async def proxy(control_plane: ControlPlane, tmp_path: Path) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(control_plane, tmp_path) as found:
        yield found


@pytest.fixture
async def made(control_plane: ControlPlane, namespace: str) -> AsyncIterator[Hand]:
    async with hand(control_plane.admin, namespace) as found:
        yield found


def services(asked: Asked) -> bool:
    return asked.resource == "services"


def streaming(asked: Asked) -> bool:
    return services(asked) and asked.streams


def watching(asked: Asked) -> bool:
    return services(asked) and asked.watches


def listing(asked: Asked) -> bool:
    return services(asked) and asked.lists


async def follows(feed: Feed, made: Hand, name: str) -> None:
    """A change made now is told, and there is no problem then."""
    await feed.has(await made.put(service(name)))
    await feed.until(lambda: not feed.status.problem)


def seconds(problem: str) -> int:
    """How long a problem is there, by its own words."""
    found = re.search(r"\(for (\d+) s\)$", problem)
    return int(found[1]) if found else 0


def ways(proxy: FaultyProxy) -> list[str]:
    """How Services were asked for, in order; looks for anything new left out."""
    names = {
        "stream": lambda asked: asked.streams,
        "watch": lambda asked: asked.watches,
        "page": lambda asked: asked.lists and ("limit" in asked.query),
        "cached": lambda asked: asked.lists and "resourceVersion" in asked.query,
        "whole": lambda asked: asked.lists,
    }
    found = []
    for asked in proxy.of("services"):
        name = next((name for name, holds in names.items() if holds(asked)), None)
        if name:
            found.append(name)
    return found


# ------------------------------------------------------------------ ways to list


async def test_one_streaming_list_is_all_that_a_kind_needs(proxy: FaultyProxy, made: Hand) -> None:
    async with feeding(proxy.kubeconfig, policy="off") as feed:
        await feed.synced()
        await follows(feed, made, "web")
        assert sorted(asked.resource for asked in proxy.asked) == [
            "endpointslices",
            "namespaces",
            "nodes",
            "pods",
            "services",
        ]
        for asked in proxy.asked:
            assert asked.query["sendInitialEvents"] == "true"
            assert asked.query["resourceVersionMatch"] == "NotOlderThan"
            assert asked.query["allowWatchBookmarks"] == "true"


async def test_a_server_without_streaming_lists_gives_one_from_its_memory(
    proxy: FaultyProxy, made: Hand
) -> None:
    web = await made.put(service("web"))
    proxy.refuse(422, "Invalid", when=lambda asked: asked.streams, times=ALWAYS)
    async with feeding(proxy.kubeconfig) as feed:
        await feed.synced()
        await feed.has(web)  # by the watch, where the server's memory was a moment behind
        await follows(feed, made, "other")
        assert ways(proxy) == ["stream", "cached", "watch"]
        first = next(asked for asked in proxy.of("services") if asked.lists)
        assert first.query["resourceVersion"] == "0"
        assert "limit" not in first.query


async def test_a_list_from_memory_that_expires_at_once_is_followed_by_one_in_pages(
    proxy: FaultyProxy, made: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netaccel.sources.kubernetes.course.PAGE", 2)
    keys = [await made.put(service(f"web-{number}")) for number in range(5)]
    proxy.refuse(422, "Invalid", when=lambda asked: asked.streams, times=ALWAYS)
    proxy.refuse(410, "Expired", when=watching)
    async with feeding(proxy.kubeconfig, timings=BRISK) as feed:
        await feed.synced()
        await feed.until(lambda: ways(proxy).count("watch") == 2)
        await follows(feed, made, "other")
        assert ways(proxy)[:4] == ["stream", "cached", "watch", "stream"]
        assert set(ways(proxy)[4:-1]) == {"page"}
        assert ways(proxy).count("page") >= 3
        assert all(len(feed.of(key)) == 1 for key in keys)


async def test_pages_that_expire_are_followed_by_a_list_in_one_piece(
    proxy: FaultyProxy, made: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netaccel.sources.kubernetes.course.PAGE", 2)
    keys = [await made.put(service(f"web-{number}")) for number in range(5)]
    proxy.refuse(422, "Invalid", when=lambda asked: asked.streams, times=ALWAYS)
    proxy.refuse(410, "Expired", when=lambda asked: listing(asked) and "resourceVersion" in asked.query)
    proxy.refuse(410, "Expired", when=lambda asked: listing(asked) and "continue" in asked.query)
    async with feeding(proxy.kubeconfig) as feed:
        await feed.synced()
        assert ways(proxy)[:5] == ["stream", "cached", "page", "page", "whole"]
        assert all(len(feed.of(key)) == 1 for key in keys)
        assert feed.deletes(made) == []


async def test_a_version_that_the_server_has_not_reached_is_asked_for_no_more(
    proxy: FaultyProxy, made: Hand
) -> None:
    async with feeding(proxy.kubeconfig, timings=BRISK) as feed:
        await follows(feed, made, "web")
        too_large = {"causes": ("ResourceVersionTooLarge",)}
        proxy.refuse(
            504, "Timeout", when=lambda asked: services(asked) and "limit" in asked.query, **too_large
        )
        proxy.cut()
        await feed.until(lambda: ways(proxy).count("stream") == 2)
        await follows(feed, made, "other")
        assert feed.deletes(made) == []


async def test_a_streaming_list_that_stalls_is_followed_by_a_plain_one(
    proxy: FaultyProxy, made: Hand
) -> None:
    web = await made.put(service("web"))
    proxy.hold()
    async with feeding(proxy.kubeconfig, timings=replace(BRISK, first_silence=2.0)) as feed:
        await feed.until(lambda: "streaming list of services stalled" in feed.status.problem)
        proxy.release()
        await feed.synced()
        assert feed.last(web) is Upsert
        assert "cached" in ways(proxy)
        await follows(feed, made, "other")


async def test_a_list_that_breaks_off_says_nothing_of_what_it_had_not_told(
    proxy: FaultyProxy, made: Hand
) -> None:
    keys = [await made.put(service(f"web-{number}")) for number in range(20)]
    async with feeding(proxy.kubeconfig, timings=BRISK) as feed:
        await feed.synced()
        proxy.chunk, proxy.pause = 500, 0.02  # slow enough to be cut in the middle
        await proxy.say("services", {"type": "ERROR", "object": EXPIRED})
        await feed.until(lambda: ways(proxy).count("stream") == 2)
        await feed.until(lambda: proxy.cut("services", torn=True, after=5000))
        proxy.chunk, proxy.pause = 0, 0.0
        await follows(feed, made, "other")
        assert feed.deletes(made) == []
        assert all(len(feed.of(key)) == 1 for key in keys)


# --------------------------------------------------------- while something is watched


async def test_a_watch_that_expires_is_listed_again_and_only_differences_are_told(
    proxy: FaultyProxy, made: Hand
) -> None:
    kept, lost = await made.put(service("kept")), await made.put(service("lost"))
    changed = await made.put(service("changed", 80))
    async with feeding(proxy.kubeconfig, timings=BRISK) as feed:
        await feed.synced()
        proxy.hold()
        await made.remove(lost)
        await made.put(service("changed", 81))
        proxy.refuse(410, "Expired", when=watching)
        proxy.cut()
        proxy.release()
        await feed.lost(lost)
        await feed.until(lambda: len(feed.of(changed)) == 2)
        assert len(feed.of(kept)) == 1
        assert feed.deletes(made) == [lost]


async def test_an_error_event_ends_a_watch_as_an_answer_would(proxy: FaultyProxy, made: Hand) -> None:
    web = await made.put(service("web"))
    async with feeding(proxy.kubeconfig, timings=BRISK) as feed:
        await feed.synced()
        await proxy.say("services", {"type": "ERROR", "object": EXPIRED})
        await feed.until(lambda: ways(proxy).count("stream") == 2)
        await follows(feed, made, "other")
        assert len(feed.of(web)) == 1
        assert feed.deletes(made) == []


@pytest.mark.parametrize("torn", [False, True], ids=["between lines", "within a line"])
async def test_a_connection_that_is_cut_goes_on_where_it_was(
    proxy: FaultyProxy, made: Hand, torn: bool
) -> None:
    web, lost = await made.put(service("web")), await made.put(service("lost"))
    async with feeding(proxy.kubeconfig, timings=BRISK, policy="off") as feed:
        await feed.synced()
        await feed.until(lambda: len(proxy.asked) == 5)
        assert proxy.cut(torn=torn) == 5
        await made.remove(lost)
        await feed.lost(lost)
        await follows(feed, made, "other")
        assert ways(proxy) == ["stream", "watch"]  # the change was told by the watch, nothing was listed
        assert len(feed.of(web)) == 1
        assert feed.deletes(made) == [lost]


async def test_a_watch_that_ends_in_order_goes_on_where_it_was(proxy: FaultyProxy, made: Hand) -> None:
    async with feeding(proxy.kubeconfig, timings=BRISK) as feed:
        await feed.synced()
        proxy.end()
        await follows(feed, made, "other")
        assert ways(proxy) == ["stream", "watch"]


async def test_a_stream_that_falls_silent_is_given_up(proxy: FaultyProxy, made: Hand) -> None:
    web = await made.put(service("web"))
    async with feeding(proxy.kubeconfig, timings=replace(BRISK, silence=3.0)) as feed:
        await feed.synced()
        proxy.hold()
        await feed.until(lambda: "not a byte in 3 s" in feed.status.problem)
        proxy.release()
        await feed.has(await made.put(service("other")))
        assert len(feed.of(web)) == 1
        assert feed.deletes(made) == []


async def test_lines_that_are_none_of_a_watch_end_it_and_harm_nothing(proxy: FaultyProxy, made: Hand) -> None:
    web = await made.put(service("web"))
    async with feeding(proxy.kubeconfig, timings=BRISK) as feed:
        await feed.synced()
        for garbage in (b"<html>", b"{}", b'{"type":"ADDED"', b"\xff\xfe", b"null"):
            seen = len(proxy.of("services"))
            await proxy.say("services", garbage)
            await feed.until(lambda seen=seen: len(proxy.of("services")) > seen + 1)
            await follows(feed, made, f"after-{seen}")
        assert len(feed.of(web)) == 1
        assert feed.deletes(made) == []


async def test_a_slow_stream_is_a_stream(proxy: FaultyProxy, made: Hand) -> None:
    piece = await made.put(endpoint_slice("web-1", "web", [f"10.244.1.{number}" for number in range(1, 50)]))
    proxy.chunk, proxy.pause = 256, 0.005
    async with feeding(proxy.kubeconfig) as feed:
        await feed.synced()
        assert feed.last(piece) is Upsert
        await follows(feed, made, "web")
        assert ways(proxy) == ["stream"]


async def test_a_server_that_is_busy_is_asked_again_no_sooner_than_it_says(
    proxy: FaultyProxy, made: Hand
) -> None:
    proxy.refuse(429, "TooManyRequests", when=streaming, times=2, headers={"Retry-After": "1"})
    async with feeding(proxy.kubeconfig, timings=BRISK) as feed:
        await feed.until(lambda: "429 Too Many Requests" in feed.status.problem)
        await feed.synced()
        times = [asked.at for asked in proxy.of("services") if asked.streams]
        assert len(times) == 3
        assert all(later - sooner >= 1.0 for sooner, later in itertools.pairwise(times))
        await follows(feed, made, "web")


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_a_server_that_fails_keeps_what_is_in_force(
    proxy: FaultyProxy, made: Hand, status: int
) -> None:
    web = await made.put(service("web"))
    async with feeding(proxy.kubeconfig, timings=BRISK) as feed:
        await feed.synced()
        refusal = proxy.refuse(status, "InternalError", times=ALWAYS)
        proxy.cut()
        await feed.until(lambda: f"{status} " in feed.status.problem)
        refusal.times = 0
        await follows(feed, made, "other")
        assert len(feed.of(web)) == 1
        assert feed.deletes(made) == []


async def test_while_no_server_is_there_the_status_says_since_when(proxy: FaultyProxy, made: Hand) -> None:
    web, lost = await made.put(service("web")), await made.put(service("lost"))
    async with feeding(proxy.kubeconfig, timings=BRISK) as feed:
        await feed.synced()
        await proxy.down()
        await feed.until(lambda: "no API server answers" in feed.status.problem)
        heard = feed.status.heard
        assert heard is not None
        await feed.until(lambda: seconds(feed.status.problem) >= 2)
        assert feed.status.heard == pytest.approx(heard, abs=1.0)
        assert feed.deletes(made) == []
        await made.remove(lost)
        await proxy.up()
        await feed.lost(lost)
        await feed.until(lambda: not feed.status.problem)
        assert len(feed.of(web)) == 1
        assert feed.deletes(made) == [lost]


async def test_at_the_start_a_server_may_be_away(proxy: FaultyProxy, made: Hand) -> None:
    web = await made.put(service("web"))
    await proxy.down()
    async with feeding(proxy.kubeconfig, timings=BRISK) as feed:
        await feed.until(lambda: "no API server answers" in feed.status.problem)
        assert feed.status.heard is None
        assert feed.events == []
        await proxy.up()
        await feed.synced()
        assert feed.last(web) is Upsert


# ------------------------------------------------------------------- bad objects


async def said(proxy: FaultyProxy, made: Hand, key: ObjectKey, **changes: Any) -> None:
    """The server tells of a change that nobody made."""
    content = await made.get(key)
    version = str(int(content["metadata"]["resourceVersion"]) + 1)
    content["metadata"]["resourceVersion"] = version
    content.update(changes)
    await proxy.say("services", {"type": "MODIFIED", "object": content})


async def test_fields_of_a_newer_api_are_left_alone(proxy: FaultyProxy, made: Hand) -> None:
    async with feeding(proxy.kubeconfig) as feed:
        await feed.synced()
        web = await made.put(service("web", 80))
        await feed.has(web)
        spec = {**(await made.get(web))["spec"], "trafficShaping": {"mode": "Newest"}}
        spec["ports"] = [{"name": "http", "port": 90, "protocol": "TCP", "weight": 3}]
        await said(proxy, made, web, spec=spec, sundial={"a": [1, {"b": 2}]})
        await feed.until(lambda: len(feed.of(web)) == 2)
        assert feed.last(web) is Upsert


@pytest.mark.parametrize(
    "change",
    [{"kind": "Pod"}, {"spec": "none"}, {"spec": {"ports": [{"port": "eighty"}]}}],
    ids=["another kind", "no spec", "a port that is none"],
)
async def test_an_object_that_is_not_what_its_kind_says_harms_only_itself(
    proxy: FaultyProxy, made: Hand, change: dict[str, Any]
) -> None:
    async with feeding(proxy.kubeconfig) as feed:
        await feed.synced()
        web = await made.put(service("web", 80))
        await feed.has(web)
        await said(proxy, made, web, **change)
        await feed.until(lambda: feed.last(web) is Reject)
        assert feed.world.service(web[1:]) is not None  # type: ignore[arg-type]
        assert [one.key for one in feed.world.rejections()] == [web]
        await follows(feed, made, "other")
        await made.put(service("web", 81))
        await feed.until(lambda: feed.last(web) is Upsert)
        assert feed.world.rejections() == ()


async def test_an_object_without_a_name_is_told_once_and_deletes_nothing(
    proxy: FaultyProxy, made: Hand
) -> None:
    web = await made.put(service("web"))
    async with feeding(proxy.kubeconfig, timings=BRISK) as feed:
        await feed.synced()
        await proxy.say("services", {"type": "ADDED", "object": {"kind": "Service", "metadata": ["?"]}})
        await feed.until(feed.world.rejections)
        (reject,) = feed.world.rejections()
        assert (reject.key, reject.origin) == (None, "/api/v1/services")
        await follows(feed, made, "other")
        await proxy.say("services", {"type": "ERROR", "object": EXPIRED})
        await feed.until(lambda: not feed.world.rejections())  # the next list had no such object
        assert feed.last(web) is Upsert
        assert feed.deletes(made) == []
