# SPDX-License-Identifier: Apache-2.0
"""What Python 3.11 does not bring of the C library."""

from __future__ import annotations

import ctypes as c
import os
from functools import cache
from typing import Any


@cache
def _libc() -> c.CDLL:
    return c.CDLL(None, use_errno=True)


def _libc_call(name: str, *arguments: Any) -> None:
    if getattr(_libc(), name)(*arguments) < 0:
        number = c.get_errno()
        raise OSError(number, os.strerror(number))


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """Mount a file system. ``flags``: MS_* of the kernel; ``options``: the file system's own."""
    data = options.encode() or None
    _libc_call("mount", os.fsencode(source), os.fsencode(target), kind.encode(), c.c_ulong(flags), data)


def unmount(target: str) -> None:
    """Unmount lazily: open descriptors live on."""
    _libc_call("umount2", os.fsencode(target), 2)


def setns(fd: int, kind: int) -> None:
    """Move this thread to the namespace of a descriptor; ``kind``: CLONE_NEWNET 0x40000000."""
    _libc_call("setns", fd, kind)


def unshare(kind: int) -> None:
    """Give this thread new namespaces (CLONE_NEW*)."""
    _libc_call("unshare", kind)


def give_back_memory() -> None:
    """Hand freed memory back to the system; glibc keeps what several threads freed. Others: nothing."""
    trim = getattr(_libc(), "malloc_trim", None)
    if trim:
        trim(0)
