# SPDX-License-Identifier: Apache-2.0
"""EndpointSlices (discovery.k8s.io/v1), Pods, Nodes and Namespaces (core/v1), as far as they are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from netaccel.model.address import Address, Cidr
from netaccel.model.service import Protocol, ServiceKey


class SliceKey(NamedTuple):
    """Namespace and name of an EndpointSlice."""

    namespace: str
    name: str


class PodKey(NamedTuple):
    """Namespace and name of a Pod."""

    namespace: str
    name: str


class SlicePort(NamedTuple):
    """One entry of a slice's ``ports``; matched to a Service's port by name and protocol. Port 0: all."""

    name: str
    protocol: Protocol
    port: int


class Endpoint(NamedTuple):
    """One address of a slice with its conditions (absent ready, serving: True; terminating: False).

    ``pod``: the name of its Pod, which is in the slice's namespace; "" where it is none.
    """

    address: Address
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node_name: str = ""
    zone: str = ""
    pod: str = ""


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """A slice of one address family. ``service`` is from the label kubernetes.io/service-name."""

    key: SliceKey
    service: ServiceKey | None
    ports: tuple[SlicePort, ...]
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class ContainerPort:
    """A named port of a container."""

    name: str
    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True)
class Pod:
    """A Pod. What only the lab reads (its command) stays in the lab.

    One that ended (Succeeded, Failed) has no ``addresses``: another Pod may have them by now.
    """

    key: PodKey
    node_name: str = ""
    addresses: tuple[Address, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    host_network: bool = False
    ready: bool = False
    terminating: bool = False
    uid: str = ""
    accelerate: str = ""
    """Its annotation netaccel.io/accelerate, as written."""
    shaped: bool = False
    """Whether annotations bound its bandwidth."""


@dataclass(frozen=True, slots=True)
class Node:
    """A Node: its InternalIPs (primary first), pod CIDRs, labels, zone from topology.kubernetes.io/zone.

    ``external``: the other addresses that its status lists. To policies they are the node's too.
    ``leaving``: it is being deleted, or the cluster autoscaler has marked it for that: load balancers shall
    take no new connections to it (KEP-3836).
    """

    name: str
    addresses: tuple[Address, ...] = ()
    pod_cidrs: tuple[Cidr, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    zone: str = ""
    leaving: bool = False
    external: tuple[Address, ...] = ()

    @property
    def all_addresses(self) -> tuple[Address, ...]:
        """Every address by which the node is known."""
        return self.addresses + self.external


@dataclass(frozen=True, slots=True)
class Namespace:
    """A Namespace, its labels, and its annotation netaccel.io/accelerate as written."""

    name: str
    labels: tuple[tuple[str, str], ...] = field(default=())
    accelerate: str = ""
    uid: str = ""
