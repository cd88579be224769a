# SPDX-License-Identifier: Apache-2.0
"""Frames for the fuzz test: well-formed ones of every kind, and what chance makes of them."""

from __future__ import annotations

import random
from collections.abc import Iterator

from frames import l3_offset, ones_sum
from nodeport import CLIENT, NODE, POD, POD_PORT, REMOTE, REMOTE_PORT, SERVICE
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption, fragment
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    fragment6,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

CLIENT_MAC, NODE_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 4, 5, 6, 17, 44, 58, 60)


def _ip(v6: bool, src: str, dst: str) -> Packet:
    return IPv6(src=src, dst=dst) if v6 else IP(src=src, dst=dst)


def _transports(sport: int, dport: int) -> Iterator[Packet]:
    yield TCP(sport=sport, dport=dport, flags="S", options=[("MSS", 1460), ("WScale", 7)])
    yield TCP(sport=sport, dport=dport, flags="PA", seq=7, ack=9) / Raw(b"data" * 30)
    yield TCP(sport=sport, dport=dport, flags="FA", seq=7, ack=9)
    yield TCP(sport=sport, dport=dport, flags="R", seq=7)
    yield UDP(sport=sport, dport=dport) / Raw(b"datagram")
    yield UDP(sport=sport, dport=dport, chksum=0) / Raw(b"odd")
    yield UDP(sport=sport, dport=dport)


def _packets(v6: bool) -> Iterator[Packet]:
    client, node, pod, remote = CLIENT[v6], NODE[v6], POD[v6], REMOTE[v6]
    targets = [(node, REMOTE_PORT), (node, POD_PORT), (node, 22), (SERVICE[v6], 81), (SERVICE[v6], 9)]
    for address, port in targets:
        for sport in (4000, 4001):
            for transport in _transports(sport, port):
                yield _ip(v6, client, address) / transport
    for source, target in ((pod, client), (remote, pod)):  # answers of backends
        for transport in _transports(8080, 4000):
            yield _ip(v6, source, target) / transport
    for transport in _transports(4000, REMOTE_PORT):
        for address in (node, SERVICE[v6]):  # served, refused
            if v6:
                yield IPv6(src=client, dst=address) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / transport
            else:
                yield IP(src=client, dst=address, options=[IPOption(b"\x94\x04\x00\x00")]) / transport
        if v6:
            yield from fragment6(
                IPv6(src=client, dst=node)
                / IPv6ExtHdrFragment(id=5)
                / UDP(sport=4000, dport=POD_PORT)
                / Raw(b"f" * 1400),
                1280,
            )
        else:
            whole = IP(src=client, dst=node, id=5) / UDP(sport=4000, dport=POD_PORT) / Raw(b"f" * 1400)
            yield from fragment(whole, 800)
    for quote in (
        _ip(v6, node, client) / TCP(sport=REMOTE_PORT, dport=4000, flags="A") / Raw(b"q" * 20),
        _ip(v6, node, client) / UDP(sport=POD_PORT, dport=4000) / Raw(b"q" * 20),
        _ip(v6, client, pod) / UDP(sport=4000, dport=8080) / Raw(b"q" * 20),
        _ip(v6, client, pod) / TCP(sport=4000, dport=8080, flags="A") / Raw(b"q" * 20),
        _ip(v6, pod, remote) / TCP(sport=4000, dport=8080, flags="A") / Raw(b"q" * 20),
    ):
        errors = (
            (ICMPv6PacketTooBig(mtu=1280), ICMPv6DestUnreach(code=4), ICMPv6EchoRequest())
            if v6
            else (ICMP(type=3, code=4, nexthopmtu=1300), ICMP(type=11), ICMP(type=8))
        )
        for error in errors:
            outer = _ip(v6, remote if quote.src == node else pod, quote.src)
            yield outer / error / Raw(bytes(quote))
            yield outer / error / Raw(bytes(quote)[: 48 if v6 else 28])


def from_pod() -> list[bytes]:
    """A pod to itself, and to another, through frontends."""
    ether = Ether(src=CLIENT_MAC, dst=NODE_MAC)
    return [
        bytes(ether / _ip(v6, POD[v6], NODE[v6]) / transport)
        for v6 in (False, True)
        for port in (POD_PORT, REMOTE_PORT)
        for transport in _transports(4000, port)
    ]


def well_formed() -> list[bytes]:
    """Frames that mean something; most are for a frontend, a backend, or about one."""
    ether = Ether(src=CLIENT_MAC, dst=NODE_MAC)
    frames = [bytes(ether / p) for v6 in (False, True) for p in _packets(v6)]
    tagged = [(ether / Dot1Q(vlan=5)), (ether / Dot1AD(vlan=6) / Dot1Q(vlan=5))]
    frames += [
        bytes(t / _ip(v6, CLIENT[v6], NODE[v6]) / UDP(sport=4000, dport=POD_PORT) / Raw(b"tagged"))
        for t in tagged
        for v6 in (False, True)
    ]
    return [*from_pod(), *frames, bytes(ether / ARP())]


def snat_answers(ports: dict[tuple[bool, int], list[int]]) -> list[bytes]:
    """Answers of the remote backend to the node's ports (by family and protocol), and errors of it."""
    ether = Ether(src=CLIENT_MAC, dst=NODE_MAC)
    frames = []
    for (v6, proto), numbers in ports.items():
        for number in numbers:
            answer = _ip(v6, REMOTE[v6], NODE[v6])
            asked = _ip(v6, NODE[v6], REMOTE[v6])
            if proto == 6:
                answer /= TCP(sport=8080, dport=number, flags="A") / Raw(b"answer")
                asked /= TCP(sport=number, dport=8080, flags="A") / Raw(b"asked")
            else:
                answer /= UDP(sport=8080, dport=number) / Raw(b"answer")
                asked /= UDP(sport=number, dport=8080) / Raw(b"asked")
            error = ICMPv6DestUnreach(code=4) if v6 else ICMP(type=3, code=3)
            frames.append(bytes(ether / answer))
            frames.append(bytes(ether / _ip(v6, REMOTE[v6], NODE[v6]) / error / Raw(bytes(asked))))
    return frames


# ----------------------------------------------------------------- mutations


def _flip(frame: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(12, min(len(frame), 120)) if len(frame) > 12 else 0
        frame[at] ^= 1 << chance.randrange(8)


def _poke(frame: bytearray, chance: random.Random) -> None:
    if len(frame) > 14:
        frame[chance.randrange(12, min(len(frame), 110))] = chance.choice(INTERESTING)


def _cut(frame: bytearray, chance: random.Random) -> None:
    del frame[chance.randrange(14, len(frame) + 1) :]


def _grow(frame: bytearray, chance: random.Random) -> None:
    frame += chance.randbytes(chance.randint(1, 64))


def _lie(frame: bytearray, chance: random.Random) -> None:
    """A length that isn't so: of the packet, its header, an extension header, a datagram."""
    at, kind = l3_offset(bytes(frame))
    places = (4, 5, 41, 44, 45) if kind == 0x86DD else (0, 2, 3, 24, 25)
    place = at + chance.choice(places)
    if place < len(frame):
        frame[place] = chance.choice((*INTERESTING, frame[place] + 1 & 255, frame[place] - 1 & 255))


def _insert(frame: bytearray, chance: random.Random) -> None:
    at = chance.randrange(14, min(len(frame), 80)) if len(frame) > 15 else len(frame)
    frame[at:at] = chance.randbytes(chance.choice((1, 2, 4, 8)))


_MUTATIONS = (_flip, _flip, _poke, _poke, _cut, _grow, _lie, _insert)


def repaired(frame: bytes) -> bytes:
    """The frame with right checksums, as far as its lengths allow to compute them."""
    at, kind = l3_offset(frame)
    out, packet = bytearray(frame), frame[at:]
    if kind == 0x0800 and len(packet) >= 20:
        header, total = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
        if not 20 <= header <= total <= len(packet):
            return frame
        out[at + 10 : at + 12] = b"\0\0"
        out[at + 10 : at + 12] = (0xFFFF - ones_sum(bytes(out[at : at + header]))).to_bytes(2, "big")
        proto, addresses = packet[9], packet[12:20]
    elif kind == 0x86DD and len(packet) >= 40:
        header, total = 40, 40 + int.from_bytes(packet[4:6], "big")
        proto, addresses = packet[6], packet[8:40]
    else:
        return frame
    where = {6: 16, 17: 6, 1: 2, 58: 2}.get(proto)
    segment = bytearray(out[at + header : at + total])
    if where is None or len(segment) < max(8, where + 2) or total > len(packet):
        return bytes(out)
    segment[where : where + 2] = b"\0\0"
    pseudo = b"" if proto == 1 else addresses + len(segment).to_bytes(4, "big") + bytes([0, 0, 0, proto])
    check = 0xFFFF - ones_sum(pseudo + bytes(segment))
    out[at + header + where : at + header + where + 2] = (check or 0xFFFF).to_bytes(2, "big")
    return bytes(out)


def mutants(frames: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """``count`` frames, the same for the same arguments: a third with checksums put right again."""
    chance = random.Random(seed)
    for _ in range(count):
        frame = bytearray(chance.choice(frames))
        if chance.random() < 0.02:
            frame = bytearray(frame[:14] + chance.randbytes(chance.randint(0, 100)))
        for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
            chance.choice(_MUTATIONS)(frame, chance)
        result = bytes(frame)
        yield repaired(result) if chance.random() < 0.4 else result
