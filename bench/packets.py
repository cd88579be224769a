# SPDX-License-Identifier: Apache-2.0
"""What a packet costs in XDP and TC, over a no-op, beside the floor programs of bench/bpf/floor.bpf.c.

Both are measured in turn, round after round, in one process; figures are medians of what a round gives
after its own no-op is taken off.
"""

from __future__ import annotations

import os
import statistics
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from bench.driver import FRAME_MAX, PORT_AT, Case, Driver, floor
from bench.results import Result
from netaccel.datapath import netlink
from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.maps import KernelMaps
from netaccel.model.address import parse_address
from netaccel.records import Backend, Frontend, FrontendKey, Node

ROUNDS = 15
PACKETS = 200_000
FLOWS = 1024
NODE_MAC, ROUTER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
ADDRESSES = {
    4: {"node": "172.30.0.11", "router": "172.30.0.1", "vip": "203.0.113.10", "remote": "10.244.2.7"},
    6: {"node": "fd00:30::11", "router": "fd00:30::1", "vip": "2001:db8:ffff::10", "remote": "fd00:244:2::7"},
}
CLIENT = {4: "198.51.100.7", 6: "2001:db8:1::7"}
TCP_PROTO = 6
XDP_TX = 3
TC_ACT_REDIRECT = 7


def run() -> list[Result]:
    """Every row of the part."""
    results: list[Result] = []
    for kind in ("xdp", "tc"):
        with node() as ifindex, loaded(kind) as (programs, maps, constants):
            fill(maps, constants)
            driver = Driver(kind, context(kind, ifindex))
            results += [row for family in (4, 6) for row in price(kind, family, driver, programs)]
            if kind == "xdp":
                results.append(flood(driver, programs))
    return results


@contextmanager
def node() -> Iterator[int]:
    """A namespace with an uplink, routes and neighbours, so that next hops are found; gives its ifindex."""
    name = f"netaccel-bench-{os.getpid()}"
    netlink.create_namespace(name)
    try:
        with netlink.inside_namespace(name):
            netlink.add_veth("eth0", "wire")
            for end in ("eth0", "wire"):
                netlink.set_up(end)
            netlink.set_sysctl("net.ipv4.ip_forward", 1)
            netlink.set_sysctl("net.ipv6.conf.all.forwarding", 1)
            for family, bits, everything in ((4, 24, "0.0.0.0/0"), (6, 64, "::/0")):
                here = ADDRESSES[family]
                netlink.add_address("eth0", f"{here['node']}/{bits}")
                netlink.add_route(everything, here["router"])
                netlink.add_neighbour("eth0", here["router"], ROUTER_MAC)
            yield netlink.device("eth0").ifindex
    finally:
        netlink.delete_namespace(name)


@contextmanager
def loaded(kind: str) -> Iterator[tuple[BpfObject, KernelMaps, dict[str, int]]]:
    """The uplink's programs, loaded and not attached."""
    with ExitStack() as stack:
        found = stack.enter_context(BpfObject.named(f"{kind}_uplink"))
        found.set_constant("settings", {"hz": 250, "new_flows_per_tick": 0})
        found.load()
        maps = KernelMaps({name: found.map(name) for name in found.map_definitions()}, found.abi)
        stack.callback(maps.close)
        yield found, maps, dict(found.abi.constants)


def fill(maps: KernelMaps, constants: dict[str, int]) -> None:
    """One load-balancer address a family, with one backend on another node."""
    for service, family in enumerate((4, 6), start=1):
        here = ADDRESSES[family]
        active = constants["BACKEND_ACTIVE"]
        backend = Backend(parse_address(here["remote"]), 8080, TCP_PROTO, active, 0, 0, 0, service, 1)
        maps.write("backends", [(service, backend)])
        maps.write("maglev", [(service, service)])
        kind = constants["FRONTEND_LOAD_BALANCER"]
        frontend = Frontend(service, 0, kind, 0, service, 1, service, 1, 0)
        maps.write("frontends", [(FrontendKey(parse_address(here["vip"]), 80, TCP_PROTO), frontend)])
    maps.write("node", [(0, Node(*(parse_address(ADDRESSES[f]["node"]) for f in (4, 6))))])


def context(kind: str, ifindex: int) -> bytes | None:
    """The ctx of a test run: struct xdp_md with the ingress device. For TC the test run takes loopback."""
    if kind == "tc":
        return None
    return struct.pack("=6I", 0, FRAME_MAX, 0, ifindex, 0, 0)


def packet(family: int, flags: str, dport: int = 80) -> bytes:
    """A TCP segment from the client to the load-balancer address."""
    ip = IP if family == 4 else IPv6
    link = Ether(src=ROUTER_MAC, dst=NODE_MAC)
    return bytes(
        link
        / ip(src=CLIENT[family], dst=ADDRESSES[family]["vip"])
        / TCP(sport=1024, dport=dport, flags=flags)
    )


def floor_case(kind: str, family: int, floors: BpfObject) -> Case:
    """The floor program with its Service, flows and backend."""
    vip, client = (parse_address(a) for a in (ADDRESSES[family]["vip"], CLIENT[family]))
    cut = slice(12, 16) if family == 4 else slice(0, 16)
    one = struct.pack("=I", 1)
    service = vip[cut] + struct.pack("!HBx", 80, TCP_PROTO)
    floors.map(f"floor_services{family}").update(service, one)
    target = parse_address(ADDRESSES[family]["remote"]) + bytes(6) + struct.pack("!H", 8080)
    floors.map("floor_targets").update(one, target)
    flows = floors.map(f"floor_flows{family}")
    for port in range(1024, 1024 + FLOWS):
        flows.update(
            client[cut] + vip[cut] + struct.pack("!HH", port, 80) + struct.pack("=I", TCP_PROTO), one
        )
    verdict = 3
    return Case("floor", floors.program(f"floor_{kind}"), packet(family, "A"), family, FLOWS, 1024, verdict)


def price(kind: str, family: int, driver: Driver, programs: BpfObject) -> Iterator[Result]:
    """Established flows and packets of nobody, beside the floor's."""
    program = programs.program("xdp_uplink" if kind == "xdp" else "tc_uplink_ingress")
    redirected = XDP_TX if kind == "xdp" else TC_ACT_REDIRECT
    with floor() as floors:
        lowest = floor_case(kind, family, floors)
        ours = lowest._replace(name="established", program=program, verdict=redirected)
        driver.run(ours._replace(frame=packet(family, "S"), verdict=None), FLOWS)
        driver.run(ours, FLOWS)
        absent = packet(family, "A", dport=81)
        nobody = ours._replace(name="no frontend's", frame=absent, verdict=None)
        lowest_nobody = lowest._replace(name="absent look-up", frame=absent, verdict=None)
        costs = measure(driver, [lowest, ours, lowest_nobody, nobody])
    title = f"{kind} IPv{family}"
    budget = 1.2 if kind == "xdp" else None
    yield Result(f"{title} established", costs["established"], "ns", costs["floor"], "floor", budget)
    peer = costs["absent look-up"]
    budget = 1.5 if kind == "xdp" else None
    yield Result(f"{title} no frontend's", costs["no frontend's"], "ns", peer, "absent look-up", budget)


def measure(
    driver: Driver, cases: list[Case], rounds: int = ROUNDS, packets: int = PACKETS
) -> dict[str, float]:
    """Median cost over a no-op by case name; cases take turns."""
    noop = cases[0]._replace(name="noop", program=driver.noop, verdict=None)
    rows: dict[str, list[float]] = {case.name: [] for case in cases}
    for _ in range(rounds):
        base = driver.run(noop, PACKETS)
        for case in cases:
            rows[case.name].append(driver.run(case, PACKETS) - base)
    return {name: statistics.median(values) for name, values in rows.items()}


def flood(driver: Driver, programs: BpfObject) -> Result:
    """Established flows on one CPU while another CPU meets nothing but SYNs of new flows."""
    established = Case("established", programs.program("xdp_uplink"), packet(4, "A"), 4, FLOWS, 1024, XDP_TX)
    syns = Driver("xdp", driver.context)
    ports = iter(range(2048, 65536))

    def new_flows() -> float:
        # The low half of the source address tells these apart, and their port is new each time.
        frame = bytearray(packet(4, "S"))
        struct.pack_into("!H", frame, PORT_AT[4], next(ports))
        return syns.run(Case("new", established.program, bytes(frame), 4, 65536, 0, varies=28), 65536)

    quiet, loud = [], []
    for _ in range(7):
        quiet.append(pinned(0, lambda: measure(driver, [established], 1)["established"]))
        with endless(new_flows):
            loud.append(pinned(0, lambda: measure(driver, [established], 1)["established"]))
    value, peer = statistics.median(loud), statistics.median(quiet)
    name = "xdp IPv4 established, SYN flood on another CPU"
    return Result(name, value, "ns", peer, "quiet", 1.3)


def pinned(cpu: int, work: Callable[[], float]) -> float:
    """The result of ``work`` on one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        return work()
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def endless(work: Callable[[], float]) -> Iterator[None]:
    """``work`` again and again on CPU 1 until the block ends."""
    stop = threading.Event()

    def loop() -> None:
        os.sched_setaffinity(0, {1 % (os.cpu_count() or 1)})
        while not stop.is_set():
            work()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
