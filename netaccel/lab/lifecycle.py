# SPDX-License-Identifier: Apache-2.0
"""``up`` and ``down``: a whole lab, or none of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from netaccel.datapath import libbpf
from netaccel.datapath.cgroup import processes
from netaccel.datapath.mounts import filesystem_of
from netaccel.errors import LabError
from netaccel.lab import cgroups, topology
from netaccel.lab.plan import RUN, Paths, Plan, check_name, paths
from netaccel.lab.process import Place, environment
from netaccel.lab.shell import require_root_and_tools
from netaccel.lab.state import State, locked, read_state, read_status, write_state

Say = Callable[[str], None]
_POLL = 0.05


def up(
    state: State, say: Say, *, timeout: float = 60.0, prepare: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Bring a lab up and wait until all of it is ready; return its status.

    One that is up already stays as it is; one that is half there is taken down first. ``prepare``
    is called once the lab's folders are there and before anything reads them. Raises LabError.
    """
    require_root_and_tools()
    check_name(state.name)
    with locked(state.name):
        where = paths(state.name)
        missing = _missing(where, state)
        if missing is None:
            say(f"lab {state.name} is up already")
            return read_status(where)
        if missing:
            say(f"lab {state.name} is half there ({missing}): mending it by building it anew")
            _remove(where, state.name)
        try:
            _build(where, state, prepare)
        except OSError as error:
            _remove(where, state.name)
            raise LabError(f"lab {state.name}: {error}") from error
        except BaseException:
            _remove(where, state.name)
            raise
    return wait_ready(state.name, timeout)


def down(name: str, say: Say) -> bool:
    """Take down whatever is there of a lab; return whether anything was. Raises LabError."""
    require_root_and_tools()
    check_name(name)
    with locked(name):
        where = paths(name)
        found = where.root.exists() or cgroups.lab_root(name).exists() or bool(topology.existing(name))
        _remove(where, name)
    say(f"lab {name} is down" if found else f"there is no lab {name}")
    return found


def names() -> list[str]:
    """Names of all labs of which anything is there."""
    folders = [p.name for p in RUN.iterdir() if p.is_dir()] if RUN.is_dir() else []
    return sorted({*folders, *topology.labs()})


def is_running(name: str) -> bool:
    """Whether the lab's controller lives."""
    return bool(processes(cgroups.controller(name)))


def wait_ready(name: str, timeout: float) -> dict[str, Any]:
    """Wait until pods and agents are ready and return the status. Raises LabError saying what isn't."""
    where = paths(name)
    deadline = time.monotonic() + timeout
    while True:
        status = read_status(where)
        waiting = unready(status) if status else ["the controller"]
        if not waiting:
            return status
        if time.monotonic() > deadline:
            raise LabError(f"lab {name}: not ready after {timeout:g} s: {'; '.join(waiting)}")
        if not is_running(name):
            raise LabError(f"lab {name}: its controller died, see {where.logs}/controller.log")
        time.sleep(_POLL)


def unready(status: dict[str, Any]) -> list[str]:
    """Name what isn't ready, and why."""
    pods = [
        f"pod {p['namespace']}/{p['name']} ({p['message'] or 'starting'})"
        for p in status["pods"]
        if not p["ready"] and not p["ended"]
    ]
    agents = [
        f"agent of {n['name']} ({n['agent']['message']}, log {n['agent']['log']})"
        for n in status["nodes"]
        if n["agent"] and not n["agent"]["ready"]
    ]
    return pods + agents


def _build(where: Paths, state: State, prepare: Callable[[], None] | None) -> None:
    plan = state.plan()
    for folder in (where.logs, where.rendered, where.bpffs, where.manifests):
        folder.mkdir(parents=True, exist_ok=True)
    write_state(where, state)
    libbpf.mount("bpf", str(where.bpffs), "bpf")
    for folder in (where.far_end, *(where.bpffs / node.name for node in plan.nodes)):
        folder.mkdir()
    for node in plan.nodes:
        cgroups.host(plan.name, node.name).mkdir(parents=True)
    cgroups.client(plan.name).mkdir()
    cgroups.controller(plan.name).mkdir()
    topology.build(plan, where.far_end)
    if prepare:
        prepare()
    _start_controller(where, plan)


def _start_controller(where: Paths, plan: Plan) -> None:
    """Start the controller as nobody's child: it outlives this process."""
    command = [sys.executable, "-m", "netaccel.lab.controller", plan.name]
    apart = ["sh", "-c", '"$@" &', "sh", *command]
    with (where.logs / "controller.log").open("ab") as log:
        subprocess.run(
            Place(cgroups.controller(plan.name)).command(apart),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(),
            start_new_session=True,
            check=True,
        )


def _missing(where: Paths, wanted: State) -> str | None:
    """Say what a half-made lab lacks; "" where there is none at all, None where it is whole."""
    there = topology.existing(wanted.name)
    if not there and not where.root.exists() and not cgroups.lab_root(wanted.name).exists():
        return ""
    state = read_state(where) if where.state.exists() else None
    if state is None:
        return "no state"
    if not is_running(wanted.name):
        return "no controller"
    lacking = [name for name in state.plan().namespaces() if name not in there]
    if lacking:
        return f"no {', '.join(lacking)}"
    if state != wanted:
        raise LabError(
            f"lab {wanted.name} is up with other arguments ({_difference(state, wanted)}):"
            f" `netaccel lab down --name {wanted.name}` first, or give --name"
        )
    return None


def _difference(state: State, wanted: State) -> str:
    return ", ".join(
        f"{name} {getattr(state, name)}"
        for name in State.__dataclass_fields__
        if getattr(state, name) != getattr(wanted, name)
    )


def _remove(where: Paths, name: str) -> None:
    """Remove all of a lab, in an order in which nothing comes back; whatever is absent is fine."""
    root = cgroups.lab_root(name)
    cgroups.kill(cgroups.controller(name))
    cgroups.kill(root)
    _unmount(where.bpffs)
    topology.remove(name)
    cgroups.remove(root)
    if where.root.exists():
        try:
            shutil.rmtree(where.root)
        except OSError as error:
            raise LabError(
                f"{error.filename}: {error.strerror}: unmount it wherever it is mounted, then try again"
            ) from error


def _unmount(path: Path) -> None:
    """Unmount; its pins go with it, and the links they held."""
    while path.is_dir() and os.path.ismount(path) and filesystem_of(path) == "bpf":
        libbpf.unmount(str(path))
