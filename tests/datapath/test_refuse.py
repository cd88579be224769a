# SPDX-License-Identifier: Apache-2.0
"""What a program answers to a packet that it can't carry (bpf/include/reply.h)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from frames import Sums, sums
from programs import SMALL, TC_REDIRECT, TC_SHOT, Loaded, compile_program
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, TCPerror, UDPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPerror6,
    IPv6,
)
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw
from wires import TCX_INGRESS, Net

pytestmark = pytest.mark.root

CLIENT_MAC, NODE_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
CLIENT4, CLIENT6 = "198.51.100.7", "2001:db8::7"
FRONTEND4, FRONTEND6 = "203.0.113.1", "2001:db8:f::1"
NODE4, NODE6 = "192.0.2.10", "2001:db8:a::10"
MTU = 1400  # of tests/datapath/reply.bpf.c
GOOD = Sums(ip=True, transport=True)


def mapped(address: str) -> bytes:
    if ":" in address:
        return socket.inet_pton(socket.AF_INET6, address)
    return b"\0" * 10 + b"\xff\xff" + socket.inet_aton(address)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    source = Path(__file__).with_name("reply.bpf.c")
    with Loaded(compile_program(source, tmp_path_factory.mktemp("bpf") / "reply.o"), sizes=SMALL) as loaded:
        node = loaded.abi.maps["node"].value.record(mapped(NODE4), mapped(NODE6))  # type: ignore[attr-defined]
        loaded.write("node", 0, node)
        yield loaded


def client_packet(v6: bool, transport: Packet, **ip: object) -> bytes:
    network = IPv6(src=CLIENT6, dst=FRONTEND6, **ip) if v6 else IP(src=CLIENT4, dst=FRONTEND4, **ip)
    return bytes(Ether(src=CLIENT_MAC, dst=NODE_MAC) / network / transport)


def answered(loaded: Loaded, program: str, frame: bytes) -> Packet:
    """The reply, after what holds for each of them was checked."""
    verdict, out = loaded.run(program, frame)
    assert verdict == TC_REDIRECT
    reply = Ether(out)
    v6 = IPv6 in reply
    assert (reply.src, reply.dst) == (NODE_MAC, CLIENT_MAC)
    assert sums(out) == (Sums(None, transport=True) if v6 else GOOD)
    assert reply.payload.dst == (CLIENT6 if v6 else CLIENT4)
    assert len(out) == 14 + (reply.plen + 40 if v6 else reply[IP].len)
    return reply.payload


families = pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])


@families
class TestReset:
    def test_a_syn_is_reset_with_its_sequence_acknowledged(self, answers: Loaded, v6: bool) -> None:
        frame = client_packet(v6, TCP(sport=4000, dport=80, seq=1000, flags="S"))
        reply = answered(answers, "refuse", frame)
        assert reply.src == (FRONTEND6 if v6 else FRONTEND4)
        reset = reply[TCP]
        assert (reset.sport, reset.dport, reset.flags) == (80, 4000, "RA")
        assert (reset.seq, reset.ack, reset.window) == (0, 1001, 0)

    def test_a_segment_with_an_ack_is_reset_at_that_number(self, answers: Loaded, v6: bool) -> None:
        frame = client_packet(v6, TCP(sport=4000, dport=80, seq=9, ack=77, flags="PA") / Raw(b"x" * 1001))
        reset = answered(answers, "refuse", frame)[TCP]
        assert (reset.flags, reset.seq, reset.ack) == ("R", 77, 0)

    def test_data_and_fin_count_in_the_acknowledgement(self, answers: Loaded, v6: bool) -> None:
        options = [("MSS", 1460), ("NOP", None), ("WScale", 7)]
        segment = TCP(sport=4000, dport=80, seq=2**32 - 2, flags="SF", options=options) / Raw(b"abcde")
        assert answered(answers, "refuse", client_packet(v6, segment))[TCP].ack == 5

    def test_an_ethernet_trailer_is_no_data(self, answers: Loaded, v6: bool) -> None:
        frame = client_packet(v6, TCP(sport=4000, dport=80, seq=1000, flags="S")) + b"\xaa" * 6
        assert answered(answers, "refuse", frame)[TCP].ack == 1001

    def test_a_reset_is_never_answered(self, answers: Loaded, v6: bool) -> None:
        for flags in ("R", "RA"):
            frame = client_packet(v6, TCP(sport=4000, dport=80, flags=flags))
            assert answers.run("refuse", frame) == (TC_SHOT, frame)


@families
class TestPortUnreachable:
    @pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 500, 1231, 1400, 3000])
    def test_udp_gets_icmp_that_quotes_it(self, answers: Loaded, v6: bool, size: int) -> None:
        datagram = UDP(sport=4000, dport=53) / Raw(bytes(i % 251 for i in range(size)))
        frame = client_packet(v6, datagram)
        reply = answered(answers, "refuse", frame)
        assert reply.src == (FRONTEND6 if v6 else FRONTEND4)
        if v6:
            assert (reply[ICMPv6DestUnreach].type, reply[ICMPv6DestUnreach].code) == (1, 4)
            assert bytes(reply)[48:] == frame[14 : 14 + 1280 - 48]
        else:
            assert (reply[ICMP].type, reply[ICMP].code) == (3, 3)
            assert bytes(reply)[28:] == frame[14 : 14 + 576 - 28]


@families
class TestTooBigAndTimeExceeded:
    def test_too_big_names_the_mtu_and_the_node(self, answers: Loaded, v6: bool) -> None:
        frame = client_packet(v6, TCP(sport=4000, dport=80, flags="A") / Raw(b"x" * 1460))
        reply = answered(answers, "too_big", frame)
        assert reply.src == (NODE6 if v6 else NODE4)
        if v6:
            assert (reply[ICMPv6PacketTooBig].code, reply[ICMPv6PacketTooBig].mtu) == (0, MTU)
            assert reply[IPerror6].dst == FRONTEND6
        else:
            assert (reply[ICMP].type, reply[ICMP].code, reply[ICMP].nexthopmtu) == (3, 4, MTU)
            assert (reply[IPerror].dst, reply[TCPerror].sport) == (FRONTEND4, 4000)

    def test_time_exceeded(self, answers: Loaded, v6: bool) -> None:
        hop = {"hlim": 1} if v6 else {"ttl": 1}
        frame = client_packet(v6, UDP(sport=4000, dport=53), **hop)
        reply = answered(answers, "time_exceeded", frame)
        assert reply.src == (NODE6 if v6 else NODE4)
        if v6:
            assert reply[ICMPv6TimeExceeded].code == 0
        else:
            assert (reply[ICMP].type, reply[ICMP].code) == (11, 0)
            assert reply[UDPerror].dport == 53


@pytest.mark.parametrize(
    ("ethernet", "network"),
    [
        ("ff:ff:ff:ff:ff:ff", IP(src=CLIENT4, dst=FRONTEND4)),
        ("01:00:5e:00:00:01", IP(src=CLIENT4, dst="224.0.0.1")),
        (NODE_MAC, IP(src=CLIENT4, dst="239.1.2.3")),
        (NODE_MAC, IP(src=CLIENT4, dst="255.255.255.255")),
        (NODE_MAC, IP(src="0.0.0.0", dst=FRONTEND4)),
        (NODE_MAC, IP(src="224.0.0.1", dst=FRONTEND4)),
        (NODE_MAC, IP(src="127.0.0.1", dst=FRONTEND4)),
        (NODE_MAC, IPv6(src=CLIENT6, dst="ff02::1")),
        (NODE_MAC, IPv6(src="::", dst=FRONTEND6)),
        (NODE_MAC, IPv6(src="ff02::1", dst=FRONTEND6)),
    ],
    ids=lambda v: v if isinstance(v, str) else f"{v.src} to {v.dst}",
)
def test_groups_and_nobody_get_no_answer(answers: Loaded, ethernet: str, network: Packet) -> None:
    for transport in (UDP(sport=4000, dport=53) / b"x", TCP(sport=4000, dport=80, flags="S")):
        frame = bytes(Ether(src=CLIENT_MAC, dst=ethernet) / network / transport)
        for program in ("refuse", "too_big", "time_exceeded"):
            assert answers.run(program, frame) == (TC_SHOT, frame)


@pytest.fixture
def limits(answers: Loaded) -> Iterator[None]:
    yield
    answers.zero("limiter")


@pytest.mark.usefixtures("limits")
def test_icmp_errors_are_limited(answers: Loaded) -> None:
    frame = client_packet(False, UDP(sport=4000, dport=53))
    verdicts = (answers.run("refuse", frame)[0] for _ in range(200_000))
    assert TC_SHOT in verdicts  # at the 1,001st of a second on one CPU
    reset = client_packet(False, TCP(sport=4000, dport=80, flags="S"))
    assert answers.run("refuse", reset)[0] == TC_REDIRECT


# ------------------------------------------------------- real sockets, real checksum offload


@pytest.fixture
def refusing(answers: Loaded) -> Iterator[Net]:
    """A client beside a node that refuses all. The client leaves checksums to its device; the node's end
    has no such offload, so that the kernel completes whatever it believes to be pending in the reply."""
    with Net() as net:
        net.namespace("client", "node")
        net.wire(("client", "eth0"), ("node", "eth0"))
        net.offloads_off("node", "eth0", "tx")
        net.address("client", "eth0", "192.0.2.1/24", "2001:db8:a::1/64")
        net.address("node", "eth0", f"{NODE4}/24", f"{NODE6}/64")
        net.ip("client", f"route add {FRONTEND4} via {NODE4}", f"-6 route add {FRONTEND6} via {NODE6}")
        net.attach("node", "eth0", TCX_INGRESS, answers.programs["refuse"])
        yield net


@families
class TestSockets:
    def address(self, v6: bool) -> tuple[str, int]:
        return (FRONTEND6 if v6 else FRONTEND4, 80)

    def test_connect_is_refused(self, refusing: Net, v6: bool) -> None:
        sock = refusing.socket("client", socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_STREAM)
        assert sock.connect_ex(self.address(v6)) == errno.ECONNREFUSED
        assert refusing.snmp("client", "TcpInCsumErrors") == 0

    @pytest.mark.parametrize("size", [0, 1, 1000, 20000], ids=lambda n: f"{n}B")
    def test_udp_is_refused(self, refusing: Net, v6: bool, size: int) -> None:
        sock = refusing.socket("client", socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(self.address(v6))
        if size > 1400:  # segments of one large send: the program sees one frame of 20 KB
            sock.setsockopt(socket.IPPROTO_UDP, 103, 1000)  # UDP_SEGMENT
        sock.send(b"x" * size)
        with pytest.raises(ConnectionRefusedError):
            sock.recv(1)
        assert refusing.snmp("client", "Icmp6InCsumErrors" if v6 else "IcmpInCsumErrors") == 0

    def test_an_established_connection_is_reset(self, answers: Loaded, v6: bool) -> None:
        with Net() as net:
            net.namespace("client", "node")
            net.wire(("client", "eth0"), ("node", "eth0"))
            net.offloads_off("node", "eth0", "tx")
            net.address("client", "eth0", "192.0.2.1/24", "2001:db8:a::1/64")
            net.address("node", "eth0", f"{NODE4}/24", f"{NODE6}/64")
            family = socket.AF_INET6 if v6 else socket.AF_INET
            listener = net.socket("node", family, socket.SOCK_STREAM)
            listener.bind((NODE6 if v6 else NODE4, 80))
            listener.listen()
            client = net.socket("client", family, socket.SOCK_STREAM)
            client.connect((NODE6 if v6 else NODE4, 80))
            served, _ = listener.accept()
            with served:
                net.attach("node", "eth0", TCX_INGRESS, answers.programs["refuse"])
                client.send(b"x" * 60000)  # more than one segment: the program sees GSO
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
            assert net.snmp("client", "TcpInCsumErrors") == 0


def test_a_tagged_frame_is_answered_with_its_tag(refusing: Net) -> None:
    """The kernel takes the tag out of the frame before the program sees it, and puts it back."""
    auxiliary, tag_there = 8, 16  # PACKET_AUXDATA, TP_STATUS_VLAN_VALID
    wire = refusing.socket("client", socket.AF_PACKET, socket.SOCK_RAW)
    wire.bind(("eth0", 0x0003))  # ETH_P_ALL
    wire.setsockopt(263, auxiliary, 1)  # SOL_PACKET
    syn = IP(src=CLIENT4, dst=FRONTEND4) / TCP(sport=4000, dport=80, flags="S")
    wire.send(bytes(Ether(src=CLIENT_MAC, dst=NODE_MAC) / Dot1Q(vlan=77) / syn))
    for _ in range(100):
        data, ancillary, _, _ = wire.recvmsg(2048, 64)
        reply = Ether(data)
        if reply.src == NODE_MAC and TCP in reply and reply[TCP].flags == "RA":
            break
    status, tag = struct.unpack_from("=I12xH", ancillary[0][2])
    assert status & tag_there
    assert tag & 0xFFF == 77
