# SPDX-License-Identifier: Apache-2.0
"""Through the uplink's programs with real sockets: large datagrams in fragments, and refusals."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest
from nodeport import BACKEND_PORT, FAMILIES, NODE, POD_PORT, REMOTE, REMOTE_PORT, SERVICE, Site

from netaccel.records import Backend

pytestmark = pytest.mark.root

SIZES = [1, 1473, 3000, 8192, 60000]


@pytest.fixture(scope="module", params=["tc", "xdp"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with Site(xdp=request.param == "xdp") as site:
        yield site


def echo(sock: socket.socket) -> None:
    """Each datagram goes back, until an empty one comes."""
    while True:
        data, peer = sock.recvfrom(1 << 16)
        sock.sendto(data, peer)
        if not data:
            return


families = pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])


@families
@pytest.mark.parametrize(
    ("name", "port"), [("remote", REMOTE_PORT), ("pod", POD_PORT)], ids=["remote", "local"]
)
def test_datagrams_in_fragments_go_there_and_back(site: Site, v6: bool, name: str, port: int) -> None:
    with site.serving(name, v6, socket.SOCK_DGRAM, echo):
        client = site.client(v6, socket.SOCK_DGRAM, NODE[v6], port)
        client.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: fragment
        for size in SIZES:
            data = bytes(i % 253 for i in range(size))
            client.send(data)
            assert client.recv(1 << 16) == data
        client.send(b"")
        assert client.recv(1) == b""
    assert site.tc_uplink.counter("COUNTER_FRAGMENT_INSERT") > 0
    assert site.no_checksum_errors()


@families
def test_a_hop_limit_that_ends_at_the_node_is_told(site: Site, v6: bool) -> None:
    """As traceroute asks: the node is the second hop towards a remote backend."""
    client = site.client(v6, socket.SOCK_DGRAM, NODE[v6], REMOTE_PORT)
    level, hops, receive = (socket.IPPROTO_IPV6, 16, 25) if v6 else (socket.IPPROTO_IP, 2, 11)
    client.setsockopt(level, hops, 2)  # IPV6_UNICAST_HOPS, IP_TTL
    client.setsockopt(level, receive, 1)  # IPV6_RECVERR, IP_RECVERR
    client.send(b"x")
    with pytest.raises(OSError, match="No route to host") as error:
        client.recv(1)
    assert error.value.errno == errno.EHOSTUNREACH
    assert site.tc_uplink.dropped("DROP_HOP_LIMIT") > 0
    _, ancillary, _, _ = client.recvmsg(1, 512, socket.MSG_ERRQUEUE)
    kind, code, offender = error_of(ancillary[0][2], v6)
    assert (kind, code, offender) == ((3, 0) if v6 else (11, 0)) + (NODE[v6],)


def error_of(data: bytes, v6: bool) -> tuple[int, int, str]:
    """Type, code and sender of a struct sock_extended_err."""
    family = socket.AF_INET6 if v6 else socket.AF_INET
    address = data[24:40] if v6 else data[20:24]
    return data[5], data[6], socket.inet_ntop(family, address)


@families
class TestRefused:
    @pytest.mark.parametrize(
        ("port", "reason"), [(81, "DROP_NO_BACKEND"), (82, "DROP_NO_SUCH_PORT")], ids=str
    )
    def test_connect(self, site: Site, v6: bool, port: int, reason: str) -> None:
        before = site.tc_uplink.dropped(reason)
        client = site.net.socket("client", FAMILIES[v6], socket.SOCK_STREAM)
        assert client.connect_ex((SERVICE[v6], port)) == errno.ECONNREFUSED
        assert site.tc_uplink.dropped(reason) == before + 1
        assert site.no_checksum_errors()

    @pytest.mark.parametrize(
        ("port", "reason"), [(81, "DROP_NO_BACKEND"), (82, "DROP_NO_SUCH_PORT")], ids=str
    )
    @pytest.mark.parametrize("size", [1, 8192])
    def test_udp(self, site: Site, v6: bool, port: int, reason: str, size: int) -> None:
        before = site.tc_uplink.dropped(reason)
        client = site.client(v6, socket.SOCK_DGRAM, SERVICE[v6], port)
        client.setsockopt(socket.IPPROTO_IP, 10, 0)
        client.send(b"x" * size)
        with pytest.raises(ConnectionRefusedError):
            client.recv(1)
        assert site.tc_uplink.dropped(reason) == before + 1

    def test_a_backend_port_without_server_is_refused_by_the_backend_itself(
        self, site: Site, v6: bool
    ) -> None:
        """UDP: the backend's ICMP error reaches the client as one of the frontend."""
        for port in (REMOTE_PORT, POD_PORT):
            client = site.client(v6, socket.SOCK_DGRAM, NODE[v6], port)
            client.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                client.recv(1)

    def test_an_established_connection_to_a_removed_backend_is_reset(self, site: Site, v6: bool) -> None:
        listener = site.net.socket("remote", FAMILIES[v6], socket.SOCK_STREAM)
        listener.bind((REMOTE[v6], BACKEND_PORT))
        listener.listen()
        client = site.client(v6, socket.SOCK_STREAM, NODE[v6], REMOTE_PORT)
        served, _ = listener.accept()
        with served:
            number = next(n for n in range(1, 9) if self.is_tcp_to(site, n, v6))
            value = site.tc_uplink.read("backends", number)
            assert isinstance(value, Backend)
            site.tc_uplink.write("backends", number, value._replace(state=0))
            try:
                client.send(b"anyone?")
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
            finally:
                site.tc_uplink.write("backends", number, value)
        assert site.tc_uplink.dropped("DROP_BACKEND_GONE") > 0
        assert site.no_checksum_errors()

    def is_tcp_to(self, site: Site, number: int, v6: bool) -> bool:
        value = site.tc_uplink.read("backends", number)
        assert isinstance(value, Backend)
        packed = socket.inet_pton(FAMILIES[v6], REMOTE[v6])
        return value.proto == socket.IPPROTO_TCP and value.addr.endswith(packed)
