# SPDX-License-Identifier: Apache-2.0
"""bind() to a frontend's node port is refused in the node's namespace, and nowhere else."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator
from socket import AF_INET, AF_INET6, IPPROTO_IPV6, IPV6_V6ONLY, SOCK_DGRAM, SOCK_STREAM

import pytest
from sock_world import TCP, UDP, Actor, World, told

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("sock_bind")]

ADDRESS4, ADDRESS6 = "10.77.250.1", "fd00:77:250::1"
ports = itertools.count(30000, 2)
KINDS = [pytest.param(TCP, SOCK_STREAM, id="tcp"), pytest.param(UDP, SOCK_DGRAM, id="udp")]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as made:
        yield made


@pytest.fixture
def port() -> int:
    """A port that no other test uses; the one after it is free too."""
    return next(ports)


def bind_errno(actor: Actor, family: int, kind: int, address: str, port: int, *, only6: bool = False) -> int:
    made = actor.socket(family, kind)
    try:
        if only6:
            made.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)
        made.bind([address, port])
    except OSError as error:
        return error.errno or -1
    finally:
        made.close()
    return 0


@pytest.mark.parametrize(("proto", "kind"), KINDS)
@pytest.mark.parametrize(("family", "address"), [(AF_INET, "0.0.0.0"), (AF_INET6, "::")])
def test_a_wildcard_bind_is_refused(
    world: World, port: int, proto: int, kind: int, family: int, address: str
) -> None:
    world.reserve(port, proto, family)
    before = world.dropped("PORT_RESERVED")
    assert bind_errno(world.node, family, kind, address, port) == told(errno.EADDRINUSE)
    assert world.dropped("PORT_RESERVED") == before + 1
    assert bind_errno(world.node, family, kind, address, port + 1) == 0


@pytest.mark.parametrize(("proto", "kind"), KINDS)
def test_a_dual_stack_bind_would_take_the_ipv4_port_too(
    world: World, port: int, proto: int, kind: int
) -> None:
    world.reserve(port, proto, AF_INET)
    assert bind_errno(world.node, AF_INET6, kind, "::", port) == told(errno.EADDRINUSE)
    assert bind_errno(world.node, AF_INET6, kind, "::", port, only6=True) == told(errno.EADDRINUSE), (
        "can't be told apart"
    )


@pytest.mark.parametrize(("proto", "kind"), KINDS)
@pytest.mark.parametrize(
    ("family", "address", "named"),
    [
        (AF_INET, ADDRESS4, ADDRESS4),
        (AF_INET6, ADDRESS6, ADDRESS6),
        (AF_INET6, ADDRESS4, f"::ffff:{ADDRESS4}"),
    ],
    ids=["ipv4", "ipv6", "mapped"],
)
def test_a_bind_to_the_node_port_address_is_refused(
    world: World, port: int, proto: int, kind: int, family: int, address: str, named: str
) -> None:
    world.node_port(address, port, proto)
    assert bind_errno(world.node, family, kind, named, port) == told(errno.EADDRINUSE)
    other = named.replace(".250.", ".251.").replace(":250:", ":251:")
    assert bind_errno(world.node, family, kind, other, port) == 0, "another address of the node"


@pytest.mark.parametrize(("proto", "kind"), KINDS)
def test_the_other_protocol_is_free(world: World, port: int, proto: int, kind: int) -> None:
    world.reserve(port, UDP if proto == TCP else TCP, AF_INET)
    assert bind_errno(world.node, AF_INET, kind, "0.0.0.0", port) == 0


@pytest.mark.parametrize(("proto", "kind"), KINDS)
def test_a_pod_may_bind_what_the_node_may_not(world: World, port: int, proto: int, kind: int) -> None:
    world.reserve(port, proto, AF_INET, AF_INET6)
    assert bind_errno(world.pod, AF_INET, kind, "0.0.0.0", port) == 0
    assert bind_errno(world.pod, AF_INET6, kind, "::", port) == 0


@pytest.mark.parametrize(("proto", "kind"), KINDS)
def test_a_cluster_ip_frontend_reserves_nothing(world: World, proto: int, kind: int) -> None:
    service = world.service(AF_INET, proto)
    world.node.ask("sysctl", "net/ipv4/ip_nonlocal_bind", "1")
    assert bind_errno(world.node, AF_INET, kind, service.address, service.port) == 0


@pytest.mark.parametrize(("proto", "kind"), KINDS)
def test_the_kernels_choice_for_port_0_is_judged(world: World, port: int, proto: int, kind: int) -> None:
    world.node.ask("sysctl", "net/ipv4/ip_local_port_range", f"{port} {port + 1}")
    assert bind_errno(world.node, AF_INET, kind, "0.0.0.0", 0) == 0
    for taken in (port, port + 1):
        world.reserve(taken, proto, AF_INET)
    assert bind_errno(world.node, AF_INET, kind, "0.0.0.0", 0) == told(errno.EADDRINUSE)
    world.node.ask("sysctl", "net/ipv4/ip_local_port_range", "32768 60999")
