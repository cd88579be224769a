# SPDX-License-Identifier: Apache-2.0
"""What a lab consists of: names, addresses and paths. Pure; the same plan for the same arguments.

::

    client ── router ── switch ─┬─ node-1 ─┬─ pod
    198.51.100.10   172.30.0.1  ├─ node-2  └─ pod
                                └─ node-3

Every namespace of lab ``x`` is called ``na-x-…``. Nodes are numbered from 1; so are their addresses.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from netaccel.errors import ConfigError

RUN = Path("/run/netaccel/lab")
MAX_NODES = 32
CLIENT4, CLIENT6 = "198.51.100.10", "2001:db8:100::10"
CLIENT_GATEWAY4, CLIENT_GATEWAY6 = "198.51.100.1", "2001:db8:100::1"
ROUTER4, ROUTER6 = "172.30.0.1", "fd00:30::1"
POD_GATEWAY4, POD_GATEWAY6 = "169.254.1.1", "fe80::1"
SERVICE_CIDR4, SERVICE_CIDR6 = "10.96.0.0/16", "fd00:10:96::/112"
INGRESS_CIDR4, INGRESS_CIDR6 = "203.0.113.0/24", "2001:db8:203::/112"
NODE_PORTS = range(30000, 32768)


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node."""

    number: int
    name: str
    namespace: str
    address4: str
    address6: str
    pod_cidr4: str
    pod_cidr6: str
    zone: str

    def pod_addresses(self, index: int) -> tuple[str, str]:
        """Both addresses of the pod with this index (2 to 254)."""
        return (
            self.pod_cidr4.replace("0/24", str(index)),
            self.pod_cidr6.replace("/64", f"{index:x}"),
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """One lab. ``hop``: a bridge between each node and the switch that completes checksums."""

    name: str
    nodes: tuple[NodePlan, ...]
    hop: bool = False

    @property
    def switch(self) -> str:
        """The namespace with the bridge that joins the nodes."""
        return namespace(self.name, "switch")

    @property
    def router(self) -> str:
        """The namespace between the nodes' subnet and the client's."""
        return namespace(self.name, "router")

    @property
    def client(self) -> str:
        """The namespace of the outside client."""
        return namespace(self.name, "client")

    @property
    def hops(self) -> str:
        """The namespace of the bridges that complete checksums."""
        return namespace(self.name, "hops")

    def namespaces(self) -> tuple[str, ...]:
        """All of them but the pods'."""
        fixed = (self.switch, self.router, self.client, *((self.hops,) if self.hop else ()))
        return (*fixed, *(node.namespace for node in self.nodes))

    def node(self, name: str) -> NodePlan:
        """The node of that name. Raises ConfigError."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise ConfigError(f"lab {self.name} has no {name}; its nodes are node-1 to node-{len(self.nodes)}")


@dataclass(frozen=True, slots=True)
class Paths:
    """Where a lab keeps its files; all below one folder."""

    root: Path

    @property
    def state(self) -> Path:
        """The lab's arguments, written by ``up``."""
        return self.root / "state.json"

    @property
    def status(self) -> Path:
        """Nodes, pods and agents, written by the controller."""
        return self.root / "status.json"

    @property
    def allocations(self) -> Path:
        """Service addresses and node ports that were given out."""
        return self.root / "allocations.json"

    @property
    def logs(self) -> Path:
        """One file for the controller, each agent and each pod."""
        return self.root / "logs"

    @property
    def manifests(self) -> Path:
        """The folder that is watched where ``up`` was given none."""
        return self.root / "manifests"

    @property
    def rendered(self) -> Path:
        """What the agents read."""
        return self.root / "rendered"

    def state_of(self, node: str) -> Path:
        """The folder of a node's agent for what outlives it."""
        return self.root / "state" / node

    @property
    def bpffs(self) -> Path:
        """A bpf file system of the lab's own; one folder a node."""
        return self.root / "bpf"

    @property
    def far_end(self) -> Path:
        """The folder in it for what is pinned of the wires' other ends."""
        return self.bpffs / "switch"


def check_name(name: str) -> str:
    """Return the name, or raise ConfigError."""
    if not re.fullmatch(r"[a-z0-9]{1,20}", name):
        raise ConfigError(f"--name {name!r}: give 1 to 20 lower-case letters and digits")
    return name


def namespace(lab: str, what: str) -> str:
    """Name of a network namespace."""
    return f"na-{lab}-{what}"


def pod_label(pod_ns: str, pod_name: str) -> str:
    """One word for a pod, fit for a file's name (Kubernetes' names have no underscore)."""
    found = f"{pod_ns}_{pod_name}"
    return found if len(found) <= 150 else f"{found[:130]}_{_hash(pod_ns, pod_name)}"


def pod_namespace(lab: str, pod_ns: str, pod_name: str) -> str:
    """Name of a pod's network namespace."""
    return namespace(lab, f"pod-{pod_label(pod_ns, pod_name)}")


def pod_device(pod_ns: str, pod_name: str) -> str:
    """The node's end of a pod's veth; at most 15 characters."""
    return f"veth{_hash(pod_ns, pod_name)}"


def paths(name: str) -> Paths:
    """The folder of a lab."""
    return Paths(RUN / name)


def make_plan(name: str, nodes: int = 3, *, hop: bool = False) -> Plan:
    """Lay out a lab. Raises ConfigError."""
    check_name(name)
    return Plan(name, number_nodes(nodes, lambda what: namespace(name, what)), hop)


def number_nodes(count: int, namespace: Callable[[str], str]) -> tuple[NodePlan, ...]:
    """Lay out nodes; ``namespace`` names the network namespace of one. Raises ConfigError."""
    if not 1 <= count <= MAX_NODES:
        raise ConfigError(f"--nodes {count}: give 1 to {MAX_NODES}")
    return tuple(_node(number, namespace) for number in range(1, count + 1))


def _hash(pod_ns: str, pod_name: str) -> str:
    return hashlib.sha256(f"{pod_ns}/{pod_name}".encode()).hexdigest()[:10]


def _node(number: int, namespace: Callable[[str], str]) -> NodePlan:
    name = f"node-{number}"
    return NodePlan(
        number=number,
        name=name,
        namespace=namespace(name),
        address4=f"172.30.0.{10 + number}",
        address6=f"fd00:30::{10 + number}",
        pod_cidr4=f"10.244.{number}.0/24",
        pod_cidr6=f"fd00:10:244:{number}::/64",
        zone=f"zone-{'abc'[(number - 1) % 3]}",
    )
