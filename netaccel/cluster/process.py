# SPDX-License-Identifier: Apache-2.0
"""Programs that run beside this process: started with a log, awaited, stopped, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from netaccel.errors import LabError
from netaccel.lab.process import Place

_POLL = 0.05
_TAIL = 4096
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


@dataclass(frozen=True)
class Program:
    """What to run and where.

    ``place``: a network namespace and a cgroup; None: this process' own. ``bound``: the kernel kills it as
    soon as the *thread* that started it ends, however that happens (prctl(2), PR_SET_PDEATHSIG), so start it
    from a thread that lives as long as it shall. ``extra``: more environment.
    """

    name: str
    command: Sequence[str]
    log: Path
    place: Place | None = None
    bound: bool = True
    extra: Mapping[str, str] = field(default_factory=dict)

    def line(self) -> list[str]:
        """Return the whole command: entered, bound, the program."""
        command = list(self.command)
        if self.bound:
            command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        return self.place.command(command) if self.place else command


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Build this process' environment without proxies: all that a cluster's programs ask is near."""
    kept = {name: value for name, value in os.environ.items() if name.lower() not in _PROXIES}
    return {**kept, **extra}


class Child:
    """A program that was started, in a session and a process group of its own."""

    def __init__(self, program: Program) -> None:
        """Start it. Raises LabError where it can't be run at all."""
        self.program = program
        if program.place:
            program.place.cgroup.mkdir(parents=True, exist_ok=True)
        program.log.parent.mkdir(parents=True, exist_ok=True)
        with program.log.open("ab") as log:
            self._from = log.tell()
            try:
                self._process = subprocess.Popen(
                    program.line(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment(program.extra),
                    start_new_session=True,
                )
            except OSError as error:
                raise LabError(f"{program.name}: can't be started: {error}") from error

    @property
    def pid(self) -> int:
        """Its process id, which is its group's too."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs. One that has ended keeps its id until it is stopped: no other has it."""
        if self._process.returncode is not None:
            return False
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def said(self) -> str:
        """Return the end of what it said since it was started."""
        with suppress(OSError), self.program.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._from, size - _TAIL))
            return log.read().decode(errors="replace")
        return ""

    def wait_until(self, ready: Callable[[], bool], timeout: float = 60.0) -> None:
        """Wait until it is ready. Raises LabError with its last line where it ends, or isn't in time."""
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.alive:
                self.kill()
                raise LabError(
                    f"{self.program.name} ended with status {self._process.returncode}{self._why()}"
                )
            if time.monotonic() > deadline:
                raise LabError(f"{self.program.name}: not ready after {timeout:g} s{self._why()}")
            time.sleep(_POLL)

    def check(self) -> None:
        """Raise LabError with its last line where it has ended."""
        if not self.alive:
            self.kill()
            raise LabError(f"{self.program.name} ended with status {self._process.returncode}{self._why()}")

    def signal(self, number: int) -> None:
        """Send a signal to its whole group; one that was stopped takes none."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def freeze(self, patience: float = 10.0) -> None:
        """Stop it between two instructions; when this returns, it has stopped. LabError."""
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + patience
        stat = Path(f"/proc/{self.pid}/stat")
        while stat.read_text(encoding="utf-8").rpartition(") ")[2][0] != "T":  # proc(5): the state
            if time.monotonic() > deadline:
                raise LabError(f"{self.program.name} does not stop after {patience:.0f} s")
            time.sleep(_POLL)

    def stop(self, grace: float = 10.0) -> None:
        """End it: SIGTERM, and SIGKILL for what is left of its group, after ``grace`` seconds at most.

        Again is allowed.
        """
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)  # one that is stopped hears it now
        deadline = time.monotonic() + grace
        while self.alive and time.monotonic() < deadline:
            time.sleep(_POLL)
        self.kill()

    def kill(self) -> None:
        """End it and its group at once."""
        self.signal(signal.SIGKILL)
        self._process.wait()

    def _why(self) -> str:
        lines = self.said().strip().splitlines()
        return f": {lines[-1]}" if lines else f", see {self.program.log}"
