# SPDX-License-Identifier: Apache-2.0
"""The first packet of a flow as an Ethernet frame, for programs that are run on it. Nothing sends it."""

from __future__ import annotations

import struct

from netaccel.explain.ends import PROTOCOLS
from netaccel.model.address import is_ipv4
from netaccel.model.policy import ICMP, ICMPV6
from netaccel.oracle import Question

SOURCE_PORT = 49152
_ETHERNET = bytes.fromhex("020000000002 020000000001")
_TCP, _UDP, _SCTP = (PROTOCOLS[name] for name in ("TCP", "UDP", "SCTP"))
_SYN = 0x02
_ICMP_ERRORS = frozenset((3, 4, 5, 11, 12))
_IPV6_ERRORS_END = 128
"""ICMPv6 types below are errors (RFC 4443), which quote a packet."""


def first_packet(question: Question) -> bytes:
    """Ethernet, IP and what opens a flow: SYN, datagram, INIT, ICMP message.

    An ICMP error quotes a packet of a flow that nobody knows.
    """
    source, destination = question.source.address, question.destination.address
    return _ip(source, destination, question.protocol, _payload(question))


def _ip(source: bytes, destination: bytes, protocol: int, payload: bytes, *, bare: bool = False) -> bytes:
    if is_ipv4(source):
        kind = b"\x08\x00"
        header = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, source[12:], destination[12:]
        )
        header = header[:10] + struct.pack("!H", _checksum(header)) + header[12:]
    else:
        kind = b"\x86\xdd"
        header = struct.pack("!IHBB16s16s", 6 << 28, len(payload), protocol, 64, source, destination)
    return (b"" if bare else _ETHERNET + kind) + header + payload


def _payload(question: Question) -> bytes:
    port, protocol = question.port, question.protocol
    if protocol == _TCP:
        return struct.pack("!HHIIBBHHH", SOURCE_PORT, port, 1, 0, 5 << 4, _SYN, 65535, 0, 0)
    if protocol == _UDP:
        return struct.pack("!HHHH", SOURCE_PORT, port, 16, 0) + bytes(8)
    if protocol == _SCTP:
        init = struct.pack("!BBHIIHHI", 1, 0, 20, 1, 65535, 1, 1, 1)
        return struct.pack("!HHII", SOURCE_PORT, port, 0, 0) + init
    if protocol in (ICMP, ICMPV6):
        return struct.pack("!BBHHH", port >> 8, port & 255, 0, 1, 1) + _quoted(question)
    return bytes(32)


def _quoted(question: Question) -> bytes:
    """What an error is about: a datagram that its receiver sent to its sender."""
    kind = question.port >> 8
    if kind not in _ICMP_ERRORS if question.protocol == ICMP else kind >= _IPV6_ERRORS_END:
        return bytes(24)
    datagram = struct.pack("!HHHH", SOURCE_PORT, 9, 16, 0) + bytes(8)
    return _ip(question.destination.address, question.source.address, _UDP, datagram, bare=True)


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of octets."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
