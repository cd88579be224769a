# SPDX-License-Identifier: Apache-2.0
"""One map of the kernel, by its descriptor: bytes in, bytes out, in batches where the kernel has them.

Keys and values travel packed one after the other. A value of a per-CPU map is all CPUs' values, each
rounded up to eight bytes (``value_size`` here is that whole).
"""

from __future__ import annotations

import errno
import os
import struct
import time
from array import array
from collections.abc import Iterator
from enum import IntEnum
from types import TracebackType
from typing import NamedTuple, Self

from netaccel.datapath import libbpf, mapped
from netaccel.errors import DatapathError, MapFullError

_FULL = (errno.E2BIG, errno.ENOSPC, errno.ENOMEM)
_NO_BATCH = (errno.EINVAL, errno.EOPNOTSUPP, libbpf.ENOTSUPP)
_PASSING = (errno.EAGAIN, errno.EBUSY, errno.ENOMEM)
"""A bucket was locked on this CPU, or its stock of free elements has yet to be filled up: once more, as the
kernel's own tests do (tools/testing/selftests/bpf/test_maps.c). ENOMEM that stays means full."""
_TRIES = 5
_CHUNK = 4096
"""Entries a batch: large enough that the call itself is free, small enough not to hold a bucket long."""


class MapType(IntEnum):
    """Those of enum bpf_map_type (include/uapi/linux/bpf.h) that are treated apart."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11
    SK_STORAGE = 24
    RINGBUF = 27


_ARRAYS = (MapType.ARRAY, MapType.PERCPU_ARRAY)
_PER_CPU = (MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH)


class Entries(NamedTuple):
    """Packed keys and values of ``total`` entries."""

    total: int
    keys: bytes
    values: bytes


def map_info(fd: int) -> libbpf.MapInfo:
    """Struct bpf_map_info of a map's descriptor."""
    raw = libbpf.info(fd)
    kind, number, key_size, value_size, entries, flags = struct.unpack_from("=6I", raw)
    name = raw[24:40].partition(b"\0")[0].decode()
    btf, key_type, value_type = struct.unpack_from("=3I", raw, 64)
    return libbpf.MapInfo(name, kind, number, key_size, value_size, entries, flags, btf, key_type, value_type)


class KernelMap:
    """An open map. Owns its descriptor; use as a context manager or call :meth:`close`."""

    def __init__(self, fd: int, name: str = "") -> None:
        """``name``: for messages, where the kernel's 15 characters are too few."""
        self.fd = fd
        self.info = map_info(fd)
        self.name = name or self.info.name
        self.is_array = self.info.type in _ARRAYS
        self.is_per_cpu = self.info.type in _PER_CPU
        size = self.info.value_size
        self.value_size = (size + 7) // 8 * 8 * libbpf.cpus() if self.is_per_cpu else size
        self.chunk = _CHUNK
        self._batches = True

    @classmethod
    def create(cls, kind: MapType, name: str, key_size: int, value_size: int, entries: int) -> Self:
        """A new map without BTF, for probes and tests."""
        try:
            return cls(libbpf.map_create(kind, name, key_size, value_size, entries), name)
        except OSError as error:
            raise DatapathError(f"map {name} can't be created: {error.strerror}", _number(error)) from error

    @classmethod
    def open_pinned(cls, path: str | os.PathLike[str]) -> Self:
        """Open a pinned map. FileNotFoundError where there is no such pin."""
        return cls(libbpf.obj_get(os.fspath(path)), os.path.basename(path))  # noqa: PTH119

    @classmethod
    def open_id(cls, number: int) -> Self:
        """Open a map by its id."""
        return cls(libbpf.fd_by_id("map", number))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; the map lives on while pinned or used by a program."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    # --------------------------------------------------------- one at a time

    def lookup(self, key: bytes) -> bytes | None:
        """The value, None where the key is absent."""
        try:
            return libbpf.map_lookup(self.fd, key, self.value_size)
        except OSError as error:
            raise self._error("read", error) from error

    def update(self, key: bytes, value: bytes, flags: int = 0) -> None:
        """Write one entry. MapFullError where it does not fit."""
        try:
            libbpf.map_update(self.fd, key, value, flags)
        except OSError as error:
            raise self._error("write", error) from error

    def delete(self, key: bytes) -> bool:
        """Remove one entry, or zero it in an array; False where it was absent."""
        if self.is_array:
            self.update(key, bytes(self.value_size))
            return True
        try:
            return libbpf.map_delete(self.fd, key)
        except OSError as error:
            raise self._error("delete from", error) from error

    # -------------------------------------------------------------- in bulk

    def read(self) -> Iterator[Entries]:
        """Every entry, in chunks. Entries that come and go meanwhile may or may not be among them.

        Of arrays that can be mapped, chunks without anything but zeros are left out.
        """
        if self.info.type == MapType.ARRAY and self.info.flags & mapped.BPF_F_MMAPABLE:
            yield from self._read_mapped()
            return
        if self._batches:
            yield from self._read_batches()
        if not self._batches:
            yield from self._read_singly()

    def write(self, keys: bytes, values: bytes, count: int) -> None:
        """Write ``count`` entries in order. MapFullError names how many went in before the map was full."""
        done, patience = 0, _Patience()
        while self._batches and done < count:
            size = min(self.chunk, count - done)
            at = (done * self.info.key_size, done * self.value_size)
            batch = libbpf.map_update_batch(self.fd, keys, values, size, at)
            if batch.errno in _NO_BATCH and not done:
                self._batches = False
                break
            done += batch.done
            if batch.errno and not patience.again(batch.errno, done):
                raise self._error("write", OSError(batch.errno, os.strerror(batch.errno)), done)
        while done < count:
            try:
                libbpf.map_update(self.fd, *self._entry(keys, values, done))
            except OSError as error:
                if not patience.again(_number(error), done):
                    raise self._error("write", error, done) from error
            else:
                done += 1

    def remove(self, keys: bytes, count: int) -> None:
        """Remove ``count`` keys; those that are absent are passed over. Array entries are zeroed."""
        if self.is_array:
            self.write(keys, bytes(self.value_size * count), count)
            return
        width, done, patience = self.info.key_size, 0, _Patience()
        while self._batches and done < count:
            batch = libbpf.map_delete_batch(self.fd, keys, min(self.chunk, count - done), done * width)
            if batch.errno in _NO_BATCH and not done:
                self._batches = False
                break
            done += batch.done
            if batch.errno == errno.ENOENT:
                done += 1
            elif batch.errno and not patience.again(batch.errno, done):
                raise self._error("delete from", OSError(batch.errno, os.strerror(batch.errno)), done)
        for i in range(done, count):
            self.delete(keys[i * width : (i + 1) * width])

    def memory(self) -> int:
        """Bytes of kernel memory that the map takes now, as the kernel accounts it; 0 where not told."""
        with open(f"/proc/self/fdinfo/{self.fd}", encoding="ascii") as lines:  # noqa: PTH123
            return next((int(line.split()[1]) for line in lines if line.startswith("memlock:")), 0)

    # -------------------------------------------------------------- insides

    def _read_mapped(self) -> Iterator[Entries]:
        try:
            for run in mapped.runs(self.fd, self.info):
                keys = array("I", range(run.first, run.first + run.total)).tobytes()
                yield Entries(run.total, keys, run.values)
        except OSError as error:
            raise self._error("read", error) from error

    def _read_batches(self) -> Iterator[Entries]:
        width = self.info.key_size
        room = min(self.chunk, self.info.max_entries)
        cursor, first = bytearray(max(8, width)), True
        while True:
            keys, values = bytearray(room * width), bytearray(room * self.value_size)
            batch = libbpf.map_lookup_batch(self.fd, cursor, first, keys, values, room)
            if batch.errno == errno.ENOSPC and room < 2 * self.info.max_entries:
                room *= 2
                continue
            if batch.errno in _NO_BATCH and first:
                self._batches = False
                return
            if batch.errno not in (0, errno.ENOENT):
                raise self._error("read", OSError(batch.errno, os.strerror(batch.errno)))
            if batch.done:
                yield Entries(
                    batch.done,
                    bytes(keys[: batch.done * width]),
                    bytes(values[: batch.done * self.value_size]),
                )
            if batch.errno:
                return
            first = False

    def _read_singly(self) -> Iterator[Entries]:
        keys: list[bytes] = []
        values: list[bytes] = []
        key = libbpf.map_next_key(self.fd, None, self.info.key_size)
        # A key that vanishes under the walk sends it back to the start, so the walk is bounded.
        for _ in range(2 * self.info.max_entries):
            if key is None:
                break
            value = self.lookup(key)
            if value is not None:
                keys.append(key)
                values.append(value)
            key = libbpf.map_next_key(self.fd, key, self.info.key_size)
        found = dict(zip(keys, values, strict=True))
        yield Entries(len(found), b"".join(found), b"".join(found.values()))

    def _entry(self, keys: bytes, values: bytes, i: int) -> tuple[bytes, bytes]:
        width, size = self.info.key_size, self.value_size
        return keys[i * width : (i + 1) * width], values[i * size : (i + 1) * size]

    def _error(self, what: str, error: OSError, done: int = 0) -> DatapathError:
        number = _number(error)
        if what == "write" and number in _FULL:
            return MapFullError(
                f"map {self.name} is full ({self.info.max_entries} entries): raise its size", number, done
            )
        return DatapathError(f"map {self.name}: can't {what} it: {error.strerror}", number)


class _Patience:
    """Counts tries at one place; waits a little before each."""

    def __init__(self) -> None:
        self._place = -1
        self._tries = 0

    def again(self, number: int, place: int) -> bool:
        """Whether an errno at entry ``place`` deserves another try."""
        self._tries = self._tries + 1 if place == self._place else 1
        self._place = place
        if number not in _PASSING or self._tries >= _TRIES:
            return False
        time.sleep(0.001)
        return True


def _number(error: OSError) -> int:
    return error.errno or 0
