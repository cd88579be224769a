# SPDX-License-Identifier: Apache-2.0
"""A node: its disk, its first process, and commands in it.

The first process (`init`) has net, mount, PID, UTS, IPC and cgroup namespaces of its own and is in the node's
group of every cgroup hierarchy. Whatever the node runs is below it; killing that group is switching it off.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import netaccel
from netaccel.cluster import groups, network, settings
from netaccel.cluster.binaries import Binaries
from netaccel.cluster.init import IMPORTED, Boot
from netaccel.cluster.pki import Pair
from netaccel.cluster.plan import API_PORT, Plan
from netaccel.cluster.runtime import Runtime
from netaccel.errors import LabError
from netaccel.lab.plan import ROUTER4, NodePlan
from netaccel.lab.process import Place
from netaccel.lab.shell import namespace_path

_BEGIN_SECONDS = 10.0
_POLL = 0.05
_SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_JOIN_ALL = 'while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs" || exit; shift; done; shift; exec "$@"'
_MOVE = 'echo 0 >"$0/cgroup.procs" && exec "$@"'
_NAMESPACES = ("--mount", "--uts", "--ipc", "--pid")
_VAR = ("lib/kubelet", "lib/containerd", "lib/cni", "log/pods", "cache", "tmp")


@dataclass(frozen=True, slots=True)
class Programs:
    """What nodes run."""

    binaries: Binaries
    runtime: Runtime

    @property
    def path(self) -> str:
        """PATH within a node."""
        folders = dict.fromkeys(str(path.parent) for path in self.binaries.paths.values())
        python = str(Path(sys.executable).parent)
        return ":".join((self.runtime.path, *folders, python, _SYSTEM))


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who a node is: files that are copied to its disk."""

    ca: Path
    serving: Pair
    kubelet: Path
    kube_proxy: Path


def prepare_disk(plan: Plan, node: NodePlan, programs: Programs, who: Credentials, pause: str) -> None:
    """Write all that a node's programs read to its disk. Again is allowed."""
    disk = plan.node_disk(node)
    for name in ("etc", "etc-work", *(f"var/{part}" for part in _VAR)):
        (disk / name).mkdir(parents=True, exist_ok=True)
    (disk / "var/tmp").chmod(0o1777)
    for link in ("run", "lock"):
        _link(disk / "var" / link, f"/run{'/lock' if link == 'lock' else ''}")
    files = {
        settings.KUBELET: settings.kubelet(node),
        settings.CONTAINERD: settings.containerd(programs.runtime, pause),
        settings.CNI / "10-pods.conflist": settings.cni(node),
        **{
            settings.kube_proxy_file(p): settings.kube_proxy(node, mode) for p, mode in settings.MODES.items()
        },
        Path("/etc/hosts"): settings.hosts(node),
        Path("/etc/hostname"): f"{node.name}\n",
        Path("/etc/machine-id"): hashlib.sha256(node.namespace.encode()).hexdigest()[:32] + "\n",
        Path("/etc/resolv.conf"): "",
    }
    for path, text in files.items():
        _write(disk, path, text.encode())
    copies = {
        settings.PKI / "ca.crt": who.ca,
        settings.PKI / "kubelet.crt": who.serving.certificate,
        settings.PKI / "kubelet.key": who.serving.key,
        settings.KUBELET_USER: who.kubelet,
        settings.KUBE_PROXY_USER: who.kube_proxy,
    }
    for path, source in copies.items():
        _write(disk, path, source.read_bytes(), 0o600)


def start(plan: Plan, node: NodePlan, programs: Programs, images: Sequence[Path]) -> None:
    """Make a node's network and groups and switch it on; it is nobody's child. Raises LabError."""
    network.build_node(plan, node)
    joined = groups.make_node(plan.name, node.name)
    plan.logs.mkdir(parents=True, exist_ok=True)
    init = [sys.executable, "-m", "netaccel.cluster.init", _boot(plan, node, programs, images).text()]
    command = launch(node, joined, groups.leaf(plan.name, node.name), init)
    start_apart(command, plan.logs / f"{node.name}.log", environment(node, programs))


def is_on(plan: Plan, node: NodePlan) -> bool:
    """Whether a node's first process has made the node's own files, and containerd answers."""
    pid = groups.init_pid(plan.name, node.name)
    return pid > 0 and Path(f"/proc/{pid}/root{settings.CONTAINERD_SOCKET}").exists()


def launch(node: NodePlan, joined: Sequence[Path], leaf: Path | None, init: Sequence[str]) -> list[str]:
    """Return the command that starts ``init`` in namespaces and the groups ``joined`` of its own.

    What it is in when it leaves the machine's cgroup namespace is the root of the new one; on a unified
    machine it then moves to ``leaf``: a group that hands controllers down may hold no process
    (cgroup-v2.rst, "No Internal Process Constraint").
    """
    return [
        *("sh", "-c", _JOIN_ALL, "sh", *map(str, joined), "--"),
        *("nsenter", f"--net={namespace_path(node.namespace)}", "--"),
        *("unshare", "--cgroup", "--"),
        *(("sh", "-c", _MOVE, str(leaf)) if leaf else ()),
        *("unshare", *_NAMESPACES, "--fork", "--kill-child", "--", *init),
    ]


def stop(plan: Plan, node: NodePlan) -> None:
    """Switch a node off: at once, as by its plug. What is absent is fine. Raises LabError."""
    groups.kill(plan.name, node.name)
    groups.remove(plan.name, node.name)
    network.remove_node(plan, node)


def await_on(plan: Plan, node: NodePlan, timeout: float) -> None:
    """Wait until a node is on. Raises LabError with the last it said where it ended, or isn't in time."""
    deadline = time.monotonic() + timeout
    ended = time.monotonic() + _BEGIN_SECONDS
    while not is_on(plan, node):
        now = time.monotonic()
        if now > deadline or (now > ended and not groups.init_pid(plan.name, node.name)):
            raise LabError(f"{node.name} did not start: {last_line(plan.logs / f'{node.name}.log')}")
        time.sleep(_POLL)


def last_line(log: Path) -> str:
    """The last thing that a program said."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "nothing")


def not_imported(plan: Plan, node: NodePlan, images: Sequence[Path]) -> list[str]:
    """Which of these files a node could not import; ``var/log/import.log`` on its disk says why."""
    done = plan.node_disk(node) / IMPORTED.relative_to("/")
    known = done.read_text(encoding="utf-8").splitlines() if done.exists() else []
    return [str(path) for path in images if str(path) not in known]


def start_apart(words: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
    """Start a command as nobody's child: it outlives this process, which never hears of it again."""
    with log.open("ab") as file:
        subprocess.run(
            ["sh", "-c", '"$@" &', "sh", *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd="/",
            env=dict(env),
            start_new_session=True,
            check=True,
        )


def environment(node: NodePlan, programs: Programs) -> dict[str, str]:
    """The environment of a node's processes; nothing of this one's."""
    return {
        "PATH": programs.path,
        "PYTHONPATH": str(Path(netaccel.__file__).parents[1]),
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "NODE_NAME": node.name,
    }


def command(plan: Plan, node: NodePlan, words: Sequence[str]) -> list[str]:
    """Return the command that runs ``words`` in a node that is on. Raises LabError."""
    pid = groups.init_pid(plan.name, node.name)
    if not pid:
        raise LabError(f"{node.name} is not running: `netaccel cluster node reboot {node.name}` starts it")
    enter = ["nsenter", f"--target={pid}", "--net", "--cgroup", *_NAMESPACES, "--wd=/", "--", *words]
    return Place(groups.joined(plan.name, node.name)).command(enter)


def run(
    plan: Plan,
    node: NodePlan,
    words: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout: float = 60,
    stdin: IO[bytes] | None = None,
) -> str:
    """Return what a command printed in a node. Raises LabError with its complaint."""
    try:
        done = subprocess.run(
            command(plan, node, words),
            stdin=stdin or subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=dict(env),
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{node.name}: {words[0]}: no end after {timeout:g} s") from error
    if done.returncode:
        complaint = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise LabError(f"{node.name}: {words[0]}: {complaint}")
    return done.stdout


def _boot(plan: Plan, node: NodePlan, programs: Programs, images: Sequence[Path]) -> Boot:
    kubelet = [
        str(programs.binaries.path("kubelet")),
        f"--config={settings.KUBELET}",
        f"--kubeconfig={settings.KUBELET_USER}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address4},{node.address6}",
        f"--node-labels=topology.kubernetes.io/zone={node.zone}",
        "--v=2",
    ]
    containerd = [str(programs.runtime.root / "usr/bin/containerd"), f"--config={settings.CONTAINERD}"]
    return Boot(
        hostname=node.name,
        disk=str(plan.node_disk(node)),
        hierarchies=[(str(h.path), h.options) for h in groups.hierarchies()],
        services={"containerd": containerd, "kubelet": kubelet},
        socket=str(settings.CONTAINERD_SOCKET),
        client=[str(programs.runtime.ctr), f"--address={settings.CONTAINERD_SOCKET}", *IMPORT],
        imports=[str(path) for path in images],
        api=(ROUTER4, API_PORT),
    )


IMPORT = ("--namespace=k8s.io", "images", "import")
"""How ctr is told to import for kubelet."""


def _link(path: Path, target: str) -> None:
    if not path.is_symlink():
        path.symlink_to(target)


def _write(disk: Path, path: Path, content: bytes, mode: int = 0o644) -> None:
    target = disk / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    target.write_bytes(content)
    target.chmod(mode)
