# SPDX-License-Identifier: Apache-2.0
"""A dry instance over the maps of a live one: it answers, and writes nothing."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from machine import ADDRESSES, HZ, OBJECTS, Machine, lay_out
from policytables import PolicyTables
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from wires import Net

from netaccel.datapath import libbpf
from netaccel.datapath.bpfobject import BpfObject
from netaccel.model.address import parse_address
from netaccel.records import DryRun

pytestmark = pytest.mark.root

DEVICE = 77  # no device of the test's namespace has this number
SERVICES = [
    {"frontend": "vip:80", "kind": "CLUSTER_IP", "flags": ["AFFINITY"], "affinity_timeout": 60,
     "backends": ["remote:8080"]},
    {"frontend": "vip2:80", "kind": "CLUSTER_IP"},
]  # fmt: skip
POLICY = {
    "identities": {"remote": "301 POD", "client": 300},
    "ingress": {"any": "drop 9 isolated", "udp/53": "allow 3 / drop 6"},
    "egress": {"any": "reject 8", "icmp/8.0": "allow 5"},
    "peers": {"egress 301": {"any": "drop 8 isolated", "tcp/8080": "allow 2"}},
}


class Dry:
    """The dry instance, and the live one's maps."""

    def __init__(self, net: Net, live: Machine, dry: BpfObject) -> None:
        self.net, self.live, self.dry = net, live, dry

    def dump(self) -> dict[str, list[tuple[bytes, bytes | None]]]:
        found = {}
        for name, codec in self.live.abi.maps.items():
            if name in self.live.maps and not name.endswith("_scratch") and name != "flow_events":
                fd, key, rows = self.live.maps[name], None, []
                while (key := libbpf.map_next_key(fd, key, codec.key.size)) is not None:
                    size = (codec.value.size + 7) // 8 * 8 * libbpf.cpus()
                    rows.append((key, libbpf.map_lookup(fd, key, size)))
                found[name] = rows
        return found

    def ask(self, program: str, packet: Packet, device: int = DEVICE) -> DryRun:
        codec = self.dry.abi.maps["dry_run"]
        blank = DryRun(device, *[0] * 9, bytes(16), bytes(16), *[0] * 7)
        with self.dry.map("dry_run") as answers:
            answers.update(struct.pack("=I", 0), codec.value.pack(blank))
            self.net.inside("node", lambda: self.dry.program(program).test_run(bytes(Ether() / packet)))
            return codec.value.unpack(answers.lookup(struct.pack("=I", 0)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def dry() -> Iterator[Dry]:
    with Net() as net:
        lay_out(net)
        live = Machine(net, {})
        try:
            live.describe({"services": SERVICES, "wildcards": ["vip"]}, v6=False)
            addresses = {name: pair[0] for name, pair in ADDRESSES.items()}
            PolicyTables(live, DEVICE, addresses).write(POLICY)
            with BpfObject(OBJECTS / "tc_pod.o") as obj:
                obj.set_constant("settings", {"hz": HZ, "dry_run": 1})
                for name in obj.map_definitions():
                    if name != "dry_run" and not name.endswith("_scratch"):
                        obj.reuse(name, live.maps[name])
                obj.load()
                yield Dry(net, live, obj)
        finally:
            live.close()


def ip(src: str, dst: str) -> Packet:
    return IP(src=ADDRESSES[src][0], dst=ADDRESSES[dst][0])


def test_a_service_is_answered_with_its_backend_and_rule(dry: Dry) -> None:
    answer = dry.ask("tc_pod_ingress", ip("pod", "vip") / TCP(sport=4000, dport=80, flags="S"))

    constants = dry.dry.abi.constants
    assert (answer.judged, answer.reason, answer.verdict) == (1, 0, constants["VERDICT_FORWARDED"])
    assert (answer.rule, answer.shadow_rule, answer.identity, answer.subject) == (2, 2, 301, 7)
    assert (answer.service, answer.backend) == (1, 1)
    assert (answer.dst, answer.dport) == (parse_address(ADDRESSES["remote"][0]), 8080)
    assert answer.direction == constants["POLICY_EGRESS"]


def test_both_directions_and_both_verdicts(dry: Dry) -> None:
    constants = dry.dry.abi.constants

    refused = dry.ask("tc_pod_ingress", ip("pod", "client") / TCP(sport=4000, dport=80, flags="S"))
    pinged = dry.ask("tc_pod_ingress", ip("pod", "client") / ICMP(type=8, id=7))
    audited = dry.ask("tc_pod_egress", ip("client", "pod") / UDP(sport=4000, dport=53))
    dropped = dry.ask("tc_pod_egress", ip("client", "pod") / UDP(sport=4000, dport=54))

    assert (refused.reason, refused.rule) == (constants["DROP_POLICY_REJECTED"], 8)
    assert (refused.verdict, refused.action) == (constants["VERDICT_DROPPED"], constants["POLICY_REJECT"])
    assert (pinged.reason, pinged.rule) == (0, 5)
    assert (audited.verdict, audited.rule, audited.shadow_rule) == (constants["VERDICT_AUDITED"], 3, 6)
    assert (dropped.reason, dropped.rule) == (constants["DROP_POLICY_ISOLATED"], 9)


def test_what_the_load_balancer_refuses_is_not_judged(dry: Dry) -> None:
    constants = dry.dry.abi.constants

    empty = dry.ask("tc_pod_ingress", ip("pod", "vip2") / TCP(sport=4000, dport=80, flags="S"))
    absent = dry.ask("tc_pod_ingress", ip("pod", "vip") / TCP(sport=4000, dport=81, flags="S"))

    assert (empty.judged, empty.reason) == (0, constants["DROP_NO_BACKEND"])
    assert (absent.judged, absent.reason) == (0, constants["DROP_NO_SUCH_PORT"])


def test_no_map_is_written(dry: Dry) -> None:
    """Affinity, limiters and counters too; flows of the live instance are there to be touched."""
    opener = bytes(Ether() / ip("pod", "vip") / TCP(sport=4000, dport=80, flags="S"))
    dry.net.inside("node", lambda: dry.live.through("tc_pod_ingress", opener))
    dry.live.take_events()
    before = dry.dump()
    assert before["policy_flows4"]
    assert before["affinity"]

    segments = [TCP(sport=4000, dport=port, flags=flags) for port in (80, 81) for flags in ("S", "A")]
    layers = [*segments, UDP(sport=4000, dport=53), ICMP(type=8, id=7), ICMP(type=3)]
    for layer in layers:
        for target in ("vip", "vip2", "remote", "client", "pod"):
            dry.ask("tc_pod_ingress", ip("pod", target) / layer)
            dry.ask("tc_pod_egress", ip(target, "pod") / layer)
    dry.ask("tc_pod_ingress", IPv6(src=ADDRESSES["pod"][1], dst=ADDRESSES["client"][1]) / segments[0])

    assert dry.dump() == before
    assert not dry.live.take_events()
