# SPDX-License-Identifier: Apache-2.0
"""A node's folder in a bpf file system: its pins, its lock, its notes.

Notes are symbolic links whose target is the text: the only thing beside pins that a bpf file system
stores. So what must outlive the agent lives exactly as long as the datapath that it belongs to, and two
nodes of one machine have nothing in common.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Collection
from pathlib import Path

from netaccel.datapath.mounts import check_bpffs
from netaccel.errors import ConfigError, DatapathError

FOLDER = "netaccel"
_PID = "agent"


class Instance:
    """The folder ``<bpffs>/netaccel`` with ``maps/`` and ``links/`` below."""

    def __init__(self, bpffs: Path) -> None:
        self.bpffs = bpffs
        self.folder = bpffs / FOLDER
        self.maps = self.folder / "maps"
        self.links = self.folder / "links"
        self._lock: int | None = None

    def exists(self) -> bool:
        """Whether an agent has ever served here since the last detach."""
        try:
            return self.folder.is_dir()
        except PermissionError as error:
            raise ConfigError(f"{self.folder}: permission denied: run as root") from error

    def exists_link(self) -> bool:
        """Whether any program is attached by a pinned link."""
        return self.links.is_dir() and any(self.links.iterdir())

    def lock(self) -> None:
        """Make the folder and become the only one that writes to it, until the process ends.

        Raises DatapathError where another process has it, ConfigError where it can't be made.
        """
        check_bpffs(self.bpffs)
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"{self.folder}: {error.strerror}: run as root") from error
        if not _try_lock(descriptor, tries=5):
            os.close(descriptor)
            raise DatapathError(
                f"an agent (pid {self.note(_PID) or 'unknown'}) already serves {self.folder}:"
                " stop it first, or give this one a --bpffs of its own",
                errno.EWOULDBLOCK,
            )
        self._lock = descriptor
        self.write_note(_PID, str(os.getpid()))

    def unlock(self) -> None:
        """Let another agent in. The pins stay."""
        if self._lock is not None:
            if self.folder.is_dir():
                self.write_note(_PID, "")
            os.close(self._lock)
            self._lock = None

    def agent_pid(self) -> int:
        """Pid of the agent that holds the lock now, 0 where none does."""
        if not self.exists():
            return 0
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return 0 if _try_lock(descriptor) else int(self.note(_PID) or 0)
        finally:
            os.close(descriptor)

    def note(self, name: str) -> str:
        """Text of a note, "" where there is none."""
        try:
            return str((self.folder / name).readlink())
        except FileNotFoundError:
            return ""

    def write_note(self, name: str, text: str) -> None:
        """Write, replace or (with "") remove a note. Names have no dot: a bpf file system refuses it."""
        note, fresh = self.folder / name, self.folder / f"{name}-new"
        fresh.unlink(missing_ok=True)
        if not text:
            note.unlink(missing_ok=True)
            return
        fresh.symlink_to(text)
        fresh.replace(note)

    def remove(self, keep: Collection[str] = ()) -> None:
        """Remove whatever is left in the folder, and the folder. Pins of links detach their programs.

        ``keep``: names of maps that stay, and the folders above them.
        """
        for folder, folders, files in os.walk(self.folder, topdown=False):
            for name in files:
                if name not in keep:
                    (Path(folder) / name).unlink(missing_ok=True)
            for name in folders:
                if not (keep and Path(folder) / name == self.maps):
                    (Path(folder) / name).rmdir()
        if self.folder.is_dir() and not keep:
            self.folder.rmdir()


def _try_lock(descriptor: int, tries: int = 1) -> bool:
    """Lock, a few times: :meth:`Instance.agent_pid` of another process holds the lock for a moment."""
    for _ in range(tries):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
        else:
            return True
    return False
