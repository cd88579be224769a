# SPDX-License-Identifier: Apache-2.0
"""Namespaces and wires of a lab: built, and taken away however much of it is there.

A node's XDP programs answer on its uplink ``eth0``. On a veth that needs a native XDP program at the other
end (frames of XDP_TX vanish otherwise), and complete checksums from there (XDP can't see that a
checksum is partial): hence ``xdp_pass`` and ``tx off`` at every end that faces a node.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from netaccel.datapath import netlink
from netaccel.datapath.attach import Attacher, xdp
from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.instance import Instance
from netaccel.errors import LabError
from netaccel.lab.plan import (
    CLIENT4,
    CLIENT6,
    CLIENT_GATEWAY4,
    CLIENT_GATEWAY6,
    INGRESS_CIDR4,
    INGRESS_CIDR6,
    POD_GATEWAY4,
    POD_GATEWAY6,
    ROUTER4,
    ROUTER6,
    NodePlan,
    Plan,
    namespace,
    pod_device,
)
from netaccel.lab.shell import NETNS, ip, ip_json, write_sysctls

IPV6_AT_ONCE = {
    "net/ipv6/conf/all/disable_ipv6": 0,
    "net/ipv6/conf/default/disable_ipv6": 0,
    "net/ipv6/conf/default/accept_dad": 0,
    "net/ipv6/conf/default/dad_transmits": 0,
    "net/ipv6/conf/default/accept_ra": 0,
    "net/ipv6/conf/all/accept_ra": 0,
}
ROUTER = {
    **IPV6_AT_ONCE,
    "net/ipv4/ip_forward": 1,
    "net/ipv6/conf/all/forwarding": 1,
    "net/ipv4/conf/all/rp_filter": 2,
    "net/ipv4/conf/default/rp_filter": 2,
    "net/ipv4/fib_multipath_hash_policy": 1,
    "net/ipv6/fib_multipath_hash_policy": 1,
}


def build(plan: Plan, bpffs: Path) -> None:
    """Make all namespaces of the plan, wire and address them; ``bpffs`` holds pins of the switch's side.

    Raises LabError, DatapathError.
    """
    ip(f"netns add {name}" for name in plan.namespaces())
    for name in plan.namespaces():
        routes = name not in (plan.switch, plan.client, plan.hops)
        write_sysctls(name, ROUTER if routes else IPV6_AT_ONCE)
    ip(_wires(plan))
    ip(_switch(plan), plan.switch)
    if plan.hop:
        ip(_hops(plan), plan.hops)
    ip(_router(plan), plan.router)
    ip(client_end(), plan.client)
    for node in plan.nodes:
        ip(_node(plan, node), node.namespace)
    _prepare_wires(plan, bpffs)


def _wires(plan: Plan) -> Iterable[str]:
    def wire(a: str, a_ns: str, b: str, b_ns: str) -> str:
        return f"link add {a} netns {a_ns} type veth peer name {b} netns {b_ns}"

    yield wire("router", plan.switch, "eth0", plan.router)
    yield wire("client", plan.router, "eth0", plan.client)
    for node in plan.nodes:
        if plan.hop:
            yield wire("eth0", node.namespace, f"{node.name}-in", plan.hops)
            yield wire(f"{node.name}-out", plan.hops, node.name, plan.switch)
        else:
            yield wire("eth0", node.namespace, node.name, plan.switch)


def _bridge(name: str, ports: Iterable[str]) -> Iterable[str]:
    yield f"link add {name} type bridge forward_delay 0 mcast_snooping 0"
    yield f"link set {name} up"
    for port in ports:
        yield f"link set {port} master {name} up"


def _switch(plan: Plan) -> Iterable[str]:
    yield from _bridge("br0", ["router", *(node.name for node in plan.nodes)])


def _hops(plan: Plan) -> Iterable[str]:
    for node in plan.nodes:
        yield from _bridge(f"{node.name}-hop", [f"{node.name}-in", f"{node.name}-out"])


def _router(plan: Plan) -> Iterable[str]:
    yield from (
        "link set lo up",
        f"address add {ROUTER4}/24 dev eth0",
        f"address add {ROUTER6}/64 dev eth0 nodad",
        f"address add {CLIENT_GATEWAY4}/24 dev client",
        f"address add {CLIENT_GATEWAY6}/64 dev client nodad",
        "link set eth0 up",
        "link set client up",
        # Load-balancer addresses that no Service has.
        f"route add unreachable {INGRESS_CIDR4}",
        f"route add unreachable {INGRESS_CIDR6}",
    )


def client_end() -> Iterable[str]:
    """Commands of ip(8) for the outside client's end of its wire, ``eth0``."""
    return (
        "link set lo up",
        f"address add {CLIENT4}/24 dev eth0",
        f"address add {CLIENT6}/64 dev eth0 nodad",
        "link set eth0 up",
        f"route add default via {CLIENT_GATEWAY4}",
        f"route add default via {CLIENT_GATEWAY6}",
    )


def _node(plan: Plan, node: NodePlan) -> Iterable[str]:
    yield from node_end(plan.nodes, node)
    yield f"route add unreachable {node.pod_cidr4}"
    yield f"route add unreachable {node.pod_cidr6}"


def node_end(nodes: Iterable[NodePlan], node: NodePlan) -> Iterable[str]:
    """Commands of ip(8) for a node's uplink ``eth0``, with routes to the other nodes' pods."""
    yield from (
        "link set lo up",
        f"address add {node.address4}/24 dev eth0",
        f"address add {node.address6}/64 dev eth0 nodad",
        "link set eth0 up",
        f"route add default via {ROUTER4}",
        f"route add default via {ROUTER6}",
    )
    for other in nodes:
        if other is not node:
            yield f"route add {other.pod_cidr4} via {other.address4}"
            yield f"route add {other.pod_cidr6} via {other.address6}"


def _prepare_wires(plan: Plan, bpffs: Path) -> None:
    """Give what sends to nodes complete checksums, and a native XDP program to nodes' far ends."""
    switch_side = [node.name for node in plan.nodes]
    if plan.hop:
        facing = [f"{node.name}-in" for node in plan.nodes]
        _tx_off(plan.hops, [f"{node.name}-out" for node in plan.nodes])
        prepare_far_ends(plan.hops, facing, bpffs)
    else:
        prepare_far_ends(plan.switch, switch_side, bpffs)


def prepare_far_ends(where: str, devices: Sequence[str], bpffs: Path) -> None:
    """Complete checksums at these devices that face nodes, and pin a native XDP program to each.

    Raises DatapathError.
    """
    _tx_off(where, devices)
    _xdp_pass(where, devices, bpffs)


def forget_far_ends(bpffs: Path) -> None:
    """Remove what `prepare_far_ends` pinned; nothing there is fine."""
    shutil.rmtree(bpffs, ignore_errors=True)


def _tx_off(where: str, devices: Iterable[str]) -> None:
    with netlink.inside_namespace(where):
        for device in devices:
            netlink.set_offload(device, "tx", on=False)


def _xdp_pass(where: str, devices: Iterable[str], bpffs: Path) -> None:
    instance = Instance(bpffs)
    instance.links.mkdir(parents=True)
    attacher = Attacher(instance)
    with BpfObject.named("xdp_pass") as program, netlink.inside_namespace(where):
        program.load()
        for name in devices:
            attacher.attach(xdp(name, netlink.device(name).ifindex), program.program("xdp_pass"))


def add_pod(plan: Plan, node: NodePlan, where: str, pod: tuple[str, str], addresses: tuple[str, str]) -> None:
    """Make namespace ``where`` for ``pod`` (namespace, name) with its addresses, wired to its node.

    Every pod has a /32 and a /128; its gateway is the node's end of its own wire, as with Calico.
    """
    device = pod_device(*pod)
    address4, address6 = addresses
    ip(
        [
            f"netns add {where}",
            f"link add eth0 netns {where} type veth peer name {device} netns {node.namespace}",
        ]
    )
    write_sysctls(where, IPV6_AT_ONCE)
    ip(
        [
            f"address add {POD_GATEWAY4}/32 dev {device} scope link",
            f"link set {device} up",
            f"address add {POD_GATEWAY6}/64 dev {device} nodad",
            f"route add {address4} dev {device} src {node.address4}",
            f"route add {address6} dev {device} src {node.address6}",
        ],
        node.namespace,
    )
    ip(
        [
            "link set lo up",
            f"address add {address4}/32 dev eth0",
            f"address add {address6}/128 dev eth0 nodad",
            "link set eth0 up",
            f"route add {POD_GATEWAY4} dev eth0 scope link",
            f"route add default via {POD_GATEWAY4} dev eth0",
            f"route add default via {POD_GATEWAY6} dev eth0",
        ],
        where,
    )


def remove_pod(node: NodePlan, where: str, pod: tuple[str, str]) -> None:
    """Remove a pod's wire and namespace; what is absent is fine."""
    ip([f"link del {pod_device(*pod)}"], node.namespace, force=True)
    ip([f"netns del {where}"], force=True)


def route_ingress(plan: Plan, address: str, through: Iterable[str]) -> None:
    """Have the router send an address to these nodes, by flow; to none: unreachable."""
    width = 128 if ":" in address else 32
    gateways = [
        node.address6 if ":" in address else node.address4 for node in plan.nodes if node.name in set(through)
    ]
    if gateways:
        hops = " ".join(f"nexthop via {gateway}" for gateway in gateways)
        ip([f"route replace {address}/{width} {hops}"], plan.router)
    else:
        ip([f"route del {address}/{width}"], plan.router, force=True)


def existing(lab: str) -> list[str]:
    """Namespaces of this lab that are there, whoever made them."""
    return with_prefix(namespace(lab, ""))


def with_prefix(prefix: str) -> list[str]:
    """Names of namespaces that begin so."""
    return sorted(p.name for p in NETNS.iterdir() if p.name.startswith(prefix)) if NETNS.is_dir() else []


def labs() -> list[str]:
    """Names of the labs that have a namespace."""
    found = (p.name.split("-") for p in NETNS.iterdir()) if NETNS.is_dir() else ()
    return sorted({parts[1] for parts in found if parts[0] == "na" and len(parts) > 2})


def remove(lab: str) -> None:
    """Remove every namespace of the lab with its devices (these at once, so that their programs go too)."""
    remove_namespaces(existing(lab))


def remove_namespaces(names: Sequence[str]) -> None:
    """Remove namespaces with their devices."""
    for name in names:
        try:
            links = ip_json("link", "show", namespace=name)
        except LabError:  # a file without a namespace behind it: left by a crash
            continue
        ip((f"link del {link['ifname']}" for link in links if link["ifname"] != "lo"), name, force=True)
    ip((f"netns del {name}" for name in names), force=True)
