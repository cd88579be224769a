# SPDX-License-Identifier: Apache-2.0
"""Namespaces and wires of a cluster: built, and taken away however much of it is there."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable

from netaccel.cluster.plan import Plan, namespace
from netaccel.lab import topology
from netaccel.lab.plan import (
    CLIENT_GATEWAY4,
    CLIENT_GATEWAY6,
    INGRESS_CIDR4,
    INGRESS_CIDR6,
    ROUTER4,
    ROUTER6,
    SERVICE_CIDR4,
    SERVICE_CIDR6,
    NodePlan,
)
from netaccel.lab.shell import ip, write_sysctls

_MODULES = ("overlay", "br_netfilter")
# What a machine under kubeadm has; kube-proxy sees bridged packets only so.
_NODE = {
    **topology.ROUTER,
    "net/bridge/bridge-nf-call-iptables": 1,
    "net/bridge/bridge-nf-call-ip6tables": 1,
}
_CONTROL_PLANE = {
    **topology.ROUTER,
    "net/bridge/bridge-nf-call-iptables": 0,
    "net/bridge/bridge-nf-call-ip6tables": 0,
}
_ROUTER_MAC = "02:ac:1e:00:00:01"


def build(plan: Plan) -> None:
    """Make the control plane's and the client's namespace, wired and addressed. Raises LabError."""
    _load_modules()
    ip(f"netns add {name}" for name in (plan.control_plane, plan.client))
    write_sysctls(plan.control_plane, _CONTROL_PLANE)
    write_sysctls(plan.client, topology.IPV6_AT_ONCE)
    ip([f"link add client netns {plan.control_plane} type veth peer name eth0 netns {plan.client}"])
    ip(_control_plane(plan), plan.control_plane)
    ip(topology.client_end(), plan.client)


def build_node(plan: Plan, node: NodePlan) -> None:
    """Make a node's namespace and its wire to the bridge. Raises LabError, DatapathError."""
    ip(
        [
            f"netns add {node.namespace}",
            f"link add eth0 address {_mac(node)} netns {node.namespace} type veth"
            f" peer name {node.name} netns {plan.control_plane}",
        ]
    )
    write_sysctls(node.namespace, _NODE)
    ip([f"link set {node.name} master br0 up"], plan.control_plane)
    ip(topology.node_end(plan.nodes, node), node.namespace)
    topology.prepare_far_ends(plan.control_plane, [node.name], plan.bpffs / node.name)


def remove_node(plan: Plan, node: NodePlan) -> None:
    """Remove a node's wire and namespace; what is absent is fine."""
    topology.forget_far_ends(plan.bpffs / node.name)
    ip([f"link del {node.name}"], plan.control_plane, force=True)
    ip([f"netns del {node.namespace}"], force=True)


def existing(cluster: str) -> list[str]:
    """Namespaces of this cluster that are there, whoever made them."""
    return topology.with_prefix(namespace(cluster, ""))


def remove(cluster: str) -> None:
    """Remove every namespace of the cluster with its devices."""
    topology.remove_namespaces(existing(cluster))


def _load_modules() -> None:
    """Load what nothing loads by itself; a kernel that has it built in, or not at all, is left alone."""
    if modprobe := shutil.which("modprobe"):
        subprocess.run([modprobe, "--all", "--quiet", *_MODULES], capture_output=True, check=False)


def _mac(node: NodePlan) -> str:
    """A node keeps its network card over a reboot: its neighbours need not learn it anew."""
    return f"02:ac:1e:00:00:{10 + node.number:02x}"


def _control_plane(plan: Plan) -> Iterable[str]:
    yield from (
        "link set lo up",
        # Without an address of its own a bridge takes a port's: it would change as nodes come and go.
        f"link add br0 address {_ROUTER_MAC} type bridge forward_delay 0 mcast_snooping 0",
        f"address add {ROUTER4}/24 dev br0",
        f"address add {ROUTER6}/64 dev br0 nodad",
        "link set br0 up",
        f"address add {CLIENT_GATEWAY4}/24 dev client",
        f"address add {CLIENT_GATEWAY6}/64 dev client nodad",
        "link set client up",
    )
    for node in plan.nodes:
        yield f"route add {node.pod_cidr4} via {node.address4}"
        yield f"route add {node.pod_cidr6} via {node.address6}"
    # Nobody serves these but the nodes; load balancers' addresses get a route when they are given out.
    for nobodys in (SERVICE_CIDR4, SERVICE_CIDR6, INGRESS_CIDR4, INGRESS_CIDR6):
        yield f"route add unreachable {nobodys}"
