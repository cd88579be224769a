# SPDX-License-Identifier: Apache-2.0
"""Whether packets can go into a pod past the node's stack, and all that hangs on its device, unnoticed.

What is passed by: routing, the device's queue, its programs, a bridge. Where one of them does more than hand
the packet on, the pod's packets keep to the plain way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from netaccel.datapath import libbpf, rtnetlink
from netaccel.datapath.abi import V4_MAPPED
from netaccel.datapath.attach import FILTER_HANDLE, FILTER_PRIORITY, AttachType, has_tcx
from netaccel.datapath.rtnetlink import Device, Link
from netaccel.errors import DatapathError
from netaccel.model.address import Address, text
from netaccel.records import PodPeer

_OWN_QUEUE = "clsact"  # holds filters and queues nothing
_NO_QUEUES = {_OWN_QUEUE, "noqueue"}


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at a pod's device, and at what stands for it."""

    near: Link
    far: Link | None
    """The pod's own end; None where it can't be seen."""
    inside: frozenset[Address]
    """The addresses of that."""
    bridge: Link | None = None
    """What the device is a port of."""
    queues: frozenset[str] = frozenset()
    others: int = 0
    """Programs and filters at the device's tc hooks that aren't ours."""
    ways: Mapping[Address, int] = field(default_factory=dict)
    """The device by which the node's stack sends to an address."""
    forwards: bool = True
    """The stack forwards packets of the pod's families."""


def look(device: Device, addresses: Sequence[Address], queues: Mapping[int, frozenset[str]]) -> Sight | None:
    """Look at a pod's device; None where it is gone. ``queues``: of rtnetlink.queues(). DatapathError."""
    near = rtnetlink.link(device.ifindex)
    if near is None:
        return None
    far, inside = None, frozenset[Address]()
    space = near.device.peer_namespace
    if near.device.kind == "veth" and space is not None and space >= 0:
        far = rtnetlink.link(near.device.peer, space)
        if far:
            inside = frozenset(Address(a.address) for a in rtnetlink.addresses(space, near.device.peer))
    return Sight(
        near,
        far,
        inside,
        rtnetlink.link(near.device.master) if near.device.master else None,
        queues.get(device.ifindex, frozenset()),
        _others(device.ifindex, has_queue=_OWN_QUEUE in queues.get(device.ifindex, ())),
        {address: rtnetlink.way_to(address) for address in addresses},
        _forwards(near.device, addresses),
    )


def why_not(addresses: Sequence[Address], sight: Sight) -> str:
    """Why packets of the pod with these addresses keep to the plain way; "" where they need not. Pure."""
    near, far, bridge = sight.near, sight.far, sight.bridge
    exit_ = bridge or near
    if near.device.kind != "veth":
        return f"its device {near.device.name} is no veth"
    if far is None:
        return f"the other end of {near.device.name} can't be seen"
    if near.xdp or far.xdp:
        return f"{near.device.name}, or its other end, has an XDP program"
    if bridge and (bridge.device.kind != "bridge" or near.isolated or bridge.filters_vlans):
        return f"{bridge.device.name} does more with its packets than switch them"
    if queues := sorted(sight.queues - _NO_QUEUES):
        return f"{near.device.name} has a queueing discipline ({', '.join(queues)})"
    if sight.others:
        return f"{near.device.name} has tc programs or filters of others"
    if not sight.forwards:
        return "the node forwards no packets of its family"
    for address in addresses:
        if address not in sight.inside:
            return f"{text(address)} isn't on the other end of {near.device.name}"
        if sight.ways.get(address) != exit_.device.ifindex:
            return f"the node's route to {text(address)} doesn't lead to {exit_.device.name}"
    return "" if addresses else "it has no address"


def peer_of(sight: Sight) -> PodPeer:
    """The entry of a pod that :func:`why_not` has nothing against. Pure."""
    if sight.far is None:
        raise ValueError("the pod's end was not seen")
    gateway = sight.bridge or sight.near
    bridge = sight.bridge.device.ifindex if sight.bridge else 0
    return PodPeer(sight.near.device.ifindex, bridge, sight.far.device.mac, gateway.device.mac)


def _others(ifindex: int, *, has_queue: bool) -> int:
    """Programs and filters at a device's tc hooks beside the one that we have on each."""
    found = 0
    if has_tcx():
        hooks = (AttachType.TCX_INGRESS, AttachType.TCX_EGRESS)
        try:
            found += sum(max(0, len(libbpf.prog_query(ifindex, hook)) - 1) for hook in hooks)
        except OSError as error:
            raise DatapathError(f"tc programs: {error.strerror}", error.errno or 0) from error
    if has_queue:
        ours = {(FILTER_PRIORITY, FILTER_HANDLE), (FILTER_PRIORITY, 0)}  # the kernel lists each priority too
        found += sum(each not in ours for each in rtnetlink.filters(ifindex))
    return found


def _forwards(device: Device, addresses: Sequence[Address]) -> bool:
    """ip_forward() asks the device, ip6_forward() the namespace."""
    wanted = {
        f"ipv4/conf/{device.name}" if address.startswith(V4_MAPPED) else "ipv6/conf/all"
        for address in addresses
    }
    try:
        return all(Path(f"/proc/sys/net/{place}/forwarding").read_text().strip() == "1" for place in wanted)
    except OSError:  # the device just went, or there is no IPv6
        return False
