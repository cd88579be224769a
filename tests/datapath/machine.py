# SPDX-License-Identifier: Apache-2.0
"""A node for single packets: the programs loaded over one set of maps, in a namespace with routes.

Nothing is attached; a frame is run through a program and what comes out is looked at. Names stand for
addresses of both families (``ADDRESSES``); ``at`` gives one, ``endpoint`` makes ``name:port`` an endpoint.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

from balance import Balance, split_endpoint
from policytables import TABLES
from programs import ROOT, Loaded
from wires import Net

from netaccel.config import Timeouts
from netaccel.datapath import libbpf
from netaccel.datapath.bpfmap import KernelMap
from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.clock import Clock
from netaccel.datapath.conntrack import SEEN_REPLY, Connection, Way
from netaccel.datapath.plane import kernel_version
from netaccel.datapath.ringbuf import RingBuffer
from netaccel.model.address import is_ipv4
from netaccel.observe.takeover import Codes, flows_of

NODE_MAC, ROUTER_MAC = "02:00:00:00:00:10", "02:00:00:00:00:01"
OBJECTS = ROOT / "netaccel/objects"
SIZES = dict.fromkeys(("frontends4", "frontends6", "backends", "maglev", "service_counters", "services"), 64)
SIZES |= {"flows4": 1024, "flows6": 1024, "affinity": 64, "source_ranges": 64, "fragments": 64}
SIZES |= {"identities": 256, "policy_endpoints": 64, "policy_peers": 256, "policy_rows": 1024}
SIZES |= {"policy_rules": 64, "rule_counters": 64, "policy_flows4": 1024, "policy_flows6": 1024}
SIZES |= {"gate_addresses": 64, "flow_events": 65536, "drop_pairs": 1024}
POLICY_HASHES = (
    "identities",
    "policy_endpoints",
    "policy_peers",
    "policy_rows",
    "policy_flows4",
    "policy_flows6",
)
HASHES = ("frontends4", "frontends6", "flows4", "flows6", "affinity", "source_ranges", "fragments")
HASHES += (*TABLES, "policy_flows4", "policy_flows6", "drop_pairs")
PER_CPU = ("drops", "counters", "service_counters", "rule_counters")
HZ = 250
XDP_DEVICE = kernel_version() >= (5, 15)
"""Whether a test run of XDP can be given a device; before, it is the namespace's loopback."""

ADDRESSES = {
    "client": ("198.51.100.7", "2001:db8:c::7"),
    "other": ("198.51.100.8", "2001:db8:c::8"),
    "node": ("192.0.2.10", "2001:db8:a::10"),
    "vip": ("203.0.113.1", "2001:db8:f::1"),
    "vip2": ("203.0.113.2", "2001:db8:f::2"),
    "pod": ("10.244.1.2", "fd00:244:1::2"),
    "pod2": ("10.244.1.3", "fd00:244:1::3"),
    "remote": ("10.244.2.2", "fd00:244:2::2"),
    "remote2": ("10.244.2.3", "fd00:244:2::3"),
    "cold": ("10.244.3.2", "fd00:244:3::2"),  # its next hop has no neighbour entry
    "narrow": ("10.244.4.2", "fd00:244:4::2"),  # behind an MTU of 1280
    "lost": ("10.244.5.2", "fd00:244:5::2"),  # no route
    "elsewhere": ("10.244.6.2", "fd00:244:6::2"),  # by another device
    "stranger": ("192.0.2.99", "2001:db8:99::1"),
}


def at(name: str, v6: bool) -> str:
    return ADDRESSES[name][v6] if name in ADDRESSES else name


def endpoint(text: str, v6: bool) -> str:
    """``vip:80/udp`` with its address in full; what follows a space stays."""
    place, space, words = text.partition(" ")
    name, colon, port = place.partition(":")
    if name not in ADDRESSES:
        return text
    address = at(name, v6)
    return (f"[{address}]" if v6 else address) + colon + port + space + words


def lay_out(net: Net) -> None:
    """An uplink with a router behind it; other next hops as ADDRESSES says."""
    net.namespace("node", "router")
    net.forwarding("node")
    net.wire(("node", "eth0"), ("router", "eth0"))
    net.wire(("node", "eth1"), ("router", "eth1"))
    net.ip("node", f"link set eth0 address {NODE_MAC}")
    net.ip("router", f"link set eth0 address {ROUTER_MAC}")
    net.address("node", "eth0", "192.0.2.10/24", "2001:db8:a::10/64")
    net.address("node", "eth1", "192.0.3.10/24", "2001:db8:b::10/64")
    for flag, network in (("", "192.0.2."), ("-6 ", "2001:db8:a::")):
        pods = "fd00:244:{}::/64" if flag else "10.244.{}.0/24"
        second = "2001:db8:b::1" if flag else "192.0.3.1"
        net.ip(
            "node",
            f"{flag}neigh add {network}1 lladdr {ROUTER_MAC} dev eth0 nud permanent",
            f"{flag}neigh add {second} lladdr {ROUTER_MAC} dev eth1 nud permanent",
            f"{flag}route add default via {network}1",
            f"{flag}route add {pods.format(3)} via {network}3",
            f"{flag}route add {pods.format(4)} via {network}1 mtu lock 1280",
            f"{flag}route add unreachable {pods.format(5)}",
            f"{flag}route add {pods.format(6)} via {second}",
        )


class Machine(Loaded):
    """Programs of ``xdp_uplink``, ``tc_uplink`` and ``tc_pod`` over shared maps."""

    def __init__(self, net: Net, settings: Mapping[str, int]) -> None:
        self._stack = ExitStack()
        self.programs: dict[str, int] = {}
        self.maps: dict[str, int] = {}
        self.ifindex = net.ifindex("node", "eth0")
        with ExitStack() as stack:
            for name in ("xdp_uplink", "tc_uplink", "tc_pod"):
                self._load(stack.enter_context(BpfObject(OBJECTS / f"{name}.o")), settings)
            ring = stack.enter_context(KernelMap(os.dup(self.maps["flow_events"]), "flow_events"))
            self._ring = stack.enter_context(RingBuffer(ring))
            self._stack = stack.pop_all()

    def _load(self, obj: BpfObject, settings: Mapping[str, int]) -> None:
        self.abi = obj.abi
        obj.set_constant("settings", {"hz": HZ, **settings})
        for name in obj.map_definitions():
            if name in self.maps:
                obj.reuse(name, self.maps[name])
            elif name in SIZES:
                obj.resize(name, SIZES[name])
        obj.load()
        self.maps |= {name: obj.map_fd(name) for name in obj.map_definitions()}
        self.programs |= {name: obj.program(name).fd for name in obj.program_names()}

    def close(self) -> None:
        self._stack.close()

    def describe(self, maps: Mapping[str, Any], v6: bool) -> Balance:
        """Empty maps, then what ``maps`` says (balance.py; names for addresses)."""
        for name in HASHES:
            for key in self.keys(name):
                libbpf.map_delete(self.maps[name], self.abi.maps[name].key.pack(key))
        for name in ("backends", "maglev", *PER_CPU, "limiter"):
            self._blank(name)
        self.take_events()
        services = [
            {
                **service,
                "frontend": endpoint(service["frontend"], v6),
                "backends": [endpoint(b, v6) for b in service.get("backends", [])],
                "source_ranges": [at(r, v6) for r in service.get("source_ranges", [])],
            }
            for service in maps.get("services", [])
        ]
        wildcards = [at(name, v6) for name in maps.get("wildcards", [])]
        return Balance(
            self, {"node": maps.get("node", ADDRESSES["node"]), "services": services, "wildcards": wildcards}
        )

    def _blank(self, name: str) -> None:
        if name in (*PER_CPU, "limiter"):
            self.zero(name)
            return
        codec = self.abi.maps[name]
        for key in self.keys(name):
            libbpf.map_update(self.maps[name], codec.key.pack(key), bytes(codec.value.size))

    def through(self, program: str, frame: bytes) -> tuple[int, bytes]:
        """Verdict and frame; the device is the uplink."""
        context: bytes | None
        if program.startswith("xdp") and not XDP_DEVICE:
            context = None
        elif program.startswith("xdp"):
            context = struct.pack("=6I", 0, len(frame), 0, self.ifindex, 0, 0)  # struct xdp_md
        else:
            context = struct.pack("=40xI148x", self.ifindex)  # struct __sk_buff
        result = libbpf.test_run(self.programs[program], frame, context, 1, 0, 0, len(frame) + 2048)
        return result[0], result[1]

    # ------------------------------------------------------------- what the maps say

    def take(self, name: str, prefix: str) -> dict[str, int]:
        """What is not zero in ``drops`` or ``counters`` by name; and zero again."""
        found = {}
        for constant, key in self.abi.constants.items():
            if constant.startswith(prefix) and constant not in {"DROP_REASONS", "DROP_NONE", "COUNTERS"}:
                values = self.read(name, key)
                number = sum(getattr(v, "packets", v) for v in values)  # type: ignore[attr-defined]
                if number:
                    found[constant.removeprefix(prefix)] = number
        self.zero(name)
        return found

    def take_service(self, service: int) -> Counter[str]:
        """The counters of a service port, summed over CPUs; and zero again."""
        values: Sequence[Any] = self.read("service_counters", service)  # type: ignore[assignment]
        total: Counter[str] = Counter()
        for value in values:
            total.update(value._asdict())
        self.zero("service_counters")
        return +total

    def take_events(self) -> list[Any]:
        """Records of flow_events since the last time."""
        codec = self.abi.codec("flow_event")
        return [codec.unpack(sample) for sample in self._ring.read()]

    def take_rules(self) -> dict[int, int]:
        """Packets by rule; and zero again."""
        found = {rule: sum(t.packets for t in self.read("rule_counters", rule)) for rule in range(64)}  # type: ignore[attr-defined]
        self.zero("rule_counters")
        return {rule: number for rule, number in found.items() if number}

    def forget_policy(self) -> None:
        """Empty tables; policy's flows stay."""
        for name in TABLES:
            for key in self.keys(name):
                libbpf.map_delete(self.maps[name], self.abi.maps[name].key.pack(key))

    def ends(self, v6: bool) -> list[str]:
        """Policy's flows: ``DIRECTION STATE VERDICT RULE [flags]``."""
        name, enums = "policy_flows6" if v6 else "policy_flows4", self.abi.enums

        def word(enum: str, prefix: str, value: int) -> str:
            return next(k.removeprefix(prefix) for k, v in enums[enum].items() if v == value)

        found = []
        for key in self.keys(name):
            flow: Any = self.read(name, key)
            words = [
                word("policy_direction", "POLICY_", flow.direction).lower(),
                word("policy_flow_state", "POLICY_FLOW_", flow.state),
                word("verdict", "VERDICT_", flow.verdict),
                str(flow.rule),
            ]
            words += [
                k.removeprefix("POLICY_FLOW_").lower()
                for k, bit in enums["policy_flow_flag"].items()
                if flow.flags & bit and "_FIN_" not in k
            ]
            found.append(" ".join(words))
        return found

    def flows(self, v6: bool) -> list[tuple[Any, Any]]:
        name = "flows6" if v6 else "flows4"
        return [(key, self.read(name, key)) for key in self.keys(name)]

    def lose(self, v6: bool, direction: str) -> None:
        """What an LRU map may do to one half."""
        name = "flows6" if v6 else "flows4"
        for key, _ in self.flows(v6):
            if key.direction == self.abi.constants[f"FLOW_{direction.upper()}"]:
                libbpf.map_delete(self.maps[name], self.abi.maps[name].key.pack(key))

    def stack(self, places: Sequence[str], proto: str, state: str) -> None:
        """A flow that the kernel translates: client, frontend, what the client becomes, backend; seen now."""
        (client, frontend, via, backend) = (split_endpoint(f"{place}/{proto}") for place in places)
        original = Way(client[0], frontend[0], client[1], frontend[1])
        reply = Way(backend[0], via[0], backend[1], via[1])
        found = Connection(frontend[2], original, reply, SEEN_REPLY, 1 << 20, state)
        name = "4" if is_ipv4(frontend[0]) else "6"
        frontends = {key: self.read(f"frontends{name}", key) for key in self.keys(f"frontends{name}")}
        codes = Codes(Timeouts(), self.abi.constants, HZ)
        with closing(Clock()) as clock:
            for key, flow in flows_of([found], frontends, codes, clock.now()):  # type: ignore[arg-type]
                self.write(f"flows{name}", key, flow)

    def age(self, v6: bool, seconds: int) -> None:
        """As if nothing had been heard of any flow for so long; affinity too."""
        for key, value in self.flows(v6):
            past = {f: (getattr(value, f) - seconds * HZ) % 2**32 for f in ("seen", "repaired", "hop_seen")}
            self.write("flows6" if v6 else "flows4", key, value._replace(**past))
        name = "policy_flows6" if v6 else "policy_flows4"
        for key in self.keys(name):
            end: Any = self.read(name, key)
            self.write(name, key, end._replace(seen=(end.seen - seconds * HZ) % 2**32))
        for key in self.keys("affinity"):
            value = self.read("affinity", key)
            past = (value.seen - seconds * HZ) % 2**32  # type: ignore[union-attr]
            self.write("affinity", key, value._replace(seen=past))  # type: ignore[union-attr]
