# SPDX-License-Identifier: Apache-2.0
"""Ground for tests of flows: layouts of events, maps in memory, a small shop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from netaccel.datapath.abi import Abi
from netaccel.model.address import Address, parse_address
from netaccel.model.endpoint import Endpoint, EndpointSlice, Node, Pod, PodKey, SliceKey
from netaccel.model.event import Object, ObjectKey, Upsert
from netaccel.model.service import Protocol, Service, ServiceKey, ServicePort
from netaccel.observe.flows.directory import Directory
from netaccel.observe.flows.naming import Stamp
from netaccel.observe.flows.station import Flows, Ground
from netaccel.records import FlowEvent, PolicyRule
from netaccel.records import Service as ServiceRecord

INCLUDE = Path(__file__).parents[2] / "bpf/include"
TEXT = f"""
#include "{INCLUDE}/event_maps.h"
#include "{INCLUDE}/policy_maps.h"
#include "{INCLUDE}/settings.h"

SEC("xdp")
int nothing(struct xdp_md *ctx)
{{
	return settings.hz;
}}

char _license[] SEC("license") = "Dual BSD/GPL";
"""

WEB, DB, CLIENT = (parse_address(text) for text in ("10.0.1.1", "10.0.2.1", "203.0.113.9"))
WEB6, DB6 = parse_address("fd00::1:1"), parse_address("fd00::2:1")
DB_SERVICE = parse_address("10.96.0.10")
N1, N2 = parse_address("192.168.0.1"), parse_address("192.168.0.2")
ALLOW_WEB, SERVICE_PORT = 7, 3


def event_abi(compile_text: Callable[[str], bytes]) -> Abi:
    return Abi.from_elf(compile_text(TEXT))


class MapsInMemory:
    """As netaccel.datapath.maps.KernelMaps, as far as flows read it."""

    def __init__(self, abi: Abi) -> None:
        counters = abi.enums["counter"]
        self.tables: dict[str, dict[Any, Any]] = {
            "counters": {index: [0, 0] for name, index in counters.items() if name != "COUNTERS"},
            "services": {SERVICE_PORT: ServiceRecord("shop", "db", "", 5432, 6, 2)},
            "policy_rules": {
                ALLOW_WEB: PolicyRule("shop", "allow-web", 1, 0, 0, 0, 0),
                8: PolicyRule("shop", "deny-all", 1, 0, abi.constants["RULE_ISOLATION"], 0, 0xFFFF),
            },
            "rule_counters": {},
            "policy_flows": {},
            "policy_endpoints": {},
            "drop_pairs": {},
        }
        self._counters = counters

    def count(self, name: str, by: int = 1) -> None:
        self.tables["counters"][self._counters[name]][0] += by

    def names(self) -> tuple[str, ...]:
        return tuple(self.tables)

    def get(self, name: str, key: Any) -> Any:
        return self.tables[name].get(key)

    def dump(self, name: str) -> Mapping[Any, Any]:
        return dict(self.tables[name])

    def batches(self, name: str) -> Iterator[list[tuple[Any, Any]]]:
        yield list(self.tables[name].items())

    def capacity(self, name: str) -> int:
        return 16384


def upsert(obj: Object) -> Upsert:
    namespace, name = ("", obj.name) if isinstance(obj, Node) else obj.key[:2]  # type: ignore[union-attr]
    return Upsert(ObjectKey(type(obj).__name__, str(namespace), str(name)), obj, 0.0)


def pod(namespace: str, name: str, node: str, *addresses: Address, **labels: str) -> Pod:
    return Pod(PodKey(namespace, name), node, addresses, tuple(labels.items()))


def shop(directory: Directory) -> Directory:
    """web on n1, db on n2, and the Service db."""
    key = ServiceKey("shop", "db")
    port = ServicePort("", Protocol.TCP, 5432, node_port=30432)
    for obj in (
        pod("default", "web-0", "n1", WEB, WEB6, app="web"),
        pod("shop", "db-0", "n2", DB, DB6, app="db", tier="data"),
        Node("n1", (N1,)),
        Node("n2", (N2,)),
        Service(key, "NodePort", (port,), cluster_ips=(DB_SERVICE,)),
        EndpointSlice(SliceKey("shop", "db-1"), key, (), (Endpoint(DB),)),
    ):
        directory.hear(upsert(obj))
    return directory


class Station:
    """Flows over maps in memory, of node n1."""

    def __init__(self, abi: Abi, limit: int = 1000) -> None:
        self.abi = abi
        self.maps = MapsInMemory(abi)
        self.jiffies = 1_000_000
        self.waiting = 0
        self.codec = abi.codec("flow_event")
        ground = Ground(
            maps=self.maps,
            labels=abi,
            constants=abi.constants,
            codec=self.codec,
            hz=250,
            jiffies=lambda: self.jiffies,
            waiting=lambda: self.waiting,
            kernel_reasons={3: "no_socket"},
        )
        self.flows = Flows(Stamp("n1", "b007"), ground, shop(Directory("n1")), limit)

    def event(self, **fields: Any) -> FlowEvent:
        """web-0 opens a connection to db-0 and is allowed by shop/allow-web."""
        c = self.abi.constants
        plain = FlowEvent(
            time=1_000_000_000, src=WEB, dst=DB, sport=43512, dport=5432, proto=6,
            direction=c["POLICY_EGRESS"], verdict=c["VERDICT_FORWARDED"], type=c["EVENT_VERDICT"],
            ifindex=4, reason=0, identity=300, rule=ALLOW_WEB, shadow_rule=0, service=0, length=60,
            path=c["PATH_TC"], tcp_flags=2, icmp_type=0, icmp_code=0, location=0,
        )  # fmt: skip
        numbers = {name: c[value] if isinstance(value, str) else value for name, value in fields.items()}
        return plain._replace(**numbers)

    def tell(self, *events: FlowEvent) -> None:
        """The programs export events, the pump reads them."""
        self.maps.count("COUNTER_EVENT_SEEN", len(events))
        self.maps.count("COUNTER_EVENT_EXPORTED", len(events))
        self.flows._pump.take([self.codec.pack(event) for event in events])
