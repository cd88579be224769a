# SPDX-License-Identifier: Apache-2.0
"""What the API says, of maps in memory; and how it says no."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from netaccel.api.policy import PolicyRoutes
from netaccel.api.server import application, serving
from netaccel.api.views import ServiceView, Tables, flag_names, kind_title, map_rows, port_counts, services
from netaccel.datapath.abi import Abi
from netaccel.datapath.bpfobject import OBJECTS
from netaccel.errors import DatapathError
from netaccel.model.address import parse_address
from netaccel.model.endpoint import Pod, PodKey
from netaccel.model.event import ObjectKey, Upsert
from netaccel.model.plain import read_world, told
from netaccel.model.policy import Direction
from netaccel.model.snapshot import World
from netaccel.observe.budget import ZERO
from netaccel.observe.edges.edge import Edge, EdgeKey, End, Verdict, Where, read_edge
from netaccel.observe.edges.recorder import EdgeRecorder
from netaccel.observe.edges.store import Limits
from netaccel.records import (
    Affinity,
    AffinityKey,
    Backend,
    DropPair,
    DropPairKey,
    Frontend,
    FrontendKey,
    Limiter,
    PolicyRule,
    Service,
    Traffic,
)

CLUSTER_IP = parse_address("10.96.0.10")


@pytest.fixture(scope="module")
def abi() -> Abi:
    return Abi.from_elf((OBJECTS / "sock_cgroup.o").read_bytes())


def tables(abi: Abi) -> Tables:
    c = abi.constants
    frontend = Frontend(1, c["FRONTEND_WIRE_LOCAL"], c["FRONTEND_CLUSTER_IP"], 0, 0, 7, 7, 11, 0)
    wildcard = Frontend(1, 0, c["FRONTEND_WILDCARD"], 0, 0, 0, 0, 0, 0)
    backend = Backend(parse_address("10.0.0.1"), 8080, 6, c["BACKEND_ACTIVE"], c["BACKEND_LOCAL"], 0, 0, 1, 4)
    gone = backend._replace(state=c["BACKEND_FREE"])
    return Tables(
        services={1: Service("shop", "web", "http", 80, 6, socket.AF_INET)},
        frontends={FrontendKey(CLUSTER_IP, 80, 6): frontend, FrontendKey(CLUSTER_IP, 0, 0): wildcard},
        backends={5: backend, 6: gone},
        service_counters={
            1: [
                ZERO._replace(xdp_request_packets=1, connects=2),
                ZERO._replace(tc_reply_packets=4, tc_reply_bytes=9),
            ]
        },
    )


def test_a_service_with_its_frontends_backends_and_counters(abi: Abi) -> None:
    (view,) = services(tables(abi), abi)
    assert (view["namespace"], view["name"]) == ("shop", "web")
    (port,) = view["ports"]
    assert (port["name"], port["port"], port["protocol"], port["family"]) == ("http", 80, "TCP", "IPv4")
    (frontend,) = port["frontends"]
    assert frontend["address"] == "10.96.0.10"
    assert frontend["kind"] == "cluster_ip", "the entry that guards the address's other ports is no frontend"
    assert frontend["flags"] == ["wire_local"]
    assert (frontend["wire_slots"], frontend["pod_slots"]) == (7, 11)
    (backend,) = port["backends"]
    assert backend["id"] == 5, "slots that are free are not shown"
    assert (backend["address"], backend["state"], backend["local"]) == ("10.0.0.1", "active", True)
    assert port_counts(port) == (2, 5, 9, 0)
    json.dumps(view)


def test_kinds_are_spelled_as_kubernetes_does() -> None:
    assert kind_title("cluster_ip") == "ClusterIP"
    assert kind_title("load_balancer") == "LoadBalancer"


def test_a_flag_without_a_name_is_shown_as_its_number() -> None:
    assert flag_names(0b101, {1: "one"}) == ["one", "4"]


def test_map_dumps_speak_in_words(abi: Abi) -> None:
    world = tables(abi)
    rows = map_rows("frontends", world.frontends, abi)
    assert {"addr": "10.96.0.10", "port": 80, "proto": "TCP", "kind": "cluster_ip"}.items() <= rows[0].items()
    reason = abi.constants["DROP_FRAGMENT"]
    assert map_rows("drops", {reason: [Traffic(1, 2), Traffic(3, 4)]}, abi) == [
        {"key": "fragment", "packets": 4, "bytes": 6}
    ]


def test_drops_and_rules_speak_in_words(abi: Abi) -> None:
    c = abi.constants
    key = DropPairKey(CLUSTER_IP, CLUSTER_IP, 80, 6, c["EVENT_DROP"], c["DROP_POLICY_DENIED"], 4, 7)
    kernels = key._replace(type=c["EVENT_KERNEL_DROP"], reason=3)
    rows = map_rows("drop_pairs", {key: DropPair(1, 60, 0), kernels: DropPair(2, 120, 0)}, abi)
    assert {"type": "drop", "reason": "policy_denied", "packets": 1}.items() <= rows[0].items()
    assert {"type": "kernel_drop", "reason": 3}.items() <= rows[1].items(), "the kernel's names are its own"
    rule = PolicyRule("shop", "allow-web", c["KIND_TRAFFIC_POLICY"], 1, c["RULE_MONITOR"], 0, 2)
    (row,) = map_rows("policy_rules", {7: rule}, abi)
    assert (row["kind"], row["direction"], row["action"]) == ("traffic_policy", "egress", "monitor")


def test_values_of_cpus_that_do_not_add_up_stay_apart(abi: Abi) -> None:
    assert map_rows("limiter", {0: [Limiter(1, 2), Limiter(3, 4)]}, abi) == [
        {"key": 0, "cpu": 0, "tick": 1, "admitted": 2},
        {"key": 0, "cpu": 1, "tick": 3, "admitted": 4},
    ]


def test_a_client_by_its_namespace_is_no_address(abi: Abi) -> None:
    key = AffinityKey((4097).to_bytes(8, "little") + bytes(8), 1, 1)
    (row,) = map_rows("affinity", {key: Affinity(5, 4, 0)}, abi)
    assert row["client"] == "netns:4097"


# ----------------------------------------------------------------------- HTTP


class Answers:
    """An agent that is not ready and has one Service."""

    def __init__(self, view: ServiceView) -> None:
        self.view = view
        self.reasons = ["no program is attached"]

    def readiness(self) -> list[str]:
        return self.reasons

    async def status(self) -> dict[str, Any]:
        return {"ready": not self.reasons}

    def metrics(self) -> bytes:
        return b"netaccel_synced 0.0\n"

    def services(self) -> list[ServiceView]:
        return [self.view]

    def map_names(self) -> list[str]:
        return ["drops"]

    def map_rows(self, name: str) -> list[dict[str, object]]:
        if name != "drops":
            raise DatapathError(f"no map {name}: there are drops")
        return [{"key": "fragment", "packets": 1}]


@pytest.fixture
def answers(abi: Abi) -> Answers:
    return Answers(services(tables(abi), abi)[0])


@asynccontextmanager
async def asking(app: web.Application) -> AsyncIterator[aiohttp.ClientSession]:
    listener = socket.create_server(("127.0.0.1", 0))
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with serving(app, listener), aiohttp.ClientSession(base) as session:
        yield session


@pytest.fixture
async def client(answers: Answers) -> AsyncIterator[aiohttp.ClientSession]:
    async with asking(application(answers)) as session:
        yield session


async def test_alive_is_not_yet_ready(client: aiohttp.ClientSession, answers: Answers) -> None:
    async with client.get("/healthz") as answer:
        assert (answer.status, await answer.text()) == (200, "ok\n")
    async with client.get("/readyz") as answer:
        assert answer.status == 503
        assert await answer.json() == {"ready": False, "reasons": ["no program is attached"]}
    answers.reasons = []
    async with client.get("/readyz") as answer:
        assert answer.status == 200


async def test_services_all_and_one(client: aiohttp.ClientSession, answers: Answers) -> None:
    async with client.get("/api/v1/services") as answer:
        assert await answer.json() == [answers.view]
    async with client.get("/api/v1/services/shop/web") as answer:
        assert await answer.json() == answers.view
    async with client.get("/api/v1/services/shop/cart") as answer:
        assert answer.status == 404
        assert "no Service shop/cart" in (await answer.json())["error"]


async def test_metrics_name_their_format(client: aiohttp.ClientSession) -> None:
    async with client.get("/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert await answer.text() == "netaccel_synced 0.0\n"


async def test_maps_by_name(client: aiohttp.ClientSession) -> None:
    async with client.get("/api/v1/maps") as answer:
        assert await answer.json() == ["drops"]
    async with client.get("/api/v1/maps/drops") as answer:
        assert await answer.json() == [{"key": "fragment", "packets": 1}]
    async with client.get("/api/v1/maps/none") as answer:
        assert answer.status == 404


async def test_edges_and_world_are_there_where_policy_is(answers: Answers, tmp_path: Path) -> None:
    world, recorder = World("node-1"), EdgeRecorder(tmp_path / "node-1.db", Limits())
    pod = Pod(PodKey("shop", "web-0"), "node-1")
    world.apply(Upsert(ObjectKey("Pod", *pod.key), pod, 0.0))
    stranger = End(Where.WORLD, CLUSTER_IP)
    key = EdgeKey(stranger, stranger, 6, 80, Direction.EGRESS, Verdict.ALLOWED)
    recorder.add(key, 1000.0)
    routes = PolicyRoutes(lambda: told(world), recorder)
    async with asking(application(answers, policy=routes)) as session:
        async with session.get("/api/v1/world") as answer:
            assert read_world(await answer.json()).pods() == (pod,)
        async with session.get("/api/v1/edges") as answer:
            window, *edges = [json.loads(line) async for line in answer.content]
        assert window["window"]["lost"] == 0
        assert [read_edge(edge) for edge in edges] == [Edge(key, 1000.0, 1000.0)], "written a moment ago"
        async with session.get("/api/v1/edges", params={"since": "1001"}) as answer:
            assert len([line async for line in answer.content]) == 1
        async with session.get("/api/v1/edges", params={"since": "yesterday"}) as answer:
            assert answer.status == 400
    recorder.close()


async def test_an_agent_without_policy_says_that_it_records_no_edges(answers: Answers) -> None:
    routes = PolicyRoutes(lambda: told(World()), None)
    async with asking(application(answers, policy=routes)) as session, session.get("/api/v1/edges") as answer:
        assert answer.status == 404
        assert "policy" in (await answer.json())["error"]


async def test_nothing_can_be_written(client: aiohttp.ClientSession) -> None:
    async with client.post("/api/v1/services") as answer:
        assert answer.status == 405


async def test_an_address_for_metrics_says_nothing_else(answers: Answers) -> None:
    async with asking(application(answers, metrics_only=True)) as session:
        async with session.get("/metrics") as answer:
            assert answer.status == 200
        async with session.get("/status") as answer:
            assert answer.status == 404
