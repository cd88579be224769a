# SPDX-License-Identifier: Apache-2.0
"""The file of recorded edges: its tables, how it is opened, and what is done with one that is broken."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from pathlib import Path

log = logging.getLogger(__name__)

VERSION = 1
"""PRAGMA user_version. A file of another version is set aside: what it holds is history, not state."""
_PAGE = 4096
_WAL_PAGES = 1000  # after so many the log is written back
_BUSY = 5.0  # seconds; `netaccel policy preview --edges` reads the file while it is written
_KEPT_ASIDE = 2  # broken files that stay for people to look at
_SIDE_FILES = ("-wal", "-shm")

# An end stands in a table of its own, once whatever it talked to; `digest` is that of its JSON.
_TABLES = """
CREATE TABLE ends (
  id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, body TEXT NOT NULL
);
CREATE TABLE rules (
  id INTEGER PRIMARY KEY, body TEXT NOT NULL UNIQUE
);
CREATE TABLE edges (
  id INTEGER PRIMARY KEY,
  source INTEGER NOT NULL, destination INTEGER NOT NULL,
  protocol INTEGER NOT NULL, port INTEGER NOT NULL, direction INTEGER NOT NULL,
  verdict TEXT NOT NULL, rule INTEGER NOT NULL,
  first REAL NOT NULL, last REAL NOT NULL, count INTEGER NOT NULL,
  UNIQUE (source, destination, protocol, port, direction, verdict, rule)
);
CREATE INDEX edges_last ON edges (last);
CREATE TABLE runs (
  id INTEGER PRIMARY KEY, began REAL NOT NULL, ended REAL NOT NULL, lost INTEGER NOT NULL
);
CREATE TABLE forgotten (id INTEGER PRIMARY KEY CHECK (id = 0), upto REAL NOT NULL);
"""

_BROKEN = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT))


class BrokenError(Exception):
    """The file can't be used as it is; the text says why."""


def is_broken(error: sqlite3.Error) -> bool:
    """Whether the file itself is at fault, not the disk or its rights."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _BROKEN


def is_full(error: sqlite3.Error) -> bool:
    """Whether there is no room: the file's own limit is reached, or the disk is full."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) == sqlite3.SQLITE_FULL


def open_file(path: Path, max_bytes: int) -> sqlite3.Connection:
    """Open or make the file for its one writer. Raises sqlite3.Error, OSError, or BrokenError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)  # who talks to whom is nobody else's business
    connection = sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, max_bytes)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, max_bytes: int) -> None:
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and found != VERSION:
        raise BrokenError(f"its layout is version {found}, not {VERSION}")
    if not tables:
        connection.execute(f"PRAGMA page_size = {_PAGE}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # power loss costs the last seconds, never the file
    connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_PAGES * _PAGE}")
    connection.execute(f"PRAGMA max_page_count = {max(max_bytes // _PAGE, 64)}")
    if not tables:
        connection.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
        return
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise BrokenError(str(verdict).splitlines()[0])


def set_aside(path: Path, now: float) -> Path:
    """Rename a broken file, so that it can be looked at; the oldest of several go. OSError: it can't be."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    aside = path.with_name(f"{path.name}.broken-{stamp}")
    path.rename(aside)
    for suffix in _SIDE_FILES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    older = sorted(path.parent.glob(f"{path.name}.broken-*"))[:-_KEPT_ASIDE]
    for one in older:
        one.unlink(missing_ok=True)
    return aside


def remove(path: Path) -> bool:
    """Remove a file of edges, what is beside it, and folders that are empty then; whether it was there."""
    found = [path, *path.parent.glob(f"{path.name}-*"), *path.parent.glob(f"{path.name}.broken-*")]
    there = [one for one in found if one.is_file()]
    for one in there:
        one.unlink()
    for folder in (path.parent, path.parent.parent):
        with contextlib.suppress(OSError):  # others' files are in it, or it is a mount
            folder.rmdir()
    return bool(there)


def size_on_disk(path: Path) -> int:
    """Bytes of the file and its log."""
    found = (path, *(path.with_name(path.name + suffix) for suffix in _SIDE_FILES))
    return sum(one.stat().st_size for one in found if one.is_file())
