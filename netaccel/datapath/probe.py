# SPDX-License-Identifier: Apache-2.0
"""What this kernel can do, found out by trying: what ``netaccel doctor`` prints.

Each feature is one load of a small program, one call on a private map, or one look at a file; nothing is
attached, nothing stays. The whole takes some tens of milliseconds.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from netaccel.datapath import libbpf, mounts
from netaccel.datapath.attach import has_tcx
from netaccel.datapath.bpfmap import KernelMap, MapType
from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.clock import jiffies_per_second
from netaccel.errors import DatapathError, NetaccelError

OLDEST_KERNEL = (5, 10)


class Feature(NamedTuple):
    """One thing that was tried. ``instead``: what is used, or what to do, where it is not ``ok``."""

    name: str
    ok: bool
    detail: str = ""
    instead: str = ""
    required: bool = False
    """Without it netaccel does not run."""


class _Ask(NamedTuple):
    """A program of the probe objects, and what its refusal means."""

    program: str
    name: str
    since: str
    instead: str
    required: bool = False


_PROGRAMS = (
    _Ask("sock_addr", "socket load balancing", "5.10", "a kernel with CONFIG_CGROUP_BPF", required=True),
    _Ask("sock_getpeername", "getpeername() shows the Service", "5.8", "it shows the backend"),
    _Ask("sock_netns_cookie", "namespace cookies at sockets", "5.7", "affinity by client address only"),
    _Ask(
        "sock_set_retval", "refusals with their own errno", "5.18", "refused connect() and bind() get EPERM"
    ),
    _Ask("sock_iterator", "socket iterators", "5.9", "sock_diag lists sockets"),
    _Ask("sock_destroy", "destroying sockets from BPF", "6.5", "sock_diag destroys sockets"),
    _Ask("xdp_program", "XDP", "5.9", "tc serves uplinks alone"),
    _Ask("xdp_fib_lookup", "route look-up in XDP", "4.18", "tc serves uplinks alone"),
    _Ask("tc_redirect_neigh", "redirect to a neighbour", "5.10", "a kernel of 5.10 or newer", required=True),
    _Ask("tc_redirect_peer", "redirect into a pod", "5.10", "packets to pods go up the stack"),
)


def probe(bpffs: Path = Path("/sys/fs/bpf"), cgroup: Path | None = None) -> list[Feature]:
    """Try everything. ``bpffs`` and ``cgroup`` are those that the agent would use."""
    return list(_probe(bpffs, cgroup))


def _probe(bpffs: Path, cgroup: Path | None) -> Iterator[Feature]:
    yield _kernel()
    yield _try(
        "libbpf", lambda: "{}.{}".format(*libbpf.version()), "install libbpf1, 1.1 or newer", required=True
    )
    privileged = _try("rights", _rights, "run as root with CAP_BPF and CAP_NET_ADMIN", required=True)
    yield privileged
    yield _btf()
    if privileged.ok:
        yield _jit()
        yield from map(_program, _PROGRAMS)
        yield _tcx()
        yield _batches()
        yield _ring_buffer()
    yield _memory_lock()
    yield Feature("clock", ok=True, detail=f"{jiffies_per_second()} jiffies a second")
    yield _try(
        "cgroup v2",
        lambda: str(mounts.find_cgroup(cgroup)),
        "mount -t cgroup2 none /sys/fs/cgroup/unified",
        required=True,
    )
    yield _try("bpf file system", lambda: _bpffs(bpffs), f"mount -t bpf bpf {bpffs}", required=True)
    yield _forwarding("IPv4 forwarding", Path("/proc/sys/net/ipv4/ip_forward"))
    yield _forwarding("IPv6 forwarding", Path("/proc/sys/net/ipv6/conf/all/forwarding"))


def _try(name: str, action: Callable[[], str], instead: str, *, required: bool = False) -> Feature:
    try:
        return Feature(name, ok=True, detail=action(), required=required)
    except (NetaccelError, OSError) as error:
        return Feature(name, ok=False, detail=str(error), instead=instead, required=required)


def _kernel() -> Feature:
    release = os.uname().release
    new_enough = _kernel_version() >= OLDEST_KERNEL
    oldest = "{}.{}".format(*OLDEST_KERNEL)
    return Feature("kernel", new_enough, release, f"a kernel of {oldest} or newer", required=True)


def _rights() -> str:
    with KernelMap.create(MapType.ARRAY, "probe", 4, 4, 1):
        return "BPF is allowed"


def _btf() -> Feature:
    path = Path("/sys/kernel/btf/vmlinux")
    instead = "a kernel with CONFIG_DEBUG_INFO_BTF; without it sockets are destroyed by sock_diag"
    return Feature("kernel BTF", path.exists(), str(path) if path.exists() else f"no {path}", instead)


def _jit() -> Feature:
    """A program that was loaded says whether it was compiled (jited_prog_len of struct bpf_prog_info)."""
    try:
        with BpfObject.named("probe_kernel") as obj:
            obj.only("xdp_program")
            obj.load()
            compiled = struct.unpack_from("=I", libbpf.info(obj.program("xdp_program").fd), 16)[0] > 0
    except DatapathError as error:
        return Feature(
            "JIT compiler", ok=False, detail=str(error), instead="programs are interpreted, slowly"
        )
    return Feature("JIT compiler", compiled, "on" if compiled else "off", "sysctl net.core.bpf_jit_enable=1")


def _program(ask: _Ask) -> Feature:
    obj_name = "probe_destroy" if ask.program == "sock_destroy" else "probe_kernel"
    with BpfObject.named(obj_name) as obj:
        obj.only(ask.program)
        try:
            obj.load()
        except DatapathError as error:
            why = errno.errorcode.get(error.errno, str(error))
            detail = f"refused ({why}); in kernels since {ask.since}"
            return Feature(ask.name, ok=False, detail=detail, instead=ask.instead, required=ask.required)
    return Feature(ask.name, ok=True, required=ask.required)


def _tcx() -> Feature:
    instead = "clsact filters: other tools' filters of priority 1 share the hook"
    return Feature("tc links (tcx)", has_tcx(), "" if has_tcx() else "in kernels since 6.6", instead)


def _batches() -> Feature:
    with KernelMap.create(MapType.HASH, "probe", 4, 4, 2) as table:
        batch = libbpf.map_update_batch(table.fd, bytes(4), bytes(4), 1)
    detail = "" if not batch.errno else f"refused: {errno.errorcode.get(batch.errno, batch.errno)}"
    return Feature("map batches", not batch.errno, detail, "entries are written one by one")


def _ring_buffer() -> Feature:
    def create() -> str:
        with KernelMap.create(MapType.RINGBUF, "probe", 0, 0, os.sysconf("SC_PAGE_SIZE")):
            return ""

    return _try("ring buffer", create, "no flow events")


def _memory_lock() -> Feature:
    """Since 5.11 maps count as the cgroup's memory; before, RLIMIT_MEMLOCK limits them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    unlimited = resource.RLIM_INFINITY in (soft, hard)
    matters = _kernel_version() < (5, 11)
    if not matters:
        return Feature("memory for maps", ok=True, detail="counted by cgroup")
    text = "unlimited" if unlimited else f"RLIMIT_MEMLOCK is {hard} bytes"
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    except (OSError, ValueError) as error:
        text += f" and can't be raised: {error}"
    return Feature("memory for maps", unlimited, text, "ulimit -l unlimited, or LimitMEMLOCK=infinity")


def _kernel_version() -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _bpffs(path: Path) -> str:
    mounts.check_bpffs(path)
    return str(path)


def _forwarding(name: str, path: Path) -> Feature:
    try:
        on = path.read_text(encoding="ascii").strip() != "0"
    except FileNotFoundError:
        return Feature(name, ok=False, detail="this node lacks the family", instead="the other family serves")
    what = path.relative_to("/proc/sys").as_posix().replace("/", ".")
    return Feature(
        name, on, "on" if on else "off", f"sysctl {what}=1; without it NodePorts serve local pods only"
    )
