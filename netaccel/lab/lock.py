# SPDX-License-Identifier: Apache-2.0
"""One command at a time: a lock file beside what it guards, gone when nobody holds it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from netaccel.errors import LabError


@contextmanager
def locked(folder: Path, name: str, busy: str) -> Iterator[None]:
    """Hold ``folder/name.lock``; the folder and the one above go with the last lock, if they are empty.

    Raises LabError that says ``busy`` where another process has it.
    """
    path = folder / f"{name}.lock"
    with _open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LabError(busy) from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            remove_empty(folder, folder.parent)


def remove_empty(*folders: Path) -> None:
    """Remove folders that are empty, in this order; at the first that is not, or is absent, stop."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # another's files, or nothing there
            return


def _open(path: Path) -> TextIO:
    """Open a lock; whoever lets another one go may take the empty folder away meanwhile."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("w", encoding="ascii")
        except FileNotFoundError:
            continue
