# SPDX-License-Identifier: Apache-2.0
"""The program that asks and answers (bench/load/pingpong.c): compiled, run, read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parent / "load" / "pingpong.c"
OUT = Path("build/bench/pingpong")
PATIENCE = 60.0


class Window(NamedTuple):
    """What was counted while one size was asked for. CPU times in nanoseconds; ``machine``: all CPUs busy."""

    size: int
    connections: int
    seconds: float
    transactions: int
    bytes: int
    errors: int
    client: int
    server: int
    machine: int

    @property
    def rate(self) -> float:
        """Transactions a second."""
        return self.transactions / self.seconds

    @property
    def machine_cpu(self) -> float:
        """Microseconds of the machine's CPUs a transaction."""
        return self.machine / 1000 / max(self.transactions, 1)

    @property
    def own_cpu(self) -> float:
        """Microseconds of client's and server's CPU a transaction."""
        return (self.client + self.server) / 1000 / max(self.transactions, 1)


def program() -> str:
    """The compiled program."""
    if not OUT.exists() or OUT.stat().st_mtime < SOURCE.stat().st_mtime:
        OUT.parent.mkdir(parents=True, exist_ok=True)
        fresh = OUT.with_suffix(f".{os.getpid()}")  # tests run side by side
        subprocess.run(["clang", "-O2", "-Wall", "-Wextra", "-Werror", SOURCE, "-o", fresh], check=True)
        fresh.replace(OUT)
    return str(OUT.resolve())


@contextmanager
def serving(
    place: Callable[[Sequence[str]], list[str]], endpoint: str, *, once: bool = False
) -> Iterator[int]:
    """A server somewhere: its process id. RuntimeError in the end where it read a wrong byte."""
    command = [program(), "serve", endpoint, *(["once"] if once else [])]
    process = subprocess.Popen(place(command), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        if process.stdout.readline() != "listening\n":
            raise RuntimeError(f"pingpong does not listen at {endpoint}")
        yield process.pid
    finally:
        process.terminate()
        said, _ = process.communicate(timeout=PATIENCE)
    if process.returncode:
        raise RuntimeError(f"pingpong at {endpoint}: {said.strip()}")


class Load(NamedTuple):
    """What a client does. ``mode``: ask, send or connect; ``warm``: seconds, at most; ``seconds``: a size."""

    mode: str
    connections: int
    sizes: tuple[int, ...]
    warm: float
    seconds: float


def drive(
    place: Callable[[Sequence[str]], list[str]],
    endpoint: str,
    server: int,
    load: Load,
    warmed: Callable[[], None] | None = None,
) -> list[Window]:
    """Run a client somewhere to its end; a window a size. RuntimeError where a byte was wrong.

    The warm-up ends when ``warmed`` returns.
    """
    numbers = (load.connections, load.warm, load.seconds, server, *load.sizes)
    # The end of the warm-up would end a client that does not listen for it yet.
    command = ["env", "--ignore-signal=USR1", program(), load.mode, endpoint, *map(str, numbers)]
    pipe = subprocess.PIPE
    with subprocess.Popen(place(command), stdout=pipe, stderr=pipe, text=True) as process:
        try:
            if warmed:
                warmed()
                process.send_signal(signal.SIGUSR1)
            said, complaint = process.communicate(timeout=PATIENCE)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {complaint.strip() or said.strip()}")
    return [Window(**json.loads(line)) for line in said.splitlines()]
