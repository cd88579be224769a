# SPDX-License-Identifier: Apache-2.0
"""Random clusters and policies: few names, labels, addresses and ports, so that everything meets soon."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from netaccel.model.address import Address, parse_address, parse_cidr
from netaccel.model.endpoint import (
    ContainerPort,
    Endpoint,
    EndpointSlice,
    Namespace,
    Node,
    Pod,
    PodKey,
    SliceKey,
)
from netaccel.model.event import Delete, Event, Object, ObjectKey, Upsert
from netaccel.model.policy import (
    ICMP,
    ICMPV6,
    Action,
    CidrPeer,
    Direction,
    Entity,
    EntityPeer,
    Kind,
    Labels,
    Mode,
    NamedPort,
    NodePeer,
    Operator,
    Peer,
    PodPeer,
    Policy,
    PolicyKey,
    Port,
    PortRange,
    Requirement,
    Rule,
    Selector,
    ServicePeer,
    Subject,
    Tier,
    UnknownPeer,
)
from netaccel.model.service import Protocol, Service, ServiceKey
from netaccel.model.snapshot import World

NODE = "node-1"
NODES = (NODE, "node-2", "node-3")
SPACES = ("red", "blue", "green")
PODS = tuple(PodKey(space, name) for space in SPACES for name in ("a", "b", "c"))
PORT_NUMBERS = (0, 1, 79, 80, 81, 443, 1023, 1024, 8080, 32768, 65535)
PROTOCOLS = (6, 17, 132, ICMP, ICMPV6, 47)
PORT_NAMES = ("http", "dns")
SERVICES = tuple(ServiceKey(space, "svc") for space in SPACES[:2])
OUTSIDE = tuple(
    parse_address(text)
    for text in (
        "192.0.2.1", "192.0.2.129", "198.51.100.7", "10.0.2.200", "10.9.9.9", "2001:db8::1", "2001:db8:1::1",
        "fd00::99", "::1:2:3",
    )
)  # fmt: skip
CIDRS = tuple(
    parse_cidr(text)
    for text in (
        "0.0.0.0/0", "::/0", "10.0.0.0/8", "10.0.1.0/24", "10.0.1.16/28", "10.0.1.17/32", "10.0.2.0/24",
        "192.0.2.0/24", "192.0.2.128/25", "192.0.2.1/32", "172.18.0.0/16", "172.18.0.2/32", "fd00::/8",
        "fd00:1::/64", "fd00:1::11/128", "2001:db8::/32", "2001:db8:1::/48", "2001:db8::1/128", "::/64",
    )
)  # fmt: skip

POD4 = tuple(parse_address(f"10.0.{i // 3 + 1}.{16 + i}") for i in range(len(PODS)))
POD6 = tuple(parse_address(f"fd00:{i // 3 + 1}::{10 + i}") for i in range(len(PODS)))
NODE4 = tuple(parse_address(f"172.18.0.{i + 1}") for i in range(len(NODES)))
NODE6 = tuple(parse_address(f"fd00:18::{i + 1}") for i in range(len(NODES)))

pairs = st.sampled_from((("app", "web"), ("app", "db"), ("tier", "x"), ("tier", "y"), ("env", "prod")))


labels: st.SearchStrategy[Labels] = st.lists(pairs, max_size=3, unique_by=lambda pair: pair[0]).map(
    lambda found: tuple(sorted(found))
)


@st.composite
def requirements(draw: st.DrawFn) -> Requirement:
    operator = draw(st.sampled_from(Operator))
    key = draw(st.sampled_from(("app", "tier", "env")))
    if operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST):
        return Requirement(key, operator)
    values = {"app": ("web", "db"), "tier": ("x", "y"), "env": ("prod", "test")}[key]
    return Requirement(key, operator, tuple(draw(st.lists(st.sampled_from(values), min_size=1, max_size=2))))


selectors: st.SearchStrategy[Selector] = st.lists(requirements(), max_size=2).map(tuple)

mostly_all = st.one_of(st.just(()), st.just(()), selectors)


@st.composite
def blocks(draw: st.DrawFn) -> CidrPeer:
    cidr = draw(st.sampled_from(CIDRS))
    return CidrPeer(cidr, tuple(draw(st.lists(st.sampled_from(CIDRS), max_size=2, unique=True))))


def peers(kind: Kind) -> st.SearchStrategy[Peer]:
    spaces: st.SearchStrategy[Selector | None] = selectors
    if kind in (Kind.NETWORK, Kind.TRAFFIC):
        spaces = st.one_of(st.none(), selectors)
    pods = st.builds(PodPeer, selectors, spaces)
    return st.one_of(
        pods,
        pods,
        blocks(),
        blocks(),
        st.builds(ServicePeer, st.sampled_from(SERVICES)),
        st.builds(EntityPeer, st.sampled_from(Entity)),
        st.builds(NodePeer, selectors),
        st.just(UnknownPeer("from[0]", "from a newer API")),
    )


@st.composite
def ports(draw: st.DrawFn) -> Port:
    if draw(st.integers(0, 3)) == 3:
        return NamedPort(draw(st.sampled_from(PORT_NAMES)), draw(st.sampled_from((None, 6, 17))))
    protocol = draw(st.sampled_from((6, 6, 6, 17, 132, ICMP, ICMPV6)))
    if draw(st.integers(0, 4)) == 0:
        return PortRange(protocol, 0, 65535)
    first, last = sorted((draw(st.sampled_from(PORT_NUMBERS)), draw(st.sampled_from(PORT_NUMBERS))))
    return PortRange(protocol, first, last)


_ACTIONS = {
    Kind.NETWORK: (Action.ALLOW,),
    Kind.CLUSTER_NETWORK: (Action.ALLOW, Action.DROP, Action.PASS),
    Kind.TRAFFIC: (Action.ALLOW, Action.DROP, Action.REJECT, Action.MONITOR),
    Kind.CLUSTER_TRAFFIC: tuple(Action),
}


@st.composite
def rules(draw: st.DrawFn, kind: Kind) -> Rule:
    return Rule(
        draw(st.sampled_from(_ACTIONS[kind])),
        draw(st.one_of(st.none(), st.lists(peers(kind), min_size=1, max_size=3).map(tuple), st.just(()))),
        draw(st.one_of(st.none(), st.lists(ports(), min_size=1, max_size=3).map(tuple))),
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    kind = draw(
        st.sampled_from(
            (Kind.NETWORK, Kind.NETWORK, Kind.TRAFFIC, Kind.CLUSTER_NETWORK, Kind.CLUSTER_TRAFFIC)
        )
    )
    namespaced = kind in (Kind.NETWORK, Kind.TRAFFIC)
    space = draw(st.sampled_from((SPACES[0], *SPACES[:2]))) if namespaced else ""
    tier = Tier.NAMESPACED if namespaced else Tier.ADMIN
    if kind is Kind.CLUSTER_NETWORK:
        tier = draw(st.sampled_from((Tier.ADMIN, Tier.BASELINE)))
    isolates: frozenset[Direction] = frozenset()
    if namespaced:
        isolates = frozenset(draw(st.sets(st.sampled_from(Direction))))
    denies = draw(st.integers(0, 15)) == 15
    deny = (Rule(Action.DROP, None, None),)
    mode = draw(st.sampled_from(Mode)) if kind in (Kind.TRAFFIC, Kind.CLUSTER_TRAFFIC) else Mode.ENFORCE
    some = st.lists(rules(kind), max_size=3).map(tuple)
    return Policy(
        PolicyKey(kind, space, draw(st.sampled_from(("p", "q", "r")))),
        tier,
        Subject(draw(mostly_all), None if namespaced else draw(mostly_all)),
        deny if denies else draw(some),
        deny if denies else draw(some),
        isolates,
        mode,
        priority=0 if namespaced else draw(st.sampled_from((0, 5, 5, 1000))),
        created=draw(st.sampled_from((1.0, 2.0, math.inf))),
        denies="spec: unreadable" if denies else "",
    )


container_ports = st.builds(
    ContainerPort,
    st.sampled_from(PORT_NAMES),
    st.sampled_from((Protocol.TCP, Protocol.UDP)),
    st.sampled_from((80, 81, 8080)),
)


@st.composite
def pods(draw: st.DrawFn) -> Pod:
    at = draw(st.integers(0, len(PODS) - 1))
    node = draw(st.sampled_from((0, 0, 0, 1, 2)))
    host = draw(st.integers(0, 7)) == 7
    families = draw(st.sampled_from(((4, 6), (4, 6), (4,), (6,), (6, 4), ())))
    home, terminating = at, draw(st.integers(0, 7)) == 7
    if draw(st.integers(0, 2)) == 2:  # it claims addresses of a pod of another namespace, maybe as it leaves
        home, terminating = (at + len(SPACES)) % len(PODS), draw(st.booleans())
    own = {4: NODE4[node], 6: NODE6[node]} if host else {4: POD4[home], 6: POD6[home]}
    return Pod(
        PODS[at],
        NODES[node],
        tuple(own[family] for family in families),
        draw(labels),
        tuple(draw(st.lists(container_ports, max_size=2))),
        host_network=host,
        terminating=terminating,
    )


nodes = st.integers(0, len(NODES) - 1).flatmap(
    lambda at: st.builds(Node, st.just(NODES[at]), st.just((NODE4[at], NODE6[at])), labels=labels)
)
namespaces = st.builds(Namespace, st.sampled_from(SPACES), labels)
services = st.builds(
    Service,
    st.sampled_from(SERVICES),
    st.just("ClusterIP"),
    st.just(()),
    selector=st.sampled_from(((), (("app", "web"),), (("app", "db"), ("tier", "x")))),
)


@st.composite
def slices(draw: st.DrawFn) -> EndpointSlice:
    service = draw(st.sampled_from(SERVICES))
    found = draw(st.lists(st.sampled_from((*OUTSIDE[:3], POD4[0], POD6[0], NODE4[1])), max_size=2))
    key = SliceKey(service.namespace, draw(st.sampled_from(("s", "t"))))
    return EndpointSlice(key, service, (), tuple(Endpoint(address) for address in found))


def key_of(obj: Object) -> ObjectKey:
    match obj:
        case Policy():
            return ObjectKey(obj.key.kind.value, obj.key.namespace, obj.key.name)
        case Node() | Namespace():
            return ObjectKey(type(obj).__name__, "", obj.name)
        case _:
            return ObjectKey(type(obj).__name__, *obj.key)


objects: st.SearchStrategy[Object] = st.one_of(
    policies(), policies(), policies(), pods(), pods(), namespaces, nodes, services, slices()
)


@st.composite
def clusters(draw: st.DrawFn) -> list[Event]:
    """Enough of each kind for policies to meet someone."""
    found: list[Object] = [*draw(st.lists(pods(), min_size=5, max_size=9, unique_by=lambda pod: pod.key))]
    found += draw(st.lists(namespaces, max_size=3))
    found += draw(st.lists(nodes, max_size=3))
    found += draw(st.lists(services, max_size=2))
    found += draw(st.lists(slices(), max_size=2))
    found += draw(st.lists(policies(), min_size=2, max_size=7))
    return [Upsert(key_of(one), one, 0.0) for one in found]


@st.composite
def changes(draw: st.DrawFn) -> Event:
    one = draw(objects)
    key = key_of(one)
    return Delete(key, 0.0) if draw(st.integers(0, 3)) == 3 else Upsert(key, one, 0.0)


histories = st.tuples(
    clusters(), st.lists(st.lists(changes(), min_size=1, max_size=3), min_size=1, max_size=4)
)


def world_of(events: list[Event]) -> World:
    world = World(NODE)
    world.apply_all(events)
    return world


def devices_of(world: World) -> dict[PodKey, int]:
    """Every pod of this node that has a network of its own has a device, always the same one."""
    return {
        pod.key: 10 + PODS.index(pod.key)
        for pod in world.pods(NODE)
        if not pod.host_network and pod.addresses
    }


def addresses_of(world: World) -> tuple[Address, ...]:
    """Everyone that a pod may talk to."""
    found = dict.fromkeys((*POD4, *POD6, *NODE4, *NODE6, *OUTSIDE))
    return tuple(found)
