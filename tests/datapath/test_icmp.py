# SPDX-License-Identifier: Apache-2.0
"""ICMP errors that quote a translated packet (bpf/include/icmp.h), each at each hook."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from frames import Sums, ones_sum, packet_sums, sums
from programs import SMALL, Loaded, compile_program
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from netaccel.records import Flow, FlowKey

pytestmark = pytest.mark.root

LEAVE, CONTINUE, FORWARD, BOUNCE, DROP = range(5)  # enum icmp_action
HOOKS = ("uplink_ingress", "uplink_egress", "pod_ingress", "pod_egress")
REMOTE, LOCAL, POD, HAIRPIN = "remote", "local", "pod", "hairpin"


class World(NamedTuple):
    """One family's addresses."""

    v6: bool
    client: str
    frontend: str
    node: str
    backend: str
    router: str


WORLDS = [
    World(False, "198.51.100.7", "203.0.113.1", "192.0.2.10", "10.1.2.3", "172.16.0.9"),
    World(True, "2001:db8::7", "2001:db8:f::1", "2001:db8:a::10", "fd00:1:2::3", "fd00:9::9"),
]
families = pytest.mark.parametrize("world", WORLDS, ids=["ipv4", "ipv6"])
protocols = pytest.mark.parametrize("proto", [TCP, UDP], ids=["tcp", "udp"])


def mapped(address: str) -> bytes:
    if ":" in address:
        return socket.inet_pton(socket.AF_INET6, address)
    return b"\0" * 10 + b"\xff\xff" + socket.inet_aton(address)


class Leg(NamedTuple):
    """Addresses and ports of the packets of one leg of a flow."""

    src: str
    sport: int
    dst: str
    dport: int

    def turned(self) -> Leg:
        return Leg(self.dst, self.dport, self.src, self.sport)


def legs(world: World, kind: str) -> tuple[Leg, Leg]:
    """What the client sends, and what the backend gets of it. Every kind has ports of its own."""
    port = 4000 + [REMOTE, LOCAL, POD, HAIRPIN].index(kind)
    client = world.backend if kind == HAIRPIN else world.client
    sent = Leg(client, port, world.frontend, 80)
    if kind in (REMOTE, HAIRPIN):
        return sent, Leg(world.node, 61000 + port, world.backend, 8080)
    return sent, Leg(client, port, world.backend, 8080)


def store(loaded: Loaded, world: World, kind: str, proto: int) -> None:
    names = {REMOTE: ["FLOW_SNAT"], LOCAL: ["FLOW_LOCAL"], POD: ["FLOW_FROM_POD"]}
    names[HAIRPIN] = ["FLOW_SNAT", "FLOW_FROM_POD", "FLOW_HAIRPIN", "FLOW_LOCAL"]
    flags = sum(loaded.abi.constants[n] for n in names[kind])
    table = "flows6" if world.v6 else "flows4"
    sent, received = legs(world, kind)
    for direction, (key, new) in enumerate([(sent, received), (received.turned(), sent.turned())]):
        nothing = dict.fromkeys(Flow._fields, 0) | {"hop_dst": bytes(6), "hop_src": bytes(6)}
        to = {"new_src": mapped(new.src), "new_dst": mapped(new.dst), "new_sport": new.sport}
        value = Flow(**(nothing | to | {"new_dport": new.dport, "flags": flags}))
        loaded.write(
            table,
            FlowKey(mapped(key.src), mapped(key.dst), key.sport, key.dport, proto, direction),
            value,
        )


@pytest.fixture(scope="module")
def hooks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    source = Path(__file__).with_name("icmp.bpf.c")
    with Loaded(compile_program(source, tmp_path_factory.mktemp("bpf") / "icmp.o"), sizes=SMALL) as loaded:
        for world in WORLDS:
            for kind in (REMOTE, LOCAL, POD, HAIRPIN):
                for proto in (6, 17):
                    store(loaded, world, kind, proto)
        yield loaded


def packet(leg: Leg, proto: type[Packet], payload: bytes = b"", **fields: object) -> Packet:
    network = (IPv6 if ":" in leg.src else IP)(src=leg.src, dst=leg.dst)
    extra = {"seq": 12345, "flags": "A"} if proto is TCP else {}
    return network / proto(sport=leg.sport, dport=leg.dport, **extra, **fields) / Raw(payload)


def error(sender: str, receiver: str, quote: bytes, layer: Packet | None = None, **ip: object) -> bytes:
    if ":" in sender:
        outer = IPv6(src=sender, dst=receiver, **ip) / (layer or ICMPv6PacketTooBig(mtu=1300))
    else:
        outer = IP(src=sender, dst=receiver, **ip) / (layer or ICMP(type=3, code=4, nexthopmtu=1300))
    return bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / outer / Raw(quote))


class Seen(NamedTuple):
    """An error as its receiver reads it."""

    src: str
    dst: str
    hops: int
    quote: bytes


def read(frame: bytes) -> Seen:
    """The parts of an error whose own checksums are right."""
    v6 = frame[12:14] == b"\x86\xdd"
    assert sums(frame) == Sums(None if v6 else True, transport=True)
    layer = Ether(frame).payload
    return Seen(layer.src, layer.dst, layer.hlim if v6 else layer.ttl, frame[62 if v6 else 42 :])


def quoted_leg(world: World, quote: bytes) -> Leg:
    inner = (IPv6 if world.v6 else IP)(quote)
    at = 40 if world.v6 else 20
    sport, dport = (int.from_bytes(quote[at + i : at + i + 2], "big") for i in (0, 2))
    return Leg(inner.src, sport, inner.dst, dport)


def at_every_hook(loaded: Loaded, frame: bytes) -> dict[str, tuple[int, bytes]]:
    """Actions of the hooks that do not leave the frame alone; those that do, must."""
    results = {hook: loaded.run(hook, frame) for hook in HOOKS}
    for hook, (action, out) in results.items():
        assert action != LEAVE or out == frame, hook
    return {hook: result for hook, result in results.items() if result[0] != LEAVE}


@families
@protocols
class TestTowardsTheClient:
    """About a packet that the backend was sent: the client reads of the packet that it sent."""

    @pytest.mark.parametrize(
        ("kind", "hook", "action"),
        [
            (REMOTE, "uplink_ingress", FORWARD),
            (LOCAL, "uplink_egress", CONTINUE),
            (POD, "pod_egress", CONTINUE),
            (HAIRPIN, "pod_ingress", BOUNCE),
        ],
    )
    def test_translated_at_one_hook(
        self, hooks: Loaded, world: World, proto: type[Packet], kind: str, hook: str, action: int
    ) -> None:
        sent, received = legs(world, kind)
        whole = bytes(packet(received, proto, b"x" * 101))
        results = at_every_hook(hooks, error(world.router, received.src, whole))
        assert list(results) == [hook]
        assert results[hook][0] == action
        seen = read(results[hook][1])
        assert (seen.src, seen.dst) == (world.frontend, sent.src)
        assert seen.hops == 64 - (action == FORWARD)
        assert quoted_leg(world, seen.quote) == sent
        assert packet_sums(seen.quote, world.v6) == Sums(None if world.v6 else True, transport=True)
        assert seen.quote == bytes(packet(sent, proto, b"x" * 101))


@families
@protocols
class TestTowardsTheBackend:
    """About an answer that the client was sent: the backend reads of the answer that it gave."""

    @pytest.mark.parametrize(
        ("kind", "hook", "action"),
        [
            (REMOTE, "uplink_ingress", FORWARD),
            (LOCAL, "uplink_ingress", CONTINUE),
            (POD, "pod_ingress", CONTINUE),
            (HAIRPIN, "pod_ingress", BOUNCE),
        ],
    )
    def test_translated_at_one_hook(
        self, hooks: Loaded, world: World, proto: type[Packet], kind: str, hook: str, action: int
    ) -> None:
        sent, received = legs(world, kind)
        whole = bytes(packet(sent.turned(), proto, b"y" * 100))
        results = at_every_hook(hooks, error(world.router, world.frontend, whole))
        assert list(results) == [hook]
        assert results[hook][0] == action
        seen = read(results[hook][1])
        translated = kind in (REMOTE, HAIRPIN)
        assert (seen.src, seen.dst) == (world.node if translated else world.router, world.backend)
        assert seen.quote == bytes(packet(received.turned(), proto, b"y" * 100))


@families
class TestQuotes:
    """What is quoted may be little, and is changed where it is there."""

    def translated(self, loaded: Loaded, frame: bytes) -> bytes:
        action, out = loaded.run("uplink_ingress", frame)
        assert action == FORWARD
        assert len(out) == len(frame)
        return read(out).quote

    @pytest.mark.parametrize("bytes_of_transport", [8, 12, 16, 17, 18, 20, 28])
    @protocols
    def test_cut_short(
        self, hooks: Loaded, world: World, proto: type[Packet], bytes_of_transport: int
    ) -> None:
        sent, received = legs(world, REMOTE)
        cut = (40 if world.v6 else 20) + bytes_of_transport
        quote = bytes(packet(received, proto, b"z" * 200))[:cut]
        expected = bytearray(bytes(packet(sent, proto, b"z" * 200))[:cut])
        if proto is TCP and bytes_of_transport == 17:  # half a checksum is none: left as it was
            expected[-1] = quote[-1]
        assert self.translated(hooks, error(world.router, world.node, quote)) == bytes(expected)

    def test_udp_without_checksum_stays_without(self, hooks: Loaded, world: World) -> None:
        _, received = legs(world, REMOTE)
        quote = bytes(packet(received, UDP, b"q" * 9, chksum=0))
        at = 46 if world.v6 else 26
        assert self.translated(hooks, error(world.router, world.node, quote))[at : at + 2] == b"\0\0"

    def test_wrong_quoted_checksums_stay_wrong_by_as_much(self, hooks: Loaded, world: World) -> None:
        """A router may have changed the packet before it complained: nothing is repaired."""
        sent, received = legs(world, REMOTE)
        quote = bytearray(bytes(packet(received, TCP, b"w" * 40)))
        quote[-1] ^= 1
        out = self.translated(hooks, error(world.router, world.node, bytes(quote)))
        expected = bytearray(bytes(packet(sent, TCP, b"w" * 40)))
        expected[-1] ^= 1
        assert out == bytes(expected)

    def test_extensions_of_the_message_stay(self, hooks: Loaded, world: World) -> None:
        """RFC 4884 objects behind the quote are nobody's packet."""
        _, received = legs(world, REMOTE)
        quote = bytes(packet(received, TCP, b"e" * 200))[:128]
        extension = b"\x20\x00\x12\x34\x00\x08\x01\x01\x00\x01\x02\x03"
        out = self.translated(hooks, error(world.router, world.node, quote + extension))
        assert out.endswith(extension)

    def test_every_error_type(self, hooks: Loaded, world: World) -> None:
        sent, received = legs(world, REMOTE)
        quote = bytes(packet(received, UDP, b"t"))
        if world.v6:
            layers = [ICMPv6DestUnreach(code=4), ICMPv6PacketTooBig(mtu=1280), ICMPv6TimeExceeded()]
        else:
            layers = [ICMP(type=3, code=3), ICMP(type=11, code=0), ICMP(type=12, code=0)]
        for layer in layers:
            out = self.translated(hooks, error(world.router, world.node, quote, layer))
            assert quoted_leg(world, out) == sent

    def test_options_and_extension_headers(self, hooks: Loaded, world: World) -> None:
        sent, received = legs(world, REMOTE)
        inner: Packet
        if world.v6:
            inner = IPv6(src=received.src, dst=received.dst) / IPv6ExtHdrDestOpt()
        else:
            inner = IP(src=received.src, dst=received.dst, options=[(b"\x94\x04\x00\x00")])
        quote = bytes(inner / UDP(sport=received.sport, dport=received.dport) / b"o")
        out = self.translated(hooks, error(world.router, world.node, quote))
        assert packet_sums(out, world.v6).transport
        assert out[48 if world.v6 else 24 :][:4] == sent.sport.to_bytes(2, "big") + b"\0\x50"

    def test_the_last_hop_ends_it(self, hooks: Loaded, world: World) -> None:
        _, received = legs(world, REMOTE)
        hop = {"hlim": 1} if world.v6 else {"ttl": 1}
        frame = error(world.router, world.node, bytes(packet(received, TCP)), **hop)
        assert hooks.run("uplink_ingress", frame) == (DROP, frame)


@families
class TestLeftAlone:
    def test_what_no_flow_has_sent(self, hooks: Loaded, world: World) -> None:
        _, received = legs(world, REMOTE)
        for leg in (received._replace(sport=61000), received._replace(dport=9), received.turned()):
            frame = error(world.router, leg.src, bytes(packet(leg, TCP)))
            assert not at_every_hook(hooks, frame)

    def test_an_error_for_another_than_the_sender_is_forged(self, hooks: Loaded, world: World) -> None:
        _, received = legs(world, REMOTE)
        assert not at_every_hook(hooks, error(world.router, world.client, bytes(packet(received, TCP))))

    def test_other_icmp(self, hooks: Loaded, world: World) -> None:
        echo = ICMPv6EchoRequest() if world.v6 else ICMP(type=8)
        _, received = legs(world, REMOTE)
        frame = error(world.router, world.node, bytes(packet(received, TCP)), echo)
        assert not at_every_hook(hooks, frame)

    def test_an_error_in_fragments(self, hooks: Loaded, world: World) -> None:
        """Rare beyond measure; half of it translated would be worse than none."""
        _, received = legs(world, REMOTE)
        quote = bytes(packet(received, TCP, b"f" * 400))
        whole = Ether(error(world.router, world.node, quote))
        if world.v6:
            header = IPv6(src=world.router, dst=world.node) / IPv6ExtHdrFragment(id=1, m=1)
            first = header / whole[IPv6].payload
        else:
            first = fragment(whole[IP], 160)[0]
        assert not at_every_hook(hooks, bytes(Ether(dst=whole.dst) / first))

    def test_a_quoted_later_fragment(self, hooks: Loaded, world: World) -> None:
        _, received = legs(world, REMOTE)
        if world.v6:
            inner = IPv6(src=received.src, dst=received.dst) / IPv6ExtHdrFragment(offset=2, nh=6)
        else:
            inner = IP(src=received.src, dst=received.dst, frag=2, proto=6)
        quote = bytes(inner / Raw(bytes(packet(received, TCP))[40 if world.v6 else 20 :]))
        assert not at_every_hook(hooks, error(world.router, world.node, quote))

    def test_a_quote_that_ends_before_the_ports(self, hooks: Loaded, world: World) -> None:
        _, received = legs(world, REMOTE)
        for cut in (0, 1, 19, 20, 23, 27, 39, 40, 47):
            if cut < (48 if world.v6 else 28):
                quote = bytes(packet(received, TCP))[:cut]
                assert not at_every_hook(hooks, error(world.router, world.node, quote))

    def test_a_trailer_is_no_quote(self, hooks: Loaded, world: World) -> None:
        _, received = legs(world, REMOTE)
        quote = bytes(packet(received, TCP))
        short = error(world.router, world.node, b"")
        assert not at_every_hook(hooks, short + quote)


def test_the_counter_counts_translations(hooks: Loaded) -> None:
    world = WORLDS[0]
    _, received = legs(world, REMOTE)
    before = hooks.counter("COUNTER_ICMP_TRANSLATED")
    frame = error(world.router, world.node, bytes(packet(received, TCP)))
    hooks.run("uplink_ingress", frame)
    hooks.run("pod_egress", frame)
    assert hooks.counter("COUNTER_ICMP_TRANSLATED") == before + 1


def test_ones_sum_is_rfc_1071s() -> None:
    assert ones_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2
