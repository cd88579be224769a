# SPDX-License-Identifier: Apache-2.0
"""Flows and drops over HTTP, and what the commands make of it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import aiohttp
import pytest
from click.testing import CliRunner, Result
from flowground import CLIENT, WEB, Station, event_abi

from netaccel.api.server import Answers, application, serving
from netaccel.cli import netaccel
from netaccel.datapath.abi import Abi
from netaccel.records import DropPair, DropPairKey


@pytest.fixture(scope="module")
def abi(compile_text: Callable[[str], bytes]) -> Abi:
    return event_abi(compile_text)


@pytest.fixture
def station(abi: Abi) -> Station:
    found = Station(abi)
    c = abi.constants
    key = DropPairKey(CLIENT, WEB, 8080, 6, c["EVENT_DROP"], c["DROP_POLICY_ISOLATED"], 4, 8)
    found.maps.tables["drop_pairs"][key] = DropPair(7, 420, found.jiffies)
    return found


def listen() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@pytest.fixture
async def url(station: Station) -> AsyncIterator[str]:
    listener = listen()
    at = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with serving(application(cast("Answers", None), flows=station.flows), listener):
        yield at


async def get(url: str) -> tuple[int, list[dict[str, Any]]]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, [json.loads(line) for line in (await answer.text()).splitlines()]


def drop(station: Station, **fields: Any) -> Any:
    kind = {"type": "EVENT_DROP", "verdict": "VERDICT_DROPPED", "reason": "DROP_POLICY_DENIED"}
    return station.event(**kind, **fields)


async def test_the_last_ones(station: Station, url: str) -> None:
    station.tell(*(station.event(sport=n) for n in range(1, 101)))
    status, lines = await get(f"{url}/api/v1/flows")
    assert status == 200
    assert [line["source_port"] for line in lines] == list(range(81, 101))
    _, lines = await get(f"{url}/api/v1/flows?last=2&port=1-50&pod=web-*")
    assert [line["source_port"] for line in lines] == [49, 50]
    _, lines = await get(f"{url}/api/v1/flows?since=10000d")
    assert len(lines) == 100, "since asks for all of them"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("verdict=denied", "verdict 'denied': give forwarded, dropped"),
        ("colour=red", "colour: no such filter; known are pod"),
        ("last=-1", "last '-1': give a number"),
        ("since=then", "since 'then': give an age"),
        ("follow=1&ip=x", "ip 'x': give an address"),
    ],
)
@pytest.mark.parametrize("path", ["flows", "drops"])
async def test_what_can_not_be_asked(url: str, path: str, query: str, said: str) -> None:
    status, (answer,) = await get(f"{url}/api/v1/{path}?{query}")
    assert status == 400
    assert answer["error"].startswith(said)


async def test_a_stream_goes_on_with_what_comes(station: Station, url: str) -> None:
    station.tell(station.event(sport=1))
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url}/api/v1/flows?follow=1&last=5") as answer,
    ):
        assert json.loads(await answer.content.readline())["source_port"] == 1
        station.tell(station.event(sport=2))
        assert json.loads(await answer.content.readline())["source_port"] == 2
        assert station.flows.log.followers == 1
    while station.flows.log.followers:  # the server finds out with the next record
        station.tell(station.event(sport=3))
        await asyncio.sleep(0.01)


async def test_drops_as_they_come(station: Station, url: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/api/v1/drops?follow=1") as answer:
        station.tell(station.event(sport=1), drop(station, sport=2))
        found = json.loads(await answer.content.readline())
        assert (found["source_port"], found["reason"]) == (2, "policy_denied")


async def test_the_most_dropped(url: str) -> None:
    status, (found,) = await get(f"{url}/api/v1/drops")
    assert status == 200
    assert (found["packets"], found["pairs"][0]["traffic"]) == (7, {"packets": 7, "bytes": 420})
    assert found["rules"][0]["rule"]["name"] == "deny-all"


async def test_a_stopping_server_ends_its_streams(station: Station) -> None:
    listener = listen()
    at = f"http://127.0.0.1:{listener.getsockname()[1]}/api/v1/flows?follow=1"
    async with aiohttp.ClientSession() as session:
        async with serving(application(cast("Answers", None), flows=station.flows), listener):
            answer = await session.get(at)
        assert await answer.read() == b""
        answer.close()


async def test_an_agent_that_tells_no_flows_has_no_such_path() -> None:
    listener = listen()
    at = f"http://127.0.0.1:{listener.getsockname()[1]}/api/v1/flows"
    async with (
        serving(application(cast("Answers", None)), listener),
        aiohttp.ClientSession() as session,
        session.get(at) as answer,
    ):
        assert answer.status == 404


# --------------------------------------------------------------------- commands


@pytest.fixture
def served(station: Station) -> Iterator[str]:
    """The API in a thread of its own, as the commands block."""
    listener = listen()
    ready, ended = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with serving(application(cast("Answers", None), flows=station.flows), listener):
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(60)
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    loop.call_soon_threadsafe(ended.set)
    thread.join(10)
    loop.close()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(netaccel, arguments)


def test_flows_prints_lines(station: Station, served: str) -> None:
    station.tell(station.event(sport=1), drop(station, sport=2, rule=8))
    found = run("flows", "--http", served)
    assert found.exit_code == 0
    first, second = found.output.splitlines()
    assert "default/web-0:1 -> shop/db-0:5432" in first
    assert "DROPPED policy_denied rule NetworkPolicy shop/deny-all ingress isolation" in second
    only = run("flows", "--http", served, "--verdict", "dropped", "--rule", "shop/deny-all", "-o", "json")
    assert [json.loads(line)["source_port"] for line in only.output.splitlines()] == [2]


def test_drops_prints_tables(served: str) -> None:
    found = run("drops", "--http", served)
    assert found.exit_code == 0
    assert "node n1: 7 packets, 420 bytes dropped" in found.output
    assert "policy_isolated  netaccel  7" in found.output
    assert "203.0.113.9  default/web-0:8080  tcp ingress" in found.output
    assert json.loads(run("drops", "--http", served, "-o", "json").output)["packets"] == 7
    assert run("drops", "--http", served, "-n", "nowhere").output == "nothing was dropped\n"


@pytest.mark.parametrize("command", ["flows", "drops"])
def test_bad_filters_are_one_clear_line(served: str, command: str) -> None:
    found = run(command, "--http", served, "--port", "http")
    assert found.exit_code == 1
    assert found.output == "netaccel: port 'http': give a number or a range, as 443 or 8000-8100\n"


def test_no_agent_and_no_address() -> None:
    with listen() as closed:
        at = f"127.0.0.1:{closed.getsockname()[1]}"
    assert run("flows", "--http", at).output.startswith(f"netaccel: no agent listens at {at}: start")
    assert run("drops", "--http", "nowhere").output.startswith("netaccel: --http: give ADDRESS:PORT")
