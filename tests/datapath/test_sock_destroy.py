# SPDX-License-Identifier: Apache-2.0
"""Sockets that are connected to a removed backend are destroyed; all others are left alone."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from socket import AF_INET, AF_INET6, SO_ERROR, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET

import pytest
from sock_world import TCP, UDP, Actor, Remote, Service, World

from netaccel.datapath.netlink import netns_cookie
from netaccel.datapath.sockets import (
    Destroyer,
    DiagDestroyer,
    IteratorDestroyer,
    SocketReaper,
    namespaces,
    open_destroyer,
)
from netaccel.datapath.sockiter import DestroyStale, StaleSockets
from netaccel.model.address import parse_address
from netaccel.records import SockPeer

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("sock_destroy")]

WAYS = {
    "ipv4": (AF_INET, AF_INET, ""),
    "ipv6": (AF_INET6, AF_INET6, ""),
    "mapped": (AF_INET6, AF_INET, "::ffff:"),
}
DESTROYERS: dict[str, Callable[[World], Destroyer]] = {
    "iterators": lambda w: IteratorDestroyer(StaleSockets(w.pins), DestroyStale(w.pins)),
    "sock_diag": lambda w: DiagDestroyer(w.maps, w.constants["BACKEND_FREE"], StaleSockets(w.pins)),
    "sock_diag, no BTF": lambda w: DiagDestroyer(w.maps, w.constants["BACKEND_FREE"], None),
}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as made:
        yield made


@pytest.fixture(params=WAYS.values(), ids=WAYS.keys())
def way(request: pytest.FixtureRequest) -> tuple[int, int, str]:
    return request.param


@pytest.fixture(params=DESTROYERS.values(), ids=DESTROYERS.keys())
async def reaper(request: pytest.FixtureRequest, world: World) -> AsyncIterator[SocketReaper]:
    made = SocketReaper(request.param(world), world.maps, world.cgroup, world.node_namespace)
    yield made
    await made.reap()
    await made.reap()  # forgets what earlier tests left
    await made.close()


def connected(actor: Actor, way: tuple[int, int, str], service: Service) -> Remote:
    kind = SOCK_STREAM if service.key.proto == TCP else SOCK_DGRAM
    made = actor.socket(way[0], kind)
    made.connect([way[2] + service.address, service.port])
    if kind == SOCK_DGRAM:
        made.send("?")
    assert made.recv(100) == "a"
    return made


def is_alive(client: Remote) -> bool:
    """False where the kernel has aborted it: a reader wakes with this error, a writer of UDP has no peer."""
    pending = client.getsockopt(SOL_SOCKET, SO_ERROR)
    assert pending in (0, errno.ECONNABORTED)
    return pending == 0


def replace_backend(world: World, service: Service) -> None:
    """Backend a goes, b comes."""
    service.backends["b"] = service.backends["a"] + 1
    world.put_backend(service, "b")
    world.put_frontend(service, names=("b",))
    world.put_backend(service, "a", "FREE")


@pytest.mark.parametrize("proto", [TCP, UDP])
async def test_a_client_of_a_removed_backend_hears_of_it_and_connects_to_a_live_one(
    world: World, reaper: SocketReaper, way: tuple[int, int, str], proto: int
) -> None:
    service = world.service(way[1], proto)
    clients = [connected(actor, way, service) for actor in (world.pod, world.node)]
    replace_backend(world, service)
    assert await reaper.reap() == 2
    assert service.id not in {peer.service for peer in world.maps.dump("sock_peer").values()}
    for client, actor in zip(clients, (world.pod, world.node), strict=True):
        assert not is_alive(client)
        # A UDP socket may go on, as a DNS client's does.
        again = client if proto == UDP else actor.socket(way[0], SOCK_STREAM)
        again.connect([way[2] + service.address, service.port])
        again.send("?")
        assert again.recv(100) == "b"
        assert list(again.getpeername()[:2]) == [way[2] + service.address, service.port]
    assert await reaper.reap() == 0
    assert reaper.destroyed == 2


@pytest.mark.parametrize("proto", [TCP, UDP])
async def test_a_slot_that_was_given_to_a_new_backend_is_a_removed_backend(
    world: World, reaper: SocketReaper, proto: int
) -> None:
    way = WAYS["ipv4"]
    service = world.service(AF_INET, proto)
    client = connected(world.pod, way, service)
    world.put_backend(service, "a", generation=2)
    assert await reaper.reap() == 1
    assert not is_alive(client)


@pytest.mark.parametrize("state", ["ACTIVE", "TERMINATING", "NOT_READY"])
@pytest.mark.parametrize("proto", [TCP, UDP])
async def test_a_backend_that_is_still_there_keeps_its_sockets(
    world: World, reaper: SocketReaper, proto: int, state: str
) -> None:
    service = world.service(AF_INET, proto)
    client = connected(world.pod, WAYS["ipv4"], service)
    world.put_backend(service, "a", state)
    assert await reaper.reap() == 0
    assert is_alive(client)


@pytest.mark.parametrize("proto", [TCP, UDP])
async def test_a_socket_that_never_used_the_service_is_left_alone(
    world: World, reaper: SocketReaper, proto: int
) -> None:
    service = world.service(AF_INET, proto)
    direct = world.pod.socket(AF_INET, SOCK_STREAM if proto == TCP else SOCK_DGRAM)
    direct.connect([world.backend_address(service, "a"), 8080])
    client = connected(world.pod, WAYS["ipv4"], service)
    replace_backend(world, service)
    assert await reaper.reap() == 1
    assert not is_alive(client)
    assert is_alive(direct)


async def test_a_socket_that_connected_elsewhere_since_is_left_alone(
    world: World, reaper: SocketReaper
) -> None:
    first, second = world.service(AF_INET, UDP), world.service(AF_INET, UDP)
    client = connected(world.pod, WAYS["ipv4"], first)
    client.connect([world.backend_address(second, "a"), 8080])
    replace_backend(world, first)
    assert await reaper.reap() == 0
    assert is_alive(client)


async def test_an_entry_without_a_socket_is_forgotten_at_the_second_look(
    world: World, reaper: SocketReaper
) -> None:
    entry = SockPeer(
        world.pod.cookie, parse_address("10.96.0.250"), parse_address("10.77.250.1"), 80, 8080, 250, 4000, 1
    )
    world.maps.write("sock_peer", [(1 << 60, entry)])
    assert await reaper.reap() == 0
    assert world.maps.get("sock_peer", 1 << 60) == entry
    assert await reaper.reap() == 0
    assert world.maps.get("sock_peer", 1 << 60) is None
    assert reaper.forgotten == 1


async def test_an_entry_of_a_namespace_out_of_reach_is_kept(world: World, reaper: SocketReaper) -> None:
    entry = SockPeer(
        1 << 50, parse_address("10.96.0.250"), parse_address("10.77.250.1"), 80, 8080, 250, 4000, 1
    )
    world.maps.write("sock_peer", [(1 << 60, entry)])
    for _ in range(3):
        assert await reaper.reap() == 0
    assert world.maps.get("sock_peer", 1 << 60) == entry
    world.maps.delete("sock_peer", [1 << 60])


async def test_many_sockets_of_many_processes(world: World, reaper: SocketReaper) -> None:
    service = world.service(AF_INET, UDP)
    clients = [connected(world.pod, WAYS["ipv4"], service) for _ in range(200)]
    replace_backend(world, service)
    assert await reaper.reap() == 200
    assert not any(is_alive(client) for client in clients)


async def test_a_process_that_ends_meanwhile_is_no_error(world: World, reaper: SocketReaper) -> None:
    service = world.service(AF_INET, UDP)
    passing = Actor(world.node_namespace.name.replace("-node", "-pod"), world.cgroup)
    client = connected(passing, WAYS["ipv4"], service)
    replace_backend(world, service)
    reaping = asyncio.create_task(reaper.reap())
    passing.close()
    assert await reaping in (0, 1)
    del client


async def test_the_event_loops_thread_stays_where_it_is(world: World, reaper: SocketReaper) -> None:
    home = netns_cookie()
    service = world.service(AF_INET, UDP)
    client = connected(world.pod, WAYS["ipv4"], service)
    replace_backend(world, service)
    assert await reaper.reap() == 1
    assert not is_alive(client)
    assert netns_cookie() == home


def test_namespaces_are_those_of_the_cgroups_processes_and_the_nodes_own(world: World) -> None:
    found = namespaces(world.cgroup, world.node_namespace)
    assert len(found) == 2
    assert world.node_namespace in found[world.node_namespace.stat().st_ino]


def test_processes_that_are_gone_have_no_namespace(tmp_path: Path) -> None:
    (tmp_path / "pod").mkdir()
    (tmp_path / "pod/cgroup.procs").write_text("4194304\n0\n")
    own = Path("/proc/self/ns/net")
    assert namespaces(tmp_path, own) == {own.stat().st_ino: [own]}


def test_this_kernels_best_way_is_found(world: World) -> None:
    destroyer = open_destroyer(world.pins, world.maps, world.constants["BACKEND_FREE"])
    destroyer.close()
    assert destroyer.name in ("bpf_sock_destroy", "sock_diag")
