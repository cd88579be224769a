# SPDX-License-Identifier: Apache-2.0
"""The agent's share in the way from pod to pod past the node's stack: which pods take it, if any may.

Netfilter is asked every few seconds whether its rules changed. Pods are looked at when they come, and again
every minute. An entry whose pod is elsewhere goes at once; what can't be read takes the way from all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from netaccel.accelerate.view import Connection, Tier
from netaccel.datapath import netfilter, peersight, rtnetlink
from netaccel.datapath.peers import Peers
from netaccel.datapath.plane import Plane
from netaccel.datapath.pods import NOWHERE, Placement
from netaccel.errors import DatapathError
from netaccel.model.address import Address, parse_address
from netaccel.model.endpoint import Pod, PodKey
from netaccel.records import PodPeer

log = logging.getLogger(__name__)

_PAUSE = 5.0  # seconds between questions to netfilter
_AGAIN = 60.0  # seconds until a pod is looked at again
_SETTLE = 0.2  # seconds in which what changes is looked at together
_COST = 300  # netfilter's rules are read at most for one part of so many of the time
_TC, _PEER = "tc", "peer"  # of enum flow_path
_OFF = "the setting peer is off"


class _Looked(NamedTuple):
    """What a look at a pod made of it: entries, or why there are none."""

    at: float
    device: int
    addresses: tuple[Address, ...]
    peer: PodPeer | None
    reason: str


class PeerWays:
    """Run it in a task. ``ready``: the pods whose programs and policy are in force, and their device."""

    def __init__(self, plane: Plane, pods: Callable[[], Sequence[Pod]], ready: Callable[[PodKey, int], bool]):
        """DatapathError."""
        self._plane, self._pods, self._ready = plane, pods, ready
        self._peers = Peers(plane.loaded.maps, plane.loaded.abi.constants)
        self._placement = NOWHERE
        self._looked: dict[PodKey, _Looked] = {}
        self._wake = asyncio.Event()
        self._generation: int | None = None
        self._netfilter, self._not_before = "", 0.0
        self._reason = self._never() or "the node is not looked at yet"
        if self._never():
            self._peers.clear()

    def tier(self) -> Tier:
        """Whether packets go this way, and why not."""
        reason = self._reason or self._peers.problem
        return Tier(not reason, reason, self._plane.settings.peer != "off")

    def reasons(self) -> Mapping[PodKey, str]:
        """Pods whose packets keep to the plain way though others' don't, and why."""
        looked = tuple(self._looked.items())  # a copy at one stroke: other threads ask too
        return {key: found.reason for key, found in sorted(looked) if found.reason}

    def carries(self, one: Address, other: Address) -> bool:
        """Whether packets between these addresses go this way."""
        return one in self._peers.there and other in self._peers.there

    def way(self, source: bytes, destination: bytes) -> str:
        """The path of packets from one address to another now, as enum flow_path has it."""
        return _PEER if self.carries(Address(source), Address(destination)) else _TC

    def with_path(self, one: Connection) -> Connection:
        """A pod's connection with the path of its packets, which TCP's own ends don't know."""
        if not self.carries(parse_address(one.local), parse_address(one.remote)):
            return replace(one, tcp_reason=self._why_not(one.pod, one.peer))
        path = _PEER if one.carried.path == _TC else one.carried.path
        return replace(one, carried=replace(one.carried, path=path, tcp_path=_PEER))

    def _why_not(self, one: str, other: str) -> str:
        """Why packets between two pods, ``namespace/name``, keep to the plain way; "" where nobody knows."""
        if not other or one == other:
            return ""
        if not (tier := self.tier()).on:
            return tier.reason
        found = ((name, self._reason_of(PodKey(*name.split("/", 1)))) for name in (one, other))
        return next((f"{name}: {reason}" for name, reason in found if reason), "")

    def placed(self, placement: Placement) -> None:
        """Pods are elsewhere. DatapathError."""
        self._placement = placement
        here = set(placement.devices.values())
        gone = {a: peer for a, peer in self._peers.there.items() if peer.ifindex not in here}
        stale = {key for key, found in self._looked.items() if not self._is_current(key, found)}
        for key in stale:
            for address in self._looked.pop(key).addresses:
                if address in self._peers.there:
                    gone[address] = self._peers.there[address]
        if gone:
            self._peers.set({a: peer for a, peer in self._peers.there.items() if a not in gone})
        self.stir()

    def stir(self) -> None:
        """A pod may take the way now. Cheap."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        if self._never():
            return
        while True:
            self._wake.clear()
            try:
                await self._look()
            except DatapathError as error:
                log.warning("whether packets can go past the node's stack: %s", error)
                self._refuse(str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE):
                    await self._wake.wait()
                    await asyncio.sleep(_SETTLE)

    def _never(self) -> str:
        return _OFF if self._plane.settings.peer == "off" else self._plane.without_peer

    async def _look(self) -> None:
        await asyncio.to_thread(self._ask_netfilter)
        if self._netfilter:
            self._refuse(self._netfilter)
            return
        if self._placement is NOWHERE:
            return
        pods = {pod.key: pod for pod in self._pods() if pod.key in self._placement.devices}
        wanted = [pod for key, pod in pods.items() if self._is_due(pod) and key in self._placement.devices]
        devices = dict(self._placement.devices)
        looked = await asyncio.to_thread(self._see, wanted, devices) if wanted else {}
        for key, found in looked.items():
            if found.reason and found.reason != self._reason_of(key):
                log.info("pod %s/%s: its packets go through the node's stack: %s", *key, found.reason)
        self._looked |= looked
        for key, found in tuple(self._looked.items()):
            if not self._is_current(key, found):
                del self._looked[key]
        self._apply()

    def _apply(self) -> None:
        """What was seen. No waiting here: pods may move meanwhile.

        What an earlier agent let go this way needs no second permission: the maps judge as they did.
        """
        there = self._peers.there
        self._peers.set(
            {
                address: found.peer
                for key, found in self._looked.items()
                for address in found.addresses
                if found.peer and (there.get(address) == found.peer or self._ready(key, found.device))
            }
        )
        if self._reason:
            log.info("packets between pods go past the node's stack")
        self._reason = ""

    def _refuse(self, reason: str) -> None:
        """Take the way from all."""
        if reason != self._reason:
            log.info("packets between pods go through the node's stack: %s", reason)
        self._reason = reason
        self._looked.clear()
        with contextlib.suppress(DatapathError):  # they are still there, so it is tried again
            if self._peers.there:
                self._peers.clear()

    def _ask_netfilter(self) -> None:
        """Read its rules where they changed, if they can be read that often."""
        if unknown := netfilter.why_unknown():
            self._netfilter, self._generation = unknown, None
            return
        now, generation = time.monotonic(), netfilter.generation()
        if generation == self._generation or (self._netfilter and now < self._not_before):
            return
        self._netfilter = netfilter.why_needed()
        self._generation = generation
        self._not_before = now + _COST * (time.monotonic() - now)

    def _reason_of(self, key: PodKey) -> str:
        found = self._looked.get(key)
        return found.reason if found else ""

    def _is_current(self, key: PodKey, found: _Looked) -> bool:
        return self._placement.devices.get(key) == found.device

    def _is_due(self, pod: Pod) -> bool:
        found = self._looked.get(pod.key)
        if found is None or found.addresses != pod.addresses or not self._is_current(pod.key, found):
            return True
        return time.monotonic() - found.at >= _AGAIN

    def _see(self, pods: Sequence[Pod], devices: Mapping[PodKey, int]) -> dict[PodKey, _Looked]:
        """DatapathError."""
        there = {device.ifindex: device for device in self._plane.view.pod_devices}
        queues = rtnetlink.queues()
        found = {}
        for pod in pods:
            index, now = devices[pod.key], time.monotonic()
            peer, reason = None, "its device is gone"
            try:
                if index in there and (sight := peersight.look(there[index], pod.addresses, queues)):
                    reason = peersight.why_not(pod.addresses, sight)
                    peer = None if reason else peersight.peer_of(sight)
            except DatapathError as error:  # one that goes just now takes nothing from others
                reason = str(error)
            found[pod.key] = _Looked(now, index, pod.addresses, peer, reason)
        return found
