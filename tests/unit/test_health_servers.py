# SPDX-License-Identifier: Apache-2.0
"""What load balancers hear, byte for byte as from kube-proxy, and on which ports.

The answers of kube-proxy were recorded from the package pkg/proxy/healthcheck of Kubernetes v1.34.4.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing

import pytest
from test_health_counts import a_slice, endpoint, service

from netaccel.api import ports
from netaccel.api.health import LATE, HealthServers, Wanted, rfc3339, wanted
from netaccel.api.ports import listen
from netaccel.compile.services import NodeFacts
from netaccel.config import HostPort, load
from netaccel.model.address import parse_address
from netaccel.model.endpoint import Node
from netaccel.model.event import Delete, Object, ObjectKey, Synced, Upsert, object_key
from netaccel.model.service import ServiceKey
from netaccel.model.snapshot import World

HOST = f"127.{os.getpid() >> 16 & 127 | 128}.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
"""A loopback address that no other test process has."""
OTHER = f"127.{os.getpid() >> 16 & 127}.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
PORT, SECOND, HEALTHZ = 30999, 30998, 10256
TABS = (
    '{\n\t"service": {\n\t\t"namespace": "shop",\n\t\t"name": "web"\n\t},\n'
    '\t"localEndpoints": %d,\n\t"serviceProxyHealthy": %s\n}'
)


class Proxy:
    """Health servers, and what a test lets happen to them."""

    def __init__(self, wanted_ports: Wanted) -> None:
        self.world = World("node-1")
        self.now = 1000.0
        self.behind_since: float | None = None
        self.node = NodeFacts("node-1", node_port_addresses=(parse_address(HOST),))
        self.servers = HealthServers(
            wanted_ports, self.world, lambda: self.behind_since, clock=lambda: self.now, retry=0.01
        )

    async def hear(self, *objects: Object) -> None:
        """Objects arrive and are written."""
        self.world.apply_all(Upsert(object_key(one), one, 0.0) for one in objects)
        await self.passed()

    async def lose(self, kind: str, namespace: str, name: str) -> None:
        self.world.apply(Delete(ObjectKey(kind, namespace, name), 0.0))
        await self.passed()

    async def passed(self) -> None:
        self.servers.passed(self.node)
        await self.servers.settled()


@asynccontextmanager
async def running(
    *, services: bool = True, healthz: HostPort | None = None, in_cluster: bool = False
) -> AsyncIterator[Proxy]:
    proxy = Proxy(Wanted(services, healthz, everywhere=False, in_cluster=in_cluster))
    task = asyncio.create_task(proxy.servers.run())
    try:
        async with asyncio.timeout(20):
            await proxy.servers.settled()
            yield proxy
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ask(
    port: int, path: str = "/", method: str = "GET", host: str = HOST
) -> tuple[str, list[str], str]:
    """Status line, headers (no Date) and body of one answer. OSError where nobody listens."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: lb\r\nConnection: close\r\n\r\n".encode())
    text = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    head, _, body = text.partition("\r\n\r\n")
    status, *headers = head.split("\r\n")
    return status, sorted(line for line in headers if not line.startswith("Date: ")), body


async def is_open(port: int, host: str = HOST) -> bool:
    try:
        await ask(port, host=host)
    except OSError:
        return False
    return True


def recorded(status: str, body: str, *headers: str) -> tuple[str, list[str], str]:
    """An answer as kube-proxy gives it."""
    always = ["Connection: close", f"Content-Length: {len(body)}", "X-Content-Type-Options: nosniff"]
    if not any(line.startswith("Content-Type") for line in headers):
        always.append("Content-Type: application/json")
    return f"HTTP/1.1 {status}", sorted([*always, *headers]), body


# ------------------------------------------------------- a Service's own port


async def test_a_service_answers_with_its_local_ready_endpoints() -> None:
    async with running() as proxy:
        await proxy.hear(service())
        weight = "X-Load-Balancing-Endpoint-Weight: "
        assert await ask(PORT) == recorded("503 Service Unavailable", TABS % (0, "true"), weight + "0")
        await proxy.hear(a_slice(endpoint("10.1.0.1"), endpoint("10.1.0.2"), endpoint("10.1.0.3", "node-2")))
        assert await ask(PORT) == recorded("200 OK", TABS % (2, "true"), weight + "2")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/healthz"), ("POST", "/x/y?z"), ("OPTIONS", "/%2e%2e")]
)
async def test_whatever_the_path_and_the_method(method: str, path: str) -> None:
    async with running() as proxy:
        await proxy.hear(service(), a_slice(endpoint("10.1.0.1")))
        assert await ask(PORT, path, method) == await ask(PORT)


async def test_head_has_the_headers_of_get_alone() -> None:
    async with running() as proxy:
        await proxy.hear(service(), a_slice(endpoint("10.1.0.1")))
        status, headers, body = await ask(PORT)
        assert body
        assert await ask(PORT, method="HEAD") == (status, headers, "")


async def test_a_proxy_that_falls_behind_sends_load_elsewhere() -> None:
    async with running() as proxy:
        await proxy.hear(service(), a_slice(endpoint("10.1.0.1")))
        proxy.behind_since, proxy.now = 1000.0, 1000.0 + LATE - 1
        assert (await ask(PORT))[0] == "HTTP/1.1 200 OK"
        proxy.now += 1
        status, _, body = await ask(PORT)
        assert (status, body) == ("HTTP/1.1 503 Service Unavailable", TABS % (1, "false"))
        proxy.behind_since = None
        assert (await ask(PORT))[0] == "HTTP/1.1 200 OK"


async def test_a_connection_that_is_kept_hears_of_changes() -> None:
    async with running() as proxy:
        await proxy.hear(service())
        reader, writer = await asyncio.open_connection(HOST, PORT)
        for endpoints in ((), (endpoint("10.1.0.1"),), ()):
            await proxy.hear(a_slice(*endpoints))
            writer.write(b"GET / HTTP/1.1\r\nHost: lb\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200" if endpoints else b"HTTP/1.1 503")
            await reader.readuntil(b"\n}")
        await proxy.lose("Service", "shop", "web")
        writer.write(b"GET / HTTP/1.1\r\nHost: lb\r\n\r\n")
        last = await reader.read()
        assert last.startswith(b"HTTP/1.1 503"), "its port is gone: so is the connection, after this"
        writer.close()
        await writer.wait_closed()


async def test_ports_come_and_go_with_their_services() -> None:
    async with running() as proxy:
        assert not await is_open(PORT)
        await proxy.hear(service(), service("api", SECOND))
        assert await is_open(PORT)
        assert await is_open(SECOND)
        await proxy.hear(service(port=0))
        assert not await is_open(PORT)
        assert await is_open(SECOND)
        await proxy.lose("Service", "shop", "api")
        assert not await is_open(SECOND)


@pytest.mark.parametrize("turns", range(6))
async def test_who_comes_as_a_port_closes_is_never_left_hanging(turns: int) -> None:
    async with running() as proxy:
        await proxy.hear(service())
        askers = [asyncio.create_task(ask(PORT)) for _ in range(20)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await proxy.lose("Service", "shop", "web")
        ends = await asyncio.gather(*askers, return_exceptions=True)
    for end in ends:
        assert isinstance(end, ConnectionError | tuple), end


async def test_without_a_file_to_open_it_waits_and_then_serves_who_waited(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ports, "PAUSE", 0.01)
    async with running() as proxy:
        await proxy.hear(service())
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        with closing(socket.create_connection((HOST, PORT))) as asker:
            asker.sendall(b"GET / HTTP/1.1\r\nHost: lb\r\n\r\n")
            asker.setblocking(False)
            lowest = os.dup(asker.fileno())
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
            try:
                await until(lambda: bool(caplog.records))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            answer = await asyncio.get_running_loop().sock_recv(asker, 4096)
    assert "could not be accepted" in caplog.records[0].message
    assert answer.startswith(b"HTTP/1.1 503")


async def test_a_port_that_changes_hands_stays_open() -> None:
    async with running() as proxy:
        await proxy.hear(service())
        reader, writer = await asyncio.open_connection(HOST, PORT)
        proxy.world.apply(Delete(ObjectKey("Service", "shop", "web"), 0.0))
        await proxy.hear(service("api"))
        writer.write(b"GET / HTTP/1.1\r\nHost: lb\r\nConnection: close\r\n\r\n")
        assert b'"name": "api"' in await reader.read()
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "junk",
    [b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\nA: " + b"b" * 20_000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
)
async def test_a_stranger_that_speaks_no_http_is_answered_and_not_news(
    junk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as proxy:
        await proxy.hear(service(), a_slice(endpoint("10.1.0.1")))
        reader, writer = await asyncio.open_connection(HOST, PORT)
        writer.write(junk + b"\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.0 400")
        writer.close()
        await writer.wait_closed()
        assert (await ask(PORT))[0] == "HTTP/1.1 200 OK"
    assert not caplog.records


async def test_an_answer_that_fails_is_news(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as proxy:
        await proxy.hear(service())

        def fails() -> float:
            raise ArithmeticError("made to fail")

        monkeypatch.setattr(proxy.servers._health, "healthy", fails)
        assert (await ask(PORT))[0].startswith("HTTP/1.1 500")
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ArithmeticError]


async def test_two_services_with_one_port_are_told_of() -> None:
    async with running() as proxy:
        await proxy.hear(service(created=1.0), service("api", created=2.0))
        assert '"name": "web"' in (await ask(PORT))[2]
        assert proxy.servers.problems() == [
            f"healthCheckNodePort {PORT} of Service shop/api: it is shop/web's already: give another"
        ]


async def test_only_the_addresses_that_answer_node_ports_answer_health() -> None:
    async with running() as proxy:
        await proxy.hear(service())
        assert await is_open(PORT)
        assert not await is_open(PORT, OTHER)
        proxy.node = NodeFacts("node-1", node_port_addresses=(parse_address(OTHER),))
        await proxy.passed()
        assert not await is_open(PORT)
        assert await is_open(PORT, OTHER)


def test_everywhere_is_both_families_on_one_socket() -> None:
    with closing(listen(HostPort("0.0.0.0", 0))) as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port)).close()


@pytest.mark.parametrize(("host", "other"), [("127.0.0.1", "::1"), ("::1", "127.0.0.1")])
def test_an_address_is_that_address_alone(host: str, other: str) -> None:
    with closing(listen(HostPort(host, 0))) as listener:
        port = listener.getsockname()[1]
        socket.create_connection((host, port)).close()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((other, port))


# ------------------------------------------------------------ ports that are taken


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with closing(socket.create_server((HOST, PORT))) as holder:
        yield holder


async def test_a_taken_port_is_said_once_and_had_later(
    taken: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "netaccel.api.ports")
    line = f"healthCheckNodePort of Service shop/web at {HOST}:{PORT}: Address already in use: free it"
    async with running() as proxy:
        await proxy.hear(service(), service("api", SECOND))
        assert await is_open(SECOND), "the rest goes on"
        assert proxy.servers.problems() == [line]
        await asyncio.sleep(0.1)  # ten tries
        assert [r.message for r in caplog.records] == [f"{line}; tried again every 0 s"]
        taken.close()
        await until(lambda: not proxy.servers.problems())
        assert await is_open(PORT)
        assert caplog.records[-1].message.endswith(f"listening at {HOST}:{PORT} now")


async def test_an_address_that_the_node_has_not_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async with running(healthz=HostPort("192.0.2.77", HEALTHZ)) as proxy:
        (line,) = proxy.servers.problems()
    assert line.startswith(f"healthz at 192.0.2.77:{HEALTHZ}: ")
    assert line.endswith(": give an address that the node has")
    assert len(caplog.records) == 1


async def test_a_taken_port_that_is_wanted_no_more_is_no_problem(taken: socket.socket) -> None:
    async with running() as proxy:
        await proxy.hear(service())
        assert proxy.servers.problems()
        await proxy.lose("Service", "shop", "web")
        assert not proxy.servers.problems()
    assert taken.getsockname()[1] == PORT


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never comes")


async def test_a_restart_has_its_ports_back_at_once() -> None:
    for _ in range(3):
        async with running(healthz=HostPort(HOST, HEALTHZ)) as proxy:
            await proxy.hear(service())
            kept = await asyncio.open_connection(HOST, PORT)
            kept[1].write(b"GET / HTTP/1.1\r\nHost: lb\r\n\r\n")
            await kept[0].readuntil(b"\r\n\r\n")
            assert proxy.servers.problems() == []
        assert not await is_open(PORT)
        assert not await is_open(HEALTHZ)
        kept[1].close()


# --------------------------------------------------------------- healthz, livez


@asynccontextmanager
async def proxied(*objects: Object) -> AsyncIterator[Proxy]:
    async with running(services=False, healthz=HostPort(HOST, HEALTHZ)) as proxy:
        await proxy.hear(*objects)
        yield proxy


async def verdicts() -> tuple[str, str]:
    """Codes of /healthz and /livez."""
    healthz, livez = await ask(HEALTHZ, "/healthz"), await ask(HEALTHZ, "/livez")
    return healthz[0].split()[1], livez[0].split()[1]


async def test_healthz_has_kube_proxys_form() -> None:
    async with proxied(Node("node-1")):
        status, headers, body = await ask(HEALTHZ, "/healthz")
        assert (status, headers, body) == recorded("200 OK", body)
        found = json.loads(body)
        assert list(found) == ["lastUpdated", "currentTime", "nodeEligible", "healthy", "status"]
        assert found["nodeEligible"] is found["healthy"] is True
        assert list(found["status"]) == ["IPv4", "IPv6"]
        assert found["status"]["IPv4"] == {
            "lastUpdated": found["status"]["IPv6"]["lastUpdated"],
            "healthy": True,
        }
        assert found["lastUpdated"] == found["currentTime"] > found["status"]["IPv4"]["lastUpdated"]
        assert " " not in body


async def test_livez_says_nothing_of_the_node() -> None:
    async with proxied(Node("node-1", leaving=True)):
        status, headers, body = await ask(HEALTHZ, "/livez")
        assert (status, headers, body) == recorded("200 OK", body)
        assert list(json.loads(body)) == ["lastUpdated", "currentTime", "healthy", "status"]


async def test_other_paths_are_not_found() -> None:
    async with proxied():
        for path in ("/", "/healthz/", "/readyz"):
            assert await ask(HEALTHZ, path) == recorded(
                "404 Not Found", "404 page not found\n", "Content-Type: text/plain; charset=utf-8"
            )


async def test_a_node_that_leaves_is_no_target_but_lives() -> None:
    async with proxied() as proxy:
        assert await verdicts() == ("200", "200"), "files need have no Node"
        await proxy.hear(Node("node-1", leaving=True))
        assert await verdicts() == ("503", "200")
        body = json.loads((await ask(HEALTHZ, "/healthz"))[2])
        assert (body["nodeEligible"], body["healthy"]) == (False, True)
        await proxy.hear(Node("node-1"))
        assert await verdicts() == ("200", "200")
        await proxy.lose("Node", "", "node-1")
        assert await verdicts() == ("503", "200")


async def test_in_a_cluster_a_node_without_a_node_was_deleted() -> None:
    async with running(healthz=HostPort(HOST, HEALTHZ), in_cluster=True) as proxy:
        assert await verdicts() == ("200", "200"), "nothing heard yet: what is in force goes on"
        proxy.world.apply(Synced())
        assert await verdicts() == ("503", "200")
        await proxy.hear(Node("node-1"))
        assert await verdicts() == ("200", "200")


async def test_one_that_falls_behind_is_neither() -> None:
    async with proxied(Node("node-1")) as proxy:
        proxy.behind_since, proxy.now = 1000.0, 1000.0 + LATE
        assert await verdicts() == ("503", "503")
        body = json.loads((await ask(HEALTHZ, "/livez"))[2])
        assert body["healthy"] is body["status"]["IPv6"]["healthy"] is False
        assert body["lastUpdated"] == body["status"]["IPv4"]["lastUpdated"] < body["currentTime"]


async def test_one_that_starts_is_healthy_with_nothing_to_show() -> None:
    async with running(services=False, healthz=HostPort(HOST, HEALTHZ)) as proxy:
        assert await verdicts() == ("200", "200")
        assert "status" not in json.loads((await ask(HEALTHZ, "/livez"))[2])
        proxy.behind_since, proxy.now = 0.0, LATE
        body = json.loads((await ask(HEALTHZ, "/livez"))[2])
        assert body["lastUpdated"] == "0001-01-01T00:00:00Z"


def test_times_have_the_decimals_that_they_need() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00Z"
    assert rfc3339(1_763_708_191_394_266_550) == "2025-11-21T06:56:31.39426655Z"
    assert rfc3339(1_763_708_191_000_000_001) == "2025-11-21T06:56:31.000000001Z"


# -------------------------------------------------------------------- whose ports


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, Wanted(False, None)),
        ({"kube_proxy": "instead"}, Wanted(True, HostPort("", 10256))),
        ({"kube_proxy": "instead", "healthz": "off"}, Wanted(True, None)),
        ({"kube_proxy": "instead", "healthz": "[::1]:99"}, Wanted(True, HostPort("::1", 99))),
        ({"kube_proxy": "instead", "drain": True}, Wanted(False, None)),
        ({"healthz": "0.0.0.0:10257"}, Wanted(True, HostPort("0.0.0.0", 10257))),
        ({"service_proxy_name": "netaccel"}, Wanted(True, None)),
        ({"healthz": ":99", "node_port_addresses": "10.0.0.0/8"}, Wanted(True, HostPort("", 99), False)),
    ],
)
def test_beside_a_kube_proxy_the_ports_are_its_own(flags: dict[str, object], expected: Wanted) -> None:
    found = wanted(load({"manifests": "/etc/manifests", **flags}, {"NODE_NAME": "node-1"}))
    assert found == expected
    in_cluster = wanted(load(flags, {"NODE_NAME": "node-1"}))
    assert in_cluster == dataclasses.replace(expected, in_cluster=not flags.get("drain"))
    assert found.any == (expected.services or expected.healthz is not None)


async def test_without_services_ports_none_is_bound() -> None:
    async with running(services=False, healthz=HostPort(HOST, HEALTHZ)) as proxy:
        await proxy.hear(service())
        assert not await is_open(PORT)
        assert ServiceKey("shop", "web") in proxy.world.services()
