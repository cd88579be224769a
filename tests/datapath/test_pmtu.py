# SPDX-License-Identifier: Apache-2.0
"""Path MTU discovery through a NodePort: megabytes arrive though a hop of the path is narrow."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator

import pytest
from nodeport import NODE, POD_PORT, REMOTE_PORT, Site

pytestmark = pytest.mark.root

BYTES = 6 << 20
BLOCK = hashlib.sha256(b"netaccel").digest() * 2048
DATA = BLOCK * (BYTES // len(BLOCK))
NARROW = 1280


@pytest.fixture(params=["tc", "xdp"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with Site(xdp=request.param == "xdp") as site:
        yield site


def send_all(listener: socket.socket) -> None:
    with listener.accept()[0] as served:
        served.settimeout(20)
        served.sendall(DATA)


def receive_all(listener: socket.socket) -> None:
    """Answers the digest of what was sent."""
    with listener.accept()[0] as served:
        served.settimeout(20)
        served.sendall(digest_of(served))


def digest_of(sock: socket.socket) -> bytes:
    digest = hashlib.sha256()
    while block := sock.recv(1 << 16):
        digest.update(block)
    return digest.digest()


WHOLE = hashlib.sha256(DATA).digest()
families = pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])
backends = pytest.mark.parametrize(
    ("name", "port"), [("remote", REMOTE_PORT), ("pod", POD_PORT)], ids=["remote", "local"]
)


@families
class TestPathMtu:
    @backends
    def test_download_by_a_client_behind_a_narrow_hop(
        self, site: Site, v6: bool, name: str, port: int
    ) -> None:
        site.narrow("router", "client", NARROW)
        with site.serving(name, v6, socket.SOCK_STREAM, send_all):
            assert digest_of(site.client(v6, socket.SOCK_STREAM, NODE[v6], port)) == WHOLE
        assert site.tc_uplink.counter("COUNTER_ICMP_TRANSLATED") > 0
        assert site.no_checksum_errors()

    @pytest.mark.parametrize(
        ("where", "name", "port"),
        [("router", "remote", REMOTE_PORT), ("node", "remote", REMOTE_PORT), ("node", "pod", POD_PORT)],
        ids=["by-router", "by-node", "by-stack"],
    )
    def test_upload_to_a_backend_behind_a_narrow_hop(
        self, site: Site, v6: bool, where: str, name: str, port: int
    ) -> None:
        """A router complains of what the node has translated; the node of what it would have; or its stack
        of what it can't get into the pod."""
        site.narrow(where, name, NARROW)
        with site.serving(name, v6, socket.SOCK_STREAM, receive_all):
            client = site.client(v6, socket.SOCK_STREAM, NODE[v6], port)
            client.settimeout(20)
            client.sendall(DATA)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(32) == WHOLE
        if (where, name) == ("node", "remote"):
            assert site.tc_uplink.dropped("DROP_TOO_BIG") > 0
        else:
            assert site.tc_uplink.counter("COUNTER_ICMP_TRANSLATED") > 0
        assert site.no_checksum_errors()
