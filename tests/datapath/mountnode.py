# SPDX-License-Identifier: Apache-2.0
"""Runs as the first process of a node of its own: tries ``netaccel mounts`` there from two sorts of pods.

``mountnode.py CGROUP [usual]``: this process is in CGROUP, the root of its cgroup namespace, and in mount and
pid namespaces of its own. ``usual``: the node has a bpf file system at /sys/fs/bpf. Prints what was seen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from netaccel.datapath import libbpf
from netaccel.datapath.mounts import OWN, read_mounts

MS_REC, MS_PRIVATE, MS_SHARED = 0x4000, 0x40000, 0x100000


def become_node(usual: bool) -> None:
    libbpf.mount("none", "/", "none", MS_REC | MS_PRIVATE)
    libbpf.mount("proc", "/proc", "proc")
    libbpf.mount("tmpfs", "/run", "tmpfs")
    if usual:
        libbpf.mount("bpf", "/sys/fs/bpf", "bpf")
    OWN.mkdir()
    libbpf.mount("none", "/", "none", MS_REC | MS_SHARED)


def in_pod(group: Path, *arguments: str, propagation: str = "unchanged") -> dict[str, object]:
    """Run the command as a container would: cgroup and mount namespaces of its own."""
    command = ["unshare", "--mount", "--cgroup", f"--propagation={propagation}"]
    command += [sys.executable, "-m", "netaccel", *arguments]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: (group / "cgroup.procs").write_text("0") and None,
    )
    return {"status": done.returncode, "said": done.stdout + done.stderr}


def own_mounts() -> dict[str, str]:
    return {mount.path.name: mount.type for mount in read_mounts() if mount.path.parent == OWN}


def main(cgroup: Path, usual: bool) -> dict[str, object]:
    pod = cgroup / "pod"
    pod.mkdir()
    become_node(usual)
    seen: dict[str, object] = {"private": in_pod(pod, "mounts", propagation="private")}
    seen["first"] = in_pod(pod, "mounts", "-o", "json")
    seen["again"] = in_pod(pod, "mounts", "-o", "json")
    seen["mounts"] = own_mounts()
    seen["sees"] = sorted(path.name for path in (OWN / "cgroup").iterdir() if path.is_dir())
    seen["found"] = in_pod(pod, "doctor", "-o", "json")
    if usual:
        (OWN / "bpf/note").symlink_to("x")
        seen["same"] = os.path.islink("/sys/fs/bpf/note")  # noqa: PTH114
        (OWN / "bpf/note").unlink()
    seen["detach"] = in_pod(pod, "detach", "-o", "json")
    seen["after"] = own_mounts()
    seen["folder"] = OWN.exists()
    pod.rmdir()
    return seen


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2:] == ["usual"])))
