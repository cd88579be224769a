# SPDX-License-Identifier: Apache-2.0
"""What load balancers are told of Services whose external policy is Local: how many endpoints are here.

As kube-proxy does (KEP-614): addresses that a slice calls ready and puts on this node, each once, whatever
the number of its ports. One that terminates is not ready. kube-proxy counts for each family apart and
answers with the family that took the port first; here the family with more of them counts, so that a pod
with two addresses is one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from netaccel.compile.services import NodeFacts
from netaccel.model.address import is_ipv4
from netaccel.model.endpoint import EndpointSlice
from netaccel.model.service import Service, ServiceKey
from netaccel.model.snapshot import World


class HealthCheck(NamedTuple):
    """What a healthCheckNodePort answers. ``others``: Services that ask for the same port in vain."""

    namespace: str
    name: str
    local_endpoints: int
    others: tuple[ServiceKey, ...] = ()


class Counts:
    """Remembers what was counted, as long as a Service's slices are the same."""

    def __init__(self) -> None:
        self._known: dict[ServiceKey, tuple[Service, tuple[EndpointSlice, ...], str, int]] = {}

    def of(self, services: Iterable[Service], world: World, node_name: str) -> dict[ServiceKey, int]:
        """Local ready endpoints of each of these; what was known of all others is forgotten."""
        known = {}
        for service in services:
            slices = world.slices(service.key)
            found = self._known.get(service.key)
            if not (found and found[0] is service and found[1] is slices and found[2] == node_name):
                found = (service, slices, node_name, local_endpoints(service, slices, node_name))
            known[service.key] = found
        self._known = known
        return {key: found[3] for key, found in known.items()}


def health_checks(world: World, node: NodeFacts, counts: Counts | None = None) -> dict[int, HealthCheck]:
    """By healthCheckNodePort. Where several Services have one, the oldest is answered for, as for frontends.

    ``counts`` saves counting again; without one all is counted.
    """
    asking = [
        service
        for service in world.health_checked()
        if not service.ignored_by(node.proxy_name) and node.is_node_port(service.health_check_node_port)
    ]
    numbers = (counts or Counts()).of(asking, world, node.name)
    found: dict[int, HealthCheck] = {}
    for service in sorted(asking, key=lambda service: (service.created, service.key)):
        port = service.health_check_node_port
        holder = found.get(port)
        if holder is None:
            found[port] = HealthCheck(*service.key, numbers[service.key])
        else:
            found[port] = holder._replace(others=(*holder.others, service.key))
    return found


def local_endpoints(service: Service, slices: Iterable[EndpointSlice], node_name: str) -> int:
    """How many endpoints of a Service are ready on this node, in the family that has more of them.

    Families that the Service has no cluster IP of don't count, nor do slices without a numbered port.
    """
    families = {is_ipv4(address) for address in service.cluster_ips}
    ready = {
        endpoint.address
        for one in slices
        if any(port.port for port in one.ports)
        for endpoint in one.endpoints
        if endpoint.ready and node_name and endpoint.node_name == node_name
    }
    return max((sum(is_ipv4(address) == family for address in ready) for family in families), default=0)
