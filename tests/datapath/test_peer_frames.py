# SPDX-License-Identifier: Apache-2.0
"""Frame by frame: which go past the node's stack, as what they arrive, that all others stay as they are."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from peersite import SIZES
from programs import ROOT, TC_REDIRECT, TC_UNSPEC, Loaded
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from netaccel.datapath import netlink, rtnetlink
from netaccel.datapath.peers import hints
from netaccel.model.address import parse_address
from netaccel.records import PodPeer, PodPeerKey

pytestmark = pytest.mark.root

LOOPBACK = 1  # where a test run's packet comes from
OBJECTS = ROOT / "netaccel/objects"
A4, B4, A6, B6 = "10.1.1.2", "10.1.2.2", "fd00:1::2", "fd00:2::2"
MAC_A, MAC_B, GATEWAY_A, GATEWAY_B = (f"02:00:00:00:00:{n:02x}" for n in range(1, 5))
BRIDGE = 77


class Ground:
    """Programs, and two pods in ``pod_peers``: a is at the loopback, b at a device of 1,500 bytes."""

    def __init__(self, tc_pod: Loaded, tc_peer: Loaded, ifindex: int) -> None:
        self.tc_pod, self.tc_peer, self.ifindex = tc_pod, tc_peer, ifindex
        self.peers()

    def peers(self, *, bridge: int = 0, ifindex: int = 0) -> None:
        for address, where, mac, gateway in (
            (A4, LOOPBACK, MAC_A, GATEWAY_A),
            (A6, LOOPBACK, MAC_A, GATEWAY_A),
            (B4, ifindex or self.ifindex, MAC_B, GATEWAY_B),
            (B6, ifindex or self.ifindex, MAC_B, GATEWAY_B),
        ):
            value = PodPeer(where, bridge, *(bytes.fromhex(m.replace(":", "")) for m in (mac, gateway)))
            self.tc_pod.write("pod_peers", PodPeerKey(parse_address(address)), value)
        self.tc_pod.write(
            "peer_hints", 0, hints(map(parse_address, (A4, A6, B4, B6)), self.tc_pod.abi.constants)
        )

    def run(self, frame: Packet | bytes) -> tuple[int, bytes]:
        return self.tc_peer.run("tc_pod_peer", bytes(frame))


@pytest.fixture(scope="module")
def module_ground(module_inside: int) -> Iterator[Ground]:
    with (
        Loaded(OBJECTS / "tc_pod.o", None, SIZES) as tc_pod,
        Loaded(OBJECTS / "tc_peer.o", tc_pod.maps, SIZES) as tc_peer,
    ):
        yield Ground(tc_pod, tc_peer, module_inside)


@pytest.fixture(scope="module")
def module_inside() -> Iterator[int]:
    """The module runs in a namespace of its own, with a device; its ifindex."""
    name = f"natpeer{random.randrange(1 << 30):x}"
    netlink.create_namespace(name)
    try:
        with netlink.inside_namespace(name):
            netlink.add_veth("vb", "vp")
            netlink.set_up("vb")
            netlink.set_up("vp")
            yield next(each.ifindex for each in rtnetlink.devices() if each.name == "vb")
    finally:
        netlink.delete_namespace(name)


@pytest.fixture
def ground(module_ground: Ground) -> Ground:
    module_ground.peers()
    return module_ground


def link(dst: str = GATEWAY_A) -> Ether:
    return Ether(src=MAC_A, dst=dst)


def ip4(**fields: Any) -> IP:
    return IP(**{"src": A4, "dst": B4, "ttl": 64, **fields})


def ip6(**fields: Any) -> IPv6:
    return IPv6(**{"src": A6, "dst": B6, "hlim": 64, **fields})


TAKEN = {
    "tcp": ip4() / TCP(sport=4000, dport=80, flags="S"),
    "tcp6": ip6() / TCP(sport=4000, dport=80, flags="S"),
    "udp": ip4() / UDP(sport=4000, dport=53) / Raw(b"x" * 100),
    "udp6": ip6() / UDP(sport=4000, dport=53) / Raw(b"x" * 100),
    "sctp": ip4() / SCTP(sport=4000, dport=53) / Raw(b"x" * 100),
    "echo": ip4() / ICMP(type=8, id=7),
    "echo6": ip6() / ICMPv6EchoRequest(id=7),
    "the last hop but one": ip4(ttl=2) / TCP(sport=4001, dport=80, flags="S"),
    "the last hop but one, v6": ip6(hlim=2) / TCP(sport=4001, dport=80, flags="S"),
    "as large as the device takes": ip4() / UDP(sport=4000, dport=54) / Raw(b"x" * 1472),
    "as large as the device takes, v6": ip6() / UDP(sport=4000, dport=54) / Raw(b"x" * 1452),
}
QUOTED = ip4(src=B4, dst=A4) / UDP(sport=1, dport=2)
LEFT = {
    "no hop left": ip4(ttl=1) / TCP(sport=4002, dport=80, flags="S"),
    "no hop left, v6": ip6(hlim=1) / TCP(sport=4002, dport=80, flags="S"),
    "too large": ip4() / UDP(sport=4000, dport=55) / Raw(b"x" * 1473),
    "too large, v6": ip6() / UDP(sport=4000, dport=55) / Raw(b"x" * 1453),
    "options": ip4(options=[IPOption_RR(routers=["0.0.0.0"])]) / UDP(sport=1, dport=2),
    "extension header": ip6() / IPv6ExtHdrHopByHop() / UDP(sport=1, dport=2),
    "first fragment": ip4(flags="MF") / UDP(sport=1, dport=2) / Raw(b"x" * 8),
    "later fragment": ip4(frag=1) / Raw(b"x" * 8),
    "fragment, v6": ip6() / IPv6ExtHdrFragment(m=1, nh=17) / UDP(sport=1, dport=2),
    "an ICMP error": ip4() / ICMP(type=3, code=3) / QUOTED,
    "an ICMPv6 error": ip6() / ICMPv6DestUnreach(code=4) / (ip6(src=B6, dst=A6) / UDP(sport=1, dport=2)),
    "neighbours": ip6() / ICMPv6ND_NS(tgt=B6),
    "another protocol": ip4(proto=47) / Raw(b"x" * 8),
    "elsewhere": ip4(dst="10.1.3.2") / UDP(sport=1, dport=2),
    "from elsewhere": ip4(src="10.1.3.2") / UDP(sport=1, dport=2),
    "to itself": ip4(dst=A4) / UDP(sport=1, dport=2),
    "from the other": ip4(src=B4, dst=A4) / UDP(sport=1, dport=2),
    "a group": ip4(dst="224.0.0.1") / UDP(sport=1, dport=2),
    "all": ip4(dst="255.255.255.255") / UDP(sport=1, dport=2),
}


@pytest.mark.parametrize("packet", TAKEN.values(), ids=TAKEN.keys())
def test_routed(ground: Ground, packet: Packet) -> None:
    verdict, out = ground.run(link() / packet)
    assert verdict == TC_REDIRECT
    arrived = Ether(out)
    assert (arrived.src, arrived.dst) == (GATEWAY_B, MAC_B)
    expected = packet.copy()
    if IPv6 in expected:
        expected.hlim -= 1
    else:
        expected.ttl -= 1
    assert bytes(arrived.payload) == bytes(expected)  # its checksum too


@pytest.mark.parametrize("packet", TAKEN.values(), ids=TAKEN.keys())
def test_switched(ground: Ground, packet: Packet) -> None:
    ground.peers(bridge=BRIDGE)
    frame = bytes(link(MAC_B) / packet)
    assert ground.run(frame) == (TC_REDIRECT, frame)


@pytest.mark.parametrize("packet", LEFT.values(), ids=LEFT.keys())
def test_left_alone(ground: Ground, packet: Packet) -> None:
    frame = bytes(link() / packet)
    assert ground.run(frame) == (TC_UNSPEC, frame)


PLAIN = ip4() / UDP(sport=4000, dport=53) / Raw(b"x" * 20)


@pytest.mark.parametrize(
    "frame",
    [
        Ether(src=MAC_A, dst=MAC_B) / PLAIN,
        Ether(src=MAC_A, dst="ff:ff:ff:ff:ff:ff") / PLAIN,
        Ether(src=MAC_A, dst=GATEWAY_B) / PLAIN,
        link() / Dot1Q(vlan=7) / PLAIN,
        link() / ARP(psrc=A4, pdst=B4),
        link() / Raw(b"x" * 60),
    ],
    ids=["to the pod, no bridge", "to all", "to another", "tagged", "ARP", "no IP"],
)
def test_other_frames_are_left_alone(ground: Ground, frame: Packet) -> None:
    assert ground.run(frame) == (TC_UNSPEC, bytes(frame))


def test_a_device_that_is_not_there(ground: Ground) -> None:
    ground.peers(ifindex=1 << 20)
    frame = bytes(link() / PLAIN)
    assert ground.run(frame) == (TC_UNSPEC, frame)


def test_ports_of_two_bridges_are_not_switched(ground: Ground) -> None:
    ground.peers(bridge=BRIDGE)
    a = ground.tc_pod.read("pod_peers", PodPeerKey(parse_address(A4)))
    ground.tc_pod.write("pod_peers", PodPeerKey(parse_address(A4)), a._replace(bridge=BRIDGE + 1))  # type: ignore[union-attr, attr-defined]
    frame = bytes(link(MAC_B) / PLAIN)
    assert ground.run(frame) == (TC_UNSPEC, frame)


def test_whatever_comes(ground: Ground) -> None:
    """Bytes changed by chance: a frame stays as it is, or only what a hop changes is another."""
    chance = random.Random(17)
    frames = [bytes(link() / packet) for packet in (*TAKEN.values(), *LEFT.values())]
    changed = {4: {22, 24, 25}, 6: {21}}
    seen = set()
    for _ in range(4000):
        frame = bytearray(chance.choice(frames))
        for _ in range(chance.randrange(1, 5)):
            frame[chance.randrange(12, min(len(frame), 80))] = chance.choice((0, 1, 4, 6, 17, 58, 127, 255))
        if chance.random() < 0.2:
            frame = frame[: chance.randrange(min(len(frame), 54), len(frame) + 1)]
        verdict, out = ground.run(bytes(frame))
        seen.add(verdict)
        if verdict == TC_UNSPEC:
            assert out == frame
        else:
            assert verdict == TC_REDIRECT
            assert len(out) == len(frame)
            differs = {at for at in range(12, len(frame)) if out[at] != frame[at]}
            assert differs <= changed[frame[14] >> 4]
    assert seen == {TC_UNSPEC, TC_REDIRECT}
