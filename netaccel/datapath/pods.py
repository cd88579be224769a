# SPDX-License-Identifier: Apache-2.0
"""Which device of the node leads to which pod, whatever CNI made it.

Three things tell, the surest first:

1. a route of the node to the pod's own address (CNIs that route: Calico, a cloud's own, the lab);
2. the far end of a veth: the kernel gives the other namespace's id and the peer's index, and lists that
   device's addresses without a visit to the namespace (bridge, ptp, flannel and all others with a veth);
3. a bridge that has learnt behind which port the MAC of the pod's address is (taps of virtual machines).

A pod that none of them finds is looked for in the namespaces that processes are in, only to say why.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from netaccel.datapath import rtnetlink
from netaccel.datapath.netlink import NAMESPACES, inside_namespace
from netaccel.datapath.rtnetlink import Device, HostRoute, Neighbour
from netaccel.errors import DatapathError
from netaccel.model.address import text
from netaccel.model.endpoint import Pod, PodKey

_NODES_OWN = Path("/proc/1/root/run/netns")
"""The names of namespaces as the node's first process sees them: a pod's /run is its own."""


class Placement(NamedTuple):
    """Where a node's pods are. A pod without addresses, not started yet or ended, is in none of the three."""

    devices: Mapping[PodKey, int]
    """Ifindex on the node."""
    missing: Mapping[PodKey, str]
    """Pods that no policy can be enforced for, and why; without those that are being deleted."""
    host_network: tuple[PodKey, ...] = ()
    """Pods that are on the node's own network: out of policies' reach."""


NOWHERE = Placement({}, {})


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look at the node's network shows. Addresses are in the 16-byte form."""

    candidates: Mapping[int, Device]
    """Devices that may be pods', by ifindex."""
    routes: Sequence[HostRoute] = ()
    inside: Mapping[int, frozenset[bytes]] = field(default_factory=dict)
    """Addresses at the far end of a veth, by the near end's ifindex."""
    neighbours: Sequence[Neighbour] = ()
    ports: Sequence[Neighbour] = ()


def match(pods: Iterable[Pod], sight: Sight) -> dict[PodKey, int]:
    """The device of each pod that is found. Pure.

    Of several devices with one address the lowest ifindex has it, so that a pod can't take what another has.
    """
    ways = (_by_route(sight), _by_far_end(sight), _by_bridge(sight))
    found: dict[PodKey, int] = {}
    for pod in pods:
        hits = (way[address] for way in ways for address in pod.addresses if address in way)
        if (device := next(hits, None)) is not None:
            found[pod.key] = device
    return found


def _by_route(sight: Sight) -> dict[bytes, int]:
    return {route.address: route.device for route in sight.routes if route.device in sight.candidates}


def _by_far_end(sight: Sight) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for index in sorted(sight.inside):
        for address in sight.inside[index]:
            found.setdefault(address, index)
    return found


def _by_bridge(sight: Sight) -> dict[bytes, int]:
    masters = {index: device.master for index, device in sight.candidates.items() if device.master}
    ports = {(masters[port.device], port.mac): port.device for port in sight.ports if port.device in masters}
    return {
        neighbour.address: ports[neighbour.device, neighbour.mac]
        for neighbour in sight.neighbours
        if (neighbour.device, neighbour.mac) in ports
    }


class _Known(NamedTuple):
    """A pod that was found: as long as none of this changes, it need not be looked for."""

    uid: str
    addresses: tuple[bytes, ...]
    device: tuple[int, int, int | None]


class _Reason(NamedTuple):
    """Why a pod with these addresses was not found."""

    addresses: tuple[bytes, ...]
    text: str


class PodDevices:
    """Finds a node's pods, and remembers where they are. For one thread at a time; blocks for milliseconds.

    What was found stays until its pod or its device is another: no pod takes over another's place by giving
    itself that one's address.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        """``patterns``: of the names of pods' devices, for what is said."""
        self._patterns = ", ".join(patterns) or "off"
        self._known: dict[PodKey, _Known] = {}
        self._reasons: dict[PodKey, _Reason] = {}

    def look(self, pods: Iterable[Pod], candidates: Iterable[Device]) -> Placement:
        """Where these pods, all of them on this node, are among these devices. DatapathError."""
        there = {device.ifindex: device for device in candidates}
        pods = tuple(pods)
        inside = tuple(pod for pod in pods if pod.addresses and not pod.host_network)
        self._forget({pod.key: pod for pod in inside}, there)
        lost = tuple(pod for pod in inside if pod.key not in self._known)
        if lost:
            self._find(lost, there)
            lost = tuple(pod for pod in lost if pod.key not in self._known)
        return Placement(
            {key: known.device[0] for key, known in self._known.items()},
            {
                pod.key: self._reasons[pod.key].text if self._explained(pod) else _nowhere(pod)
                for pod in lost
                if not pod.terminating
            },
            tuple(sorted(pod.key for pod in pods if pod.host_network)),
        )

    def explain(self, pods: Iterable[Pod], missing: Mapping[PodKey, str]) -> bool:
        """Look closer for pods that were not found; whether something new can be said of one.

        Visits every namespace of the machine that it has not seen these pods in: tens of milliseconds.
        """
        new = [pod for pod in pods if pod.key in missing and not self._explained(pod)]
        if not new:
            return False
        seen = _elsewhere({address for pod in new for address in pod.addresses})
        routes = {route.address: route.device for route in rtnetlink.host_routes()}
        here = {device.ifindex: device for device in rtnetlink.devices()}
        for pod in new:
            reasons = (self._reason(address, routes, here, seen) for address in pod.addresses)
            reason = next((reason for reason in reasons if reason), _nowhere(pod))
            self._reasons[pod.key] = _Reason(pod.addresses, reason)
        return True

    def _explained(self, pod: Pod) -> bool:
        said = self._reasons.get(pod.key)
        return said is not None and said.addresses == pod.addresses

    def _reason(
        self,
        address: bytes,
        routes: Mapping[bytes, int],
        here: Mapping[int, Device],
        seen: Mapping[bytes, Device],
    ) -> str:
        far = seen.get(address)
        if near := _near(address, routes, here, far):
            return f"its device {near.name} is none of podDevices ({self._patterns}), or another pod's"
        if far is None or far.kind == "veth":
            return ""
        return f"no veth leads to it: it has a device of kind {far.kind or 'hardware'}"

    def _forget(self, pods: Mapping[PodKey, Pod], there: Mapping[int, Device]) -> None:
        for key, known in tuple(self._known.items()):
            pod, device = pods.get(key), there.get(known.device[0])
            if pod is None or device is None or known != _known(pod, device):
                del self._known[key]
        for key in self._reasons.keys() - pods.keys():
            del self._reasons[key]

    def _find(self, lost: Sequence[Pod], there: Mapping[int, Device]) -> None:
        taken = {known.device[0] for known in self._known.values()}
        free = {index: device for index, device in there.items() if index not in taken}
        self._remember(lost, Sight(free, rtnetlink.host_routes(), _far_ends(free.values())), there)
        lost = [pod for pod in lost if pod.key not in self._known]
        if lost and any(device.master for device in free.values()):
            learnt = Sight(free, neighbours=rtnetlink.neighbours(), ports=rtnetlink.bridge_ports())
            self._remember(lost, learnt, there)

    def _remember(self, pods: Sequence[Pod], sight: Sight, there: Mapping[int, Device]) -> None:
        by_key = {pod.key: pod for pod in pods}
        taken = {known.device[0] for known in self._known.values()}
        for key, index in match(pods, sight).items():
            if index not in taken:  # else two pods have one address: the first keeps it
                taken.add(index)
                self._known[key] = _known(by_key[key], there[index])


def _known(pod: Pod, device: Device) -> _Known:
    return _Known(pod.uid, pod.addresses, (device.ifindex, device.peer, device.peer_namespace))


def _near(
    address: bytes, routes: Mapping[bytes, int], here: Mapping[int, Device], far: Device | None
) -> Device | None:
    """This namespace's device that leads to an address; ``far``: the one that has it, anywhere."""
    if address in routes:
        return here.get(routes[address])
    if far is None or far.kind != "veth":
        return None
    near = here.get(far.peer)
    return near if near and near.peer == far.ifindex else None  # else the number is another namespace's


def _nowhere(pod: Pod) -> str:
    return f"no device leads to {', '.join(map(text, pod.addresses))}"


def _far_ends(devices: Iterable[Device]) -> dict[int, frozenset[bytes]]:
    """Addresses of the other ends of veths that are in other namespaces."""
    found = {}
    for device in devices:
        if device.kind == "veth" and device.peer_namespace is not None and device.peer_namespace >= 0:
            try:
                addresses = rtnetlink.addresses(device.peer_namespace, device.peer)
            except DatapathError as error:
                if error.errno not in (errno.ENODEV, errno.EINVAL, errno.EACCES, errno.EPERM):
                    raise
                continue  # the far end, or its namespace, just went, or is not for us to see
            found[device.ifindex] = frozenset(a.address for a in addresses)
    return found


def _elsewhere(wanted: set[bytes]) -> dict[bytes, Device]:
    """On which devices of other namespaces these addresses are."""
    found: dict[bytes, Device] = {}
    for path in _namespaces():
        # A namespace may end while we look, and not every one lets itself be entered.
        with contextlib.suppress(DatapathError, OSError), inside_namespace(path):
            hits = [a for a in rtnetlink.addresses() if a.address in wanted]
            devices = {device.ifindex: device for device in rtnetlink.devices()} if hits else {}
            found.update((a.address, devices[a.device]) for a in hits if a.device in devices)
    return found


def _namespaces() -> list[Path]:
    """A path for each network namespace that has a name or a process, but for this one."""
    found: dict[tuple[int, int], Path] = {}
    own = _identity(Path("/proc/thread-self/ns/net"))
    for folder in (NAMESPACES, _NODES_OWN):
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                found.setdefault(_identity(path), path)
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            found.setdefault(_identity(process / "ns/net"), process / "ns/net")
    return [path for identity, path in found.items() if identity not in (own, _NONE)]


_NONE = (0, 0)


def _identity(path: Path) -> tuple[int, int]:
    """What tells one namespace from another (namespaces(7)); (0, 0) where it can't be seen."""
    try:
        status = path.stat()
    except OSError:
        return _NONE
    return status.st_dev, status.st_ino
