# SPDX-License-Identifier: Apache-2.0
"""``up`` and ``down``: a whole cluster, or none of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from netaccel.cluster import binaries, dns, groups, images, install, network, node, pki, proxies, runtime
from netaccel.cluster.control import PROGRAMS, Control
from netaccel.cluster.node import Credentials, Programs, last_line
from netaccel.cluster.plan import CONTROL_PLANE, DISKS, RUN, Plan, make_plan
from netaccel.cluster.settings import MODES
from netaccel.cluster.state import State, locked, read_state, write_state
from netaccel.datapath import libbpf
from netaccel.datapath.mounts import filesystem_of
from netaccel.errors import LabError
from netaccel.lab.lock import remove_empty
from netaccel.lab.plan import NodePlan, check_name
from netaccel.lab.shell import require_root_and_tools

Say = Callable[[str], None]
READY_SECONDS = 180
"""How long nodes and pods may take: seconds on an idle machine; much may run beside it."""


class Progress:
    """Says what is done, with seconds since the start."""

    def __init__(self, say: Say) -> None:
        self._say, self._started = say, time.monotonic()

    def __call__(self, line: str) -> None:
        """Say a line."""
        self._say(f"{self.seconds:6.1f} s  {line}")

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started


def up(state: State, say: Say, *, keep: bool = False) -> None:
    """Bring a cluster up: nodes Ready, DNS served, its proxy at work.

    One that is up already stays as it is; one that is half there is taken down first. Raises LabError;
    nothing is left then, unless ``keep``.
    """
    require_root_and_tools()
    plan = state.plan()
    proxies.check(state.proxy)
    if state.proxy == proxies.NETACCEL:
        install.check_overlay(Path(state.overlay))
    for image in state.images:
        install.check_image(Path(image))
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
        except BaseException as error:
            if not keep:
                _remove(state.name)
            if isinstance(error, OSError):
                raise LabError(f"cluster {state.name}: {error}") from error
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


def names() -> list[str]:
    """Names of all clusters of which anything is there."""
    folders = [p.name for where in (RUN, DISKS) if where.is_dir() for p in where.iterdir() if p.is_dir()]
    return sorted({*folders, *groups.names()})


def find_programs(say: Say = lambda _: None) -> Programs:
    """Find, fetch or build all that a cluster runs. Raises LabError."""
    return Programs(binaries.find_or_build(binaries.ALL, say), runtime.find_or_fetch(say))


def standard_files(programs: Programs, say: Say = lambda _: None) -> list[Path]:
    """Return the files of the images that every node has. Raises LabError."""
    return images.archives(images.standard(programs.binaries), say)


def missing(state: State) -> list[str]:
    """Name what should run and doesn't: nodes, and programs of the control plane."""
    off = [which.name for which in state.plan().nodes if not groups.init_pid(state.name, which.name)]
    group = groups.root(state.name) / CONTROL_PLANE
    return off + [name for name in PROGRAMS if not groups.named(group, name)]


def _build(state: State, plan: Plan, programs: Programs, say: Progress) -> None:
    files = [*standard_files(programs, say), *map(Path, state.images)]
    for folder in (plan.logs, plan.bpffs, plan.control_plane_disk):
        folder.mkdir(parents=True)
    write_state(state)
    libbpf.mount("bpf", str(plan.bpffs), "bpf")
    network.build(plan)
    control = Control(plan, programs.binaries)
    for which in plan.nodes:
        node.prepare_disk(plan, which, programs, _credentials(control, which), images.PAUSE)
        node.start(plan, which, programs, files)
    say(f"{len(plan.nodes)} nodes started; each imports {len(files)} images")
    control.start()
    say("API server ready")
    control.kubectl("apply", "-f", "-", stdin=dns.manifest())
    for which in plan.nodes:
        _wait_node(control, plan, which, files)
    say("nodes Ready")
    if state.proxy in MODES:
        for which in plan.nodes:
            proxies.start(plan, which, programs, state.proxy)
        say(f"{state.proxy} started")
    if state.proxy == proxies.NETACCEL:
        install.apply(plan, control, Path(state.overlay), READY_SECONDS)
        say("netaccel ready on every node")
    _wait_dns(control)
    say("cluster DNS ready")


def _wait_node(control: Control, plan: Plan, which: NodePlan, files: list[Path]) -> None:
    node.await_on(plan, which, READY_SECONDS)
    logs = plan.node_disk(which) / "var/log"
    limit = f"--timeout={READY_SECONDS}s"
    for what in ("create", "condition=Ready"):  # kubectl waits for the creation of one object only
        words = ("wait", f"--for={what}", limit, f"node/{which.name}")
        try:
            control.kubectl(*words, timeout=READY_SECONDS + 10)
        except LabError as error:
            said = last_line(logs / "kubelet.log")
            raise LabError(f"{which.name} is not Ready: {error}; its kubelet said: {said}") from error
    if lacking := node.not_imported(plan, which, files):
        raise LabError(f"{which.name} can't import {', '.join(lacking)}: {last_line(logs / 'import.log')}")


def _wait_dns(control: Control) -> None:
    limit = f"--timeout={READY_SECONDS}s"
    words = ("-n", "kube-system", "rollout", "status", "deployment/coredns", limit)
    control.kubectl(*words, timeout=READY_SECONDS + 10)


def _credentials(control: Control, which: NodePlan) -> Credentials:
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
    if off := missing(state):
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
