# SPDX-License-Identifier: Apache-2.0
"""Enumerators of the running kernel, from its own BTF: names that differ from kernel to kernel.

The kernel's blob has some hundred thousand types. :class:`~netaccel.datapath.btf.Btf` would make an object of
each; here the one that is wanted is found by its name's offset, in milliseconds and without a trace in
memory.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from netaccel.datapath.btf import Kind
from netaccel.errors import AbiError

KERNEL = Path("/sys/kernel/btf/vmlinux")
_HEAD = 12  # bytes of a type before what its kind adds
_NAME_AND_INFO = struct.Struct("II")


def enumerators(blob: bytes, name: str) -> Mapping[int, str]:
    """Names by value of ``enum name``, in host byte order. AbiError where the blob has no such enum."""
    head, type_off, type_len, str_off, str_len = struct.unpack_from("IIIII", blob, 4)
    strings = head + str_off
    found = blob.find(b"\0" + name.encode() + b"\0", strings, strings + str_len)
    types = (head + type_off, head + type_off + type_len)
    at = _find(blob, types, found + 1 - strings) if found >= 0 else None
    if at is None:
        raise AbiError(f"enum {name}: not in this kernel's BTF")
    count = _NAME_AND_INFO.unpack_from(blob, at)[1] & 0xFFFF
    pairs = struct.iter_unpack("Ii", blob[at + _HEAD : at + _HEAD + 8 * count])
    return {value: _string(blob, strings + offset) for offset, value in pairs}


def drop_reasons(path: Path = KERNEL) -> dict[int, str]:
    """The kernel's enum skb_drop_reason, lower case, without prefixes; empty before 5.17, which has none."""
    try:
        found = enumerators(path.read_bytes(), "skb_drop_reason")
    except (OSError, AbiError):
        return {}
    return {value: _plain(name) for value, name in found.items()}


def _plain(name: str) -> str:
    """``SKB_DROP_REASON_NO_SOCKET`` → ``no_socket``; ``SKB_CONSUMED`` → ``consumed``."""
    return name.removeprefix("SKB_").removeprefix("DROP_REASON_").lower()


def _find(blob: bytes, span: tuple[int, int], name: int) -> int | None:
    """Where the enum with this name offset begins."""
    at, end = span
    wanted = struct.pack("I", name)
    while (at := blob.find(wanted, at, end)) >= 0:
        # Names begin types, but the same four bytes may be anything else: a type's info tells.
        info = _NAME_AND_INFO.unpack_from(blob, at)[1]
        is_enum = info >> 24 & 0x1F == Kind.ENUM and info & 0x00FF_0000 == 0 and info & 0xFFFF
        if is_enum and (at - span[0]) % 4 == 0:
            return at
        at += 1
    return None


def _string(blob: bytes, at: int) -> str:
    return blob[at : blob.index(b"\0", at)].decode()
