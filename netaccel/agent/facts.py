# SPDX-License-Identifier: Apache-2.0
"""What the agent makes of what it knows, for the compiler and for people. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Any

from msgspec.structs import asdict

from netaccel.accelerate.view import Status, Tier
from netaccel.compile.services import NodeFacts
from netaccel.config import Settings
from netaccel.datapath.node import NodeView
from netaccel.datapath.pods import Placement
from netaccel.model.address import Address, is_ipv4
from netaccel.model.endpoint import Node
from netaccel.reconcile import Reconciler, State


def node_facts(settings: Settings, view: NodeView, node: Node | None) -> NodeFacts:
    """What the compiler has to know: the cluster's view of this node where it fits, else the kernel's.

    Of a Node's addresses only those that the node really has are believed.
    """
    told = [address for address in (node.addresses if node else ()) if address in view.local]
    primary: dict[bool, Address] = {}
    for address in (*told, *map(Address, view.primary)):
        primary.setdefault(is_ipv4(address), address)
    chosen = tuple(primary.values())
    answering = tuple(map(Address, view.node_port_addresses)) if settings.node_port_addresses else chosen
    return NodeFacts(
        name=settings.node_name,
        addresses=frozenset(map(Address, view.local)),
        node_port_addresses=answering,
        primary=chosen,
        zone=node.zone if node else "",
        node_ports=(settings.node_port_range.first, settings.node_port_range.last),
        proxy_name=settings.service_proxy_name,
    )


def pods(placement: Placement) -> dict[str, Any]:
    """The node's pods as policy finds them: how many have a device, which are out of its reach, and why."""
    return {
        "devices": len(placement.devices),
        "host_network": [f"{key.namespace}/{key.name}" for key in placement.host_network],
        "not_enforceable": {
            f"{key.namespace}/{key.name}": reason for key, reason in sorted(placement.missing.items())
        },
    }


def mode(settings: Settings) -> str:
    """How the node is served: ``beside`` a kube-proxy, ``instead`` of one, or ``draining``."""
    return "draining" if settings.drain else settings.kube_proxy


def refused(reconciler: Reconciler) -> list[dict[str, str]]:
    """Objects that are not in force as written, and why: object, state, where it was found, reason."""
    found = [
        {
            "object": str(reject.key or ""),
            "state": State.REJECTED.value,
            "where": f"{reject.origin} {reject.path}".rstrip(),
            "reason": reject.reason,
        }
        for reject in reconciler.world.rejections()
    ]
    told = {entry["object"] for entry in found}
    for key, condition in reconciler.troubled().items():
        if str(key) not in told:
            reason = "; ".join(condition.reasons)
            found.append({"object": str(key), "state": condition.state.value, "where": "", "reason": reason})
    return found


def ignored(reconciler: Reconciler) -> dict[str, int]:
    """How many objects a service proxy has nothing to do for, by reason."""
    reasons = (
        reason
        for condition in reconciler.conditions().values()
        if condition.state is State.IGNORED
        for reason in condition.reasons
    )
    return dict(Counter(reasons).most_common())


def unaccelerated(settings: Settings, peer: Tier | None = None) -> Status:
    """What is told of acceleration where no connection is looked at. ``peer``: as it says itself."""
    off = settings.accelerate == "disabled"
    off_peer = "the setting peer is off" if settings.peer == "off" else "it has not started yet"
    return Status(
        node=settings.node_name,
        peer=peer or Tier(False, off_peer, settings.peer != "off"),
        socket=Tier(
            False, "the setting accelerate is disabled" if off else "it has not started yet", not off
        ),
    )


def tiers(status: Status) -> tuple[str, ...]:
    """Paths that are in force."""
    return tuple(path for path, tier in (("peer", status.peer), ("socket", status.socket)) if tier.on)


def acceleration(status: Status) -> dict[str, Any]:
    """What /status says of it; the rest is at /api/v1/accel/status."""
    return {
        "peer": asdict(status.peer),
        "socket": asdict(status.socket),
        "live": status.totals.live,
        "failed": {check.name: check.detail for check in status.checks if not check.ok},
        "unreachable": list(status.unreachable),
    }
