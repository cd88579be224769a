# SPDX-License-Identifier: Apache-2.0
"""Processes in a namespace and a cgroup of a lab."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import netaccel
from netaccel.errors import LabError
from netaccel.lab.shell import inside

# The shell joins the cgroup itself, so that nothing ever runs outside of it, and becomes the command.
_JOIN = 'echo 0 >"$1/cgroup.procs" && shift && exec "$@"'


class Place(NamedTuple):
    """Where a process runs. An empty namespace: the machine's own."""

    cgroup: Path
    namespace: str = ""

    def command(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs ``command`` here."""
        entered = inside(self.namespace, command) if self.namespace else list(command)
        return ["sh", "-c", _JOIN, "sh", str(self.cgroup), *entered]


def interpreter(command: Sequence[str]) -> list[str]:
    """``python`` and ``python3`` are the interpreter that runs the lab; the rest stays."""
    if command and command[0] in ("python", "python3"):
        return [sys.executable, *command[1:]]
    return list(command)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Build an environment that finds this netaccel and its Python, whatever else is installed."""
    source = str(Path(netaccel.__file__).parents[1])
    binaries = str(Path(sys.executable).parent)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("NETACCEL_")}
    path = kept.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    if binaries not in path.split(":"):
        path = f"{binaries}:{path}"
    return {**kept, "PATH": path, "PYTHONPATH": source, **(extra or {})}


async def start(
    place: Place, command: Sequence[str], log: Path, extra: Mapping[str, str] | None = None
) -> asyncio.subprocess.Process:
    """Start a process in a session of its own, what it says appended to ``log``."""
    place.cgroup.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        return await asyncio.create_subprocess_exec(
            *place.command(command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            env=environment(extra),
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


def run(
    place: Place,
    command: Sequence[str],
    *,
    timeout: float = 30.0,
    stdin: str = "",
    extra: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. Raises LabError where that takes longer than ``timeout`` seconds."""
    place.cgroup.mkdir(parents=True, exist_ok=True)
    try:
        return subprocess.run(
            place.command(command),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=environment(extra),
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(command)}: no end after {timeout:g} s") from error


def become(place: Place, command: Sequence[str], extra: Mapping[str, str] | None = None) -> NoReturn:
    """Replace this process by the command, with its terminal, arguments and exit status."""
    place.cgroup.mkdir(parents=True, exist_ok=True)
    entered = place.command(command)
    os.execvpe(entered[0], entered, environment(extra))
