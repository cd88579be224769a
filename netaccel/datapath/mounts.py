# SPDX-License-Identifier: Apache-2.0
"""Where this mount namespace has its cgroup v2 tree and its bpf file systems (proc_pid_mountinfo(5))."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from netaccel.errors import ConfigError

MOUNTINFO = Path("/proc/self/mountinfo")


class Mount(NamedTuple):
    """A mount point and its file system's type."""

    path: Path
    type: str


def parse_mountinfo(text: str) -> list[Mount]:
    """Read mountinfo's lines; later mounts hide earlier ones at the same place."""
    mounts = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        path = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), before.split()[4])
        mounts.append(Mount(Path(path), after.split()[0]))
    return mounts


def _mounts() -> list[Mount]:
    return parse_mountinfo(MOUNTINFO.read_text(encoding="utf-8"))


def filesystem_of(path: Path, mounts: list[Mount] | None = None) -> str:
    """Type of the file system that holds ``path``, which need not exist."""
    path = path.resolve()
    found = ""
    longest = -1
    for mount in _mounts() if mounts is None else mounts:
        depth = len(mount.path.parts)
        if depth >= longest and path.is_relative_to(mount.path):
            found, longest = mount.type, depth
    return found


def find_cgroup(wanted: Path | None, mounts: list[Mount] | None = None) -> Path:
    """Check the cgroup v2 folder that was asked for, or find the root of the tree. Raises ConfigError."""
    mounts = _mounts() if mounts is None else mounts
    if wanted is not None:
        if not wanted.is_dir():
            raise ConfigError(f"cgroup {wanted}: no such folder: give the path of a cgroup v2 folder")
        if filesystem_of(wanted, mounts) != "cgroup2":
            raise ConfigError(f"cgroup {wanted}: not cgroup v2: give a folder below a cgroup2 mount")
        return wanted
    roots = [mount.path for mount in mounts if mount.type == "cgroup2"]
    if not roots:
        raise ConfigError("cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")
    return min(roots, key=lambda path: len(path.parts))


def check_bpffs(path: Path, mounts: list[Mount] | None = None) -> None:
    """Raise ConfigError unless ``path`` is a folder of a bpf file system."""
    if not path.is_dir():
        raise ConfigError(f"bpffs {path}: no such folder: mount -t bpf bpf {path}, or give --bpffs")
    if filesystem_of(path, mounts) != "bpf":
        raise ConfigError(f"bpffs {path}: not a bpf file system: mount -t bpf bpf {path}, or give --bpffs")
