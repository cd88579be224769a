# SPDX-License-Identifier: Apache-2.0
"""PID 1 of a node: mounts what is the node's own, keeps containerd and kubelet running, and reaps.

Started in fresh mount, UTS, IPC, PID and cgroup namespaces and the node's network namespace, with a `Boot`
as its one argument. Only the standard library: one of these runs for each node, all the time.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

_RESTART_SECONDS = 1.0
_POLL = 0.05
_CONTAINERD_SECONDS = 30.0
_API_SECONDS = 20.0
_CGROUP = Path("/sys/fs/cgroup")
_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids")
_HELD = ("nsfs", "bpf", "cgroup", "cgroup2")
_LOGS = Path("/var/log")
IMPORTED = Path("/var/lib/containerd/imported")
"""Names the files of images that a node has, a line each."""
# kubelet wants these values and writes them if it must: here it finds them, and the machine keeps its own.
_SYSCTLS = {"vm/overcommit_memory": "1", "kernel/panic": "10", "kernel/panic_on_oops": "1"}


@dataclass(frozen=True, slots=True)
class Boot:
    """What a node's first process is told.

    ``hierarchies``: path and mount options of each v1 hierarchy; none where cgroup v2 is alone. ``services``:
    command lines by name, in the order in which they start. ``imports``: an image's file each. ``client``:
    the command that imports one. ``api``: address and port that the kubelet will ask.
    """

    hostname: str
    disk: str
    hierarchies: Sequence[tuple[str, str]]
    services: dict[str, list[str]]
    socket: str
    client: list[str]
    imports: list[str]
    api: tuple[str, int]

    def text(self) -> str:
        """Return it as an argument."""
        return json.dumps(asdict(self))


def main() -> None:
    """Be a node's PID 1; never returns."""
    boot = Boot(**json.loads(sys.argv[1]))
    socket.sethostname(boot.hostname)
    _mount_all(boot)
    running: dict[int, str] = {}
    for name, command in boot.services.items():
        if name == "kubelet":
            _await_containerd(boot)
            _import_images(boot)
            _await_api(boot)
        running[_start(name, command)] = name
    while True:
        pid, _ = os.waitpid(-1, 0)
        name = running.pop(pid, "")
        if name:
            time.sleep(_RESTART_SECONDS)
            running[_start(name, boot.services[name])] = name


def _mount_all(boot: Boot) -> None:
    disk = Path(boot.disk)
    _mount("--make-rprivate", "/")
    _mount("-t", "proc", "proc", "/proc")
    gone = surplus(Path("/proc/self/mountinfo").read_text(encoding="utf-8"), boot.disk)
    subprocess.run(["umount", "--lazy", *gone], stderr=subprocess.DEVNULL, check=False)
    _mount("-t", "sysfs", "sysfs", "/sys")
    _mount_cgroups(boot.hierarchies)
    _mount("-t", "bpf", "bpf", "/sys/fs/bpf")
    layers = f"lowerdir=/etc,upperdir={disk / 'etc'},workdir={disk / 'etc-work'}"
    _mount("-t", "overlay", "-o", layers, "overlay", "/etc")
    _mount("--bind", str(disk / "var"), "/var")
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    Path("/run/lock").mkdir()
    for name, value in _SYSCTLS.items():
        shown = Path("/run") / name.replace("/", ".")
        shown.write_text(f"{value}\n", encoding="ascii")
        _mount("--bind", str(shown), f"/proc/sys/{name}")
    _mount("--make-rshared", "/")


def surplus(mountinfo: str, disk: str) -> list[str]:
    """Which of the machine's mounts a node must not hold, the last first (proc_pid_mountinfo(5)).

    A namespace, a bpf file system or another program's overlay would live on here after it was unmounted
    outside. All below /run, /sys and /var goes, but what the node's disk is on.
    """
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        path = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), before.split()[4])
        ours = Path(disk).is_relative_to(path)
        below = any(Path(path) != Path(top) and Path(path).is_relative_to(top) for top in ("/run", "/var"))
        held = below or Path(path).is_relative_to("/sys") or after.split()[0] in _HELD
        if held and not ours:
            found.append(path)
    return found[::-1]


def _mount_cgroups(hierarchies: Sequence[tuple[str, str]]) -> None:
    """Mount the hierarchies as the cgroup namespace shows them: the node's group is their root.

    Where there are v1 hierarchies, v2 stays unmounted: runc would use it as well.
    """
    if not hierarchies:
        _mount("-t", "cgroup2", "cgroup2", str(_CGROUP))
        hand_down(_CGROUP)  # the node's own processes are in a leaf (`node.launch`)
        return
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(_CGROUP))
    for path, options in hierarchies:
        folder = _CGROUP / Path(path).name
        folder.mkdir()
        _mount("-t", "cgroup", "-o", options, "cgroup", str(folder))
        for alias in options.split(","):  # cpu and cpuacct are one hierarchy on many machines
            if len(options.split(",")) > 1 and alias != "none" and "=" not in alias:
                (_CGROUP / alias).symlink_to(folder.name)


def hand_down(group: Path) -> None:
    """Let the groups below a v2 group have what containers need of its controllers.

    One that the kernel refuses (as cpu, with real-time processes about) is left out: kubelet says which it
    can't do without.
    """
    there = (group / "cgroup.controllers").read_text(encoding="ascii").split()
    for controller in there:
        if controller in _CONTROLLERS:
            with suppress(OSError):
                (group / "cgroup.subtree_control").write_text(f"+{controller}", encoding="ascii")


def _await_containerd(boot: Boot) -> None:
    deadline = time.monotonic() + _CONTAINERD_SECONDS
    while not _answers(socket.AF_UNIX, boot.socket) and time.monotonic() < deadline:
        time.sleep(_POLL)


def _import_images(boot: Boot) -> None:
    """Import what the disk doesn't have yet; files are named by their content."""
    known = IMPORTED
    had = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
    for file in boot.imports:
        if file not in had:
            with (_LOGS / "import.log").open("ab") as log:
                done = subprocess.run([*boot.client, file], stdout=log, stderr=log, check=False)
            if done.returncode == 0:
                had.append(file)
    known.write_text("".join(f"{file}\n" for file in had), encoding="utf-8")


def _await_api(boot: Boot) -> None:
    """Spare kubelet its first refusals, after which it waits for long; without a server it starts too."""
    family = socket.AF_INET6 if ":" in boot.api[0] else socket.AF_INET
    deadline = time.monotonic() + _API_SECONDS
    while not _answers(family, tuple(boot.api)) and time.monotonic() < deadline:
        time.sleep(_POLL)


def _answers(family: int, address: object) -> bool:
    with socket.socket(family) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address)  # type: ignore[arg-type]
        except OSError:
            return False
        return True


def _start(name: str, command: list[str]) -> int:
    with (_LOGS / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log).pid


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


if __name__ == "__main__":
    main()
