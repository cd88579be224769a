# SPDX-License-Identifier: Apache-2.0
"""Which program goes on which hook of a node, and how each of them fared.

A hook that can't be taken costs only itself: the node is served by the others, and says so.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from netaccel.datapath import attach, libbpf
from netaccel.datapath.attach import Attacher, AttachType, Hook
from netaccel.datapath.bpfobject import Program, program_info
from netaccel.datapath.node import NodeView
from netaccel.datapath.rtnetlink import Device
from netaccel.errors import DatapathError

log = logging.getLogger(__name__)

_TC_UPLINK = ("tc_uplink_ingress", "tc_uplink_egress")
_TC_POD = ("tc_pod_ingress", "tc_pod_egress")
_XDP = "xdp_uplink"
_SOCKETS = "cgroup-"


@dataclass(frozen=True, slots=True)
class HookStatus:
    """One hook: what is there, how, and why not better. ``mode`` "failed": nothing is there."""

    hook: str
    """``cgroup``, ``xdp``, ``tc ingress``, ``tc egress``."""
    where: str
    program: str
    mode: str
    """``link`` (cgroup), ``native`` (xdp), ``tcx`` or ``clsact`` (tc), ``off``, ``failed``."""
    note: str = ""


class Hooks:
    """Keeps the programs of one node where they belong. Blocking, but each call takes milliseconds."""

    def __init__(
        self,
        attacher: Attacher,
        programs: Mapping[str, Program],
        cgroup: Path,
        *,
        use_xdp: bool,
    ) -> None:
        """``programs``: those that are loaded, by name; it may grow."""
        self._attacher = attacher
        self._programs = programs
        self.cgroup = cgroup
        self._use_xdp = use_xdp
        self._tc_mode = "tcx" if attacher.links_for_tc else "clsact"
        self._found: dict[str, HookStatus] = {}
        self._pods: dict[str, Device] = {}  # pod devices whose hooks are taken, by name

    def status(self) -> list[HookStatus]:
        """How every hook fared, sockets first."""
        order = {"cgroup": 0, "xdp": 1}
        return sorted(self._found.values(), key=lambda s: (order.get(s.hook, 2), s.where, s.hook, s.program))

    def failed(self) -> list[HookStatus]:
        """Hooks that could not be taken."""
        return [found for found in self.status() if found.mode == "failed"]

    def attached(self) -> dict[tuple[str, str], int]:
        """Programs by hook and mode."""
        counts: dict[tuple[str, str], int] = {}
        for found in tuple(self._found.values()):
            if found.mode not in ("failed", "off"):
                counts[found.hook, found.mode] = counts.get((found.hook, found.mode), 0) + 1
        return counts

    def attach_sockets(self, types: Mapping[str, int]) -> None:
        """Put programs on the cgroup; ``types`` (enum bpf_attach_type) by name."""
        for name, attach_type in types.items():
            hook = attach.cgroup(self.cgroup, name, attach_type)
            self._attach(hook, name, HookStatus("cgroup", str(self.cgroup), name, "link"))
        log.info("sockets below %s: %d programs", self.cgroup, len(types))

    def drop_from_cgroup(self, names: Collection[str]) -> None:
        """Take these programs off the cgroup, whoever put them there."""
        for name in names:
            self._detach(attach.cgroup(self.cgroup, name, 0).name)

    def pods_attached(self) -> frozenset[int]:
        """Ifindexes of pod devices that have their programs."""
        return frozenset(device.ifindex for device in tuple(self._pods.values()))

    def meet(self, view: NodeView) -> None:
        """Attach to pod devices of ``view`` that are new, and forget those that went; no more than that.

        What :meth:`follow` would do beside it can wait; this takes what the kernel needs for each new device.
        """
        there = {device.name: device.ifindex for device in view.pod_devices}
        for name, device in tuple(self._pods.items()):
            if there.get(name) != device.ifindex:
                del self._pods[name]
                for hook, _, _ in dict(self._tc_hooks(device, _TC_POD)).values():
                    self._detach(hook.name)
        for device in view.pod_devices:
            if device.name not in self._pods:
                self._take(device)

    def _take(self, device: Device) -> None:
        hooks = dict(self._tc_hooks(device, _TC_POD))
        for hook, program, status in hooks.values():
            self._attach(hook, program, status)
        if all(self._found[name].mode != "failed" for name in hooks):
            self._pods[device.name] = device

    def follow(self, see: Callable[[], NodeView], *, explicit: bool) -> Iterator[None]:
        """Attach to the devices that the last look saw; take off what went away.

        Step by step: between two of them :meth:`meet` may be called, so that a newborn need not wait for all
        the others. ``see``: the last look; it may be another one from step to step. ``explicit``: the uplinks
        are the user's own list, so a device that left it is let go. Where they follow default routes a route
        may flap, and its device is kept.
        """
        view = see()
        self.meet(view)
        wanted = dict(self._device_hooks(view))
        for name in tuple(wanted):
            yield
            if see() is not view:
                view = see()
                wanted = dict(self._device_hooks(view))
            if name in wanted:
                self._settle(name, *wanted[name])
        self._drop_others(wanted, explicit=explicit)

    def _settle(self, name: str, hook: Hook, program: str, status: HookStatus) -> None:
        if status.mode == "off":
            self._detach(name)
            self._found[name] = status
        else:
            self._attach(hook, program, status)

    def _drop_others(self, wanted: Mapping[str, object], *, explicit: bool) -> None:
        attached = self._attacher.attached(but=wanted)
        for name, link in attached.items():
            left = not name.startswith(_SOCKETS)
            if left and (not link.target or explicit or not _is_uplink(link.program)):
                self._detach(name)
        for name in self._found.keys() - wanted.keys() - attached.keys():
            if not name.startswith(_SOCKETS):
                del self._found[name]
        self._attacher.forget_gone()

    def _device_hooks(self, view: NodeView) -> Iterator[tuple[str, tuple[Hook, str, HookStatus]]]:
        for device in view.uplinks:
            hook = attach.xdp(device.name, device.ifindex)
            status = HookStatus("xdp", device.name, _XDP, "native" if self._use_xdp else "off")
            if not self._use_xdp:
                status = replace(status, note="the settings turn XDP off; tc serves alone")
            yield hook.name, (hook, _XDP, status)
            yield from self._tc_hooks(device, _TC_UPLINK)
        for device in view.pod_devices:
            yield from self._tc_hooks(device, _TC_POD)

    def _tc_hooks(
        self, device: Device, programs: tuple[str, str]
    ) -> Iterator[tuple[str, tuple[Hook, str, HookStatus]]]:
        for program, egress in zip(programs, (False, True), strict=True):
            hook = attach.tc(device.name, device.ifindex, egress=egress)
            way = "tc egress" if egress else "tc ingress"
            yield hook.name, (hook, program, HookStatus(way, device.name, program, self._tc_mode))

    def _attach(self, hook: Hook, program: str, status: HookStatus) -> None:
        before = self._found.get(hook.name)
        try:
            if program not in self._programs:
                raise DatapathError(f"{status.where}: {program} could not be loaded")
            done = self._attacher.attach(hook, self._programs[program])
        except DatapathError as error:
            note = f"{error}; tc serves alone" if hook.type == AttachType.XDP else str(error)
            status = replace(status, mode="failed", note=note)
            if before != status:
                log.warning("%s", note)
        else:
            if done != "kept":
                log.log(logging.DEBUG if hook.cgroup else logging.INFO, "%s %s: %s", hook.name, done, program)
        self._found[hook.name] = status

    def _detach(self, name: str) -> None:
        self._found.pop(name, None)
        if self._attacher.detach(name):
            log.info("%s: taken off", name)


def _is_uplink(program: int) -> bool:
    """Whether a program in the kernel, perhaps of an earlier agent, is one for uplinks."""
    fd = libbpf.fd_by_id("prog", program)
    try:
        return program_info(fd).name.startswith(("xdp_uplink", "tc_uplink"))
    finally:
        os.close(fd)
