# SPDX-License-Identifier: Apache-2.0
"""What may become of a frame at a node of :mod:`nodeport`: a second opinion, written from the RFCs."""

from __future__ import annotations

import socket
from typing import NamedTuple

from frames import l3_offset, packet_sums, sums
from nodeport import BACKEND_PORT, FAMILIES, NODE, POD, POD_PORT, REMOTE, REMOTE_PORT

SNAT_PORTS = range(61000, 65536)
_CHECK = {6: 16, 17: 6}
_ERRORS = {1: {3, 11, 12}, 58: {1, 2, 3, 4}}


class Read(NamedTuple):
    """Headers of a packet at ``l3``. Ports 0 where a later fragment has none."""

    v6: bool
    l3: int
    l4: int
    proto: int
    src: bytes
    sport: int
    dst: bytes
    dport: int
    later: bool


class End(NamedTuple):
    """One end of a tuple."""

    addr: bytes
    port: int


def read(data: bytes, l3: int, v6: bool) -> Read | None:
    """Read a packet, whole or quoted; None where its headers are not there."""
    if v6:
        return _read6(data, l3)
    if len(data) < l3 + 20 or data[l3] >> 4 != 4 or data[l3] & 15 < 5:
        return None
    later = bool(int.from_bytes(data[l3 + 6 : l3 + 8], "big") & 0x1FFF)
    l4 = l3 + (data[l3] & 15) * 4
    return _ports(
        data, Read(False, l3, l4, data[l3 + 9], data[l3 + 12 : l3 + 16], 0, data[l3 + 16 : l3 + 20], 0, later)
    )


def _read6(data: bytes, l3: int) -> Read | None:
    if len(data) < l3 + 40 or data[l3] >> 4 != 6:
        return None
    proto, l4, later = data[l3 + 6], l3 + 40, False
    while proto in {0, 43, 44, 60} and not later:
        if len(data) < l4 + 8:
            return None
        if proto == 44:
            later = bool(int.from_bytes(data[l4 + 2 : l4 + 4], "big") & 0xFFF8)
        length = 8 if proto == 44 else (data[l4 + 1] + 1) * 8
        proto, l4 = data[l4], l4 + length
    return _ports(
        data, Read(True, l3, l4, proto, data[l3 + 8 : l3 + 24], 0, data[l3 + 24 : l3 + 40], 0, later)
    )


def _ports(data: bytes, found: Read) -> Read | None:
    if found.later:
        return found
    if len(data) < found.l4 + 8:
        return None
    ports = data[found.l4 : found.l4 + 4]
    return found._replace(sport=int.from_bytes(ports[:2], "big"), dport=int.from_bytes(ports[2:], "big"))


def _packed(v6: bool, address: str) -> bytes:
    return socket.inet_pton(FAMILIES[v6], address)


_NODES = {_packed(v6, NODE[v6]) for v6 in (False, True)}
BACKEND_OF = {
    End(_packed(v6, NODE[v6]), port): End(_packed(v6, backend[v6]), BACKEND_PORT)
    for v6 in (False, True)
    for port, backend in ((REMOTE_PORT, REMOTE), (POD_PORT, POD))
}
FRONTEND_OF = {backend: frontend for frontend, backend in BACKEND_OF.items()}


def is_translation(source: End, target: End, new_source: End, new_target: End) -> bool:
    """Whether a packet's tuple may become the new one: to its frontend's backend, or back.

    The client's end stays, or is the node's, or (where two clients' flows would answer alike) has another
    port; then the port is one of the range.
    """
    if BACKEND_OF.get(target) == new_target:
        return new_source == source or _is_snat(source, new_source)
    if FRONTEND_OF.get(source) == new_source:
        return new_target == target or _is_snat(new_target, target)
    return False


def _is_snat(end: End, translated: End) -> bool:
    return translated.port in SNAT_PORTS and (translated.addr in _NODES or translated.addr == end.addr)


def _addresses_may(before: Read, after: Read) -> bool:
    """As is_translation, of a later fragment."""
    to = {(f.addr, b.addr) for f, b in BACKEND_OF.items()}
    return (before.dst, after.dst) in to or (after.src, before.src) in to


def _is_whole(data: bytes, found: Read) -> bool:
    """Whether the frame holds as much as the IP header says, and that a transport header."""
    if found.v6:
        end = found.l3 + 40 + int.from_bytes(data[found.l3 + 4 : found.l3 + 6], "big")
    else:
        end = found.l3 + int.from_bytes(data[found.l3 + 2 : found.l3 + 4], "big")
    needed = 0 if found.later else {6: 20}.get(found.proto, 8)
    return found.l4 + needed <= end <= len(data)


def _may_differ(found: Read, quoted: bool) -> set[int]:
    """Offsets of bytes that a translation changes."""
    l3, l4 = found.l3, found.l4
    places = set(range(l3 + 8, l3 + 40)) if found.v6 else {l3 + 10, l3 + 11, *range(l3 + 12, l3 + 20)}
    if not quoted:
        places |= {*range(12), l3 + (7 if found.v6 else 8)}
    if not found.later:
        if found.proto in _CHECK:
            check = l4 + _CHECK[found.proto]
            places |= {*range(l4, l4 + 4), check, check + 1}
        elif not quoted:
            places |= {l4 + 2, l4 + 3}
    return places


def _same_elsewhere(before: bytes, after: bytes, places: set[int]) -> bool:
    return all(a == b or i in places for i, (a, b) in enumerate(zip(before, after, strict=True)))


def rewrite_fault(before: bytes, after: bytes) -> str:
    """What is wrong with a frame that left as ``after``; "" where nothing is."""
    if len(before) != len(after):
        return "its length changed"
    if sums(before) != sums(after):
        return f"checksums were {sums(before)}, are {sums(after)}"
    l3, kind = l3_offset(before)
    v6 = kind == 0x86DD
    old, new = read(before, l3, v6), read(after, l3, v6)
    if old is None or new is None or kind not in {0x0800, 0x86DD}:
        return "headers that are not there were changed"
    if not _is_whole(before, old):
        return "a packet that is not all there was changed"
    places = _may_differ(old, quoted=False)
    if old.proto in _CHECK:
        ends = (End(old.src, old.sport), End(old.dst, old.dport))
        news = (End(new.src, new.sport), End(new.dst, new.dport))
        if not (_addresses_may(old, new) if old.later else is_translation(*ends, *news)):
            return f"{ends} became {news}"
    else:
        fault, more = _error_fault(before, after, old)
        if fault:
            return fault
        places |= more
    hops = l3 + (7 if v6 else 8)
    if before[hops] - after[hops] not in {0, 1}:
        return "its hop limit"
    return "" if _same_elsewhere(before, after, places) else "bytes that are not its tuple's were changed"


def _error_fault(before: bytes, after: bytes, outer: Read) -> tuple[str, set[int]]:
    """As rewrite_fault, of an ICMP error; and where its quote may differ."""
    if before[outer.l4] not in _ERRORS.get(outer.proto, set()):
        return f"protocol {outer.proto} was changed", set()
    old, new = (read(data, outer.l4 + 8, outer.v6) for data in (before, after))
    if old is None or new is None or old.later or old.proto not in _CHECK:
        return "a quote that is not there was changed", set()
    # The quote turned round is the packet that the error follows.
    if not is_translation(
        End(old.dst, old.dport), End(old.src, old.sport), End(new.dst, new.dport), End(new.src, new.sport)
    ):
        return f"{old} became {new}", set()
    header = old.l4 - old.l3
    inner = before[old.l3 :], after[old.l3 :]
    if packet_sums(inner[0][:header], old.v6).ip != packet_sums(inner[1][:header], old.v6).ip:
        return "the quoted header's checksum", set()
    return "", _may_differ(old, quoted=True)


def answer_fault(before: bytes, after: bytes) -> str:
    """What is wrong with ``after`` as the answer to a frame that was refused; "" where nothing is."""
    l3, kind = l3_offset(before)
    v6 = kind == 0x86DD
    verdict = sums(after)
    if verdict.transport is not True or verdict.ip is False:
        return f"checksums are {verdict}"
    old, new = read(before, l3, v6), read(after, l3, v6)
    if old is None or new is None:
        return "no headers"
    if new.dst != old.src or (new.src != old.dst and new.src not in _NODES):
        return "addresses"
    if (after[:6], after[6:12]) != (before[6:12], before[:6]):
        return "Ethernet addresses"
    if new.proto == 6:
        return (
            "" if after[new.l4 + 13] & 4 and (new.sport, new.dport) == (old.dport, old.sport) else "no reset"
        )
    if new.proto != (58 if v6 else 1) or after[new.l4] not in _ERRORS[new.proto]:
        return "neither a reset nor an error"
    quote = after[new.l4 + 8 :]
    return "" if before[l3 : l3 + len(quote)] == quote else "the quote"
