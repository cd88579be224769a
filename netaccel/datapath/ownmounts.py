# SPDX-License-Identifier: Apache-2.0
"""Makes and removes a node's mounts below ``/run/netaccel``, from the node itself or from a pod.

A pod can't rely on what it sees: its cgroup namespace is its own, so that a cgroup2 mount of its own would
show no process but the pod's (cgroup_namespaces(7)). So the mount is made in the cgroup namespace of the
node's first process, whose root is the node's. A pod needs the node's process ids (hostPID) and a propagation
that hands mounts to the node (mount_namespaces(7), Bidirectional in Kubernetes).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from netaccel.datapath import libbpf
from netaccel.datapath.mounts import OWN, USUAL_BPFFS, is_mounted, listed, read_mounts
from netaccel.errors import DatapathError

_CLONE_NEWCGROUP = 0x02000000
_MS_BIND = 0x1000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_NOT_CGROUPS = ("rw", "ro", "seclabel")  # of the mount, of a security module
FIRST = Path("/proc/1")
"""The node's first process; its mounts and its cgroup namespace are the node's."""


def make(own: Path = OWN, first: Path = FIRST, usual_bpffs: Path = USUAL_BPFFS) -> list[str]:
    """Mount what is not mounted yet; a line for each place. DatapathError where the kernel refuses."""
    done = [
        _make(own / "bpf", "bpf", lambda target: _mount_bpffs(target, usual_bpffs)),
        _make(own / "cgroup", "cgroup2", lambda target: _mount_cgroup(target, first)),
    ]
    _check_node_sees(own, first)
    return done


def remove(own: Path = OWN, first: Path = FIRST) -> list[str]:
    """Unmount what :func:`make` mounted, remove the folders; a line for each mount."""
    done = []
    for name in ("cgroup", "bpf"):
        path = own / name
        while path.is_mount():
            with _told(f"unmount {path}"):
                libbpf.unmount(str(path))
            done.append(f"mount {path}")
        with _told(f"rmdir {path}"), contextlib.suppress(FileNotFoundError):
            path.rmdir()
    # A pod has the folder as a mount of its own, and only the node can remove it; others' files may be there.
    with contextlib.suppress(OSError):
        Path(f"{first}/root{own}").rmdir()
    return done


def _make(target: Path, type_: str, mount: Callable[[Path], str]) -> str:
    if is_mounted(target, type_):
        return f"{target}: {type_} was mounted already"
    with _told(f"mkdir {target}"):
        target.mkdir(mode=0o755, parents=True, exist_ok=True)
    return f"{target}: {mount(target)}"


def _mount_bpffs(target: Path, usual: Path) -> str:
    """The node's own file system, so that its pins are found at the usual place too; else a new one."""
    if is_mounted(usual, "bpf"):
        with _told(f"mount {usual} at {target}"):
            libbpf.mount(str(usual), str(target), "none", _MS_BIND)
        return f"the bpf file system of {usual}"
    with _told(f"mount bpf at {target}"):
        libbpf.mount("netaccel", str(target), "bpf", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, "mode=700")
    return f"a new bpf file system, {usual} being none"


def _mount_cgroup(target: Path, first: Path) -> str:
    options = cgroup_options([m.options for m in read_mounts(first / "mountinfo") if m.type == "cgroup2"])
    with _told(f"mount cgroup2 at {target}"), _cgroup_namespace(first):
        flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
        libbpf.mount("netaccel", str(target), "cgroup2", flags, options)
    return "the node's cgroup v2 tree"


def cgroup_options(present: list[str]) -> str:
    """Options for one more mount of the tree, given those of its mounts.

    They belong to the tree: the latest mount of the first cgroup namespace sets them for all, so that one
    without ``nsdelegate`` takes it away from the whole machine (Documentation/admin-guide/cgroup-v2.rst).
    """
    options = present[0].split(",") if present else []
    return ",".join(option for option in options if option not in _NOT_CGROUPS and "=" not in option)


@contextlib.contextmanager
def _cgroup_namespace(process: Path) -> Iterator[None]:
    """Move this thread into a process's cgroup namespace and back."""
    home = os.open("/proc/thread-self/ns/cgroup", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(process / "ns/cgroup", os.O_RDONLY | os.O_CLOEXEC)
        try:
            libbpf.setns(there, _CLONE_NEWCGROUP)
        finally:
            os.close(there)
        try:
            yield
        finally:
            libbpf.setns(home, _CLONE_NEWCGROUP)
    finally:
        os.close(home)


def _check_node_sees(own: Path, first: Path) -> None:
    node = read_mounts(first / "mountinfo")
    for name, type_ in (("bpf", "bpf"), ("cgroup", "cgroup2")):
        if not listed(own / name, type_, node):
            raise DatapathError(
                f"{own / name} is mounted here, but not on the node: a pod needs the node's {own} at the same"
                " path with mountPropagation: Bidirectional, and hostPID"
            )


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise DatapathError(
            f"{what}: {error.strerror}: run it as root, privileged", error.errno or 0
        ) from error
    except OSError as error:
        raise DatapathError(f"{what}: {error.strerror}", error.errno or 0) from error
