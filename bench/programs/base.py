# SPDX-License-Identifier: Apache-2.0
"""What a program is, where it runs, how it is started and ended."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from netaccel.errors import LabError
from netaccel.lab import process
from netaccel.lab.handle import Lab

CONNECTIONS = 16
PATIENCE = 60.0


class Ground(NamedTuple):
    """Where a program runs: two pods as `Lab.target` names them, and the server's address."""

    lab: Lab
    server: str
    client: str
    address: str
    port: int = 7100
    folder: Path = Path()
    """The server's files; `Program.serve` makes it."""

    def ask(self, *command: str, seconds: float = 0.0) -> str:
        """What a command in the client's pod prints. LabError with its complaint where it fails."""
        done = self.lab.run(self.client, *command, timeout=seconds + PATIENCE)
        if done.returncode:
            complaint = (done.stderr or done.stdout).strip()[-400:]
            raise LabError(f"{command[0]}: exit status {done.returncode}: {complaint}")
        return done.stdout

    @contextmanager
    def running(self, command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command in the server's pod, what it says in ``log``; end it by SIGINT, then by SIGKILL."""
        found = self.lab.target(self.server)
        found.place.cgroup.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            running = subprocess.Popen(
                found.place.command(process.interpreter(command)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=process.environment(found.environment),
            )
        try:
            yield running
        finally:
            running.send_signal(signal.SIGINT)
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


class Outcome(NamedTuple):
    """``rate``: answers a second. ``errors``: what went wrong, empty where all was right."""

    rate: float
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Program:
    """One pair. ``tools``: commands or files (as patterns) that it takes, and their packages."""

    name: str
    what: str
    tools: dict[str, str]
    prepare: Callable[[Ground], None]
    command: Callable[[Ground], Sequence[str]]
    ready: Callable[[Ground], object]
    """Asks the server for something; LabError while it does not answer."""
    load: Callable[[Ground, float], Outcome]
    """Runs the client for about so many seconds."""
    vouched: bool = False
    """On some kernels it is accelerated only where its owner says ``enabled``: it has a call in it that may
    go wrong on accelerated sockets (splice, FIONREAD). It makes no difference to what it does here."""
    accelerated: bool = True
    """What it does is worth accelerating. Bulk may be left to TCP, whose batching does as well."""

    def missing(self) -> list[str]:
        """Packages that would have to be installed first."""
        return [package for tool, package in self.tools.items() if not _found(tool)]

    @contextmanager
    def serve(self, where: Ground) -> Iterator[Ground]:
        """Run the server in its pod; the ground that it yields is what ``load`` takes.

        LabError with what it said where it does not come to answer.
        """
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="netaccel-")))
            folder.chmod(0o711)  # servers may run as another user
            ground, log = where._replace(folder=folder), folder / f"{self.name}.log"
            self.prepare(ground)
            server = stack.enter_context(ground.running(self.command(ground), log))
            deadline = time.monotonic() + PATIENCE
            while True:
                try:
                    self.ready(ground)
                    break
                except LabError as error:
                    if server.poll() is not None or time.monotonic() > deadline:
                        said = " ".join(log.read_text(errors="replace").split())[-400:]
                        raise LabError(f"{self.name} does not answer: {error}; it said: {said}") from error
                time.sleep(0.1)
            yield ground


def number(pattern: str, text: str) -> float:
    """The number that the pattern's group finds. LabError with the text where there is none."""
    found = re.search(pattern, text)
    if found is None:
        raise LabError(f"no {pattern!r} in: {text.strip()[-400:]}")
    return float(found[1])


def _found(tool: str) -> bool:
    if tool.startswith("/"):
        return any(Path("/").glob(tool[1:]))
    return shutil.which(tool) is not None
