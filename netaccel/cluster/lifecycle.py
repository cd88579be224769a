# SPDX-License-Identifier: Apache-2.0
"""``up`` and ``down``: a whole cluster, or none of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from netaccel.cluster import binaries, dns, groups, images, network, node, pki, proxies, runtime
from netaccel.cluster.binaries import Binaries
from netaccel.cluster.control import PROGRAMS, Control
from netaccel.cluster.node import Credentials, Programs
from netaccel.cluster.plan import DISKS, Plan, check_name, make_plan
from netaccel.cluster.state import State, locked, read_state, remove_empty, write_state
from netaccel.datapath import libbpf
from netaccel.datapath.mounts import filesystem_of
from netaccel.errors import LabError
from netaccel.lab.plan import NodePlan
from netaccel.lab.shell import require_root_and_tools

Say = Callable[[str], None]
_READY_SECONDS = 120


class Progress:
    """Says what is done, with seconds since the start."""

    def __init__(self, say: Say) -> None:
        self._say, self._started = say, time.monotonic()

    def __call__(self, line: str) -> None:
        self._say(f"{self.seconds:6.1f} s  {line}")

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started


def up(state: State, say: Say) -> None:
    """Bring a cluster up: nodes Ready, DNS answering, and its proxy. Raises LabError; nothing is left then.

    One that is up already stays as it is; one that is half there is taken down first.
    """
    require_root_and_tools()
    plan = state.plan()
    proxies.check(state.proxy)
    with locked(state.name):
        missing = _missing(state)
        if missing is None:
            say(f"cluster {state.name} is up already")
            return
        if missing:
            say(f"cluster {state.name} is half there ({missing}): building it anew")
            _remove(state.name)
        progress = Progress(say)
        programs = find_programs(progress)
        try:
            _build(state, plan, programs, progress)
        except OSError as error:
            _remove(state.name)
            raise LabError(f"cluster {state.name}: {error}") from error
        except BaseException:
            _remove(state.name)
            raise


def down(name: str, say: Say) -> bool:
    """Take down whatever is there of a cluster; return whether anything was. Raises LabError."""
    require_root_and_tools()
    check_name(name)
    with locked(name):
        found = _is_there(name)
        _remove(name)
    say(f"cluster {name} is down" if found else f"there is no cluster {name}")
    return found


def find_programs(say: Say = lambda _: None) -> Programs:
    """Find, fetch or build all that a cluster runs. Raises LabError."""
    return Programs(binaries.find_or_build(binaries.ALL, say), runtime.find_or_fetch(say))


def start_node(plan: Plan, which: NodePlan, programs: Programs, files: list[Path]) -> None:
    """Switch a node on."""
    node.start(plan, which, programs, files)


def wait_nodes(control: Control, names: list[str], timeout: int = _READY_SECONDS) -> None:
    """Wait until nodes are Ready. Raises LabError."""
    objects = [f"node/{name}" for name in names]
    limit = f"--timeout={timeout}s"
    control.kubectl("wait", "--for=create", limit, *objects, timeout=timeout + 10)
    control.kubectl("wait", "--for=condition=Ready", limit, *objects, timeout=timeout + 10)


def _build(state: State, plan: Plan, programs: Programs, say: Progress) -> None:
    files = images.archives(images.standard(programs.binaries), say)
    for folder in (plan.logs, plan.bpffs, plan.control_plane_disk):
        folder.mkdir(parents=True)
    write_state(state)
    libbpf.mount("bpf", str(plan.bpffs), "bpf")
    network.build(plan)
    control = Control(plan, programs.binaries)
    for which in plan.nodes:
        node.prepare_disk(plan, which, programs, credentials(control, which), images.PAUSE)
        node.start(plan, which, programs, files)
    say(f"{len(plan.nodes)} nodes started; they import {len(files)} images")
    control.start()
    say("API server ready")
    control.kubectl("apply", "-f", "-", stdin=dns.manifest())
    wait_nodes(control, [which.name for which in plan.nodes])
    say("nodes Ready")
    if state.proxy in proxies.settings.MODES:
        for which in plan.nodes:
            proxies.start(plan, which, programs, state.proxy)
    limit = f"--timeout={_READY_SECONDS}s"
    control.kubectl("-n", "kube-system", "rollout", "status", "deployment/coredns", limit, timeout=130)
    say("cluster DNS ready")


def credentials(control: Control, which: NodePlan) -> Credentials:
    """Issue what a node shows to the API server, and what it serves with."""
    who = pki.node(which.name, (which.address4, which.address6))
    return Credentials(
        ca=control.pki.ca,
        serving=control.pki.pair(f"{which.name}-serving", who),
        kubelet=control.kubeconfig(who),
        kube_proxy=control.kubeconfig(pki.KUBE_PROXY),
    )


def _is_there(name: str) -> bool:
    plan = make_plan(name)
    return any((plan.run.exists(), plan.disk.exists(), groups.exists(name), network.existing(name)))


def _missing(wanted: State) -> str | None:
    """Say what a half-made cluster lacks; "" where there is none at all, None where it is whole."""
    if not _is_there(wanted.name):
        return ""
    state = read_state(wanted.name)
    if state is None:
        return "no state"
    plan = state.plan()
    off = [which.name for which in plan.nodes if not groups.init_pid(plan.name, which.name)]
    group = groups.outside(plan.name, "control-plane")
    off += [name for name in PROGRAMS if not groups.named(group, name)]
    if off:
        return f"no {', '.join(off)}"
    if state != wanted:
        raise LabError(
            f"cluster {wanted.name} is up with other arguments: `netaccel cluster down` first, or give --name"
        )
    return None


def _remove(name: str) -> None:
    """Remove all of a cluster; whatever is absent is fine. Raises LabError."""
    plan = make_plan(name)
    groups.kill(name)
    while plan.bpffs.is_dir() and plan.bpffs.is_mount() and filesystem_of(plan.bpffs) == "bpf":
        libbpf.unmount(str(plan.bpffs))
    network.remove(name)
    groups.remove(name)
    for folder in (plan.disk, plan.run):
        if folder.exists():
            try:
                shutil.rmtree(folder)
            except OSError as error:
                raise LabError(f"{error.filename}: {error.strerror}: can't be removed; try again") from error
    remove_empty(DISKS, DISKS.parent)
