# SPDX-License-Identifier: Apache-2.0
"""The packet tables of tests/cases/packets: maps, a packet in, verdict and packet out.

::

    - name: what holds
      families: [4, 6]              # both unless told otherwise
      settings: {snat_count: 4}     # constants that differ from the source's
      maps: {services: [...]}       # balance.py; names of machine.ADDRESSES for addresses
      steps:
      - run: xdp_uplink             # the program
        send: ip(client, node)/TCP(sport=4000, dport=30080, flags="S")
        verdict: XDP_TX
        out: ip(node, remote, hops=63)/TCP(sport=port, dport=8080, flags="S")
        drops: {NO_BACKEND: 1}      # all that this packet added; none unless told otherwise
        counters: {XDP_TO_TC: 1}    # those named, by this packet (FLOW_INSERT: of the family)
        service: {xdp_request_packets: 1}   # those named, of service 1, by this packet
        flows: [forward SYN, reverse SYN]   # all there are, afterwards
        events: [egress FORWARDED 3]        # all of this packet (policytables.py)
        paths: [TC]                         # of these
        rules: {3: 1}                       # packets by rule that this one added, where named
        ends: [egress NEW plain]            # policy's flows, all there are, afterwards
      - backend: {number: 1, words: [free], generation: 2}   # a slot rewritten
      - lose: reverse               # one half evicted
      - slot: {number: 0, backend: 2}       # of the Maglev table
      - flags: [DRAIN]              # what every frontend has from here on
      - stack: {from: "client:4000", to: "node:30080", via: "node:5000", backend: "remote:8080"}
                                    # a flow of the kernel's conntrack; proto, state as there
      - age: 90                     # seconds without a packet
      - policy: {...}               # in force from here on, under the next revision (policytables.py)
      - flood: {run: xdp_uplink, send: ..., drops: FLOW_LIMIT}   # source port n, until one is dropped

``policy`` of a case is in force from its start. Packets are scapy's, with checksums that scapy computed;
``ip(src, dst, hops=64, ...)`` is IPv4 or IPv6, ``first(p)`` and ``later(p)`` are the fragments of a UDP
packet, ``broken(p)`` has a checksum that is off by one, ``ping(id)``, ``pong(id)`` an ICMP echo and
``about(p)`` an ICMP error, ``**proto(n)`` sets a protocol, ``Raw(even(p))`` makes the sum of UDP packet p
zero. ``swapped: true``: the Ethernet addresses have changed places. Without ``out`` a packet that goes on
must be untouched. ``port``, and any other name that has no meaning yet, takes the source port of what came
out, which must be of the SNAT range. ``answer: reset``, or one of ANSWERS, stands for ``out`` where the
client is answered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from frames import l3_offset, sums
from machine import ADDRESSES, NODE_MAC, ROUTER_MAC, XDP_DEVICE, Machine, endpoint, lay_out
from policytables import PolicyTables, describe_event
from scapy.layers import inet, inet6, l2
from scapy.packet import Packet, Raw
from wires import Net

from netaccel.datapath.plane import CHECK_MTU, kernel_version

pytestmark = pytest.mark.root

CASES = Path(__file__).parents[1] / "cases/packets"
VERDICTS = {
    "XDP_DROP": 1,
    "XDP_PASS": 2,
    "XDP_TX": 3,
    "TC_NEXT": 0xFFFFFFFF,
    "TC_SHOT": 2,
    "TC_REDIRECT": 7,
}
ANSWERS = {  # type and code, ICMP and ICMPv6
    "unreachable": ((3, 3), (1, 4)),
    "too big": ((3, 4), (2, 0)),
    "exceeded": ((11, 0), (3, 0)),
    "prohibited": ((3, 13), (1, 1)),
}
SNAT_FIRST, SNAT_LAST = 61000, 65535
SCAPY = {
    name: value
    for module in (inet, inet6, l2)
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, Packet)
} | {"Raw": Raw}


def cases() -> Iterator[Any]:
    for path in sorted(CASES.glob("*.yaml")):
        for case in yaml.safe_load(path.read_text()):
            for family in case.get("families", [4, 6]):
                yield pytest.param(case, family == 6, id=f"{path.stem}: {case['name']} (IPv{family})")


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with Net() as made:
        lay_out(made)
        yield made


@pytest.fixture(scope="module")
def machine(net: Net) -> Iterator[Callable[[dict[str, int]], Machine]]:
    """A machine for given settings; each is loaded once."""
    made: dict[tuple[tuple[str, int], ...], Machine] = {}

    def of(settings: dict[str, int]) -> Machine:
        key = tuple(sorted(settings.items()))
        if key not in made:
            made[key] = Machine(net, settings)
        return made[key]

    yield of
    for each in made.values():
        each.close()


class Run:
    """One case in one family."""

    def __init__(self, machine: Machine, case: dict[str, Any], v6: bool) -> None:
        self.machine = machine
        self.v6 = v6
        self.names: dict[str, Any] = {name: pair[v6] for name, pair in ADDRESSES.items()}
        self.names |= SCAPY | {"ip": self.ip, "first": self.first, "later": self.later, "broken": self.broken}
        self.names["proto"] = lambda number: {"nh" if v6 else "proto": number}
        self.names |= {"even": self.even, "ping": self.ping, "pong": self.pong, "about": self.about}
        self.balance = machine.describe(case.get("maps", {}), v6)
        addresses = {name: pair[v6] for name, pair in ADDRESSES.items()}
        self.policy = PolicyTables(machine, machine.ifindex, addresses)
        self.policy.write(case.get("policy", {"pod": None}))

    def ip(self, src: str, dst: str, hops: int = 64, **fields: Any) -> Packet:
        if self.v6:
            return inet6.IPv6(src=src, dst=dst, hlim=hops, **fields)
        return inet.IP(src=src, dst=dst, ttl=hops, **fields)

    def first(self, packet: Packet) -> Packet:
        return self.fragment(packet, 0, slice(0, 16))

    def later(self, packet: Packet) -> Packet:
        return self.fragment(packet, 2, slice(16, None))

    def fragment(self, packet: Packet, offset: int, part: slice) -> Packet:
        """Of the datagram's bytes ``part``, ``offset`` times eight from its start."""
        data = Raw(bytes(type(packet)(bytes(packet)).payload)[part])
        if self.v6:
            more = inet6.IPv6ExtHdrFragment(nh=17, offset=offset, m=not offset, id=7)
            return inet6.IPv6(src=packet.src, dst=packet.dst, nh=44) / more / data
        flags = "" if offset else "MF"
        return inet.IP(src=packet.src, dst=packet.dst, proto=17, id=7, frag=offset, flags=flags) / data

    def ping(self, number: int) -> Packet:
        return inet6.ICMPv6EchoRequest(id=number) if self.v6 else inet.ICMP(type=8, id=number)

    def pong(self, number: int) -> Packet:
        return inet6.ICMPv6EchoReply(id=number) if self.v6 else inet.ICMP(type=0, id=number)

    def about(self, packet: Packet) -> Packet:
        """An ICMP error, port unreachable."""
        error = inet6.ICMPv6DestUnreach(code=4) if self.v6 else inet.ICMP(type=3, code=3)
        return error / type(packet)(bytes(packet))

    def broken(self, packet: Packet) -> Packet:
        whole = type(packet)(bytes(packet))
        packet[inet.UDP].chksum = whole[inet.UDP].chksum - 1
        return packet

    def even(self, packet: Packet) -> bytes:
        """Two bytes after which the checksum is 0, sent as 0xFFFF (RFC 768)."""
        check = type(packet)(bytes(packet / Raw(b"\0\0")))[inet.UDP].chksum
        return bytes([check >> 8, check & 0xFF])

    def frame(self, text: str) -> bytes:
        packet = eval(text, dict(self.names))  # our own tables
        if isinstance(packet, bytes):
            return packet
        if not isinstance(packet, l2.Ether):
            packet = l2.Ether(src=ROUTER_MAC, dst=NODE_MAC) / packet
        return bytes(packet)

    def step(self, step: dict[str, Any]) -> None:
        match step:
            case {"backend": {"number": number, **rest}}:
                place = endpoint(rest.get("place", "remote:8080"), self.v6)
                words, generation = rest.get("words", []), rest.get("generation", 1)
                self.balance.write_backend(number, place, 1, words, generation)
            case {"lose": direction}:
                self.machine.lose(self.v6, direction)
            case {"age": seconds}:
                self.machine.age(self.v6, seconds)
            case {"slot": {"number": number, "backend": backend}}:
                self.machine.write("maglev", number, backend)
            case {"flags": names}:
                self.balance.set_flags(names)
            case {"stack": {"from": client, "to": frontend, "via": via, "backend": backend, **rest}}:
                places = [endpoint(place, self.v6) for place in (client, frontend, via, backend)]
                self.machine.stack(places, rest.get("proto", "tcp"), rest.get("state", "ESTABLISHED"))
            case {"flood": {"run": program, "send": text, "drops": reason}}:
                self.flood(program, text, reason)
            case {"policy": described}:
                self.machine.forget_policy()
                self.policy.write(described)
            case {"run": program, "send": text, **expected}:
                self.packet(program, self.frame(text), expected)
            case _:
                raise ValueError(f"no such step: {step}")

    def flood(self, program: str, text: str, reason: str) -> None:
        frames = [self.frame(re.sub(r"\bn\b", str(port), text)) for port in range(5000, 5500)]
        for frame in frames:
            self.machine.through(program, frame)
        assert self.machine.take("drops", "DROP_").keys() == {reason}
        self.machine.take("counters", "COUNTER_")
        self.machine.take_events()
        self.machine.take_service(1)

    def packet(self, program: str, frame: bytes, expected: dict[str, Any]) -> None:
        if expected["verdict"] == "XDP_TX" and not XDP_DEVICE:
            pytest.skip("this kernel runs XDP tests on the loopback only")
        verdict, out = self.machine.through(program, frame)

        names = {number: name for name, number in VERDICTS.items() if name.startswith(program[:2].upper())}
        drops = self.machine.take("drops", "DROP_")
        assert (names[verdict], drops) == (expected["verdict"], expected.get("drops", {}))
        if "answer" in expected:
            self.answered(expected["answer"], frame, out)
        elif "out" in expected:
            self.translated(expected, out)
        elif not expected["verdict"].endswith(("DROP", "SHOT")):
            assert out == frame
        self.accounts(expected)

    def translated(self, expected: dict[str, Any], out: bytes) -> None:
        start = l3_offset(out)[0]
        for name in re.findall(r"\bsport=([a-z_]\w*)", expected["out"]):
            if name not in self.names:
                self.names[name] = (inet6.IPv6 if self.v6 else inet.IP)(out[start:]).sport
                assert SNAT_FIRST <= self.names[name] <= SNAT_LAST
        wanted = self.frame(expected["out"])
        assert out[start:].hex() == wanted[l3_offset(wanted)[0] :].hex(), l2.Ether(out).show2(dump=True)
        if "broken(" not in expected["out"]:
            assert False not in sums(out)
        if expected.get("swapped"):
            link = l2.Ether(out)
            assert (link.dst, link.src) == (ROUTER_MAC, NODE_MAC)
        if expected["verdict"] == "XDP_TX":
            link = l2.Ether(out)
            assert (link.dst, link.src) == (ROUTER_MAC, NODE_MAC)

    def answered(self, how: str, frame: bytes, out: bytes) -> None:
        asked, answer = l2.Ether(frame), l2.Ether(out)
        layer = inet6.IPv6 if self.v6 else inet.IP
        assert (answer.dst, answer[layer].dst) == (asked.src, asked[layer].src)
        assert sums(out).transport is True
        if how == "reset":
            assert "R" in answer[inet.TCP].flags
            assert (answer[inet.TCP].sport, answer[inet.TCP].dport) == (asked.dport, asked.sport)
        else:
            start = 14 + (40 if self.v6 else 20)
            assert tuple(out[start : start + 2]) == ANSWERS[how][self.v6]

    def accounts(self, expected: dict[str, Any]) -> None:
        family = "6" if self.v6 else "4"
        counters = {
            k.replace(f"FLOW{family}", "FLOW").replace(f"POLICY{family}", "POLICY"): n
            for k, n in self.machine.take("counters", "COUNTER_").items()
        }
        for name, number in expected.get("counters", {}).items():
            assert (name, counters.get(name, 0)) == (name, number)
        told = self.machine.take_events()
        fates = [counters.get(f"EVENT_{fate}", 0) for fate in ("EXPORTED", "AGGREGATED", "LOST")]
        assert (counters.get("EVENT_SEEN", 0), len(told)) == (sum(fates), fates[0])
        if "events" in expected:
            assert [describe_event(e, self.machine.abi.enums) for e in told] == expected["events"]
        if "paths" in expected:
            assert [e.path for e in told] == [
                self.machine.abi.constants[f"PATH_{p}"] for p in expected["paths"]
            ]
        rules = self.machine.take_rules()
        for rule, number in expected.get("rules", {}).items():
            assert (rule, rules.get(rule, 0)) == (rule, number)
        service = self.machine.take_service(1)
        for name, number in expected.get("service", {}).items():
            assert (name, service[name]) == (name, number)
        if "flows" in expected:
            enums = self.machine.abi.enums
            directions = {n: k.removeprefix("FLOW_").lower() for k, n in enums["flow_direction"].items()}
            states = {n: k.removeprefix("FLOW_") for k, n in enums["flow_state"].items()}
            found = [f"{directions[k.direction]} {states[f.state]}" for k, f in self.machine.flows(self.v6)]
            assert sorted(found) == sorted(expected["flows"])
        if "ends" in expected:
            assert sorted(self.machine.ends(self.v6)) == sorted(expected["ends"])


@pytest.mark.parametrize(("case", "v6"), list(cases()))
def test_packets(
    net: Net, machine: Callable[[dict[str, int]], Machine], case: dict[str, Any], v6: bool
) -> None:
    settings = case.get("settings", {})
    if settings.get("early") and kernel_version() < CHECK_MTU:
        pytest.skip("without bpf_check_mtu XDP drops nothing early")
    run = Run(machine(settings), case, v6)

    def steps() -> None:
        for number, step in enumerate(case["steps"], start=1):
            try:
                run.step(step)
            except AssertionError as error:
                raise AssertionError(f"step {number}: {error}") from error

    net.inside("node", steps)
