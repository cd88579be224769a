# SPDX-License-Identifier: Apache-2.0
"""The network namespaces of this node's pods: which there are, which of them are busy, and looks into them.

A namespace is reached by a process in it (``/proc/PID/ns/net``), of those below the node's cgroup; it is
known as a pod's by the addresses of its devices. None is held open: it would outlive its pod. Whether one is
busy is read from its own counters of TCP segments, at some twenty microseconds; only those that are busy, or
have enrolled sockets, are entered. The node's own namespace never is. For a thread of its own: it moves.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from netaccel.accelerate.facts import LocalPod
from netaccel.accelerate.pairing import Place
from netaccel.datapath import cgroup, rtnetlink
from netaccel.datapath.netlink import inside_namespace, netns_cookie
from netaccel.datapath.rtnetlink import Device
from netaccel.errors import DatapathError
from netaccel.model.endpoint import PodKey

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_PROC = Path("/proc")
_YOUNG = 12  # walks in which a namespace may still get its addresses; later it is looked at once in so many
_QUIET, _SELDOM = 10, 4  # looks in a row, and rounds between looks from then on
_VETH = "veth"
_SHAPERS = frozenset(("tbf", "htb", "hfsc", "cake", "netem", "ingress"))
"""Disciplines that bound or delay, or send elsewhere to be bounded: nothing counts what goes past them."""

UNSEEN = "its processes can't be looked at: give the agent CAP_SYS_PTRACE"
CLOSED = "its namespace can't be entered: give the agent CAP_SYS_ADMIN"
NO_PROCESS = "no process of it is below the node's cgroup"
TWO_PLACES = "two namespaces have its address"


@dataclass(slots=True)
class Namespace:
    """One that processes are in. ``cookie`` 0: not entered yet. ``pod``: None: no pod's of this node."""

    inode: int
    processes: tuple[int, ...]
    cookie: int = 0
    pod: PodKey | None = None
    addresses: frozenset[bytes] = frozenset()
    devices: tuple[Device, ...] = ()
    segments: int = 0
    """That TCP had received here at the last look."""
    looked: float = 0.0
    """When that was, seconds of the caller's clock."""
    quiet: int = 0
    """Looks in a row that found it not busy."""
    problem: str = ""
    walks: int = 0
    """In how many it was met."""


@dataclass(slots=True)
class Visits:
    """Of one node. ``cgroup``: its root; ``own``: the node's own namespace."""

    cgroup: Path
    own: Path = _PROC / "self/ns/net"
    there: dict[int, Namespace] = field(default_factory=dict)
    """By inode."""
    at: dict[int, Namespace] = field(default_factory=dict)
    """The same, of those that were entered, by cookie."""
    shaped: frozenset[int] = frozenset()
    """Devices of the node that hold back what passes them."""
    unseen: bool = False
    """Whether there is a process that can't be looked at."""

    def walk(self) -> None:
        """Find out which namespaces there are, and which devices are shaped."""
        try:
            self.shaped = frozenset(d for d, kinds in rtnetlink.queues().items() if kinds & _SHAPERS)
        except DatapathError as error:
            log.debug("which pods' devices are shaped is not known: %s", error)
        own = self.own.stat().st_ino
        found: dict[int, list[int]] = {}
        self.unseen = False
        for number in cgroup.processes(self.cgroup):
            try:
                found.setdefault((_PROC / str(number) / "ns/net").stat().st_ino, []).append(number)
            except PermissionError:
                self.unseen = True
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended
        found.pop(own, None)
        for inode in self.there.keys() - found.keys():
            del self.there[inode]
        for inode, processes in found.items():
            known = self.there.setdefault(inode, Namespace(inode, ()))
            known.processes = tuple(processes)
            known.walks += 1
            if known.pod is None and (known.walks <= _YOUNG or not known.walks % _YOUNG):
                known.cookie, known.problem = 0, ""  # it may have its addresses by now, or may be entered

    def meet(self, pods: Mapping[PodKey, LocalPod]) -> None:
        """Find out whose namespaces are whose: of those that were not entered yet, and after pods changed."""
        for namespace in self.there.values():
            if not namespace.cookie and not namespace.problem:
                self._get_to_know(namespace)
        self.at = {one.cookie: one for one in self.there.values() if one.cookie}
        claims: dict[PodKey, list[Namespace]] = {}
        owners = {address: pod for pod in pods.values() for address in pod.addresses}
        for namespace in self.there.values():
            namespace.pod = None
            if (pod := _whose(namespace, owners)) is not None:
                claims.setdefault(pod, []).append(namespace)
        for key, claimants in claims.items():
            if len(claimants) == 1:
                claimants[0].pod = key

    def places(self, pods: Mapping[PodKey, LocalPod]) -> dict[int, Place]:
        """Pods by the cookie of their namespace."""
        return {
            one.cookie: Place(one.pod, pods[one.pod].addresses)
            for one in self.there.values()
            if one.pod is not None and one.pod in pods
        }

    def unreachable(self, pods: Mapping[PodKey, LocalPod]) -> dict[PodKey, str]:
        """Pods whose namespace is not known, and why."""
        placed = {one.pod for one in self.there.values()}
        closed = any(one.problem for one in self.there.values())
        why = UNSEEN if self.unseen else CLOSED if closed else NO_PROCESS
        reasons: dict[PodKey, str] = {}
        for key, pod in pods.items():
            if key not in placed and pod.addresses:
                twice = sum(not one.addresses.isdisjoint(pod.addresses) for one in self.there.values()) > 1
                reasons[key] = TWO_PLACES if twice else why
        return reasons

    def busy(self, namespace: Namespace, rate: float, now: float, turn: int) -> bool:
        """Whether TCP received so many segments a second there since the last look, ``now`` seconds.

        ``turn``: counts the caller's rounds. A namespace that was quiet for long is looked at every few.
        """
        if namespace.quiet > _QUIET and (turn + namespace.inode) % _SELDOM:
            return False
        least = rate * min(now - namespace.looked, 1.0)
        before, namespace.segments = namespace.segments, _segments(namespace.processes)
        namespace.looked = now
        is_busy = namespace.segments - before >= least
        namespace.quiet = 0 if is_busy else namespace.quiet + 1
        return is_busy

    def inside(self, namespace: Namespace, action: Callable[[], _T]) -> _T | None:
        """Do something in a namespace; None where no process is in it any more. DatapathError."""
        for number in namespace.processes:
            try:
                descriptor = os.open(_PROC / str(number) / "ns/net", os.O_RDONLY | os.O_CLOEXEC)
            except (FileNotFoundError, ProcessLookupError):
                continue
            except PermissionError:
                namespace.problem = UNSEEN
                return None
            try:
                if os.fstat(descriptor).st_ino != namespace.inode:
                    continue  # another process has its number, or it moved
                try:
                    with inside_namespace(f"/proc/self/fd/{descriptor}"):
                        return action()
                except OSError as error:
                    if not isinstance(error, PermissionError):
                        log.debug("namespace %d can't be entered: %s", namespace.inode, error)
                    namespace.problem = CLOSED
                    return None
            finally:
                os.close(descriptor)
        return None

    def _get_to_know(self, namespace: Namespace) -> None:
        def look() -> tuple[int, frozenset[bytes], tuple[Device, ...]]:
            found = frozenset(one.address for one in rtnetlink.addresses())
            return netns_cookie(), found, tuple(rtnetlink.devices())

        try:
            seen = self.inside(namespace, look)
        except DatapathError as error:
            log.debug("namespace %d can't be looked at: %s", namespace.inode, error)
            namespace.problem = CLOSED
            return
        if seen:
            namespace.cookie, namespace.addresses, namespace.devices = seen


def _whose(namespace: Namespace, owners: Mapping[bytes, LocalPod]) -> PodKey | None:
    """The pod that has an address of it, whose device on the node is the far end of one inside."""
    peers = {device.peer for device in namespace.devices if device.kind == _VETH}
    for address in namespace.addresses:
        pod = owners.get(address)
        if pod is not None and (not peers or not pod.device or pod.device in peers):
            return pod.key
    return None


def _segments(processes: Iterable[int]) -> int:
    """InSegs of the namespace that these are in (RFC 1213); 0 where none of them is there any more."""
    for number in processes:
        with suppress(OSError, ValueError):
            lines = (_PROC / str(number) / "net/snmp").read_text().splitlines()
            names, values = (line.split() for line in lines if line.startswith("Tcp:"))
            return int(values[names.index("InSegs")])
    return 0
