# SPDX-License-Identifier: Apache-2.0
"""Random worlds: a few Services that share names and addresses, so that everything happens soon."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from netaccel.compile.readable import Readable
from netaccel.compile.services import NodeFacts
from netaccel.datapath.abi import Abi
from netaccel.datapath.fake import FakeMaps
from netaccel.model.address import Address, parse_address, parse_cidr
from netaccel.model.endpoint import Endpoint, EndpointSlice, SliceKey, SlicePort
from netaccel.model.event import Delete, Event, ObjectKey, Upsert
from netaccel.model.service import Protocol, Service, ServiceKey, ServicePort, TrafficPolicy
from netaccel.reconcile import Condition, Engine

OBJECTS = Path(__file__).parents[2] / "netaccel" / "objects"
CONSTANTS = dict(Abi.from_elf((OBJECTS / "sock_cgroup.o").read_bytes()).constants)
FREE = CONSTANTS["BACKEND_FREE"]

KEYS = tuple(ServiceKey("default", name) for name in "abc")
PORTS = (
    ServicePort("http", Protocol.TCP, 80, 30080),
    ServicePort("dns", Protocol.UDP, 53, 30053),
    ServicePort("more", Protocol.TCP, 81, 30080),  # a node port that the first has too
)
NODE_ADDRESSES = tuple(parse_address(a) for a in ("172.18.0.1", "172.18.0.2", "fd00:18::1"))


def node(addresses: tuple[Address, ...]) -> NodeFacts:
    return NodeFacts("node-1", frozenset(addresses), addresses, addresses)


NODES = tuple(node(a) for a in (NODE_ADDRESSES[:1], NODE_ADDRESSES, ()))


@dataclass(frozen=True)
class NodeChange:
    facts: NodeFacts


Change = Event | NodeChange

policies = st.sampled_from(TrafficPolicy)
cluster_ips = st.sampled_from((("10.96.0.1",), ("10.96.0.2",), ("10.96.0.1", "fd00:96::1"), ("fd00:96::2",)))
outside = st.lists(st.sampled_from(("192.0.2.1", "192.0.2.2", "2001:db8::1")), max_size=2, unique=True)
ranges = st.lists(
    st.sampled_from(("198.51.100.0/24", "172.18.0.0/16", "2001:db8::/32")), max_size=2, unique=True
)


def addresses(texts: tuple[str, ...] | list[str]) -> tuple[Address, ...]:
    return tuple(parse_address(text) for text in texts)


@st.composite
def services(draw: st.DrawFn) -> Upsert:
    key = draw(st.sampled_from(KEYS))
    service = Service(
        key,
        "LoadBalancer",
        tuple(draw(st.lists(st.sampled_from(PORTS), min_size=1, max_size=3, unique=True))),
        cluster_ips=addresses(draw(cluster_ips)),
        external_ips=addresses(draw(outside)),
        ingress=addresses(draw(outside)),
        source_ranges=tuple(parse_cidr(text) for text in draw(ranges)),
        external_policy=draw(policies),
        internal_policy=draw(policies),
        affinity_timeout=draw(st.sampled_from((0, 60))),
        created=draw(st.sampled_from((1.0, 2.0, 3.0))),
        unserved_reason=draw(st.sampled_from(("", "", "", "headless"))),
    )
    return Upsert(ObjectKey("Service", *key), service, 0.0)


@st.composite
def slices(draw: st.DrawFn) -> Upsert:
    owner = draw(st.sampled_from(KEYS))
    six = draw(st.booleans())
    key = SliceKey("default", f"{owner.name}-{'6' if six else '4'}{draw(st.sampled_from('xy'))}")
    prefix = "fd00:1::" if six else "10.0.0."
    found = draw(st.lists(st.integers(1, 6), max_size=5))
    endpoints = tuple(
        Endpoint(
            parse_address(f"{prefix}{number}"),
            *draw(
                st.sampled_from(
                    ((True, True, False), (False, True, True), (False, False, True), (False, False, False))
                )
            ),
            node_name=draw(st.sampled_from(("node-1", "node-2", ""))),
        )
        for number in found
    )
    ports = tuple(SlicePort(port.name, port.protocol, draw(st.sampled_from((8080, 8081)))) for port in PORTS)
    return Upsert(ObjectKey("EndpointSlice", *key), EndpointSlice(key, owner, ports, endpoints), 0.0)


deletions = st.one_of(
    st.sampled_from(KEYS).map(lambda key: Delete(ObjectKey("Service", *key), 0.0)),
    st.builds(
        lambda name, family, suffix: Delete(
            ObjectKey("EndpointSlice", "default", f"{name}-{family}{suffix}"), 0.0
        ),
        st.sampled_from("abc"),
        st.sampled_from("46"),
        st.sampled_from("xy"),
    ),
)
changes: st.SearchStrategy[Change] = st.one_of(
    services(), slices(), slices(), deletions, st.sampled_from(NODES).map(NodeChange)
)
histories = st.lists(changes, min_size=1, max_size=12)


def apply(engine: Engine, change: Change) -> None:
    if isinstance(change, NodeChange):
        engine.set_node(change.facts)
    else:
        engine.take((change,))


def lines(maps: FakeMaps) -> tuple[list[str], list[str], list[str]]:
    tables = maps.tables
    readable = Readable(
        CONSTANTS,
        tables["services"],
        tables["frontends"],
        tables["backends"],
        tables["maglev"],
        tables["source_ranges"],
    )
    return readable.frontend_lines(), readable.backend_lines(), readable.source_range_lines()


def conditions(engine: Engine) -> dict[ServiceKey, Condition]:
    return dict(engine.conditions)
