# SPDX-License-Identifier: Apache-2.0
"""XDP's early drop changes no packet's fate, and nothing of what is told but the path.

Made-up policies and packets, each through two nodes: with early drop, and without. Packets that XDP lets pass
go on to the pod's device.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, NamedTuple

import pytest
from machine import ADDRESSES, NODE_MAC, ROUTER_MAC, Machine, lay_out
from policytables import PolicyTables
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from wires import Net

from netaccel.datapath.plane import CHECK_MTU, kernel_version

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(kernel_version() < CHECK_MTU, reason="without bpf_check_mtu XDP drops nothing early"),
]
XDP_DROP, TC_SHOT, TC_REDIRECT = 1, 2, 7
POLICIES, PACKETS = 60, 12
LEAST = 40  # that XDP drops early of them, or this shows little
CLIENTS = ("client", "client", "other", "other", "stranger", "node", "pod", "remote")
VERDICTS = (
    "allow", "allow 1", "drop 2", "drop 2", "drop 3 isolated", "drop 3 isolated", "reject 4",
    "allow 5 / drop 6", "drop 7 / allow 8", "reject 9 / drop 10", "allow 0 / drop 11 isolated",
)  # fmt: skip
SERVICES = [
    {
        "frontend": "vip:80",
        "kind": "LOAD_BALANCER",
        "backends": ["pod:8080 local", "pod:8081 local", "pod2:8080 local"],
    },
    {"frontend": "vip:53/udp", "kind": "LOAD_BALANCER", "backends": ["pod:5353/udp local"]},
    {"frontend": "vip2:80", "flags": ["AFFINITY"], "affinity_timeout": 60, "backends": ["pod:8080 local"]},
]


class Fate(NamedTuple):
    """What became of a packet at last, and what was told and counted of it."""

    drop: bool
    out: bytes
    reasons: dict[str, int]
    rules: dict[int, int]
    service: dict[str, int]
    events: list[Any]


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Net, Machine, Machine]]:
    """Early drop on, and off."""
    with Net() as net:
        lay_out(net)
        with closing(Machine(net, {"early": 1})) as early, closing(Machine(net, {"early": 0})) as late:
            yield net, early, late


def row(dice: random.Random) -> dict[str, str]:
    places = dice.sample(["tcp", "udp", "tcp/8080", "udp/5353", "tcp/80"], dice.randrange(3))
    return {place: dice.choice(VERDICTS) for place in ("any", *places)}


def policy(dice: random.Random) -> dict[str, Any]:
    known = {"client": "300", "other": "301", "node": "1 HOST NODE", "remote": "302 POD"}
    found: dict[str, Any] = {
        "reached": dice.random() < 0.9,
        "pod": dice.choice(["pod"] * 18 + ["pod2", None]),
        "strict": dice.random() < 0.2,
        "identities": {name: known[name] for name in known if dice.random() < 0.8},
        "egress": row(dice),
        "peers": {f"ingress {number}": row(dice) for number in (300, 301, 302) if dice.random() < 0.5},
    }
    if dice.random() < 0.9:
        found["ingress"] = row(dice)
    return found


def frame(dice: random.Random, v6: bool) -> bytes:
    client, service = dice.choice(CLIENTS), dice.choice(("vip", "vip", "vip", "vip", "vip2"))
    src, vip = ADDRESSES[client][v6], ADDRESSES[service][v6]
    # Two frontends of one backend see no port of a client twice: the second would get another, and an early
    # drop leaves no first.
    hops, port = dice.choice((1, 2, 2, 64, 64)), dice.randrange(4000, 4012) + 100 * (service == "vip2")
    layer = IPv6(src=src, dst=vip, hlim=hops) if v6 else IP(src=src, dst=vip, ttl=hops)
    # No SYN-ACK: without a flow it is the stack's, whose connection it may answer.
    flags = dice.choice(("S",) * 7 + ("A", "FA", "R", "SF"))
    last = TCP(sport=port, dport=80, flags=flags)
    if dice.random() < 0.3:
        last = UDP(sport=port, dport=53) / bytes(dice.choice((8, 8, 1480)))
    return bytes(Ether(src=ROUTER_MAC, dst=NODE_MAC) / layer / last)


def fate(machine: Machine, packet: bytes) -> tuple[Fate, bool]:
    """And whether XDP dropped it."""
    verdict, out = machine.through("xdp_uplink", packet)
    early = verdict == XDP_DROP
    if not early and out == packet:
        verdict, out = machine.through("tc_uplink_ingress", packet)
    if not early and out != packet and verdict != TC_REDIRECT:
        verdict, out = machine.through("tc_pod_egress", out)
    dropped = early or verdict == TC_SHOT
    events = [event._replace(time=0, path=0) for event in machine.take_events()]
    reasons, rules = machine.take("drops", "DROP_"), machine.take_rules()
    return Fate(dropped, b"" if dropped else out, reasons, rules, machine.take_service(1), events), early


def from_pod(dice: random.Random, v6: bool) -> bytes:
    """What the pod sends a client: of this an answer may come by the Service's address."""
    src, dst = ADDRESSES["pod"][v6], ADDRESSES[dice.choice(("client", "other"))][v6]
    layer = IPv6(src=src, dst=dst) if v6 else IP(src=src, dst=dst)
    port = dice.randrange(4000, 4006)
    last = dice.choice((TCP(sport=8080, dport=port, flags="S"), UDP(sport=5353, dport=port)))
    return bytes(Ether(src=ROUTER_MAC, dst=NODE_MAC) / layer / last)


def write(machine: Machine, described: Mapping[str, Any], v6: bool) -> PolicyTables:
    services = [{**one, "backends": list(one["backends"])} for one in SERVICES]  # type: ignore[call-overload]
    machine.describe({"services": services}, v6)
    names = {name: pair[v6] for name, pair in ADDRESSES.items()}
    tables = PolicyTables(machine, machine.ifindex, names)
    tables.write(described)
    return tables


@pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
def test_fates_are_the_same(nodes: tuple[Net, Machine, Machine], v6: bool) -> None:
    net, early, late = nodes

    def all_of_them() -> int:
        found = 0
        for seed in range(POLICIES):
            dice = random.Random(seed)
            described = policy(dice)
            tables = [(machine, write(machine, described, v6)) for machine in (early, late)]
            for number in range(PACKETS):
                if number == PACKETS // 2:  # another policy, over flows that are there
                    described = policy(dice)
                    for machine, each in tables:
                        machine.forget_policy()
                        each.write(described)
                if dice.random() < 0.1:
                    sent = from_pod(dice, v6)
                    for machine in (early, late):
                        machine.through("tc_pod_ingress", sent)
                        fate(machine, bytes(len(sent)))
                packet = frame(dice, v6)
                (one, by_xdp), (other, _) = fate(early, packet), fate(late, packet)
                assert one == other, f"policies {seed}, packet {number}: {described}"
                found += by_xdp
        return found

    assert net.inside("node", all_of_them) >= LEAST
