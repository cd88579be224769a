# SPDX-License-Identifier: Apache-2.0
"""The kernel's own conntrack table, made by rules like kube-proxy's in a namespace."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest
from wires import Net

from netaccel.datapath import conntrack
from netaccel.datapath.conntrack import PROC, SEEN_REPLY, Connection, Way, parse_line
from netaccel.model.address import parse_address

pytestmark = pytest.mark.root

RULES = """
table inet nat {
  chain output {
    type nat hook output priority -100
    ip daddr 10.96.0.10 tcp dport 80 dnat ip to 10.0.0.1:8080
    ip daddr 10.96.0.10 udp dport 53 dnat ip to 10.0.0.1:5353
    ip6 daddr fd00:96::10 tcp dport 80 dnat ip6 to [fd00::1]:8080
  }
}
"""
SELF, VIP = {4: "10.0.0.1", 6: "fd00::1"}, {4: "10.96.0.10", 6: "fd00:96::10"}


@pytest.fixture
def net() -> Iterator[Net]:
    with Net() as made:
        made.namespace("node")
        made.address("node", "lo", "10.0.0.1/32", "fd00::1/128")
        made.ip("node", "route add 10.96.0.0/16 dev lo src 10.0.0.1", "-6 route add fd00:96::/64 dev lo")
        yield made


@pytest.fixture
def translated(net: Net) -> list[socket.socket]:
    """A TCP connection in each family and a datagram, through the rules; and a connection without them."""
    made: list[socket.socket] = []

    def connect() -> None:
        subprocess.run(["nft", "-f", "-"], input=RULES, text=True, check=True)
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            made.append(socket.create_server((SELF[version], 8080), family=family))
            for address, port in ((VIP[version], 80), (SELF[version], 8080)):
                client = socket.socket(family)
                client.settimeout(5)
                client.bind((SELF[version], 0))
                client.connect((address, port))
                made.append(client)
        asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        asking.connect((VIP[4], 53))
        asking.send(b"?")
        made.append(asking)

    net.inside("node", connect)
    return made


def way(src: tuple[str, int], dst: tuple[str, int]) -> Way:
    return Way(bytes(parse_address(src[0])), bytes(parse_address(dst[0])), src[1], dst[1])


def expected(client: socket.socket) -> set[tuple[int, Way, Way]]:
    """The connection that the kernel should show for a client through the rules."""
    own = client.getsockname()[:2]
    version = 6 if client.family == socket.AF_INET6 else 4
    if client.type == socket.SOCK_DGRAM:
        return {(17, way(own, (VIP[4], 53)), way((SELF[4], 5353), own))}
    return {(6, way(own, (VIP[version], 80)), way((SELF[version], 8080), own))}


def close(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.close()


def test_translated_connections_are_found(net: Net, translated: list[socket.socket]) -> None:
    found = net.inside("node", conntrack.read)
    _, four, _, _, six, _, datagram = translated
    wanted = expected(four) | expected(six) | expected(datagram)
    assert {(c.proto, c.original, c.reply) for c in found if c.translated} == wanted
    assert net.inside("node", conntrack.has_translated)
    states = {(c.proto, c.state, bool(c.status & SEEN_REPLY)) for c in found if c.translated}
    assert states == {(6, "ESTABLISHED", True), (17, "", False)}
    assert all(0 < c.left <= 432_000 for c in found)
    close(translated)


def test_only_those_that_go_to_a_wanted_place(net: Net, translated: list[socket.socket]) -> None:
    place = (bytes(parse_address(VIP[4])), 80, 6)
    (found,) = net.inside("node", lambda: conntrack.read({place}))
    assert {(found.proto, found.original, found.reply)} == expected(translated[1])
    close(translated)


def test_both_ways_of_reading_agree(net: Net, translated: list[socket.socket]) -> None:
    if not PROC.exists():
        pytest.skip("this kernel has no /proc/net/nf_conntrack")

    def lines() -> list[Connection]:
        with PROC.open() as file:
            return [found for line in file if (found := parse_line(line))]

    by_file, by_netlink = net.inside("node", lines), net.inside("node", conntrack.read)
    facts = [
        {(c.proto, c.original, c.reply, c.status & SEEN_REPLY, c.state) for c in found}
        for found in (by_file, by_netlink)
    ]
    assert facts[0] == facts[1]
    close(translated)


def test_a_namespace_without_entries(net: Net) -> None:
    assert net.inside("node", conntrack.read) == []
    assert not net.inside("node", conntrack.has_translated)
