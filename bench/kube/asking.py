# SPDX-License-Identifier: Apache-2.0
"""Starts :mod:`bench.kube.client` (or another) where its packets shall come from; reads what it tells."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from netaccel.lab.process import Place, environment

ROOT = Path(__file__).parents[2]


class Teller:
    """A client's process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._told: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._told.put(json.loads(line))
        self._told.put(None)

    def say(self, word: str) -> None:
        """Tell it a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def next(self, seconds: float) -> Any:
        """The next line; None where the process ended or told nothing for so long."""
        try:
            return self._told.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None

    def until(self, deadline: float) -> Any:
        """The next line before that time (time.monotonic())."""
        return self.next(deadline - time.monotonic())


@contextmanager
def client(place: Place, *words: str, module: str = "bench.kube.client") -> Iterator[Teller]:
    """A client, until the context ends."""
    place.cgroup.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", module, *words]
    process = subprocess.Popen(
        place.command(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=ROOT,
    )
    try:
        yield Teller(process)
    finally:
        process.kill()
        process.wait()
