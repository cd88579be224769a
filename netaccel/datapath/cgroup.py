# SPDX-License-Identifier: Apache-2.0
"""Who is in a cgroup."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def processes(group: Path) -> list[int]:
    """Process ids in a cgroup and below; none where it doesn't exist.

    Groups below may come and go meanwhile, as those of pods do: `os.walk` passes over them, where a glob ends
    with FileNotFoundError.
    """
    found: list[int] = []
    for folder, _, _ in os.walk(group):
        with suppress(OSError):  # it was removed, or is threaded: its processes are listed above
            found += map(int, (Path(folder) / "cgroup.procs").read_text(encoding="ascii").split())
    return found
