# SPDX-License-Identifier: Apache-2.0
"""Services (core/v1), as far as a service proxy reads them."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from netaccel.model.address import Address, Cidr

PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
"""Its value names the service proxy that alone serves the Service (KEP-2447)."""


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

    ``unserved_reason``: why every service proxy must leave it alone (headless, ExternalName, the headless
    label, no address at all). ``proxy_name``: the value of its label PROXY_NAME_LABEL, None without one.
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
    proxy_name: str | None = None
    accelerate: str = ""
    """Its annotation netaccel.io/accelerate, as written."""

    def ignored_by(self, proxy_name: str) -> str:
        """Why the service proxy of this name ("": the default one) leaves it alone; "" where it serves it."""
        if self.unserved_reason:
            return self.unserved_reason
        if self.proxy_name == (proxy_name or None):
            return ""
        if self.proxy_name is None:
            return f"it has no label {PROXY_NAME_LABEL}: {proxy_name}, without which it is not served here"
        return f"label {PROXY_NAME_LABEL} gives it to {self.proxy_name or 'another proxy'}"
