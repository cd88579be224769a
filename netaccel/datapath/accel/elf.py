# SPDX-License-Identifier: Apache-2.0
"""What an ELF file (elf(5)) tells of the calls that its program may do. Pure: it reads what it is given."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

Read = Callable[[int, int], bytes]
"""Bytes of a file, by size and offset."""

_PT_LOAD, _PT_INTERP, _PT_NOTE = 1, 3, 4
_PF_X = 1
_SHT_DYNSYM = 11
_SHN_UNDEF = 0
_EM_X86_64 = 62
_EHDR = {1: "HHIIIIIHHHHHH", 2: "HHIQQQIHHHHHH"}  # by ELFCLASS, after the 16 bytes of e_ident
_PHDR = {1: "IIIIIIII", 2: "IIQQQQQQ"}
_PHDR_FLAGS, _PHDR_OFFSET, _PHDR_FILESZ = {1: 6, 2: 1}, {1: 1, 2: 2}, {1: 4, 2: 5}
_SHDR = {1: "IIIIIIIIII", 2: "IIQQQQIIQQ"}
_SYM = {1: "IIIBBH", 2: "IBBHQQ"}
_SYM_SHNDX = {1: 5, 2: 3}
_MAX_TABLE = 64 << 20
"""Bytes; a table of strings or symbols that claims more is not read."""
_PART = 1 << 20
"""Bytes of code that are read at once."""

_ASK = b"\xbe\x1b\x54\x00\x00"
"""``mov $FIONREAD, %esi``: the second argument of a call."""


class Image(NamedTuple):
    """What matters of an ELF file."""

    splices: bool
    """Takes ``splice`` from another file."""
    counts: bool
    """Takes ``ioctl`` from another file, and may call it for FIONREAD."""
    go: bool
    interpreted: bool
    """Names a program interpreter: ld.so loads it and its libraries."""


def read_image(read: Read) -> Image | None:
    """None where it is no ELF file. ValueError where it is a broken one; OSError of ``read``."""
    ident = read(16, 0)
    if ident[:4] != b"\x7fELF":
        return None
    try:
        return _Elf(read, ident[4], "<" if ident[5] == 1 else ">").image()
    except (struct.error, KeyError, IndexError) as error:
        raise ValueError(f"a broken ELF file: {error}") from error


class _Elf:
    def __init__(self, read: Read, bits: int, order: str) -> None:
        self._read, self._bits, self._order = read, bits, order
        header = self._table(_EHDR[bits], 16, 1)[0]
        self._machine = header[1]
        self._segments = self._table(_PHDR[bits], header[4], header[9])
        self._sections = self._table(_SHDR[bits], header[5], header[11]) if header[5] else []

    def _table(self, form: str, at: int, count: int) -> list[tuple[int, ...]]:
        codec = struct.Struct(self._order + form)
        data = self._read(codec.size * count, at)
        return [codec.unpack_from(data, codec.size * i) for i in range(count)]

    def image(self) -> Image:
        interpreted = any(segment[0] == _PT_INTERP for segment in self._segments)
        imports = self._imports({b"splice", b"ioctl"}, required=interpreted)
        return Image(
            splices=b"splice" in imports,
            counts=b"ioctl" in imports and self._asks(),
            go=self._is_go(),
            interpreted=interpreted,
        )

    def _is_go(self) -> bool:
        """The build id that Go's linker writes: name size 4, any size, type 4, name "Go"."""
        word = struct.pack(self._order + "I", 4) + b"Go\0\0"
        return any(word in self._part(segment, 4096) for segment in self._segments if segment[0] == _PT_NOTE)

    def _part(self, segment: tuple[int, ...], most: int, at: int = 0) -> bytes:
        """Up to ``most`` bytes of a segment from ``at`` on."""
        left = segment[_PHDR_FILESZ[self._bits]] - at
        return self._read(min(left, most), segment[_PHDR_OFFSET[self._bits]] + at) if left > 0 else b""

    def _imports(self, wanted: set[bytes], *, required: bool) -> set[bytes]:
        """Which of these names the file takes from others: undefined symbols, strong or weak."""
        symbols = next((section for section in self._sections if section[1] == _SHT_DYNSYM), None)
        if symbols is None:
            if required:
                raise ValueError("it has no table of symbols")
            return set()
        strings = self._sections[symbols[6]]
        if max(symbols[5], strings[5]) > _MAX_TABLE:
            raise ValueError("its table of symbols is too large")
        text = self._read(strings[5], strings[4])
        names: dict[int, bytes] = {}
        for name in wanted:
            at = -1
            while (at := text.find(name + b"\0", at + 1)) >= 0:  # in the tail of another (vmsplice), too
                names[at] = name
        if not names:
            return set()
        codec = struct.Struct(self._order + _SYM[self._bits])
        data = self._read(symbols[5], symbols[4])
        where = _SYM_SHNDX[self._bits]
        return {
            names[symbol[0]]
            for symbol in codec.iter_unpack(data[: len(data) // codec.size * codec.size])
            if symbol[0] in names and symbol[where] == _SHN_UNDEF
        }

    def _asks(self) -> bool:
        """Whether FIONREAD's number is an argument somewhere in the code; on other machines it may be."""
        if self._machine != _EM_X86_64:
            return True
        flags = _PHDR_FLAGS[self._bits]
        return any(
            self._code_has(segment, _ASK)
            for segment in self._segments
            if segment[0] == _PT_LOAD and segment[flags] & _PF_X
        )

    def _code_has(self, segment: tuple[int, ...], word: bytes) -> bool:
        at = 0
        while part := self._part(segment, _PART, at):
            if word in part:
                return True
            if len(part) < _PART:
                return False
            at += _PART - len(word) + 1
        return False
