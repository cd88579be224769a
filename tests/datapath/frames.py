# SPDX-License-Identifier: Apache-2.0
"""Frames as bytes: are their checksums right? Independent of the programs and of scapy."""

from __future__ import annotations

from typing import NamedTuple

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
_CHECK_AT = {TCP: 16, UDP: 6, ICMP: 2, ICMPV6: 2}
_EXTENSIONS = {0, 43, 44, 60}
_TAGS = {0x8100, 0x88A8}


def ones_sum(data: bytes) -> int:
    """The Internet checksum's sum of ``data`` (RFC 1071), 0xFFFF where a checksum in it is right."""
    if len(data) % 2:
        data += b"\0"
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


class Sums(NamedTuple):
    """Verdicts on one packet; None where there is none to judge (no header, a fragment, UDP without)."""

    ip: bool | None
    transport: bool | None


def l3_offset(frame: bytes) -> tuple[int, int]:
    """Offset of the network header and the ethertype found there."""
    at, kind = 14, int.from_bytes(frame[12:14], "big")
    while kind in _TAGS and at < 22:
        kind = int.from_bytes(frame[at + 2 : at + 4], "big")
        at += 4
    return at, kind


def sums(frame: bytes) -> Sums:
    """Judge the checksums of an Ethernet frame."""
    at, kind = l3_offset(frame)
    return packet_sums(frame[at:], kind == 0x86DD)


def packet_sums(packet: bytes, v6: bool) -> Sums:
    """Judge the checksums of an IP packet; what its lengths say is not there is not judged."""
    if v6:
        return _sums6(packet)
    if len(packet) < 20 or packet[0] >> 4 != 4 or (packet[0] & 15) < 5:
        return Sums(None, None)
    header, total = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
    ip = ones_sum(packet[:header]) == 0xFFFF
    if total > len(packet) or int.from_bytes(packet[6:8], "big") & 0x3FFF:
        return Sums(ip, None)
    return Sums(ip, _transport(packet[9], packet[12:20], packet[header:total], v6=False))


def _sums6(packet: bytes) -> Sums:
    total = 40 + int.from_bytes(packet[4:6], "big")
    if len(packet) < max(40, total) or packet[0] >> 4 != 6:
        return Sums(None, None)
    proto, at = packet[6], 40
    while proto in _EXTENSIONS and at + 8 <= total:
        length = 8 if proto == 44 else (packet[at + 1] + 1) * 8
        if proto == 44 and int.from_bytes(packet[at + 2 : at + 4], "big") & 0xFFF9:
            return Sums(None, None)
        proto, at = packet[at], at + length
    return Sums(None, _transport(proto, packet[8:40], packet[at:total], v6=True))


def _transport(proto: int, addresses: bytes, segment: bytes, *, v6: bool) -> bool | None:
    where = _CHECK_AT.get(proto)
    if where is None or len(segment) < where + 2 or proto == (ICMP if v6 else ICMPV6):
        return None
    if proto == UDP and not v6 and segment[6:8] == b"\0\0":
        return None
    if proto == UDP and segment[6:8] == b"\0\0":
        return False
    pseudo = b"" if proto == ICMP else addresses + len(segment).to_bytes(4, "big") + bytes([0, 0, 0, proto])
    return ones_sum(pseudo + segment) == 0xFFFF
