# SPDX-License-Identifier: Apache-2.0
"""What a lab remembers: its arguments, what was given out, how it is; and the lock of ``up`` and ``down``."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from netaccel.errors import LabError
from netaccel.lab.allocate import Given
from netaccel.lab.documents import replace
from netaccel.lab.plan import RUN, Paths, Plan, make_plan
from netaccel.lab.raw import Name


@dataclass(frozen=True)
class State:
    """The arguments of ``lab up``. ``uplink_mode``: auto, or tc (no XDP)."""

    name: str
    nodes: int
    manifests: str
    hop: bool = False
    uplink_mode: str = "auto"
    agents: bool = True

    def plan(self) -> Plan:
        """Return the lab's plan."""
        return make_plan(self.name, self.nodes, hop=self.hop)


def write_state(paths: Paths, state: State) -> None:
    """Remember the arguments."""
    replace(paths.state, json.dumps(asdict(state), indent=1).encode())


def read_state(paths: Paths) -> State | None:
    """Return the arguments of a lab, None where they were never written."""
    found = _read(paths.state)
    return State(**found) if found else None


def write_allocations(paths: Paths, given: dict[Name, Given]) -> None:
    """Remember what Services were given."""
    text = json.dumps({str(name): asdict(item) for name, item in given.items()}, indent=1)
    replace(paths.allocations, text.encode())


def read_allocations(paths: Paths) -> dict[Name, Given]:
    """Return what Services were given."""
    found = {}
    for text, item in (_read(paths.allocations) or {}).items():
        namespace, _, name = text.partition("/")
        found[Name(namespace, name)] = Given(**item)
    return found


def write_status(paths: Paths, status: dict[str, Any]) -> None:
    """Say how the lab is."""
    replace(paths.status, json.dumps(status, indent=1).encode())


def read_status(paths: Paths) -> dict[str, Any]:
    """How the lab is, as its controller last said; empty before."""
    return _read(paths.status) or {}


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lab's lock. Raises LabError where another ``up`` or ``down`` has it."""
    path = RUN / f"{name}.lock"
    with _open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LabError(f"lab {name}: another `lab up` or `lab down` is at work; wait for it") from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            _remove_empty(RUN, RUN.parent)


def _open(path: Path) -> TextIO:
    """Open a lock; another lab's ``down`` may take the empty folder away meanwhile."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return path.open("w", encoding="ascii")
        except FileNotFoundError:
            continue


def _remove_empty(*folders: Path) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # not empty: another lab's
            return


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise LabError(f"{path}: not JSON: `netaccel lab down` clears what is left of this lab") from error
    return found
