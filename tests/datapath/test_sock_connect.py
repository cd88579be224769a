# SPDX-License-Identifier: Apache-2.0
"""connect(), sendmsg(), recvmsg() and getpeername() through socket load balancing, on real sockets."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from socket import AF_INET, AF_INET6, IPPROTO_MPTCP, SOCK_DGRAM, SOCK_STREAM
from typing import NamedTuple

import pytest
from sock_world import TCP, UDP, Actor, Remote, Service, World, told

from netaccel.model.address import parse_address

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("sock_connect")]


class Way(NamedTuple):
    """How an application speaks to a Service: its socket's family, the Service's, the address it names."""

    socket: int
    service: int
    prefix: str = ""

    def address(self, service: Service, port: int = 0) -> list[object]:
        return [self.prefix + service.address, port or service.port]


WAYS = {
    "ipv4": Way(AF_INET, AF_INET),
    "ipv6": Way(AF_INET6, AF_INET6),
    "mapped": Way(AF_INET6, AF_INET, "::ffff:"),
}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as made:
        yield made


@pytest.fixture(params=WAYS.values(), ids=WAYS.keys())
def way(request: pytest.FixtureRequest) -> Way:
    return request.param


def tcp(world: World, way: Way, service: Service, actor: Actor | None = None) -> Remote:
    made = (actor or world.pod).socket(way.socket, SOCK_STREAM)
    made.connect(way.address(service))
    return made


def udp(world: World, way: Way, actor: Actor | None = None) -> Remote:
    return (actor or world.pod).socket(way.socket, SOCK_DGRAM)


def asked(client: Remote, address: list[object]) -> str:
    """Which backend answers an unconnected socket."""
    client.sendto("?", address)
    name, _ = client.recvfrom(100)
    return name


# ---------------------------------------------------------------- translation


def test_a_tcp_connection_reaches_a_backend_and_shows_the_service(world: World, way: Way) -> None:
    service = world.service(way.service, TCP)
    client = tcp(world, way, service)
    assert client.recv(100) == "a"
    assert list(client.getpeername()[:2]) == way.address(service)
    assert world.counted(service) == (1, 0)


def test_a_connected_udp_socket_hears_the_service(world: World, way: Way) -> None:
    service = world.service(way.service, UDP)
    client = udp(world, way)
    client.connect(way.address(service))
    client.send("?")
    name, source = client.recvfrom(100)
    assert name == "a"
    assert list(source[:2]) == way.address(service)
    assert list(client.getpeername()[:2]) == way.address(service)
    assert world.counted(service) == (1, 0)


def test_an_unconnected_udp_socket_hears_each_service_that_it_asked(world: World, way: Way) -> None:
    services = [world.service(way.service, UDP, (name,)) for name in ("x", "y")]
    client = udp(world, way)
    for service in services:
        client.sendto("?", way.address(service))
    heard = dict(tuple(client.recvfrom(100)) for _ in services)
    assert {name: list(source)[:2] for name, source in heard.items()} == {
        "x": way.address(services[0]),
        "y": way.address(services[1]),
    }
    assert [world.counted(service) for service in services] == [(1, 0), (1, 0)]


def test_a_connected_socket_may_still_send_elsewhere(world: World, way: Way) -> None:
    first, second = (world.service(way.service, UDP, (name,)) for name in ("x", "y"))
    client = udp(world, way)
    client.connect(way.address(first))
    client.sendto("?", way.address(second))
    client.send("?")
    assert client.recv(100) == "x", "a connected socket hears its peer alone"


def test_a_socket_that_connects_again_shows_the_new_service(world: World, way: Way) -> None:
    first, second = (world.service(way.service, UDP, (name,)) for name in ("x", "y"))
    client = udp(world, way)
    for service, name in ((first, "x"), (second, "y")):
        client.connect(way.address(service))
        client.send("?")
        heard, source = client.recvfrom(100)
        assert (heard, list(source[:2])) == (name, way.address(service))
        assert list(client.getpeername()[:2]) == way.address(service)


def test_a_socket_that_connects_elsewhere_shows_where(world: World, way: Way) -> None:
    service = world.service(way.service, UDP, ("a", "b"))
    backends = [way.prefix + world.backend_address(service, name) for name in ("a", "b")]
    client = udp(world, way)
    for elsewhere in ([backends[0], 81], [backends[1], 81], *([b, 8080] for b in backends)):
        client.connect(way.address(service))
        chosen = next(p for p in world.maps.dump("sock_peer").values() if p.service == service.id)
        if (
            elsewhere[1] == 8080
            and parse_address(elsewhere[0].removeprefix("::ffff:")) == chosen.backend_addr
        ):
            continue  # its own backend by name: still shown as the Service (docs/decisions/0009)
        client.connect(elsewhere)
        assert list(client.getpeername()[:2]) == elsewhere


def test_what_is_no_frontend_is_left_alone(world: World, way: Way) -> None:
    for proto in (TCP, UDP):
        service = world.service(way.service, proto)
        backend = way.prefix + world.backend_address(service, "a")
        client = world.pod.socket(way.socket, SOCK_STREAM if proto == TCP else SOCK_DGRAM)
        client.connect([backend, 8080])
        client.send("?")
        heard, source = client.recvfrom(100)
        assert heard == "a"
        assert list(client.getpeername()[:2]) == [backend, 8080]
        assert world.counted(service) == (0, 0)
        if proto == UDP:
            assert list(source[:2]) == [backend, 8080]
            assert asked(udp(world, way), [backend, 8080]) == "a"


@pytest.mark.parametrize(
    ("family", "address", "port"), [(AF_INET, "0.0.0.0", 30080), (AF_INET6, "::", 30081)]
)
def test_the_unspecified_address_is_the_pods_own_though_a_node_port_is_reserved(
    world: World, family: int, address: str, port: int
) -> None:
    world.reserve(port, TCP, family)
    world.pod.ask("serve", family, SOCK_STREAM, address, port, "mine")
    client = world.pod.socket(family, SOCK_STREAM)
    client.connect([address, port])
    assert client.recv(100) == "mine"


def test_what_is_remembered_of_a_socket_goes_with_it(world: World, way: Way) -> None:
    service = world.service(way.service, TCP)
    inserted, deleted = world.counter("SOCK_PEER_INSERT"), world.counter("SOCK_PEER_DELETE")
    client = tcp(world, way, service)
    mine = [peer for peer in world.maps.dump("sock_peer").values() if peer.service == service.id]
    assert [(peer.addr, peer.port, peer.netns) for peer in mine] == [
        (service.key.addr, service.port, world.pod.cookie)
    ]
    client.close()
    assert service.id not in {peer.service for peer in world.maps.dump("sock_peer").values()}
    assert world.counter("SOCK_PEER_INSERT") == inserted + 1
    assert world.counter("SOCK_PEER_DELETE") == deleted + 1


def test_an_mptcp_socket_is_tcp_to_a_service(world: World, way: Way) -> None:
    service = world.service(way.service, TCP)
    try:
        client = world.pod.socket(way.socket, SOCK_STREAM, IPPROTO_MPTCP)
    except OSError:
        pytest.skip("this kernel has no MPTCP")
    client.connect(way.address(service))
    assert client.recv(100) == "a"


# --------------------------------------------------------------------- choice


def test_connections_spread_over_all_backends(world: World, way: Way) -> None:
    service = world.service(way.service, TCP, ("a", "b", "c"))
    assert {tcp(world, way, service).recv(100) for _ in range(50)} == {"a", "b", "c"}


def test_an_unconnected_socket_keeps_its_backend(world: World, way: Way) -> None:
    service = world.service(way.service, UDP, ("a", "b", "c"))
    client = udp(world, way)
    assert len({asked(client, way.address(service)) for _ in range(30)}) == 1
    assert {asked(udp(world, way), way.address(service)) for _ in range(50)} == {"a", "b", "c"}
    assert world.counted(service) == (51, 0)


@pytest.mark.parametrize("fate", ["FREE", "NOT_READY", "TERMINATING", "generation"])
def test_an_unconnected_socket_leaves_a_backend_that_is_not_active(world: World, way: Way, fate: str) -> None:
    service = world.service(way.service, UDP, ("a", "b"))
    client = udp(world, way)
    first = asked(client, way.address(service))
    other = "b" if first == "a" else "a"
    if fate == "generation":
        world.put_backend(service, first, generation=2)
    else:
        world.put_backend(service, first, fate)
    world.put_frontend(service, names=(other,))
    assert {asked(client, way.address(service)) for _ in range(10)} == {other}


def test_an_unconnected_socket_keeps_a_terminating_backend_where_nothing_is_active(
    world: World, way: Way
) -> None:
    service = world.service(way.service, UDP, ("a", "b", "c"))
    client = udp(world, way)
    first = asked(client, way.address(service))
    for name in service.backends:
        world.put_backend(service, name, "TERMINATING")
    assert {asked(client, way.address(service)) for _ in range(20)} == {first}


def test_an_unconnected_socket_remembers_the_new_backend_of_a_reused_slot(world: World, way: Way) -> None:
    service = world.service(way.service, UDP)
    client = udp(world, way)
    for generation in (1, 2):
        world.put_backend(service, "a", generation=generation)
        assert {asked(client, way.address(service)) for _ in range(3)} == {"a"}
        [value] = [v for k, v in world.maps.dump("sock_udp").items() if k.addr == service.key.addr]
        assert value.generation == generation
    assert world.counted(service) == (2, 0)


def test_a_table_that_names_another_services_backend_leads_nowhere(world: World, way: Way) -> None:
    """As a program may see it for a moment, while ranges and slots are given away."""
    other, service = world.service(way.service, TCP), world.service(way.service, TCP)
    service.backends["a"] = other.backends["a"]
    world.put_frontend(service)
    assert refused(world, way, way.address(service), TCP) == [told(errno.ECONNREFUSED)]


def test_affinity_keeps_a_pod_with_one_backend(world: World, way: Way) -> None:
    service = world.service(way.service, TCP, ("a", "b", "c"), "AFFINITY", timeout=600)
    first = tcp(world, way, service).recv(100)
    assert {tcp(world, way, service).recv(100) for _ in range(20)} == {first}
    entries = {k: v for k, v in world.maps.dump("affinity").items() if k.service == service.id}
    [(key, value)] = entries.items()
    assert int.from_bytes(key.client[:8], "little") == world.pod.cookie
    assert key.from_socket == 1
    assert value.backend == service.backends[first]


def test_affinity_ends_after_its_timeout(world: World, way: Way) -> None:
    service = world.service(way.service, TCP, ("a", "b", "c"), "AFFINITY", timeout=5)
    heard = set()
    for _ in range(50):
        heard.add(tcp(world, way, service).recv(100))
        [(key, value)] = [(k, v) for k, v in world.maps.dump("affinity").items() if k.service == service.id]
        long_ago = (value.seen - 6 * 250) % (1 << 32)
        world.maps.write("affinity", [(key, value._replace(seen=long_ago))])
    assert heard == {"a", "b", "c"}


def test_affinity_leaves_a_backend_that_is_not_active(world: World, way: Way) -> None:
    service = world.service(way.service, TCP, ("a", "b"), "AFFINITY", timeout=600)
    first = tcp(world, way, service).recv(100)
    other = "b" if first == "a" else "a"
    world.put_backend(service, first, "TERMINATING")
    world.put_frontend(service, "AFFINITY", 600, names=(other,))
    assert {tcp(world, way, service).recv(100) for _ in range(10)} == {other}


# ------------------------------------------------------------------- refusals


def refused(
    world: World, way: Way, address: list[object], proto: int, actor: Actor | None = None
) -> list[int]:
    """Errnos of connect() and, for UDP, of sendto()."""
    client = (actor or world.pod).socket(way.socket, SOCK_STREAM if proto == TCP else SOCK_DGRAM)
    found = []
    with pytest.raises(OSError) as caught:  # noqa: PT011
        client.connect(address)
    found.append(caught.value.errno)
    if proto == UDP:
        with pytest.raises(OSError) as caught:  # noqa: PT011
            client.sendto("?", address)
        found.append(caught.value.errno)
    return found


@pytest.mark.parametrize("proto", [TCP, UDP])
def test_a_service_without_backends_is_refused(world: World, way: Way, proto: int) -> None:
    service = world.service(way.service, proto, ())
    before = world.dropped("NO_BACKEND")
    errnos = refused(world, way, way.address(service), proto)
    assert set(errnos) == {told(errno.ECONNREFUSED)}
    assert world.dropped("NO_BACKEND") == before + len(errnos)
    assert world.counted(service) == (0, len(errnos))


@pytest.mark.parametrize("proto", [TCP, UDP])
def test_a_local_policy_without_local_backends_ends_as_a_silent_drop_does(
    world: World, way: Way, proto: int
) -> None:
    service = world.service(way.service, proto, (), "POD_LOCAL POD_DROP")
    before = world.dropped("NO_LOCAL_BACKEND")
    errnos = refused(world, way, way.address(service), proto)
    assert set(errnos) == {told(errno.ETIMEDOUT)}
    assert world.dropped("NO_LOCAL_BACKEND") == before + len(errnos)


@pytest.mark.parametrize("proto", [TCP, UDP])
def test_a_port_that_the_service_does_not_have_is_refused(world: World, way: Way, proto: int) -> None:
    service = world.service(way.service, proto)
    world.wildcard(service)
    before = world.dropped("NO_SUCH_PORT")
    errnos = refused(world, way, way.address(service, 81), proto)
    assert set(errnos) == {told(errno.ECONNREFUSED)}
    assert world.dropped("NO_SUCH_PORT") == before + len(errnos)


@pytest.mark.parametrize("proto", [TCP, UDP])
def test_a_pod_is_left_untranslated_where_source_ranges_rule(world: World, way: Way, proto: int) -> None:
    service = world.service(way.service, proto, ("a",), "SOURCE_RANGES NODE_ALLOWED")
    assert set(refused(world, way, way.address(service), proto)) == {errno.ENETUNREACH}
    assert world.counted(service) == (0, 0)


def test_the_node_is_translated_where_source_ranges_admit_it(world: World, way: Way) -> None:
    service = world.service(way.service, TCP, ("a",), "SOURCE_RANGES NODE_ALLOWED")
    assert tcp(world, way, service, world.node).recv(100) == "a"


@pytest.mark.parametrize("proto", [TCP, UDP])
def test_the_node_is_refused_where_source_ranges_exclude_it(world: World, way: Way, proto: int) -> None:
    service = world.service(way.service, proto, ("a",), "SOURCE_RANGES")
    before = world.dropped("SOURCE_RANGE")
    errnos = refused(world, way, way.address(service), proto, world.node)
    assert set(errnos) == {told(errno.ECONNREFUSED)}
    assert world.dropped("SOURCE_RANGE") == before + len(errnos)
    assert world.counted(service) == (0, len(errnos))


@pytest.mark.parametrize("proto", [TCP, UDP])
def test_without_the_helper_every_refusal_is_eperm(way: Way, proto: int, old_kernel: World) -> None:
    service = old_kernel.service(way.service, proto, ())
    assert set(refused(old_kernel, way, way.address(service), proto)) == {errno.EPERM}


@pytest.fixture(scope="module")
def old_kernel() -> Iterator[World]:
    with World(has_retval=0) as made:
        yield made
