# SPDX-License-Identifier: Apache-2.0
"""Whether a process may do calls that go wrong on accelerated sockets: its programs are asked, not watched.

Kernels are known on which splice(2) from such a socket fails for as long as redirected bytes wait, or on
which FIONREAD says 0 while bytes by TCP wait (docs/decisions/0018-splice.md). There, a connection is left to
TCP where a program at either end may do the call. That is read from the ELF files that the process has
mapped for execution:

- who splices through the C library imports ``splice``;
- who asks FIONREAD through the C library imports ``ioctl``, and has its number among the instructions.

Who calls the kernel by itself can't be known so: static programs, Go, holders of an io_uring (for splice).
Those count as doing it. Unseen goes who was written to call syscall(2) with a number, and a script that
computes the number of FIONREAD.

A process may load a library later: ask again from time to time. What it costs, on a core of a small virtual
machine: redis-server with its 18 files 13 ms when all are new and 0.5 ms after; bash, with 5, 0.25 ms after.
"""

# Asked of every process of a pod, file by file: objects for paths would double the cost.
# ruff: noqa: PTH115, PTH116, PTH119, PTH123, PTH208

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Set
from enum import StrEnum

from netaccel.datapath.accel.elf import Image, read_image

_MAX_FILES = 4096
"""Files that are remembered; over it all are forgotten, and read again when met."""

_RIGHTS = "the agent needs CAP_SYS_PTRACE, and the node's processes in sight (hostPID)"
_GONE = (FileNotFoundError, ProcessLookupError)

_HARMLESS = ("libstdc++.so", "libreadline.so", "libedit.so", "libsystemd.so", "libudev.so", "libevent")
"""Libraries that ask FIONREAD of files and terminals, or read all the same where it says 0 (libevent)."""
_SLASH = ord("/")

_Key = tuple[int, int, int]
_known: dict[_Key, Image | None] = {}
"""By device, inode and time of change; None: no ELF file."""


class Call(StrEnum):
    """What may go wrong on an accelerated socket."""

    SPLICE = "splice"
    FIONREAD = "FIONREAD"


def why_may_splice(pid: int) -> str:
    """:func:`why_may_call` of splice(2)."""
    return why_may_call(pid, {Call.SPLICE})


def why_pod_may_call(pids: Iterable[int], calls: Set[Call]) -> str:
    """The first reason among a pod's processes, "" where none can do any of these calls."""
    return next((reason for pid in pids if calls and (reason := why_may_call(pid, calls))), "")


def why_may_call(pid: int, calls: Set[Call]) -> str:
    """Why a process may do one of these calls at a socket, in a few words; "" where it can't, or has ended.

    Looks through ``/proc/PID``, so it needs no way into the process's mount namespace; a program that was
    deleted is read too. Never raises for what a process is or does: what can't be read may splice.
    """
    reason = _of_process(pid, calls)
    if reason is not None:
        return reason
    # A process whose first thread has ended lives on in the others.
    for thread in _threads(pid):
        reason = _of_process(thread, calls)
        if reason is not None:
            return reason
    return ""


def _of_process(pid: int, calls: Set[Call]) -> str | None:
    """None where the process, or thread, has no memory: it has ended, or is the kernel's."""
    folder = f"/proc/{pid}"  # text, not Path: this is asked often, of many files
    try:
        program = _look(f"{folder}/exe")
        name = _name(os.readlink(f"{folder}/exe"))
        with open(f"{folder}/maps", "rb", 0) as maps:
            lines = maps.read().splitlines()
    except _GONE:
        return None
    except OSError as error:
        return f"process {pid} can't be looked at ({error.strerror}): {_RIGHTS}"
    except ValueError as error:
        return f"process {pid}: its program can't be read: {error}"
    if program is None:
        return f"process {pid}: its program is no ELF file"
    if reason := _of_image(name, program, calls):
        return reason
    if not program.interpreted:
        return f"{name} is a static program"
    return _of_mappings(folder, lines, calls)


def _of_mappings(folder: str, lines: list[bytes], calls: Set[Call]) -> str:
    seen = set()
    for line in lines:
        where, rights, _, device, inode, *rest = line.split(None, 5)
        if not rest:
            continue
        if rest[0] == b"anon_inode:[io_uring]" and Call.SPLICE in calls:
            return "holds an io_uring, which may splice"
        if b"x" in rights and rest[0][0] == _SLASH and (device, inode) not in seen:
            seen.add((device, inode))
            if reason := _of_library(folder, _plain(where), os.fsdecode(rest[0]), calls):
                return reason
    return ""


def _of_library(folder: str, where: str, path: str, calls: Set[Call]) -> str:
    """``where``: the mapping's addresses, as ``map_files`` writes them."""
    link = f"{folder}/map_files/{where}"
    try:
        try:
            image = _look(link)
        except PermissionError:  # wants CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN: by the path then
            image = _look(f"{folder}/root{path}")
    except (OSError, ValueError) as error:
        if not os.path.lexists(link):
            return ""  # the process ended, or let go of the file, meanwhile
        return f"{_name(path)} can't be read: {getattr(error, 'strerror', None) or error}"
    return "" if image is None else _of_image(_name(path), image, calls)


def _of_image(name: str, image: Image, calls: Set[Call]) -> str:
    if image.go:
        return f"{name} is written in Go, which calls the kernel by itself"
    if image.splices and Call.SPLICE in calls:
        return f"{name} imports splice{' (os.splice)' if 'python' in name else ''}"
    if image.counts and Call.FIONREAD in calls and not name.startswith(_HARMLESS):
        return f"{name} asks FIONREAD"
    return ""


def _name(path: str) -> str:
    return os.path.basename(path).removesuffix(" (deleted)")


def _plain(where: bytes) -> str:
    """``map_files`` writes addresses without the zeros in front that ``maps`` may have."""
    if not where.startswith(b"0") and b"-0" not in where:
        return where.decode()
    return "-".join(f"{int(address, 16):x}" for address in where.split(b"-"))


def _threads(pid: int) -> Iterator[int]:
    try:
        yield from (int(name) for name in os.listdir(f"/proc/{pid}/task") if int(name) != pid)
    except OSError:
        return


def _look(path: str) -> Image | None:
    """A file's image, None where it is no ELF file. OSError; ValueError where it is a broken one."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):  # devices are mapped too, and opening one may do something
        return None
    key = (found.st_dev, found.st_ino, found.st_mtime_ns)
    if key in _known:
        return _known[key]
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        image = read_image(lambda size, at: os.pread(descriptor, size, at))
    finally:
        os.close(descriptor)
    if len(_known) >= _MAX_FILES:
        _known.clear()
    _known[key] = image
    return image
