# SPDX-License-Identifier: Apache-2.0
"""A cluster's cgroups: ``netaccel-cluster/NAME/{control-plane,client,NODE}`` in every hierarchy.

Two kinds of machine. *Unified*: cgroup v2 alone, at ``/sys/fs/cgroup``; a node's kubelet manages its
subtree. *Hybrid*: controllers in v1 hierarchies, and v2 without controllers beside them; kubelet and runc see
v1 only, and v2 carries BPF programs and tells whose a process is. Either way all that runs in a cluster is in
its v2 subtree, and only that is ever killed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from netaccel.cluster.init import hand_down
from netaccel.datapath.cgroup import processes
from netaccel.datapath.mounts import find_cgroup
from netaccel.errors import LabError
from netaccel.lab import cgroups
from netaccel.lab.lock import remove_empty

_TOP = "netaccel-cluster"
_POLL = 0.02
_KILL_SECONDS = 5.0
_MOUNTS = Path("/proc/self/mounts")
_CPUSET = ("cpuset.cpus", "cpuset.mems")
_NOT_A_CONTROLLER = {"rw", "ro", "relatime", "noatime", "nosuid", "nodev", "noexec", "seclabel"}
INIT = "init"
"""On a unified machine: the leaf of a node's own processes, since its root has children with controllers."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A v1 hierarchy: where it is mounted, and the options that mount it again (``cpu,cpuacct``)."""

    path: Path
    options: str


def hierarchies() -> list[Hierarchy]:
    """The machine's v1 hierarchies; none on a unified one."""
    return parse_hierarchies(_MOUNTS.read_text(encoding="utf-8"))


def parse_hierarchies(text: str) -> list[Hierarchy]:
    """Read lines of proc_mounts(5)."""
    found: dict[str, Hierarchy] = {}
    for line in text.splitlines():
        _, path, kind, options = line.split()[:4]
        if kind == "cgroup":
            kept = [o for o in options.split(",") if o not in _NOT_A_CONTROLLER and _selects(o)]
            mount = ",".join(["none", *kept] if any(o.startswith("name=") for o in kept) else kept)
            found.setdefault(mount, Hierarchy(Path(path), mount))
    return list(found.values())


def _selects(option: str) -> bool:
    """``clone_children``, ``release_agent=`` and ``xattr`` say how, not which."""
    return option.startswith("name=") or ("=" not in option and option not in ("clone_children", "xattr"))


def root(cluster: str) -> Path:
    """Top of a cluster's v2 subtree."""
    return find_cgroup(None) / _TOP / cluster


def outside(cluster: str, what: str) -> Path:
    """Where a process outside of nodes runs; made if need be."""
    found = root(cluster) / what
    found.mkdir(parents=True, exist_ok=True)
    return found


def node(cluster: str, name: str) -> Path:
    """A node's root, where netaccel's programs are attached."""
    return root(cluster) / name


def leaf(cluster: str, name: str) -> Path | None:
    """On a unified machine, where a node's own processes are; None where its root takes them."""
    return node(cluster, name) / INIT if _is_unified() else None


def joined(cluster: str, name: str) -> Path:
    """Where a further process of a node joins it."""
    return leaf(cluster, name) or node(cluster, name)


def make_node(cluster: str, name: str) -> list[Path]:
    """Make a node's group in every hierarchy; return the folders that its first process joins.

    Raises LabError.
    """
    try:
        return [_make_unified(cluster, name), *(_make(h, cluster, name) for h in hierarchies())]
    except OSError as error:
        raise LabError(
            f"cgroup {error.filename}: {error.strerror}: may this machine make cgroups?"
        ) from error


def kill(cluster: str, name: str = "") -> None:
    """Kill a node, or all that runs in the cluster. Raises LabError when something stays."""
    cgroups.kill(root(cluster) / name)


def remove(cluster: str, name: str = "") -> None:
    """Remove the groups of a node, or all of the cluster's; what ran there must be dead."""
    for top in (find_cgroup(None), *(h.path for h in hierarchies())):
        cgroups.remove(top / _TOP / cluster / name)
        if not name:
            remove_empty(top / _TOP)


def exists(cluster: str) -> bool:
    """Whether any group of the cluster is there."""
    tops = (find_cgroup(None), *(h.path for h in hierarchies()))
    return any((top / _TOP / cluster).exists() for top in tops)


def names() -> Iterator[str]:
    """Yield the clusters that have a group."""
    top = find_cgroup(None) / _TOP
    if top.is_dir():
        yield from (path.name for path in top.iterdir() if path.is_dir())


def init_pid(cluster: str, name: str) -> int:
    """Process id of a node's PID 1 as this process sees it, 0 where it doesn't run."""
    for pid in processes(node(cluster, name)):
        if _is_init(pid):
            return pid
    return 0


def named(group: Path, name: str) -> list[int]:
    """Process ids in the group and below of programs that were called by this name."""
    return [pid for pid in processes(group) if Path(_first_word(pid)).name == name]


def end(group: Path, name: str, grace: float = 10.0) -> None:
    """End programs of that name: SIGTERM, and SIGKILL after ``grace`` seconds. Raises LabError."""
    deadline = time.monotonic() + grace
    _signal(named(group, name), signal.SIGTERM if grace else signal.SIGKILL)
    while left := named(group, name):
        if time.monotonic() > deadline:
            _signal(left, signal.SIGKILL)
        if time.monotonic() > deadline + _KILL_SECONDS:
            raise LabError(f"{name} doesn't die: {left}")
        time.sleep(_POLL)


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _first_word(pid: int) -> str:
    """How a process was called; "" for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _is_init(pid: int) -> bool:
    """One level below this process, and the first there: containers' first processes are two below."""
    inner, own = _levels(str(pid)), _levels("self")
    return len(inner) == len(own) + 1 and inner[-1] == "1"


def _levels(pid: str) -> list[str]:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])


def _make_unified(cluster: str, name: str) -> Path:
    """Make the v2 group; where v2 has the controllers, hand them down to it (cgroup-v2.rst, top-down)."""
    made = node(cluster, name)
    made.mkdir(parents=True, exist_ok=True)
    if _is_unified():
        (made / INIT).mkdir(exist_ok=True)
        for folder in (find_cgroup(None), root(cluster).parent, root(cluster)):
            hand_down(folder)
    return made


def _is_unified() -> bool:
    return not hierarchies()


def _make(hierarchy: Hierarchy, cluster: str, name: str) -> Path:
    """Make a v1 group; a cpuset takes nobody before it has CPUs and memory (cpusets(7))."""
    path = hierarchy.path
    for part in (_TOP, cluster, name):
        above, path = path, path / part
        path.mkdir(exist_ok=True)
        if "cpuset" in hierarchy.options.split(","):
            for file in _CPUSET:
                (path / file).write_bytes((above / file).read_bytes())
    return path
