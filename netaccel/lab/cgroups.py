# SPDX-License-Identifier: Apache-2.0
"""A lab's cgroup v2 subtree: ``netaccel-lab-NAME/{controller, NODE/{host, pods/NAMESPACE_NAME}}``.

Programs of a node are attached to ``NODE``. All that a lab runs is in its subtree, and only that is
ever killed.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from netaccel.datapath.cgroup import processes
from netaccel.datapath.mounts import find_cgroup
from netaccel.errors import LabError
from netaccel.lab.plan import pod_label

_KILL_SECONDS = 30.0


def lab_root(lab: str) -> Path:
    """Top of a lab's subtree."""
    return find_cgroup(None) / f"netaccel-lab-{lab}"


def controller(lab: str) -> Path:
    """Where the controller runs."""
    return lab_root(lab) / "controller"


def node(lab: str, name: str) -> Path:
    """Where a node's programs are attached."""
    return lab_root(lab) / name


def host(lab: str, name: str) -> Path:
    """Where a node's own processes run."""
    return node(lab, name) / "host"


def client(lab: str) -> Path:
    """Where processes outside of nodes run."""
    return lab_root(lab) / "outside"


def pod(lab: str, node_name: str, pod_ns: str, pod_name: str) -> Path:
    """Where a pod's processes run."""
    return node(lab, node_name) / "pods" / pod_label(pod_ns, pod_name)


def kill(group: Path) -> None:
    """Kill everything in the group and below, and wait for it. Raises LabError when something stays."""
    if not group.is_dir():
        return
    deadline = time.monotonic() + _KILL_SECONDS
    while processes(group):
        try:
            (group / "cgroup.kill").write_text("1", encoding="ascii")
        except FileNotFoundError:  # kernels before 5.14
            for pid in processes(group):
                _kill(pid)
        if time.monotonic() > deadline:
            raise LabError(f"processes in {group} don't die: {processes(group)}")
        time.sleep(0.01)


def remove(group: Path) -> None:
    """Remove a group and those below; what runs there must be dead. An absent one is fine."""
    deadline = time.monotonic() + _KILL_SECONDS
    for folder, _, _ in list(os.walk(group, topdown=False)):
        while True:
            try:
                Path(folder).rmdir()
            except FileNotFoundError:
                break
            except OSError as error:  # EBUSY until the last process is reaped
                if time.monotonic() > deadline:
                    raise LabError(f"cgroup {folder} can't be removed: {error.strerror}") from error
                time.sleep(0.01)
            else:
                break


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
