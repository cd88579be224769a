# SPDX-License-Identifier: Apache-2.0
"""What one Service means on one node, without ids: frontends, backends, and who may be chosen.

The rules are kube-proxy's (pkg/proxy/topology.go, KEP-1669, KEP-2086, KEP-1864) unless said otherwise:

- *usable* endpoints are the ready ones; where none is ready, those that terminate and still serve. The
  rule is applied to the whole cluster and to this node's endpoints separately;
- a Local policy takes this node's usable ones. None here, some elsewhere: silence. None anywhere: refused;
- internalTrafficPolicy governs ClusterIP alone. externalTrafficPolicy governs clients from outside at the
  other three kinds; for this node's pods and processes those are a short circuit to the whole cluster;
- loadBalancerSourceRanges govern load-balancer addresses. Ranges of one family alone leave nobody of the
  other in (kube-proxy lets everybody in there);
- endpoints that can't be chosen stay as backends while their slice names them: flows to them go on.
"""

from __future__ import annotations

import enum
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from netaccel.model.address import UNSPECIFIED4, UNSPECIFIED6, Address, Cidr, is_ipv4, text
from netaccel.model.endpoint import EndpointSlice
from netaccel.model.service import Protocol, Service, ServiceKey, ServicePort, TrafficPolicy

FAMILIES = (int(socket.AF_INET), int(socket.AF_INET6))


class Kind(enum.Enum):
    """Kinds of frontends; a value is the name of its constant in abi.h."""

    __hash__ = object.__hash__  # members are single; Enum's own is ten times as slow

    CLUSTER_IP = "FRONTEND_CLUSTER_IP"
    NODE_PORT = "FRONTEND_NODE_PORT"
    LOAD_BALANCER = "FRONTEND_LOAD_BALANCER"
    EXTERNAL_IP = "FRONTEND_EXTERNAL_IP"
    WILDCARD = "FRONTEND_WILDCARD"
    RESERVED_PORT = "FRONTEND_RESERVED_PORT"


class State(enum.Enum):
    """States of backends; a value is the name of its constant in abi.h."""

    __hash__ = object.__hash__

    ACTIVE = "BACKEND_ACTIVE"
    TERMINATING = "BACKEND_TERMINATING"
    NOT_READY = "BACKEND_NOT_READY"


class Scope(enum.Enum):
    """Whose endpoints a frontend chooses from."""

    __hash__ = object.__hash__

    NONE = 0
    CLUSTER = 1
    LOCAL = 2


_RANK = {State.NOT_READY: 0, State.TERMINATING: 1, State.ACTIVE: 2}
_GUARDS = (Kind.WILDCARD, Kind.RESERVED_PORT)

Place = tuple[Address, int]
"""Address and port of a backend."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the compiler has to know of its own node. Addresses in the 16-byte form."""

    name: str
    addresses: frozenset[Address] = frozenset()
    """All of the node's own."""
    node_port_addresses: tuple[Address, ...] = ()
    """Those that answer node ports."""
    primary: tuple[Address, ...] = ()
    """At most one of each family: what SNAT puts in packets."""
    zone: str = ""
    node_ports: tuple[int, int] = (1, 65535)
    """First and last of the cluster's node ports: any other port is the node's own."""
    proxy_name: str = ""
    """Serve only Services that ask for this service proxy; "": those that ask for none."""

    def is_node_port(self, port: int) -> bool:
        """Whether a Service may have this node port."""
        return self.node_ports[0] <= port <= self.node_ports[1]


class Backend(NamedTuple):
    """One endpoint of one service port."""

    state: State
    local: bool
    zone: str


class Frontend(NamedTuple):
    """Where a service port is reached. ``wire``: whom clients outside this node get; ``pod``: those on it."""

    addr: Address
    port: int
    proto: int
    kind: Kind
    wire: Scope
    pod: Scope
    source_ranges: bool = False
    node_allowed: bool = False

    @property
    def guards(self) -> bool:
        """True where it only keeps others away and serves nobody."""
        return self.kind in _GUARDS


@dataclass(frozen=True, slots=True)
class PortGroup:
    """One port of a Service in one protocol and family: what gets an id."""

    port_name: str
    port: int
    proto: int
    family: int
    frontends: tuple[Frontend, ...]
    backends: dict[Place, Backend]
    cluster: tuple[Place, ...]
    """Sorted: those that may be chosen of all."""
    local: tuple[Place, ...]
    """Sorted: those that may be chosen of this node's; empty where no policy is Local."""
    usable: bool
    """False where no node has one that could be chosen."""


@dataclass(frozen=True, slots=True)
class CompiledService:
    """All that one Service asks for on this node. ``source_ranges`` are per family by FAMILIES' order."""

    key: ServiceKey
    created: float
    groups: tuple[PortGroup, ...] = ()
    source_ranges: tuple[tuple[Cidr, ...], tuple[Cidr, ...]] = ((), ())
    affinity_timeout: int = 0
    problems: tuple[str, ...] = ()
    """What of it can't be served, a line each."""
    ignored: str = ""
    """Why there is nothing to do for it; empty where there is."""


def compile_service(service: Service, slices: Iterable[EndpointSlice], node: NodeFacts) -> CompiledService:
    """Compile one Service with its slices for one node."""
    if ignored := service.ignored_by(node.proxy_name):
        return CompiledService(service.key, service.created, ignored=ignored)
    families = [f for f in FAMILIES if any(_family(ip) == f for ip in service.cluster_ips)]
    problems = list(_strangers(service, families))
    if (check := service.health_check_node_port) and not node.is_node_port(check):
        problems.append(_no_node_port("healthCheckNodePort", check, node))
    ranges = _ranges(service)
    groups: list[PortGroup] = []
    known: set[Address] = set()
    wants_local = TrafficPolicy.LOCAL in (service.external_policy, service.internal_policy)
    by_family = _slices_by_family(slices)
    for port in service.ports:
        if port.protocol not in (Protocol.TCP, Protocol.UDP):
            problems.append(f"port {port.port}/{port.protocol.name}: this protocol is not served")
            continue
        if port.node_port and not node.is_node_port(port.node_port):
            problems.append(_no_node_port("nodePort", port.node_port, node))
        for family in families:
            backends, cluster = _endpoints(by_family.get(family, ()), port, node.name)
            frontends = tuple(_frontends(service, port, family, node, ranges))
            groups.append(
                PortGroup(
                    port_name=port.name,
                    port=port.port,
                    proto=int(port.protocol),
                    family=family,
                    frontends=(*frontends, *_guards(frontends, family, node, known)),
                    backends=backends,
                    cluster=cluster,
                    local=_usable_here(backends) if wants_local else (),
                    usable=bool(cluster),
                )
            )
    return CompiledService(
        service.key, service.created, tuple(groups), ranges, service.affinity_timeout, tuple(problems)
    )


# ------------------------------------------------------------------ endpoints


def _slices_by_family(slices: Iterable[EndpointSlice]) -> dict[int, list[EndpointSlice]]:
    found: dict[int, list[EndpointSlice]] = {}
    for one in slices:
        if one.endpoints:
            found.setdefault(_family(one.endpoints[0].address), []).append(one)
    return found


def _endpoints(
    slices: Sequence[EndpointSlice], port: ServicePort, node_name: str
) -> tuple[dict[Place, Backend], tuple[Place, ...]]:
    """Every endpoint of a port once, where two slices disagree in the better state; whom to choose from."""
    found: dict[Place, Backend] = {}
    name, protocol = port.name, port.protocol
    here = node_name or None  # an endpoint without a node is on none
    shared: dict[
        tuple[bool, bool, bool, bool, str], Backend
    ] = {}  # thousands of endpoints, a handful of values
    for one in slices:
        numbers = [p.port for p in one.ports if p.name == name and p.protocol == protocol and p.port]
        for number in numbers:
            for address, ready, serving, terminating, endpoint_node, zone, _ in one.endpoints:
                facts = (ready, serving, terminating, endpoint_node == here, zone)
                backend = shared.get(facts)
                if backend is None:
                    backend = shared[facts] = _backend(*facts)
                place = (address, number)
                before = found.get(place)
                found[place] = backend if before is None else _better(before, backend)
    if all(backend.state is State.ACTIVE for backend in shared.values()):
        return found, tuple(sorted(found))  # by far the most, and the quickest to say
    return found, _usable(found)


def _backend(ready: bool, serving: bool, terminating: bool, local: bool, zone: str) -> Backend:
    if ready:
        return Backend(State.ACTIVE, local, zone)
    return Backend(State.TERMINATING if serving and terminating else State.NOT_READY, local, zone)


def _better(one: Backend, other: Backend) -> Backend:
    state = max(one.state, other.state, key=_RANK.__getitem__)
    return Backend(state, one.local or other.local, one.zone or other.zone)


def _usable(backends: dict[Place, Backend]) -> tuple[Place, ...]:
    """Those that may be chosen: the active ones, else those that terminate and still serve."""
    for state in (State.ACTIVE, State.TERMINATING):
        found = sorted([place for place, backend in backends.items() if backend.state is state])
        if found:
            return tuple(found)
    return ()


def _usable_here(backends: dict[Place, Backend]) -> tuple[Place, ...]:
    """The same among this node's own."""
    return _usable({place: backend for place, backend in backends.items() if backend.local})


# ------------------------------------------------------------------ frontends


def _frontends(
    service: Service,
    port: ServicePort,
    family: int,
    node: NodeFacts,
    ranges: tuple[tuple[Cidr, ...], tuple[Cidr, ...]],
) -> Iterator[Frontend]:
    """Those of one port and family; where two have one address and port, the stricter comes first."""
    proto = int(port.protocol)
    internal, external = _scope(service.internal_policy), _scope(service.external_policy)
    seen: set[tuple[Address, int]] = set()

    def unseen(addresses: Iterable[Address], number: int) -> Iterator[Address]:
        for address in addresses:
            if _family(address) == family and (address, number) not in seen:
                seen.add((address, number))
                yield address

    for address in unseen(service.cluster_ips, port.port):
        yield Frontend(address, port.port, proto, Kind.CLUSTER_IP, internal, internal)
    limited = bool(service.source_ranges)
    allowed = limited and _node_allowed(ranges[FAMILIES.index(family)], node)
    for address in unseen(service.ingress, port.port):
        kind = Kind.LOAD_BALANCER
        yield Frontend(address, port.port, proto, kind, external, Scope.CLUSTER, limited, allowed)
    for address in unseen(service.external_ips, port.port):
        yield Frontend(address, port.port, proto, Kind.EXTERNAL_IP, external, Scope.CLUSTER)
    if port.node_port and node.is_node_port(port.node_port):
        for address in unseen(node.node_port_addresses, port.node_port):
            yield Frontend(address, port.node_port, proto, Kind.NODE_PORT, external, Scope.CLUSTER)


def _guards(
    frontends: Iterable[Frontend], family: int, node: NodeFacts, known: set[Address]
) -> Iterator[Frontend]:
    """What keeps others away: node ports from bind(), other ports of a cluster IP (once for all ports).

    External and load balancers' addresses may be a host's, which has services of its own at other ports.
    """
    reserved = False
    for frontend in frontends:
        if frontend.kind is Kind.NODE_PORT:
            if not reserved:
                unspecified = UNSPECIFIED4 if family == FAMILIES[0] else UNSPECIFIED6
                yield _guard(unspecified, frontend.port, frontend.proto, Kind.RESERVED_PORT)
            reserved = True
        elif frontend.kind is Kind.CLUSTER_IP and not (
            frontend.addr in node.addresses or frontend.addr in known
        ):
            known.add(frontend.addr)
            yield _guard(frontend.addr, 0, 0, Kind.WILDCARD)


def _guard(address: Address, port: int, proto: int, kind: Kind) -> Frontend:
    return Frontend(address, port, proto, kind, Scope.NONE, Scope.NONE)


def _scope(policy: TrafficPolicy) -> Scope:
    return Scope.LOCAL if policy is TrafficPolicy.LOCAL else Scope.CLUSTER


def _ranges(service: Service) -> tuple[tuple[Cidr, ...], tuple[Cidr, ...]]:
    if not service.ingress:
        return (), ()
    four, six = (
        tuple(sorted({r for r in service.source_ranges if _family(r.addr) == family})) for family in FAMILIES
    )
    return four, six


def _node_allowed(ranges: Iterable[Cidr], node: NodeFacts) -> bool:
    return any(_contains(cidr, address) for cidr in ranges for address in node.addresses)


def _contains(cidr: Cidr, address: Address) -> bool:
    shift = 128 - cidr.length
    same_family = is_ipv4(cidr.addr) == is_ipv4(address)
    return same_family and int.from_bytes(cidr.addr) >> shift == int.from_bytes(address) >> shift


def _no_node_port(field: str, port: int, node: NodeFacts) -> str:
    first, last = node.node_ports
    return f"{field} {port} is not among the cluster's: give one from {first} to {last}"


def _strangers(service: Service, families: Sequence[int]) -> Iterator[str]:
    """Addresses of a family that the Service doesn't have: no endpoints could be behind them."""
    for kind, addresses in (("external IP", service.external_ips), ("ingress IP", service.ingress)):
        for address in addresses:
            if _family(address) not in families:
                yield f"{kind} {text(address)}: the Service has no cluster IP of this family; not served"


def _family(address: bytes) -> int:
    return FAMILIES[0] if is_ipv4(address) else FAMILIES[1]
