# SPDX-License-Identifier: Apache-2.0
"""Services (core/v1), as far as a service proxy reads them."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from netaccel.model.address import Address, Cidr


class Protocol(enum.IntEnum):
    """Transport protocols by IP protocol number."""

    TCP = 6
    UDP = 17
    SCTP = 132


class TrafficPolicy(enum.Enum):
    """Which endpoints may serve."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


class ServiceKey(NamedTuple):
    """Namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One entry of ``spec.ports``. ``node_port`` 0: none. ``target_port`` is the endpoint controller's."""

    name: str
    protocol: Protocol
    port: int
    node_port: int = 0
    target_port: int | str = 0


@dataclass(frozen=True, slots=True)
class Service:
    """A Service that passed validation.

    ``served`` is False where a service proxy must leave it alone; ``unserved_reason`` says why
    (headless, ExternalName, the service-proxy-name or the headless label, no address at all).
    ``ingress`` holds only the load-balancer addresses whose ipMode is VIP or absent.
    ``created`` is seconds since the epoch, infinity where the object has no date (files): a dated one is
    older. ``affinity_timeout`` in seconds, 0: no affinity.
    ``source_ranges`` empty: every client. Else clients of a family that they don't name are outside.
    """

    key: ServiceKey
    type: str
    ports: tuple[ServicePort, ...]
    cluster_ips: tuple[Address, ...] = ()
    external_ips: tuple[Address, ...] = ()
    ingress: tuple[Address, ...] = ()
    source_ranges: tuple[Cidr, ...] = ()
    external_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    internal_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    affinity_timeout: int = 0
    health_check_node_port: int = 0
    created: float = 0.0
    uid: str = ""
    selector: tuple[tuple[str, str], ...] = ()
    unserved_reason: str = ""

    @property
    def served(self) -> bool:
        """Whether a service proxy has anything to do for it."""
        return not self.unserved_reason
