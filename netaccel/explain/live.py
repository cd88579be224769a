# SPDX-License-Identifier: Apache-2.0
"""What this node's kernel says: the programs, run over the maps that are in force.

A private instance of ``tc_pod`` takes every pinned map that the agent's own uses, and has the constant
``dry_run``: the verifier removes all writes but those to the maps that each instance has of its own. Nothing
is attached, no agent is needed, and what is asked leaves no trace.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from netaccel.datapath.abi import Abi
from netaccel.datapath.bpfmap import KernelMap
from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.maps import KernelMaps
from netaccel.errors import DatapathError
from netaccel.explain.kernel import OBJECT, PROGRAMS, DryMap, RuleNames
from netaccel.explain.packet import first_packet
from netaccel.model.endpoint import Pod
from netaccel.model.policy import Direction
from netaccel.oracle import Exempt, Judgement, Question
from netaccel.oracle.judge import ALLOWED, exemption
from netaccel.records import PolicyEndpoint

_OWN, _SCRATCH = "dry_run", "_scratch"


class PinnedKernel:
    """Asks about pods of this node; of others it knows nothing. Implements Judge; close it."""

    def __init__(self, maps: Path, node: str) -> None:
        """``maps``: the folder of pinned maps. ``node``: this node's name. Raises DatapathError."""
        self._node = node
        self._object = BpfObject.named(OBJECT)
        try:
            _take_maps(self._object, maps)
            self._object.set_constant("settings", {"policy": 1, "dry_run": 1})
            self._object.load()
            self._dry = DryMap(self._object)
            self._programs = {way: self._object.program(name) for way, name in PROGRAMS.items()}
            self._read(maps, self._object.abi)
        except BaseException:
            self._object.close()
            raise

    def _read(self, folder: Path, abi: Abi) -> None:
        maps = KernelMaps.open(folder, abi)
        try:
            endpoints: dict[int, PolicyEndpoint] = maps.dump("policy_endpoints")
            self._names = RuleNames(maps.dump("policy_rules"), abi.constants)
        finally:
            maps.close()
        self._devices = {
            address: ifindex
            for ifindex, endpoint in endpoints.items()
            for address in (endpoint.addr4, endpoint.addr6)
            if any(address)
        }

    def ask(self, direction: Direction, question: Question) -> Judgement | None:
        """The program's verdict; None of a pod of another node, or one whose device has no policy."""
        end = question.destination if direction is Direction.INGRESS else question.source
        if end.pod is None:
            return Judgement(ALLOWED, ALLOWED, Exempt.NO_POD)
        device = self._device(end.pod, end.address)
        if device is None:
            return None
        answer = self._dry.run(self._programs[direction], device, first_packet(question))
        return self._names.judgement(answer, exemption(direction, question))

    def why_unknown(self, direction: Direction, question: Question) -> str:
        """Of a pod of another node, or without a device that has its policy."""
        pod = (question.destination if direction is Direction.INGRESS else question.source).pod
        if pod is None:
            return ""
        if pod.node_name != self._node:
            where = pod.node_name or "no node yet"
            return f"the Pod is on {where}, and this is {self._node}: ask there"
        return no_policy(self._node)

    def _device(self, pod: Pod, address: bytes) -> int | None:
        return self._devices.get(address) if pod.node_name == self._node else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the programs; the maps stay as they are."""
        self._dry.close()
        self._object.close()


def no_policy(node: str) -> str:
    """Why a kernel that was asked about a pod of its own does not know."""
    return f"the Pod's device has no policy yet, or can't have one: `netaccel status` on {node} says which"


def _take_maps(loaded: BpfObject, folder: Path) -> None:
    """Give the object the pinned maps, but for those that are an instance's own."""
    for name in loaded.map_definitions():
        if name == _OWN or name.endswith(_SCRATCH):
            continue
        try:
            with KernelMap.open_pinned(folder / name) as pinned:
                loaded.reuse(name, pinned.fd)
        except FileNotFoundError as error:
            raise DatapathError(
                f"{folder / name}: there is no such map: is policy on, and the agent of this version?"
            ) from error
