# SPDX-License-Identifier: Apache-2.0
"""The kernel's conntrack table: bytes as nfnetlink_conntrack.h describes them, lines as /proc has them."""

from __future__ import annotations

import socket
import struct

import pytest

from netaccel.datapath.conntrack import SEEN_REPLY, Connection, Way, parse, parse_line
from netaccel.model.address import parse_address

NESTED = 0x8000
CLIENT, FRONTEND, BACKEND = "198.51.100.7", "10.96.0.10", "10.244.1.2"


def attribute(kind: int, content: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


def way(kind: int, src: str, sport: int, dst: str, dport: int, proto: int, zone: int = 0) -> bytes:
    family = socket.AF_INET6 if ":" in src else socket.AF_INET
    first = 3 if family == socket.AF_INET6 else 1
    ip = attribute(first, socket.inet_pton(family, src)) + attribute(first + 1, socket.inet_pton(family, dst))
    ports = attribute(1, bytes([proto])) + attribute(2, struct.pack(">H", sport))
    ports += attribute(3, struct.pack(">H", dport))
    content = attribute(1 | NESTED, ip) + attribute(2 | NESTED, ports)
    return attribute(kind | NESTED, content + (attribute(3, struct.pack(">H", zone)) if zone else b""))


def message(*attributes: bytes, kind: int = 0x100) -> bytes:
    body = struct.pack(">BBH", socket.AF_INET, 0, 0) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body


STATUS = attribute(3, struct.pack(">I", 0x2E))
TIMEOUT = attribute(7, struct.pack(">I", 431_998))
ESTABLISHED = attribute(4 | NESTED, attribute(1 | NESTED, attribute(1, b"\x03") + attribute(2, b"\x07")))
DONE = struct.pack("=IHHIIi", 20, 3, 2, 1, 0, 0)


def entry(proto: int = 6, *rest: bytes) -> bytes:
    return message(
        way(1, CLIENT, 4000, FRONTEND, 80, proto), way(2, BACKEND, 8080, CLIENT, 4000, proto), *rest
    )


def addresses(src: str, sport: int, dst: str, dport: int) -> Way:
    return Way(bytes(parse_address(src)), bytes(parse_address(dst)), sport, dport)


ORIGINAL, REPLY = addresses(CLIENT, 4000, FRONTEND, 80), addresses(BACKEND, 8080, CLIENT, 4000)


def test_a_translated_tcp_connection() -> None:
    (found,) = parse(entry(6, STATUS, TIMEOUT, attribute(8, bytes(4)), ESTABLISHED) + DONE)
    assert found == Connection(6, ORIGINAL, REPLY, 0x2E, 431_998, "ESTABLISHED")
    assert found.translated
    assert found.status & SEEN_REPLY


def test_a_udp_flow_has_no_state() -> None:
    (found,) = parse(entry(17, STATUS, TIMEOUT))
    assert (found.proto, found.state) == (17, "")


def test_ipv6() -> None:
    data = message(way(1, "fd00::7", 4000, "fd00:96::10", 80, 6), way(2, "fd00::2", 8080, "fd00::7", 4000, 6))
    (found,) = parse(data)
    assert found.original == addresses("fd00::7", 4000, "fd00:96::10", 80)
    assert found.reply.answer == addresses("fd00::7", 4000, "fd00::2", 8080)


def test_what_is_not_translated() -> None:
    data = message(way(1, CLIENT, 4000, BACKEND, 80, 6), way(2, BACKEND, 80, CLIENT, 4000, 6))
    (found,) = parse(data)
    assert not found.translated


def test_only_what_goes_to_a_wanted_place() -> None:
    data = (
        entry() + message(way(1, CLIENT, 1, BACKEND, 2, 6), way(2, BACKEND, 2, FRONTEND, 80, 6)) + entry(17)
    )
    wanted = {(bytes(parse_address(FRONTEND)), 80, 6)}
    assert [found.proto for found in parse(data, wanted)] == [6, 6], "to it first, answering to it second"


@pytest.mark.parametrize(
    "data",
    [
        entry(132),
        entry(6, attribute(18, struct.pack(">H", 7))),
        message(
            way(1, CLIENT, 4000, FRONTEND, 80, 6, zone=7), way(2, BACKEND, 8080, CLIENT, 4000, 6, zone=7)
        ),
        message(attribute(1 | NESTED, b""), attribute(2 | NESTED, b"")),
        message(STATUS, TIMEOUT),
        message(),
        b"",
        DONE + entry(),
    ],
    ids=["SCTP", "a zone", "a zone of one way", "no tuple", "no way", "empty", "nothing", "after the end"],
)
def test_what_is_passed_over(data: bytes) -> None:
    assert list(parse(data)) == []


def test_attributes_in_another_order_are_read_too() -> None:
    ip = attribute(2, socket.inet_aton(FRONTEND)) + attribute(1, socket.inet_aton(CLIENT))
    ports = (
        attribute(3, struct.pack(">H", 80)) + attribute(2, struct.pack(">H", 4000)) + attribute(1, b"\x06")
    )
    first = attribute(1 | NESTED, attribute(2 | NESTED, ports) + attribute(1 | NESTED, ip))
    (found,) = parse(message(first, way(2, BACKEND, 8080, CLIENT, 4000, 6), STATUS))
    assert (found.original, found.reply) == (ORIGINAL, REPLY)


@pytest.mark.parametrize("cut", range(1, len(entry(6, STATUS)), 7))
def test_a_cut_message_is_an_error(cut: int) -> None:
    whole = entry(6, STATUS)
    with pytest.raises(OSError, match="Bad message"):
        list(parse(struct.pack("=I", len(whole)) + whole[4:-cut] if cut < len(whole) - 16 else whole[:16]))


TCP_LINE = (
    "ipv4     2 tcp      6 431998 ESTABLISHED src=198.51.100.7 dst=10.96.0.10 sport=4000 dport=80 "
    "packets=2 bytes=9 src=10.244.1.2 dst=198.51.100.7 sport=8080 dport=4000 packets=1 bytes=9 "
    "[ASSURED] mark=0 zone=0 use=2"
)
UDP_LINE = (
    "ipv6     10 udp      17 28 src=fd00:0000:0000:0000:0000:0000:0000:0007 dst=fd00:96::10 sport=4000 "
    "dport=53 [UNREPLIED] src=fd00::2 dst=fd00::7 sport=5353 dport=4000 mark=0 use=2"
)


def test_lines_of_proc() -> None:
    assert parse_line(TCP_LINE) == Connection(6, ORIGINAL, REPLY, SEEN_REPLY, 431_998, "ESTABLISHED")
    found = parse_line(UDP_LINE)
    assert found
    assert (found.status, found.left, found.state) == (0, 28, "")
    assert found.original == addresses("fd00::7", 4000, "fd00:96::10", 53)


@pytest.mark.parametrize(
    "line",
    [
        "",
        TCP_LINE.replace("zone=0", "zone=3"),
        TCP_LINE.replace("tcp      6", "icmp     1"),
        "ipv4 2 tcp 6 9 CLOSE",
    ],
)
def test_lines_that_are_passed_over(line: str) -> None:
    assert parse_line(line) is None
