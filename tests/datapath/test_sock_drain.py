# SPDX-License-Identifier: Apache-2.0
"""Sockets and a frontend that drains: what has a backend keeps it, everything else is left to the stack."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM

import pytest
from sock_world import TCP, UDP, World, told

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("sock_drain")]
families = pytest.mark.parametrize("family", [AF_INET, AF_INET6], ids=["IPv4", "IPv6"])
# The addresses of frontends have no route: a call that is left alone ends in this.
UNTRANSLATED = "unreachable"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as made:
        yield made


@families
def test_a_new_connection_is_the_stacks_an_open_one_goes_on(world: World, family: int) -> None:
    service = world.service(family, TCP)
    before = world.pod.socket(family, SOCK_STREAM)
    before.connect([service.address, service.port])
    world.put_frontend(service, "DRAIN")
    with pytest.raises(OSError, match=UNTRANSLATED):
        world.pod.socket(family, SOCK_STREAM).connect([service.address, service.port])
    assert before.recv(100) == "a"
    assert before.getpeername()[0] == service.address
    assert world.counted(service) == (1, 0), "what is left to the stack is no connect of ours"
    world.put_frontend(service)
    after = world.pod.socket(family, SOCK_STREAM)
    after.connect([service.address, service.port])
    assert after.recv(100) == "a"


@families
def test_a_udp_socket_keeps_its_backend_a_new_one_gets_none(world: World, family: int) -> None:
    service = world.service(family, UDP, ("a", "b"))
    there = [service.address, service.port]
    before = world.pod.socket(family, SOCK_DGRAM)
    before.sendto("?", there)
    name, _ = before.recvfrom(100)
    world.put_frontend(service, "DRAIN")
    for _ in range(5):
        before.sendto("?", there)
        again, source = before.recvfrom(100)
        assert (again, source[0]) == (name, service.address)
    with pytest.raises(OSError, match=UNTRANSLATED):
        world.pod.socket(family, SOCK_DGRAM).sendto("?", there)
    assert world.counted(service) == (1, 0)


@families
def test_without_a_backend_it_is_not_refused_here(world: World, family: int) -> None:
    service = world.service(family, TCP, ())
    world.put_frontend(service, "DRAIN")
    world.wildcard(service, "DRAIN")
    drops = [world.dropped(reason) for reason in ("NO_BACKEND", "NO_SUCH_PORT")]
    for port in (service.port, service.port + 1):
        with pytest.raises(OSError, match=UNTRANSLATED):
            world.pod.socket(family, SOCK_STREAM).connect([service.address, port])
    assert [world.dropped(reason) for reason in ("NO_BACKEND", "NO_SUCH_PORT")] == drops


@families
def test_a_node_port_can_be_bound_again(world: World, family: int) -> None:
    address, port = ("0.0.0.0", 31000) if family == AF_INET else ("::", 31001)
    world.reserve(port, TCP, family)
    refused = world.node.socket(family, SOCK_STREAM)
    with pytest.raises(OSError, match=os.strerror(told(errno.EADDRINUSE))):
        refused.bind([address, port])
    refused.close()  # kernels before 5.17 leave it the port
    world.reserve(port, TCP, AF_INET, AF_INET6, flags="DRAIN")
    world.node.socket(family, SOCK_STREAM).bind([address, port])
