# SPDX-License-Identifier: Apache-2.0
"""What an API server and a cloud fill into Services: addresses, node ports, load-balancer addresses. Pure.

What a manifest says stays; what it leaves out is given once and kept until the Service goes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from netaccel.errors import CapacityError
from netaccel.lab.plan import INGRESS_CIDR4, INGRESS_CIDR6, NODE_PORTS, SERVICE_CIDR4, SERVICE_CIDR6
from netaccel.lab.raw import Name, Object, mapping, mappings, metadata, number, spec, string, strings

_FAMILIES = ("IPv4", "IPv6")
_SERVICE_CIDR = dict(zip(_FAMILIES, (SERVICE_CIDR4, SERVICE_CIDR6), strict=True))
_INGRESS_CIDR = dict(zip(_FAMILIES, (INGRESS_CIDR4, INGRESS_CIDR6), strict=True))
# The low ends are for people who write addresses and ports into manifests.
_FIRST_SERVICE_HOST, _FIRST_INGRESS_HOST, _FIRST_NODE_PORT = 0x100, 100, 31000


@dataclass
class Given:
    """What one Service was given; keys of the mappings are families, and ``PROTOCOL/PORT``."""

    uid: str
    created: str
    cluster_ips: dict[str, str] = field(default_factory=dict)
    ingress: dict[str, str] = field(default_factory=dict)
    node_ports: dict[str, int] = field(default_factory=dict)
    health_check: int = 0


def family_of(address: str) -> str:
    """``IPv4`` or ``IPv6``."""
    return "IPv6" if ":" in address else "IPv4"


def families(service: Object) -> list[str]:
    """The families that a Service asks for, by ipFamilies, ipFamilyPolicy and its own addresses."""
    body = spec(service)
    wanted = [f for f in strings(body.get("ipFamilies")) if f in _FAMILIES]
    if not wanted:
        addresses = strings(body.get("clusterIPs")) or strings([body.get("clusterIP")])
        wanted = [family_of(address) for address in addresses if address != "None"] or ["IPv4"]
    if string(body.get("ipFamilyPolicy")) in ("PreferDualStack", "RequireDualStack"):
        wanted += [f for f in _FAMILIES if f not in wanted]
    return list(dict.fromkeys(wanted))


def is_headless(service: Object) -> bool:
    """Whether the Service asks for no address."""
    return spec(service).get("clusterIP") == "None" or "None" in strings(spec(service).get("clusterIPs"))


class Allocator:
    """Fills Services; ``given`` is its whole state."""

    def __init__(self, given: dict[Name, Given]) -> None:
        self.given = given
        self.problems: dict[Name, str] = {}
        self._addresses: set[str] = set()
        self._ports: set[int] = set()

    def fill(self, services: Mapping[Name, Object], new: Callable[[], Given]) -> dict[Name, Object]:
        """Return the Services filled in, in the same order. What gone Services had is free again.

        ``new`` makes the beginning of a Service that wasn't there: its uid and time. ``problems`` then
        says who went without because there was nothing left.
        """
        self.problems = {}
        for name in [name for name in self.given if name not in services]:
            del self.given[name]
        for name in services:
            if name not in self.given:
                self.given[name] = new()
        self._addresses = {a for service in services.values() for a in _addresses(service)}
        self._ports = {p for service in services.values() for p in _node_ports(service)}
        for given in self.given.values():
            self._addresses.update(given.cluster_ips.values(), given.ingress.values())
            self._ports.update(given.node_ports.values(), {given.health_check})
        found = {}
        for name, service in services.items():
            try:
                found[name] = self._fill(name, service)
            except CapacityError as error:
                self.problems[name] = str(error)
        return found

    def _fill(self, name: Name, service: Object) -> Object:
        given = self.given[name]
        body = dict(spec(service))
        kind = string(body.get("type")) or "ClusterIP"
        filled = {
            **service,
            "metadata": {
                "uid": given.uid,
                "creationTimestamp": given.created,
                **metadata(service),
                "namespace": name.namespace,
            },
            "spec": body,
        }
        if kind == "ExternalName" or not isinstance(body.get("ports"), list):
            return filled
        self._fill_families(given, service, body)
        if kind in ("NodePort", "LoadBalancer") and body.get("allocateLoadBalancerNodePorts") is not False:
            body["ports"] = [self._fill_port(given, port) for port in body["ports"]]
        if kind == "LoadBalancer":
            self._fill_load_balancer(given, service, filled, body)
        return filled

    def _fill_families(self, given: Given, service: Object, body: Object) -> None:
        wanted = families(service)
        body.setdefault("ipFamilies", wanted)
        if is_headless(service):
            return
        written = strings(body.get("clusterIPs")) or strings([body.get("clusterIP")])
        for family in wanted:
            if family not in map(family_of, written):
                if family not in given.cluster_ips:
                    given.cluster_ips[family] = self._free(_SERVICE_CIDR[family], _FIRST_SERVICE_HOST)
                written = [*written, given.cluster_ips[family]]
        body["clusterIP"], body["clusterIPs"] = written[0], written

    def _fill_port(self, given: Given, port: Any) -> Any:
        if not isinstance(port, dict) or "nodePort" in port:
            return port
        key = f"{string(port.get('protocol')) or 'TCP'}/{port.get('port')}"
        if key not in given.node_ports:
            given.node_ports[key] = self._free_port()
        return {**port, "nodePort": given.node_ports[key]}

    def _fill_load_balancer(self, given: Given, service: Object, filled: Object, body: Object) -> None:
        if body.get("externalTrafficPolicy") == "Local" and "healthCheckNodePort" not in body:
            given.health_check = given.health_check or self._free_port()
            body["healthCheckNodePort"] = given.health_check
        status = mapping(service.get("status"))
        if string(body.get("loadBalancerClass")) or "ingress" in mapping(status.get("loadBalancer")):
            return
        for family in families(service):
            if family not in given.ingress:
                given.ingress[family] = self._free(_INGRESS_CIDR[family], _FIRST_INGRESS_HOST)
        ingress = [{"ip": given.ingress[family]} for family in families(service)]
        filled["status"] = {**status, "loadBalancer": {"ingress": ingress}}

    def _free(self, cidr: str, first: int) -> str:
        network = ipaddress.ip_network(cidr)
        for index in range(first, network.num_addresses - 1):
            if (found := str(network[index])) not in self._addresses:
                self._addresses.add(found)
                return found
        raise CapacityError(f"no address of {cidr} is left: name one, or remove Services")

    def _free_port(self) -> int:
        found = next((port for port in _candidates() if port not in self._ports), 0)
        if not found:
            raise CapacityError("no node port is left: remove Services")
        self._ports.add(found)
        return found


def ingress_addresses(service: Object) -> list[str]:
    """The load-balancer and external addresses that the outside is routed to nodes for."""
    status = mapping(mapping(service.get("status")).get("loadBalancer"))
    ingress = [string(item.get("ip")) for item in mappings(status.get("ingress"))]
    return [a for a in (*ingress, *strings(spec(service).get("externalIPs"))) if _is_address(a)]


def _addresses(service: Object) -> Iterator[str]:
    body = spec(service)
    yield from strings([body.get("clusterIP")])
    yield from strings(body.get("clusterIPs"))
    yield from ingress_addresses(service)


def _node_ports(service: Object) -> Iterator[int]:
    for port in mappings(spec(service).get("ports")):
        yield number(port.get("nodePort"))
    yield number(spec(service).get("healthCheckNodePort"))


def _candidates() -> Iterable[int]:
    yield from range(_FIRST_NODE_PORT, NODE_PORTS.stop)
    yield from range(NODE_PORTS.start, _FIRST_NODE_PORT)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
