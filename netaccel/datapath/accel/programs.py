# SPDX-License-Identifier: Apache-2.0
"""Whether a process may splice(2) from a socket: asked of the programs that it runs, not of what it does.

A splice from a socket whose bytes go socket to socket can fail for ever on a kernel (docs/decisions/0018).
There, a connection is left to TCP where a program at either end may splice. That is read from the ELF files
that the process has mapped for execution: who splices through the C library imports ``splice``. Who calls
the kernel by itself can't be known so: static programs, Go, holders of an io_uring. Those count as splicing.
A program that was written to call syscall(2) with the number of splice goes unseen.

A process may load a library later: ask again from time to time. What it costs, on a core of a small virtual
machine: redis-server with its 20 files 2.5 ms when all are new and 0.5 ms after; bash, with 5, 0.25 ms after.
"""

# Asked of every process of a pod, file by file: objects for paths would double the cost.
# ruff: noqa: PTH115, PTH116, PTH119, PTH123, PTH208

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

_MAX_FILES = 4096
"""Files that are remembered; over it all are forgotten, and read again when met."""

_RIGHTS = "the agent needs CAP_SYS_PTRACE, and the node's processes in sight (hostPID)"
_GONE = (FileNotFoundError, ProcessLookupError)

# elf(5)
_PT_INTERP, _PT_NOTE = 3, 4
_SHT_DYNSYM = 11
_SHN_UNDEF = 0
_EHDR = {1: "HHIIIIIHHHHHH", 2: "HHIQQQIHHHHHH"}  # by ELFCLASS, after the 16 bytes of e_ident
_PHDR = {1: "IIIIIIII", 2: "IIQQQQQQ"}
_PHDR_OFFSET, _PHDR_FILESZ = {1: 1, 2: 2}, {1: 4, 2: 5}
_SHDR = {1: "IIIIIIIIII", 2: "IIQQQQIIQQ"}
_SYM = {1: "IIIBBH", 2: "IBBHQQ"}
_SYM_SHNDX = {1: 5, 2: 3}
_MAX_TABLE = 64 << 20
"""Bytes; a string or symbol table that claims more is not read."""

_WORD = b"splice\0"
_SLASH = ord("/")
_Key = tuple[int, int, int]


class _NotElfError(Exception):
    """A file that is no ELF image: nobody's program."""


class _Image(NamedTuple):
    """What matters of an ELF file."""

    imports: bool
    """Takes ``splice`` from another file."""
    go: bool
    interpreted: bool
    """Names a program interpreter: ld.so loads it and its libraries."""


_known: dict[_Key, _Image | None] = {}
"""By device, inode and time of change; None: no ELF file."""


def why_pod_may_splice(pids: Iterable[int]) -> str:
    """The first reason among a pod's processes, "" where none can splice."""
    return next((reason for reason in map(why_may_splice, pids) if reason), "")


def why_may_splice(pid: int) -> str:
    """Why a process may splice from a socket, in a few words; "" where it can't, or has ended.

    Looks through ``/proc/PID``, so it needs no way into the process's mount namespace; a program that was
    deleted is read too. Never raises for what a process is or does: what can't be read may splice.
    """
    reason = _of_process(pid)
    if reason is not None:
        return reason
    # A process whose first thread has ended lives on in the others.
    for thread in _threads(pid):
        reason = _of_process(thread)
        if reason is not None:
            return reason
    return ""


def _of_process(pid: int) -> str | None:
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
    if reason := _of_image(name, program) or ("" if program.interpreted else f"{name} is a static program"):
        return reason
    return _of_mappings(folder, lines)


def _of_mappings(folder: str, lines: list[bytes]) -> str:
    seen = set()
    for line in lines:
        where, rights, _, device, inode, *rest = line.split(None, 5)
        if not rest:
            continue
        if rest[0] == b"anon_inode:[io_uring]":
            return "holds an io_uring, which may splice"
        if b"x" in rights and rest[0][0] == _SLASH and (device, inode) not in seen:
            seen.add((device, inode))
            if reason := _of_library(folder, _plain(where), os.fsdecode(rest[0])):
                return reason
    return ""


def _of_library(folder: str, where: str, path: str) -> str:
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
    return "" if image is None else _of_image(_name(path), image)


def _of_image(name: str, image: _Image) -> str:
    if image.imports:
        return f"{name} imports splice{' (os.splice)' if 'python' in name else ''}"
    return f"{name} is written in Go, which splices by itself" if image.go else ""


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


# ------------------------------------------------------------------ ELF files


def _look(path: str) -> _Image | None:
    """A file's image, None where it is no ELF file. OSError; ValueError where it is a broken one."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):  # devices are mapped too, and opening one may do something
        return None
    key = (found.st_dev, found.st_ino, found.st_mtime_ns)
    if key in _known:
        return _known[key]
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        image = _parse(lambda size, at: os.pread(descriptor, size, at))
    except _NotElfError:
        image = None
    finally:
        os.close(descriptor)
    if len(_known) >= _MAX_FILES:
        _known.clear()
    _known[key] = image
    return image


def _parse(read: Callable[[int, int], bytes]) -> _Image:
    """``read``: bytes of the file by size and offset. ValueError where the file is broken."""
    ident = read(16, 0)
    if ident[:4] != b"\x7fELF":
        raise _NotElfError
    try:
        return _parse_elf(read, ident[4], "<" if ident[5] == 1 else ">")
    except (struct.error, KeyError, IndexError) as error:
        raise ValueError(f"a broken ELF file: {error}") from error


def _parse_elf(read: Callable[[int, int], bytes], bits: int, order: str) -> _Image:
    def table(form: str, at: int, count: int) -> list[tuple[int, ...]]:
        codec = struct.Struct(order + form)
        data = read(codec.size * count, at)
        return [codec.unpack_from(data, codec.size * i) for i in range(count)]

    header = table(_EHDR[bits], 16, 1)[0]
    segments = table(_PHDR[bits], header[4], header[9])
    sections = table(_SHDR[bits], header[5], header[11]) if header[5] else []
    interpreted = any(segment[0] == _PT_INTERP for segment in segments)
    notes = (
        read(min(segment[_PHDR_FILESZ[bits]], 4096), segment[_PHDR_OFFSET[bits]])
        for segment in segments
        if segment[0] == _PT_NOTE
    )
    # The build id that Go's linker writes: name size 4, any size, type 4, name "Go".
    go = any(struct.pack(order + "I", 4) + b"Go\0\0" in note for note in notes)
    dynamic = next((section for section in sections if section[1] == _SHT_DYNSYM), None)
    if dynamic is None:
        if interpreted:
            raise ValueError("it has no table of symbols")
        return _Image(imports=False, go=go, interpreted=interpreted)
    strings = sections[dynamic[6]]
    if max(dynamic[5], strings[5]) > _MAX_TABLE:
        raise ValueError("its table of symbols is too large")
    return _Image(_imports(read, bits, order, dynamic, strings), go, interpreted)


def _imports(
    read: Callable[[int, int], bytes],
    bits: int,
    order: str,
    symbols: tuple[int, ...],
    strings: tuple[int, ...],
) -> bool:
    """Whether a symbol named ``splice`` is undefined: strong or weak."""
    text = read(strings[5], strings[4])
    names, at = set(), -1
    while (at := text.find(_WORD, at + 1)) >= 0:  # the linker stores it in the tail of vmsplice too
        names.add(at)
    if not names:
        return False
    codec = struct.Struct(order + _SYM[bits])
    data = read(symbols[5], symbols[4])
    return any(
        symbol[0] in names and symbol[_SYM_SHNDX[bits]] == _SHN_UNDEF
        for symbol in codec.iter_unpack(data[: len(data) // codec.size * codec.size])
    )
