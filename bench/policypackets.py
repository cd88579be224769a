# SPDX-License-Identifier: Apache-2.0
"""What policy costs a packet at a pod's device: a flow that is known, and the first packet of one.

Known flows are timed beside the same programs with policy off, in turn, round after round in one process.
First packets are each of a flow of its own: the peer's address differs from packet to packet, its port from
run to run; tables of each number of rules have programs of their own, which take turns too. Rules are peers
(a CIDR each), each with a row of one port. What a client of a load-balancer address may not open is dropped
by XDP at once, and beside it by the pod's device after XDP has opened the flow (the node's stack between the
two comes on top, and is not measured).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from bench.driver import Case, Driver
from bench.packets import ADDRESSES, CLIENT, NODE_MAC, ROUTER_MAC, context, fill, measure, node
from bench.results import Result
from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.maps import KernelMaps
from netaccel.datapath.ringbuf import RingBuffer
from netaccel.model.address import parse_address
from netaccel.records import (
    Backend,
    Identity,
    IdentityKey,
    PodPeer,
    PodPeerKey,
    PolicyEndpoint,
    PolicyPeerKey,
    PolicyRevision,
    PolicyRowKey,
    PolicyVerdict,
)  # fmt: skip

LOOPBACK = 1  # the device of a test run of TC
FLOWS = 1024
FIRST = 65536  # first packets of one run: as many addresses as two bytes have
RULES = (0, 10, 1_000, 10_000)
ROUNDS = 9
POD = {4: "10.244.1.7", 6: "fd00:244:1::7"}
LAST_BYTES = {4: 28, 6: 36}  # of the source address in a frame
FIRST_IDENTITY, SUBJECT = 256, 1
TCP_PROTO = 6
TC_NEXT, TC_ACT_SHOT = -1, 2
XDP_DROP, XDP_PASS = 1, 2
OUTSIDE = {4: "192.0.2.7", 6: "2001:db8:2::7"}
MAC = bytes(6)


class Loaded(NamedTuple):
    """An object's programs, their maps and what they tell."""

    programs: BpfObject
    maps: KernelMaps
    ring: RingBuffer


def run() -> list[Result]:
    """Every row of the part."""
    results: list[Result] = []
    driver = Driver("tc")
    with node(), loaded("tc_pod", policy=1) as on, loaded("tc_pod", policy=0) as off:
        for made in (on, off):
            fill(made.maps, dict(made.programs.abi.constants))
        write_rules(on, 10)
        for family in (4, 6):
            results += known(driver, family, on, off)
    with ExitStack() as stack:
        pods = {rules: stack.enter_context(loaded("tc_pod", policy=1)) for rules in RULES}
        for rules, made in pods.items():
            write_rules(made, rules)
        for family in (4, 6):
            results += first(driver, family, pods)
    return results + dropped(driver)


@contextmanager
def loaded(name: str, **settings: int) -> Iterator[Loaded]:
    """Programs of an object, loaded and not attached."""
    with ExitStack() as stack:
        found = stack.enter_context(BpfObject.named(name))
        found.set_constant("settings", {"hz": 250, "new_flows_per_tick": 0, **settings})
        found.load()
        maps = KernelMaps({each: found.map(each) for each in found.map_definitions()}, found.abi)
        stack.callback(maps.close)
        ring = stack.enter_context(found.map("flow_events"))
        yield Loaded(found, maps, stack.enter_context(RingBuffer(ring)))


def write_rules(made: Loaded, rules: int) -> None:
    """Tables of so many rules for ingress, each peer a /24 (or /120) of its own; others are allowed."""
    allow = PolicyVerdict(1, 1, 0, 0, 0, 0)
    peers, rows, who = [], [(PolicyRowKey(32, 1, 0, 0), allow)], []
    for number in range(rules):
        identity, row = FIRST_IDENTITY + number, 2 + number
        block, third = divmod(number, 256)
        for family in (4, 6):
            base = bytearray(parse_address(CLIENT[family]))
            base[-3:] = bytes([(base[-3] + block) % 256, third, 0])
            who.append((IdentityKey(120, bytes(base)), Identity(identity, 0)))
        peers.append((PolicyPeerKey(SUBJECT, identity, 0), row))
        rows.append((PolicyRowKey(32, row, 0, 0), allow))
        rows.append((PolicyRowKey(64, row, TCP_PROTO, 1 + number), allow))
    made.maps.write("policy_rows", rows)
    made.maps.write("policy_peers", peers)
    made.maps.write("identities", who)
    addresses = (parse_address(POD[4]), parse_address(POD[6]))
    endpoint = PolicyEndpoint(SUBJECT, 500, 1, 1, 3, *addresses)
    made.maps.write("policy_endpoints", [(LOOPBACK, endpoint)])
    made.maps.write("policy_revision", [(0, PolicyRevision(rules + 1, 0))])


def segment(family: int, src: str, dst: str, ports: tuple[int, int], flags: str) -> bytes:
    """A TCP segment."""
    ip = IP if family == 4 else IPv6
    link = Ether(src=ROUTER_MAC, dst=NODE_MAC)
    return bytes(link / ip(src=src, dst=dst) / TCP(sport=ports[0], dport=ports[1], flags=flags))


def known(driver: Driver, family: int, on: Loaded, off: Loaded) -> Iterator[Result]:
    """Established flows with policy, beside the same without."""
    here, own = ADDRESSES[family], POD[family]
    ways = {
        "from a pod": ("tc_pod_ingress", own, here["remote"], 8081),
        "to a pod": ("tc_pod_egress", here["remote"], own, 8082),
        "from a pod to a Service": ("tc_pod_ingress", own, here["vip"], 80),
    }
    for name, (program, src, dst, port) in ways.items():
        cases = []
        for title, made in (("on", on), ("off", off)):
            frame = segment(family, src, dst, (1024, port), "S")
            opening = Case(title, made.programs.program(program), frame, family, FLOWS, 1024)
            driver.run(opening, FLOWS)
            made.ring.read()
            cases.append(opening._replace(frame=segment(family, src, dst, (1024, port), "A")))
        for case in cases:
            driver.run(case, FLOWS)
        costs = measure(driver, cases)
        yield Result(
            f"IPv{family} established, {name}", costs["on"], "ns", costs["off"], "without policy", 1.15
        )


def first(driver: Driver, family: int, made: Mapping[int, Loaded]) -> Sequence[Result]:
    """First packets, by the number of rules; the numbers take turns."""
    ports = iter(range(1024, 65536))
    costs: dict[int, list[float]] = {rules: [] for rules in made}

    def once(at: Loaded) -> float:
        program = at.programs.program("tc_pod_egress")
        frame = segment(family, CLIENT[family], POD[family], (next(ports), 80), "S")
        case = Case("first", program, frame, family, FIRST, 0, None, LAST_BYTES[family])
        noop = driver.run(case._replace(name="noop", program=driver.noop), FIRST)
        at.ring.read()
        return driver.run(case, FIRST) - noop

    for at in made.values():  # from here on its table of flows is full
        once(at)
    for _ in range(ROUNDS):
        for rules, at in made.items():
            costs[rules].append(once(at))
    return rows(family, {rules: statistics.median(values) for rules, values in costs.items()})


def dropped(tc: Driver) -> list[Result]:
    """First packets that are denied: by XDP, beside XDP and then the pod's device."""
    with (
        node() as ifindex,
        loaded("xdp_uplink", early=1) as early,
        loaded("xdp_uplink", early=0) as late,
        loaded("tc_pod", policy=1) as device,
    ):
        xdp = Driver("xdp", context("xdp", ifindex))
        for made, at in ((early, ifindex), (late, ifindex), (device, LOOPBACK)):
            deny(made, at)
        return [denied(family, xdp, tc, (early, late, device)) for family in (4, 6)]


def deny(made: Loaded, ifindex: int) -> None:
    """The pod behind both load-balancer addresses gets nothing of the client's network."""
    constants = dict(made.programs.abi.constants)
    fill(made.maps, constants)
    for service, family in enumerate((4, 6), start=1):
        active, local = constants["BACKEND_ACTIVE"], constants["BACKEND_LOCAL"]
        backend = Backend(parse_address(POD[family]), 80, TCP_PROTO, active, local, 0, 0, service, 1)
        made.maps.write("backends", [(service, backend)])
        made.maps.write(
            "pod_peers", [(PodPeerKey(parse_address(POD[family])), PodPeer(ifindex, 0, MAC, MAC))]
        )
    write_rules(made, 10)
    drop = PolicyVerdict(1, 1, constants["POLICY_DROP"], constants["POLICY_DROP"], 0, 0)
    made.maps.write("policy_rows", [(PolicyRowKey(32, 1, 0, 0), drop)])
    made.maps.write("policy_endpoints", [(ifindex, made.maps.dump("policy_endpoints")[LOOPBACK])])


def denied(family: int, xdp: Driver, tc: Driver, made: tuple[Loaded, Loaded, Loaded]) -> Result:
    """Nanoseconds a packet; the ways take turns."""
    early, late, device = made
    ports = iter(range(1024, 65536))
    costs: dict[str, list[float]] = {"early": [], "late": []}

    def once(driver: Driver, at: Loaded, program: str, to: tuple[str, int], verdict: int) -> float:
        frame = segment(family, OUTSIDE[family], to[0], (next(ports), to[1]), "S")
        case = Case(
            "denied", at.programs.program(program), frame, family, FIRST, 0, verdict, LAST_BYTES[family]
        )
        noop = driver.run(case._replace(name="noop", program=driver.noop, verdict=None), FIRST)
        at.ring.read()
        return driver.run(case, FIRST) - noop

    vip, pod_at = (ADDRESSES[family]["vip"], 80), (POD[family], 80)
    for _ in range(ROUNDS + 1):
        costs["early"].append(once(xdp, early, "xdp_uplink", vip, XDP_DROP))
        opened = once(xdp, late, "xdp_uplink", vip, XDP_PASS)
        costs["late"].append(opened + once(tc, device, "tc_pod_egress", pod_at, TC_ACT_SHOT))
    # In the first round the table of flows was not full yet.
    value, beside = (statistics.median(costs[name][1:]) for name in ("early", "late"))
    name = f"IPv{family} first packet, denied, XDP"
    return Result(name, value, "ns", beside, "XDP opens the flow, the pod's device drops", 0.7)


def rows(family: int, costs: dict[int, float]) -> Sequence[Result]:
    """One for each number of rules; the largest is held to the one of ten rules."""
    found = [Result(f"IPv{family} first packet, {rules:,} rules", costs[rules], "ns") for rules in RULES[:-1]]
    title = f"IPv{family} first packet, {RULES[-1]:,} rules"
    return [*found, Result(title, costs[RULES[-1]], "ns", costs[10], "10 rules", 1.1)]
