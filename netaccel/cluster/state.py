# SPDX-License-Identifier: Apache-2.0
"""What a cluster remembers: its arguments; and the lock of ``up``, ``down`` and all that changes it."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from netaccel.cluster.plan import RUN, Plan, make_plan
from netaccel.errors import LabError
from netaccel.lab import lock
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


def locked(name: str) -> AbstractContextManager[None]:
    """Hold the cluster's lock. Raises LabError where another command has it."""
    return lock.locked(RUN, name, f"cluster {name}: another command is changing it; wait for that one")


def _path(name: str) -> Path:
    return RUN / name / "state.json"
