# SPDX-License-Identifier: Apache-2.0
"""``netaccel cluster`` as a person runs it."""

from __future__ import annotations

import subprocess
import sys

from netaccel.errors import LabError

UP_SECONDS = 1800  # the first time ever, Kubernetes is built


def run(*words: str, name: str, timeout: float = 300) -> str:
    """Return what ``netaccel cluster …`` printed. Raises LabError with its complaint."""
    subcommand = 2 if words[0] in ("node", "apiserver") else 1
    line = [*words[:subcommand], "--name", name, *words[subcommand:]]
    command = [sys.executable, "-m", "netaccel", "cluster", *line]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(line)}: status {done.returncode}: {done.stderr.strip()}")
    return done.stdout
