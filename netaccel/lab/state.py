# SPDX-License-Identifier: Apache-2.0
"""What a lab remembers: its arguments, what was given out, how it is; and the lock of ``up`` and ``down``."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from netaccel.errors import LabError
from netaccel.lab import lock
from netaccel.lab.allocate import Given
from netaccel.lab.documents import replace
from netaccel.lab.plan import RUN, Paths, Plan, make_plan
from netaccel.lab.raw import Name


@dataclass(frozen=True)
class State:
    """The arguments of ``lab up``. ``uplink_mode``: auto, or tc (no XDP). ``settings``: of every agent."""

    name: str
    nodes: int
    manifests: str
    hop: bool = False
    uplink_mode: str = "auto"
    agents: bool = True
    settings: dict[str, str] = field(default_factory=dict)

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


def locked(name: str) -> AbstractContextManager[None]:
    """Hold the lab's lock. Raises LabError where another ``up`` or ``down`` has it."""
    return lock.locked(RUN, name, f"lab {name}: another `lab up` or `lab down` is at work; wait for it")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise LabError(f"{path}: not JSON: `netaccel lab down` clears what is left of this lab") from error
    return found
