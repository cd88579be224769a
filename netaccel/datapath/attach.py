# SPDX-License-Identifier: Apache-2.0
"""Programs on hooks: XDP and tc of devices, sockets of a cgroup.

Every attachment is a link, pinned in the node's folder under a readable name (``xdp-eth0``,
``tcx-ingress-eth0``, ``cgroup-sock_connect4``), so that it outlives the agent. Attaching again is
idempotent: the same program stays, another one replaces it in its place, atomically, so that no packet
finds the hook empty; a link whose device or cgroup is gone is made anew.

Kernels before 6.6 have no links for tc: there a filter of the device's clsact qdisc holds the program, and a
note in the node's folder remembers that it is ours.

All functions work in the calling thread's network namespace.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import NamedTuple

from netaccel.datapath import libbpf
from netaccel.datapath.bpfobject import Program, program_info, same_program
from netaccel.datapath.instance import Instance
from netaccel.datapath.netlink import has_filters
from netaccel.errors import AttachError

_XDP_FLAGS_DRV_MODE = 1 << 2  # linux/if_link.h: in the driver, never the slow generic mode
_BPF_F_BEFORE = 1 << 3  # linux/bpf.h: first of the hook; what others attached runs after ours
FILTER_HANDLE, FILTER_PRIORITY = 0x6E61, 1  # a handle of our own, so that no other's filter is replaced
_NOTE = "filter-"


class AttachType(IntEnum):
    """Those of enum bpf_attach_type (linux/bpf.h) that the project uses."""

    CGROUP_INET_INGRESS = 0
    CGROUP_INET_EGRESS = 1
    CGROUP_INET4_CONNECT = 10
    CGROUP_INET6_CONNECT = 11
    CGROUP_INET4_POST_BIND = 12
    CGROUP_INET6_POST_BIND = 13
    CGROUP_UDP4_SENDMSG = 14
    CGROUP_UDP6_SENDMSG = 15
    CGROUP_UDP4_RECVMSG = 19
    CGROUP_UDP6_RECVMSG = 20
    CGROUP_INET4_GETPEERNAME = 29
    CGROUP_INET6_GETPEERNAME = 30
    CGROUP_INET_SOCK_RELEASE = 34
    XDP = 37
    TCX_INGRESS = 46
    TCX_EGRESS = 47


class LinkType(IntEnum):
    """Those of enum bpf_link_type (linux/bpf.h) that the project uses."""

    CGROUP = 3
    ITER = 4
    XDP = 6
    TCX = 11


class LinkInfo(NamedTuple):
    """A link as the kernel describes it. ``target``: ifindex or cgroup id, 0 once that is gone."""

    id: int
    type: int
    program: int
    target: int
    attach_type: int


def link_info(fd: int) -> LinkInfo:
    """Struct bpf_link_info of a link's descriptor."""
    raw = libbpf.info(fd)
    kind, number, program = struct.unpack_from("=III", raw)
    target, attach_type = 0, 0
    if kind == LinkType.CGROUP:
        target, attach_type = struct.unpack_from("=QI", raw, 16)
    elif kind == LinkType.TCX:
        target, attach_type = struct.unpack_from("=II", raw, 16)
    elif kind == LinkType.XDP:
        target, attach_type = struct.unpack_from("=I", raw, 16)[0], AttachType.XDP
    return LinkInfo(number, kind, program, target, attach_type)


@dataclass(frozen=True, slots=True)
class Hook:
    """Where a program goes; make one with :func:`xdp`, :func:`tc` or :func:`cgroup`."""

    name: str
    """Of the pin."""
    type: AttachType
    where: str
    """Device or cgroup, for messages."""
    ifindex: int = 0
    cgroup: Path | None = None
    flags: int = 0


def xdp(device: str, ifindex: int) -> Hook:
    """XDP of a device, in its driver."""
    return Hook(f"xdp-{_quoted(device)}", AttachType.XDP, device, ifindex, flags=_XDP_FLAGS_DRV_MODE)


def tc(device: str, ifindex: int, *, egress: bool = False) -> Hook:
    """Ingress or egress of a device."""
    kind = AttachType.TCX_EGRESS if egress else AttachType.TCX_INGRESS
    way = "egress" if egress else "ingress"
    return Hook(f"tcx-{way}-{_quoted(device)}", kind, device, ifindex, flags=_BPF_F_BEFORE)


def cgroup(path: Path, program: str, attach_type: int) -> Hook:
    """A hook of all sockets below a cgroup v2 folder. Other programs may be there too."""
    return Hook(f"cgroup-{program}", AttachType(attach_type), str(path), cgroup=path)


def _quoted(device: str) -> str:
    # A bpf file system refuses dots in names (kernel/bpf/inode.c); VLAN devices have them.
    return device.replace("%", "%25").replace(".", "%2E")


@cache
def has_tcx() -> bool:
    """Whether tc hooks take links (kernel 6.6): asking what is on loopback's hook is answered."""
    try:
        libbpf.prog_query(1, AttachType.TCX_INGRESS)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


class Attacher:
    """Attaches and detaches for one node."""

    def __init__(self, instance: Instance, *, links_for_tc: bool | None = None) -> None:
        """``links_for_tc``: False takes clsact filters even where the kernel has tcx."""
        self._instance = instance
        self.links_for_tc = has_tcx() if links_for_tc is None else links_for_tc
        self._equal: set[tuple[int, int]] = set()  # ids of programs that were found to be the same

    def attach(self, hook: Hook, program: Program) -> str:
        """Have ``program`` on ``hook``. Returns ``kept``, ``replaced`` or ``attached``.

        AttachError where the hook is held by others, or the device can't take the program.
        """
        if hook.type in (AttachType.TCX_INGRESS, AttachType.TCX_EGRESS) and not self.links_for_tc:
            return self._filter(hook, program)
        pin = self._instance.links / hook.name
        done = self._adopt(pin, hook, program) if pin.exists() else None
        if done is None:
            fd = self._create(hook, program)
            try:
                libbpf.obj_pin(fd, str(pin))
            finally:
                os.close(fd)
            done = "attached"
        return done

    def detach(self, name: str) -> str | None:
        """Take off what is pinned or noted under a hook's name. Returns what it was, None for nothing."""
        pin = self._instance.links / name
        if pin.exists():
            return _unlink(pin)
        if self._instance.note(_NOTE + name):
            return self._remove_filter(name)
        return None

    def attached(self, but: Collection[str] = ()) -> dict[str, LinkInfo]:
        """What is attached, by hook's name; a clsact filter has link id 0 and type 0. ``but``: not these."""
        found = {}
        for pin in sorted(self._instance.links.iterdir()) if self._instance.links.is_dir() else ():
            if pin.name in but:
                continue
            try:
                fd = libbpf.obj_get(str(pin))
            except FileNotFoundError:  # detached while we looked
                continue
            try:
                found[pin.name] = link_info(fd)
            finally:
                os.close(fd)
        for name in self._filters():
            if name in but:
                continue
            note = _FilterNote.parse(self._instance.note(_NOTE + name))
            live = _query_filter(note)
            if live is not None:
                found[name] = LinkInfo(0, 0, live.prog_id, note.ifindex, note.point)
        return found

    def forget_gone(self) -> None:
        """Drop the notes of filters that went with their device; links tell of that by themselves."""
        for name in self._filters():
            note = _FilterNote.parse(self._instance.note(_NOTE + name))
            try:
                socket.if_indextoname(note.ifindex)
            except OSError:
                self._instance.write_note(_NOTE + name, "")

    def detach_all(self) -> list[str]:
        """Take off everything of this node. Returns a line for each: what was where."""
        names = [pin.name for pin in self._instance.links.iterdir()] if self._instance.links.is_dir() else []
        return [line for name in sorted({*names, *self._filters()}) if (line := self.detach(name))]

    # ---------------------------------------------------------------- links

    def _adopt(self, pin: Path, hook: Hook, program: Program) -> str | None:
        """Use the link that is pinned; None where it is no longer good and was removed."""
        fd = libbpf.obj_get(str(pin))
        try:
            found = link_info(fd)
            if found.target != _target_id(hook) or found.attach_type != hook.type:
                pin.unlink()
                return None
            if self._is_same(found.program, program):
                return "kept"
            try:
                libbpf.link_update(fd, program.fd)
            except OSError as error:
                raise _refused(hook, program, error) from error
            return "replaced"
        finally:
            os.close(fd)

    def _create(self, hook: Hook, program: Program) -> int:
        try:
            if hook.cgroup is None:
                return libbpf.link_create(program.fd, hook.ifindex, hook.type, hook.flags)
            folder = os.open(hook.cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return libbpf.link_create(program.fd, folder, hook.type, hook.flags)
            finally:
                os.close(folder)
        except OSError as error:
            raise _refused(hook, program, error) from error

    def _is_same(self, number: int, program: Program) -> bool:
        """As same_program(), which costs a millisecond, once for each pair: programs don't change."""
        pair = number, program.info.id
        if number != program.info.id and pair not in self._equal:
            if not same_program(number, program.fd):
                return False
            self._equal.add(pair)
        return True

    # -------------------------------------------------------------- filters

    def _filter(self, hook: Hook, program: Program) -> str:
        point = libbpf.TC_EGRESS if hook.type == AttachType.TCX_EGRESS else libbpf.TC_INGRESS
        old = self._instance.note(_NOTE + hook.name)
        made = bool(old) and _FilterNote.parse(old).made_qdisc
        note = _FilterNote(hook.ifindex, point, made)
        live = _query_filter(note)
        if live is not None and self._is_same(live.prog_id, program):
            return "kept"
        try:
            made = libbpf.tc_hook_create(hook.ifindex) or (made and live is not None)
            self._instance.write_note(_NOTE + hook.name, str(note._replace(made_qdisc=made)))
            libbpf.tc_attach(hook.ifindex, point, program.fd, FILTER_HANDLE, FILTER_PRIORITY)
        except OSError as error:
            raise _refused(hook, program, error) from error
        return "attached" if live is None else "replaced"

    def _filters(self) -> list[str]:
        folder = self._instance.folder
        notes = folder.iterdir() if folder.is_dir() else ()
        return [path.name.removeprefix(_NOTE) for path in notes if path.name.startswith(_NOTE)]

    def _remove_filter(self, name: str) -> str | None:
        note = _FilterNote.parse(self._instance.note(_NOTE + name))
        live = _query_filter(note)
        if live is not None:
            libbpf.tc_detach(note.ifindex, note.point, FILTER_HANDLE, FILTER_PRIORITY)
        self._instance.write_note(_NOTE + name, "")
        others = [_FilterNote.parse(self._instance.note(_NOTE + other)) for other in self._filters()]
        if note.made_qdisc and not any(other.ifindex == note.ifindex for other in others):
            self._remove_qdisc(note.ifindex)
        elif note.made_qdisc:  # whoever of ours goes last takes the qdisc along
            self._hand_over_qdisc(note.ifindex)
        return f"clsact filter {name}" if live is not None else None

    def _hand_over_qdisc(self, ifindex: int) -> None:
        for other in self._filters():
            note = _FilterNote.parse(self._instance.note(_NOTE + other))
            if note.ifindex == ifindex:
                self._instance.write_note(_NOTE + other, str(note._replace(made_qdisc=True)))

    def _remove_qdisc(self, ifindex: int) -> None:
        if not has_filters(ifindex):
            with suppress(OSError):  # the device is gone, and its qdisc with it
                libbpf.tc_hook_destroy(ifindex)


class _FilterNote(NamedTuple):
    """What the node's folder remembers of a clsact filter."""

    ifindex: int
    point: int
    made_qdisc: bool

    def __str__(self) -> str:
        return f"{self.ifindex},{self.point},{int(self.made_qdisc)}"

    @classmethod
    def parse(cls, text: str) -> _FilterNote:
        ifindex, point, made = text.split(",")
        return cls(int(ifindex), int(point), made == "1")


def _query_filter(note: _FilterNote) -> libbpf.TcFilter | None:
    try:
        return libbpf.tc_query(note.ifindex, note.point, FILTER_HANDLE, FILTER_PRIORITY)
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def _target_id(hook: Hook) -> int:
    return hook.cgroup.stat().st_ino if hook.cgroup else hook.ifindex


def _unlink(pin: Path) -> str:
    """Detach though others may hold the link open, and remove the pin."""
    fd = libbpf.obj_get(str(pin))
    try:
        with suppress(OSError):  # EOPNOTSUPP: some kinds end with their last descriptor only
            libbpf.link_detach(fd)
    finally:
        os.close(fd)
    pin.unlink()
    return f"link {pin.name}"


def _refused(hook: Hook, program: Program, error: OSError) -> AttachError:
    number = error.errno or 0
    name = errno.errorcode.get(number, str(number))
    text = f"{program.name} can't be attached to {hook.where} ({hook.name})"
    if number in (errno.EBUSY, errno.EEXIST) and hook.type == AttachType.XDP:  # EEXIST: in generic mode
        return AttachError(f"{text}: {_xdp_holder(hook.ifindex)}; detach that, or leave XDP off here", number)
    if number in (errno.ENODEV, errno.ENOENT):
        return AttachError(f"{text}: there is no such device or cgroup", number)
    if hook.type == AttachType.XDP:
        return AttachError(f"{text}: its driver, MTU or queues do not allow native XDP ({name})", number)
    return AttachError(f"{text}: {error.strerror} ({name})", number)


def _xdp_holder(ifindex: int) -> str:
    """Who has a device's XDP hook, as far as the kernel tells."""
    with suppress(OSError):
        number = libbpf.xdp_query(ifindex)
        for link in libbpf.ids("link"):
            try:
                fd = libbpf.fd_by_id("link", link)
            except FileNotFoundError:  # it went while we looked
                continue
            try:
                found = link_info(fd)
            finally:
                os.close(fd)
            if found.type == LinkType.XDP and found.program == number:
                return f"the hook is held by program {_program_name(number)} (id {number}, link id {link})"
        if number:
            return f"the hook is held by program {_program_name(number)} (id {number}, without a link)"
    return "the hook is held by another program"


def _program_name(number: int) -> str:
    fd = libbpf.fd_by_id("prog", number)
    try:
        return program_info(fd).name or "without a name"
    finally:
        os.close(fd)
