# SPDX-License-Identifier: Apache-2.0
"""Entries of maps, singly and in batches."""

from __future__ import annotations

import ctypes as c
import errno as e
from typing import Any, NamedTuple

from netaccel.datapath.libbpf.library import U32, check, lib


def map_create(kind: int, name: str, key_size: int, value_size: int, entries: int) -> int:
    """A map without BTF. Returns its descriptor."""
    return check(lib().bpf_map_create(kind, name.encode(), key_size, value_size, entries, None))


def map_lookup(fd: int, key: bytes, size: int) -> bytes | None:
    """Value of a key (``size`` bytes; all CPUs' values for a per-CPU map), None where it is absent."""
    value = c.create_string_buffer(size)
    result = lib().bpf_map_lookup_elem(fd, key, value)
    if result == -e.ENOENT:
        return None
    check(result)
    return value.raw


def map_update(fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
    """Write one entry; ``flags``: BPF_ANY 0, BPF_NOEXIST 1, BPF_EXIST 2."""
    check(lib().bpf_map_update_elem(fd, key, value, flags))


def map_delete(fd: int, key: bytes) -> bool:
    """Remove one entry; False where it was absent."""
    result = lib().bpf_map_delete_elem(fd, key)
    if result == -e.ENOENT:
        return False
    check(result)
    return True


def map_next_key(fd: int, key: bytes | None, size: int) -> bytes | None:
    """The key after ``key``, the first for None; None at the end."""
    following = c.create_string_buffer(size)
    result = lib().bpf_map_get_next_key(fd, key, following)
    if result == -e.ENOENT:
        return None
    check(result)
    return following.raw


class Batch(NamedTuple):
    """Outcome of a batch call: how many entries went through, and the errno that ended it (0: none)."""

    done: int
    errno: int


def at_offset(data: bytes | bytearray, start: int) -> Any:
    """A pointer into a buffer; keep it alive."""
    return c.c_void_p(address(data) + start)


def address(data: bytes | bytearray) -> int:
    """Where a buffer lies; keep it alive."""
    if isinstance(data, bytearray):
        return c.addressof(c.c_char.from_buffer(data))
    return c.cast(c.c_char_p(data), c.c_void_p).value or 0


def map_update_batch(fd: int, keys: bytes, values: bytes, count: int, at: tuple[int, int] = (0, 0)) -> Batch:
    """Write ``count`` entries; ``at``: offsets in bytes into ``keys`` and ``values``."""
    done = U32(count)
    result = lib().bpf_map_update_batch(
        fd, at_offset(keys, at[0]), at_offset(values, at[1]), c.byref(done), None
    )
    return _outcome(count, done.value, -result)


def map_delete_batch(fd: int, keys: bytes, count: int, at: int = 0) -> Batch:
    """Remove ``count`` entries; ends with ENOENT at the first that is absent."""
    done = U32(count)
    result = lib().bpf_map_delete_batch(fd, at_offset(keys, at), c.byref(done), None)
    return _outcome(count, done.value, -result)


def _outcome(asked: int, done: int, number: int) -> Batch:
    """Kernels before 6.8 leave the count as it was asked where they fail before the first entry."""
    return Batch(0 if number and done == asked else done, number)


def map_lookup_batch(
    fd: int, cursor: bytearray, first: bool, keys: bytearray, values: bytearray, count: int
) -> Batch:
    """Read up to ``count`` entries on from ``cursor`` (at least 4 and at least key-size bytes; moved on).

    ENOENT: these were the last. ENOSPC: one bucket holds more than ``count``; come back with more room.
    """
    done = U32(count)
    place = at_offset(cursor, 0)
    result = lib().bpf_map_lookup_batch(
        fd, None if first else place, place, at_offset(keys, 0), at_offset(values, 0), c.byref(done), None
    )
    return Batch(done.value, -result)
