# SPDX-License-Identifier: Apache-2.0
"""What a cluster consists of: names, addresses and paths. Pure; the same plan for the same arguments.

::

    client ── control-plane (router, bridge, etcd, API server) ─┬─ node-1 ── pods
    198.51.100.10   172.30.0.1, port 6443                       └─ node-2 ── pods

Every namespace of cluster ``x`` is called ``nc-x-…``. Nodes are numbered from 1; so are their addresses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from netaccel.errors import LabError
from netaccel.lab.plan import NodePlan, check_name, number_nodes

RUN = Path("/run/netaccel/cluster")
DISKS = Path("/var/lib/netaccel/cluster")
"""A node's files may be many: they are kept from /run, which lies in memory on most machines."""

API_PORT = 6443
DNS4, DNS6 = "10.96.0.10", "fd00:10:96::a"
DOMAIN = "cluster.local"
POD_NETWORK4, POD_NETWORK6 = "10.244.0.0/16", "fd00:10:244::/48"
CONTROL_PLANE = "control-plane"
CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Plan:
    """One cluster."""

    name: str
    nodes: tuple[NodePlan, ...]

    @property
    def control_plane(self) -> str:
        """The namespace of bridge, router, etcd and API server."""
        return namespace(self.name, CONTROL_PLANE)

    @property
    def client(self) -> str:
        """The namespace of the outside client."""
        return namespace(self.name, CLIENT)

    @property
    def run(self) -> Path:
        """State, logs and the bpf file system of the wires' far ends."""
        return RUN / self.name

    @property
    def logs(self) -> Path:
        """What launchers said; programs of nodes log on their node's disk."""
        return self.run / "logs"

    @property
    def bpffs(self) -> Path:
        """A bpf file system for what is pinned of the wires' far ends."""
        return self.run / "bpf"

    @property
    def disk(self) -> Path:
        """The control plane's files, and a folder for each node."""
        return DISKS / self.name

    @property
    def control_plane_disk(self) -> Path:
        """Certificates, kubeconfigs, etcd's files and logs."""
        return self.disk / CONTROL_PLANE

    def node_disk(self, node: NodePlan) -> Path:
        """What a node keeps over a reboot: its ``etc`` (on top of the machine's) and its ``var``."""
        return self.disk / node.name

    def namespaces(self) -> tuple[str, ...]:
        """All of them but the pods', which have no names outside their node."""
        return (self.control_plane, self.client, *(node.namespace for node in self.nodes))

    def node(self, name: str) -> NodePlan:
        """The node of that name. Raises LabError."""
        for node in self.nodes:
            if node.name == name:
                return node
        names = ", ".join(node.name for node in self.nodes)
        raise LabError(f"cluster {self.name} has no {name}; its nodes: {names}")


def namespace(cluster: str, what: str) -> str:
    """Name of a network namespace."""
    return f"nc-{cluster}-{what}"


def make_plan(name: str, nodes: int = 2) -> Plan:
    """Lay out a cluster. Raises ConfigError."""
    check_name(name)
    return Plan(name, number_nodes(nodes, lambda what: namespace(name, what)))
