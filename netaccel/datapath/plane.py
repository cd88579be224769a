# SPDX-License-Identifier: Apache-2.0
"""A node's whole datapath: found out, loaded, attached, in the order that loses no packet.

Loading over pinned maps, then replacing programs in their place, then committing migrations: see
:mod:`.loader`. Nothing here is undone when the agent goes; ``netaccel detach`` does that.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from netaccel.config import Settings
from netaccel.datapath import loader, peers, ports
from netaccel.datapath.abi import Abi
from netaccel.datapath.attach import Attacher
from netaccel.datapath.bpfobject import OBJECTS, BpfObject, Program
from netaccel.datapath.clock import Clock, jiffies_per_second
from netaccel.datapath.cookie import namespace_cookie
from netaccel.datapath.hooks import Hooks
from netaccel.datapath.instance import Instance
from netaccel.datapath.loader import Loaded
from netaccel.datapath.mounts import find_cgroup
from netaccel.datapath.netlink import ANYTHING, Change
from netaccel.datapath.node import Eye, NodeView
from netaccel.errors import ConfigError, VerifierError

log = logging.getLogger(__name__)

_XDP = "xdp_uplink"
_SOCKETS = "sock_cgroup"
_GATE = "gate_pod"
_GATE_PROGRAMS = ("gate_egress", "gate_ingress")
_POD = "tc_pod"  # with what the programs of its device begin
_PEER, _PEER_PROGRAM = "tc_peer", "tc_pod_peer"
_OBJECTS = (_SOCKETS, _XDP, "tc_uplink", _POD, _PEER)
SET_RETVAL = (5, 18)
"""First kernel with bpf_set_retval; before it a refusal is EPERM."""
CHECK_MTU = (5, 12)
"""First kernel with bpf_check_mtu, without which no packet goes past the node's stack."""
SKB_NETNS = (6, 15)
"""First kernel that tells programs of cgroup_skb a packet's namespace."""


def kernel_version() -> tuple[int, int]:
    """Major and minor of the running kernel."""
    match = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def constants(settings: Settings, hz: int, cookie: int) -> dict[str, int]:
    """Fields of struct settings (abi.h) as the settings want them; ``cookie``: of the node's namespace."""
    snat, times = settings.snat_ports, settings.timeouts
    per_tick = -(-settings.new_flows_per_second // hz)
    policy = settings.policy == "on"
    peer = settings.peer == "auto" and kernel_version() >= CHECK_MTU
    return {
        "node_cookie": cookie,
        "hz": hz,
        "syn_timeout": times.syn,
        "established_timeout": times.established,
        "closing_timeout": times.closing,
        "closed_timeout": times.closed,
        "unreplied_timeout": times.unreplied,
        "udp_timeout": times.udp,
        "new_flows_per_tick": per_tick,
        "snat_first": snat.first,
        "snat_count": snat.last - snat.first + 1,
        "has_retval": int(kernel_version() >= SET_RETVAL),
        "policy": int(policy),
        "has_skb_netns": int(kernel_version() >= SKB_NETNS),
        "peer": int(peer),
        "early": int(policy and peer),
    }


def map_sizes(asked: Mapping[str, int], known: Collection[str]) -> dict[str, int]:
    """Sizes by the kernel's names: ``flows`` means ``flows4`` and ``flows6``. Else ConfigError."""
    sizes: dict[str, int] = {}
    for name, entries in asked.items():
        halves = (
            [name] if name in known else [f"{name}{family}" for family in "46" if f"{name}{family}" in known]
        )
        if not halves:
            raise ConfigError(f"mapSizes {name}: no such map; known are {', '.join(sorted(known))}")
        sizes.update(dict.fromkeys(halves, entries))
    if "services" in sizes:  # counters are indexed by the same ids
        sizes.setdefault("service_counters", sizes["services"])
    return sizes


class Plane:
    """The datapath of one node. Make it with :meth:`start`; closing it leaves the kernel as it is."""

    def __init__(
        self,
        settings: Settings,
        loaded: Loaded,
        hooks: Hooks,
        eye: Eye,
        warnings: Sequence[str],
        without_peer: str = "",
    ) -> None:
        self.without_peer = without_peer
        """Why no packet can go from pod to pod past the node's stack; "" where it can."""
        self.settings = settings
        self.loaded = loaded
        self.hooks = hooks
        self.view = eye.seen
        self._eye = eye
        self.hz = jiffies_per_second()
        self.clock = Clock()
        self._warnings = tuple(warnings)
        self._gate_closed = False

    @classmethod
    def start(cls, settings: Settings, instance: Instance) -> Self:
        """Load and attach. ``instance`` is locked by the caller. ConfigError, DatapathError, AbiError."""
        ports.reserve(instance, settings.snat_ports)
        programs: dict[str, Program] = {}
        hooks = Hooks(
            Attacher(instance), programs, find_cgroup(settings.cgroup), use_xdp=settings.xdp != "off"
        )

        def first(sockets: BpfObject) -> None:
            """Serve sockets while the rest is verified; not in an upgrade, whose maps are still empty."""
            if not instance.exists_link():
                programs.update(_programs(sockets))
                hooks.attach_sockets(_attach_types(sockets))

        loaded, warnings, without_peer = _load(settings, instance, first)
        if _PEER in loaded.objects:
            peers.arm(instance.maps, loaded.program(_PEER_PROGRAM))
        else:  # before a program is replaced: both directions of a flow turn at once
            peers.Peers(loaded.maps, loaded.abi.constants).clear()
        for obj in loaded.objects.values():
            programs.update(_programs(obj))
        hooks.attach_sockets(_attach_types(loaded.objects[_SOCKETS]))
        if _GATE not in loaded.objects:
            hooks.drop_from_cgroup(_GATE_PROGRAMS)
        elif any((instance.links / f"cgroup-{name}").exists() for name in _GATE_PROGRAMS):
            hooks.attach_sockets(_attach_types(loaded.objects[_GATE]))
        eye = Eye(settings)
        eye.look()
        for _ in hooks.follow(lambda: eye.seen, explicit=bool(settings.uplinks)):
            pass  # nobody else is there yet to go first
        loaded.commit()
        return cls(settings, loaded, hooks, eye, warnings, without_peer)

    def look(self, change: Change = ANYTHING) -> NodeView:
        """Look at the node again, at what changed; returns how it was before. For one thread at a time."""
        before, self.view = self.view, self._eye.look(change)
        return before

    def has_met(self) -> bool:
        """Whether all pod devices that the last look saw, and no others, have their programs."""
        return {device.ifindex for device in self.view.pod_devices} == self.hooks.pods_attached()

    def meet(self) -> None:
        """Attach to pod devices that are new. For one thread at a time, with :meth:`follow`; looks may go on.

        For each program at a tcx hook the kernel waits for all CPUs, some ten milliseconds, and changes no
        device meanwhile, so that it is in vain to attach two at a time. A program works before that.
        """
        self.hooks.meet(self.view)

    def follow(self) -> Iterator[None]:
        """Attach to all that is seen, whatever was attached; :meth:`meet` may come between two steps."""
        return self.hooks.follow(lambda: self.view, explicit=bool(self.settings.uplinks))

    def close_gate(self) -> None:
        """In strict mode: from now on only addresses of ``gate_addresses`` are let through. Again is allowed.

        The first agent does it when these are known; later ones find it closed, from their start on.
        """
        gate = self.loaded.objects.get(_GATE)
        if gate and not self._gate_closed:
            self.hooks.attach_sockets(_attach_types(gate))
            self._gate_closed = True

    def warnings(self) -> list[str]:
        """What is served less well than asked, now."""
        return [*self._warnings, *self.view.warnings, *(hook.note for hook in self.hooks.failed())]

    def close(self) -> None:
        """Close descriptors."""
        self.clock.close()
        self.loaded.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _programs(obj: BpfObject) -> dict[str, Program]:
    return {name: obj.program(name) for name in obj.wanted_programs()}


def _attach_types(sockets: BpfObject) -> dict[str, int]:
    return {name: sockets.attach_type(name) for name in sockets.wanted_programs()}


def _map_names(objects: Sequence[str]) -> set[str]:
    paths = (OBJECTS / f"{name}.o" for name in objects)
    return {name for path in paths for name in Abi.from_elf(path.read_bytes()).maps}


def _load(
    settings: Settings, instance: Instance, first: Callable[[BpfObject], None]
) -> tuple[Loaded, list[str], str]:
    """Load the objects; without those that the kernel refuses and others can do without.

    XDP's, since tc can serve alone; and packets can always go through the node's stack: why they have to.
    """
    cookie = namespace_cookie(find_cgroup(settings.cgroup))
    values = constants(settings, jiffies_per_second(), cookie)
    without_peer = (
        "" if values["peer"] or settings.peer == "off" else "this kernel has no bpf_check_mtu (5.12)"
    )
    left_out = {_XDP} if settings.xdp == "off" else set()
    left_out |= set() if values["peer"] else {_PEER}
    objects = [name for name in _OBJECTS if name not in left_out]
    if settings.strict and settings.policy == "on":
        objects.append(_GATE)
    sizes = map_sizes(settings.map_sizes, _map_names(objects)) if settings.map_sizes else {}
    warnings: list[str] = []
    loaded_first: Callable[[BpfObject], None] | None = first
    while True:
        try:
            loaded = loader.load(instance, objects, constants=values, sizes=sizes, loaded_first=loaded_first)
        except VerifierError as error:
            if _XDP in objects and _XDP in str(error):
                objects.remove(_XDP)
                warnings.append(f"{error}; tc serves alone")
            elif _PEER in objects and _POD in str(error):  # tail calls of tc_pod may be refused, too
                objects.remove(_PEER)
                values["peer"] = values["early"] = 0
                without_peer = str(error)
            else:
                raise
            log.warning("%s; the others are loaded without", error)
            loaded_first = None
        else:
            return loaded, warnings, without_peer
