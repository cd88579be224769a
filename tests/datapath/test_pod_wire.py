# SPDX-License-Identifier: Apache-2.0
"""A pod whose sockets can't be seen: its packets through the programs of its device, with real sockets."""

from __future__ import annotations

import errno
import hashlib
import socket
from collections.abc import Iterator

import pytest
from nodeport import FAMILIES, NODE, POD, POD_PORT, REMOTE_PORT, SERVICE, Site

pytestmark = pytest.mark.root

DATA = hashlib.sha256(b"netaccel").digest() * (3 << 15)  # 3 MiB
WHOLE = hashlib.sha256(DATA).digest()
families = pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site(xdp=False) as site:
        yield site


def echo_digest(listener: socket.socket) -> None:
    """Who is there, and the digest of what was sent."""
    served, peer = listener.accept()
    with served:
        served.settimeout(20)
        digest = hashlib.sha256()
        while block := served.recv(1 << 16):
            digest.update(block)
        served.sendall(digest.digest() + peer[0].encode())


def echo_datagram(sock: socket.socket) -> None:
    data, peer = sock.recvfrom(1 << 16)
    sock.sendto(data, peer)


def upload(site: Site, v6: bool, port: int) -> tuple[bytes, str]:
    """Digest and client's address as the server has them."""
    client = site.client(v6, socket.SOCK_STREAM, NODE[v6], port, "pod")
    client.settimeout(20)
    client.sendall(DATA)
    client.shutdown(socket.SHUT_WR)
    answer = client.makefile("rb").read()
    return answer[:32], answer[32:].decode()


@families
class TestFromThePod:
    def test_a_remote_backend_sees_the_pod(self, site: Site, v6: bool) -> None:
        with site.serving("remote", v6, socket.SOCK_STREAM, echo_digest):
            assert upload(site, v6, REMOTE_PORT) == (WHOLE, POD[v6])
        assert site.no_checksum_errors()

    def test_itself_sees_the_node(self, site: Site, v6: bool) -> None:
        with site.serving("pod", v6, socket.SOCK_STREAM, echo_digest):
            assert upload(site, v6, POD_PORT) == (WHOLE, NODE[v6])
        assert site.no_checksum_errors()

    @pytest.mark.parametrize(
        ("name", "port"), [("remote", REMOTE_PORT), ("pod", POD_PORT)], ids=["remote", "itself"]
    )
    @pytest.mark.parametrize("size", [1, 8192])
    def test_datagrams(self, site: Site, v6: bool, name: str, port: int, size: int) -> None:
        with site.serving(name, v6, socket.SOCK_DGRAM, echo_datagram):
            client = site.client(v6, socket.SOCK_DGRAM, NODE[v6], port, "pod")
            client.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: fragment
            client.send(b"d" * size)
            assert client.recv(1 << 16) == b"d" * size
        assert site.no_checksum_errors()

    @pytest.mark.parametrize(("name", "port"), [("remote", REMOTE_PORT), ("pod", POD_PORT)])
    def test_a_backend_without_server_refuses_as_the_frontend(
        self, site: Site, v6: bool, name: str, port: int
    ) -> None:
        before = site.tc_uplink.counter("COUNTER_ICMP_TRANSLATED")
        client = site.client(v6, socket.SOCK_DGRAM, NODE[v6], port, "pod")
        client.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            client.recv(1)
        assert site.tc_uplink.counter("COUNTER_ICMP_TRANSLATED") > before, name
        stream = site.net.socket("pod", FAMILIES[v6], socket.SOCK_STREAM)
        assert stream.connect_ex((NODE[v6], port)) == errno.ECONNREFUSED

    @pytest.mark.parametrize(
        ("port", "reason"), [(81, "DROP_NO_BACKEND"), (82, "DROP_NO_SUCH_PORT")], ids=str
    )
    def test_refused_at_the_device(self, site: Site, v6: bool, port: int, reason: str) -> None:
        before = site.tc_uplink.dropped(reason)
        stream = site.net.socket("pod", FAMILIES[v6], socket.SOCK_STREAM)
        assert stream.connect_ex((SERVICE[v6], port)) == errno.ECONNREFUSED
        client = site.client(v6, socket.SOCK_DGRAM, SERVICE[v6], port, "pod")
        client.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            client.recv(1)
        assert site.tc_uplink.dropped(reason) == before + 2
        assert site.no_checksum_errors()


@families
def test_path_mtu_discovery_from_the_pod(v6: bool) -> None:
    """The router complains of what the device has translated."""
    with Site(xdp=False) as site:
        site.narrow("router", "remote", 1280)
        with site.serving("remote", v6, socket.SOCK_STREAM, echo_digest):
            assert upload(site, v6, REMOTE_PORT) == (WHOLE, POD[v6])
        assert site.tc_uplink.counter("COUNTER_ICMP_TRANSLATED") > 0
        assert site.no_checksum_errors()
