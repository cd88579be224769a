# SPDX-License-Identifier: Apache-2.0
"""Where this mount namespace has its cgroup v2 tree and its bpf file systems (proc_pid_mountinfo(5)).

Below ``/run/netaccel`` are those that ``netaccel mounts`` made; they go first. A container's own view of the
cgroups ends at the container, and a hybrid machine may have neither.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from netaccel.errors import ConfigError

MOUNTINFO = Path("/proc/self/mountinfo")
OWN = Path("/run/netaccel")
"""Folder of the node for mounts of our own; a pod has it under the same path."""
OWN_BPFFS = OWN / "bpf"
OWN_CGROUP = OWN / "cgroup"
USUAL_BPFFS = Path("/sys/fs/bpf")


class Mount(NamedTuple):
    """A mount point, its file system's type and options."""

    path: Path
    type: str
    options: str = ""
    """Of the file system, not of the mount, as ``rw,nsdelegate``."""


def parse_mountinfo(text: str) -> list[Mount]:
    """Read mountinfo's lines; later mounts hide earlier ones at the same place."""
    mounts = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        path = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), before.split()[4])
        type_, _, options = after.split(" ", 2)
        mounts.append(Mount(Path(path), type_, options))
    return mounts


def read_mounts(mountinfo: Path = MOUNTINFO) -> list[Mount]:
    """Mounts of this namespace, or of another process's."""
    return parse_mountinfo(mountinfo.read_text(encoding="utf-8"))


def listed(path: Path, type_: str, mounts: list[Mount]) -> bool:
    """Whether the uppermost mount at ``path`` itself is of this type; one above it may hide it."""
    return next((mount.type for mount in reversed(mounts) if mount.path == path), "") == type_


def is_mounted(path: Path, type_: str) -> bool:
    """Whether a file system of this type is mounted at ``path`` itself, and can be reached."""
    return path.is_mount() and listed(path, type_, read_mounts())


def filesystem_of(path: Path, mounts: list[Mount] | None = None) -> str:
    """Type of the file system that holds ``path``, which need not exist."""
    path = path.resolve()
    found = ""
    longest = -1
    for mount in read_mounts() if mounts is None else mounts:
        depth = len(mount.path.parts)
        if depth >= longest and path.is_relative_to(mount.path):
            found, longest = mount.type, depth
    return found


def find_cgroup(wanted: Path | None, mounts: list[Mount] | None = None) -> Path:
    """Check the cgroup v2 folder that was asked for, or find the root of the tree. Raises ConfigError."""
    if wanted is None and mounts is None and is_mounted(OWN_CGROUP, "cgroup2"):
        return OWN_CGROUP
    mounts = read_mounts() if mounts is None else mounts
    if wanted is not None:
        if not wanted.is_dir():
            raise ConfigError(f"cgroup {wanted}: no such folder: give the path of a cgroup v2 folder")
        if filesystem_of(wanted, mounts) != "cgroup2":
            raise ConfigError(f"cgroup {wanted}: not cgroup v2: give a folder below a cgroup2 mount")
        return wanted
    roots = [mount.path for mount in mounts if mount.type == "cgroup2"]
    if not roots:
        raise ConfigError("cgroup v2 is not mounted: run `netaccel mounts`, or mount -t cgroup2 none DIR")
    return min(roots, key=lambda path: len(path.parts))


def find_bpffs(wanted: Path | None) -> Path:
    """The folder that was asked for, else our own where it is mounted, else the usual one. No check."""
    if wanted is not None:
        return wanted
    return OWN_BPFFS if is_mounted(OWN_BPFFS, "bpf") else USUAL_BPFFS


def check_bpffs(path: Path, mounts: list[Mount] | None = None) -> None:
    """Raise ConfigError unless ``path`` is a folder of a bpf file system."""
    if not path.is_dir():
        raise ConfigError(f"bpffs {path}: no such folder: mount -t bpf bpf {path}, or give --bpffs")
    if filesystem_of(path, mounts) != "bpf":
        raise ConfigError(f"bpffs {path}: not a bpf file system: mount -t bpf bpf {path}, or give --bpffs")
