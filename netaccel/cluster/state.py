# SPDX-License-Identifier: Apache-2.0
"""What a cluster remembers: its arguments; and the lock of ``up``, ``down`` and all that changes it."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from netaccel.cluster.plan import RUN, Plan, make_plan
from netaccel.errors import LabError
from netaccel.lab.documents import replace


@dataclass(frozen=True)
class State:
    """The arguments of ``cluster up``. ``images``: files to import beside the standard ones.

    ``overlay``: the kustomization that installs netaccel, where that is the proxy.
    """

    name: str
    nodes: int = 2
    proxy: str = "none"
    images: tuple[str, ...] = ()
    overlay: str = ""

    def plan(self) -> Plan:
        """Return the cluster's plan."""
        return make_plan(self.name, self.nodes)


def write_state(state: State) -> None:
    """Remember the arguments: the cluster is up from now on."""
    replace(_path(state.name), json.dumps(asdict(state), indent=1).encode())


def read_state(name: str) -> State | None:
    """Return the arguments of a cluster that is up, None where there is none. Raises LabError."""
    path = _path(name)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return State(**{**found, "images": tuple(found["images"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise LabError(f"{path}: not readable: `netaccel cluster down` clears what is left of it") from error


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the cluster's lock. Raises LabError where another command has it."""
    path = RUN / f"{name}.lock"
    with _open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LabError(f"cluster {name}: another command is changing it; wait for that one") from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            remove_empty(RUN, RUN.parent)


def remove_empty(*folders: Path) -> None:
    """Remove folders that are empty, in this order; what is not, or is absent, stays."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def _open(path: Path) -> TextIO:
    """Open a lock; another cluster's ``down`` may take the empty folder away meanwhile."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return path.open("w", encoding="ascii")
        except FileNotFoundError:
            continue


def _path(name: str) -> Path:
    return RUN / name / "state.json"
