# SPDX-License-Identifier: Apache-2.0
"""The datapath's maps as records: what the reconciler writes and the observers read.

Logical names join the two families: ``frontends`` is ``frontends4`` and ``frontends6``, ``flows`` likewise;
an entry goes where its key's address belongs. Every other map has its own name (bpf/include/maps.h).
Array maps have ``int`` keys and all-zero values count as absent; per-CPU maps dump one record per CPU.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from netaccel.compile.diff import Columns
from netaccel.datapath.abi import V4_MAPPED, Abi, IntCodec, MapCodec, RecordCodec
from netaccel.datapath.bpfmap import KernelMap, MapType
from netaccel.errors import DatapathError, MapFullError

_BPF_NOEXIST = 1  # linux/bpf.h


class Maps(Protocol):
    """Access to a node's maps by logical name; the real ones here, in memory in :mod:`.fake`."""

    def dump(self, name: str) -> dict[Any, Any]:
        """All entries of a map."""
        ...

    def write(self, name: str, entries: Sequence[tuple[Any, Any]]) -> None:
        """Add or replace entries, in order. MapFullError where one does not fit."""
        ...

    def delete(self, name: str, keys: Sequence[Any]) -> None:
        """Remove entries; keys that are absent are fine."""
        ...

    def capacity(self, name: str) -> int:
        """Entries that the map has room for; of each family where two are joined."""
        ...


class _Table:
    """One map with its codecs."""

    def __init__(self, kernel: KernelMap, codec: MapCodec) -> None:
        self.kernel = kernel
        self.key = codec.key
        self.value = codec.value
        self._stride = (codec.value.size + 7) // 8 * 8

    def dump(self) -> Iterator[tuple[Any, Any]]:
        per_cpu, skip = self.kernel.is_per_cpu, self.kernel.is_array
        size = self.kernel.value_size
        zero = bytes(size)
        for count, keys, values in self.kernel.read():
            if skip and values == bytes(len(values)):  # most of a sparse array, at the price of a memcmp
                continue
            decoded = self._per_cpu(values, count) if per_cpu else self.value.unpack_many(values)
            pairs = zip(self.key.unpack_many(keys), decoded, strict=True)
            if skip:
                raw = (values[at : at + size] for at in range(0, count * size, size))
                yield from (pair for pair, content in zip(pairs, raw, strict=True) if content != zero)
            else:
                yield from pairs

    def batches(self) -> Iterator[list[tuple[Any, Any]]]:
        for _, keys, values in self.kernel.read():
            if self.kernel.is_array and values == bytes(len(values)):
                continue
            yield list(zip(self.key.unpack_many(keys), self.value.unpack_many(values), strict=True))

    def count(self, mark: str) -> int:
        if mark and isinstance(self.value, RecordCodec):
            offset, size = self.value.offsets[mark], self.kernel.value_size
            marks = (entries.values[offset::size] for entries in self.kernel.read())
            return sum(len(column) - column.count(0) for column in marks)
        if not self.kernel.is_array:
            return sum(entries.total for entries in self.kernel.read())
        return sum(self._used(entries.values) for entries in self.kernel.read())

    def _used(self, values: bytes) -> int:
        """How many of an array's values are not all zero."""
        if values == bytes(len(values)):
            return 0
        if isinstance(self.value, IntCodec) and not self.kernel.is_per_cpu:
            numbers = self.value.unpack_many(values)
            return len(numbers) - numbers.count(0)
        size = self.kernel.value_size
        zero = bytes(size)
        return sum(values[at : at + size] != zero for at in range(0, len(values), size))

    def write(self, entries: Sequence[tuple[Any, Any]]) -> None:
        if isinstance(entries, Columns):
            self.kernel.write(
                self.key.pack_many(entries.numbers), self.value.pack_many(entries.values), len(entries)
            )
            return
        keys = self.key.pack_many([key for key, _ in entries])
        if self.kernel.is_per_cpu:
            values = b"".join(self._pack_per_cpu(value) for _, value in entries)
        else:
            values = self.value.pack_many([value for _, value in entries])
        self.kernel.write(keys, values, len(entries))

    def delete(self, keys: Sequence[Any]) -> None:
        self.kernel.remove(self.key.pack_many(keys), len(keys))

    def add(self, entries: Sequence[tuple[Any, Any]]) -> int:
        added = 0
        for key, value in entries:  # one by one: batches can't be told to spare what is there
            try:
                self.kernel.update(self.key.pack(key), self.value.pack(value), _BPF_NOEXIST)
            except DatapathError as error:
                if error.errno != errno.EEXIST:
                    raise
            else:
                added += 1
        return added

    def get(self, key: Any) -> Any:
        raw = self.kernel.lookup(self.key.pack(key))
        if raw is None:
            return None
        return self._per_cpu(raw, 1)[0] if self.kernel.is_per_cpu else self.value.unpack(raw)

    def _per_cpu(self, values: bytes, count: int) -> list[list[Any]]:
        if self._stride == self.value.size:
            flat = self.value.unpack_many(values)
        else:
            starts = range(0, len(values), self._stride)
            packed = b"".join(values[at : at + self.value.size] for at in starts)
            flat = self.value.unpack_many(packed)
        cpus = len(flat) // count
        return [flat[i : i + cpus] for i in range(0, len(flat), cpus)]

    def _pack_per_cpu(self, values: Sequence[Any]) -> bytes:
        return b"".join(self.value.pack(value).ljust(self._stride, b"\0") for value in values)


class KernelMaps:
    """The maps of one node. Owns the descriptors; :meth:`close` them."""

    def __init__(self, maps: Mapping[str, KernelMap], *abis: Abi) -> None:
        """``maps`` by their names in maps.h; taken over. ``abis``: of the objects that declare them."""
        codecs = {name: codec for abi in abis for name, codec in abi.maps.items()}
        self._tables = {
            name: _Table(kernel, codecs[name])
            for name, kernel in maps.items()
            if name in codecs and kernel.info.type != MapType.SK_STORAGE  # its keys are descriptors
        }
        for name in maps.keys() - self._tables.keys():
            maps[name].close()
        self._joined = {
            name[:-1]: (self._tables[name], self._tables[f"{name[:-1]}6"])
            for name in self._tables
            if name.endswith("4") and f"{name[:-1]}6" in self._tables
        }

    @classmethod
    def open(cls, folder: str | os.PathLike[str], abi: Abi) -> KernelMaps:
        """The maps pinned in ``<bpffs>/netaccel/maps``. DatapathError where none is there."""
        found: dict[str, KernelMap] = {}
        for name in abi.maps:
            path = Path(folder) / name
            if path.exists():
                found[name] = KernelMap.open_pinned(path)
        if not found:
            raise DatapathError(f"{folder}: no maps are pinned here; is the agent running on this node?")
        return cls(found, abi)

    def names(self) -> tuple[str, ...]:
        """Logical names."""
        halves = {f"{name}{family}" for name in self._joined for family in "46"}
        return tuple(sorted(set(self._tables) - halves | set(self._joined)))

    def dump(self, name: str) -> dict[Any, Any]:
        """All entries; array entries that are all zero are left out."""
        return {key: value for table in self._of(name) for key, value in table.dump()}

    def batches(self, name: str) -> Iterator[list[tuple[Any, Any]]]:
        """All entries of a map without per-CPU values, in chunks; of arrays zeros may be left out."""
        for table in self._of(name):
            yield from table.batches()

    def count(self, name: str, mark: str = "") -> int:
        """Entries in use, without decoding them; of arrays those that are not all zero.

        ``mark``: a field of one byte; then those count where it isn't zero.
        """
        return sum(table.count(mark) for table in self._of(name))

    def get(self, name: str, key: Any) -> Any:
        """One value, None where it is absent; an array's value even where it is zero."""
        return self._route(name, key).get(key)

    def write(self, name: str, entries: Sequence[tuple[Any, Any]]) -> None:
        """Add or replace entries, IPv4 before IPv6, else in order.

        MapFullError where one does not fit; its ``written`` counts those before it in this order.
        """
        done = 0
        for table, part in self._split(name, entries, lambda entry: entry[0]):
            try:
                table.write(part)
            except MapFullError as error:
                raise MapFullError(str(error), error.errno, done + error.written) from error
            done += len(part)

    def add(self, name: str, entries: Sequence[tuple[Any, Any]]) -> int:
        """Add entries whose keys are absent; how many were. MapFullError where one does not fit."""
        return sum(table.add(part) for table, part in self._split(name, entries, lambda entry: entry[0]))

    def delete(self, name: str, keys: Sequence[Any]) -> None:
        """Remove entries; keys that are absent are fine. Array entries become zero."""
        for table, part in self._split(name, keys, lambda key: key):
            table.delete(part)

    def capacity(self, name: str) -> int:
        """Entries that the map has room for; of each family where two are joined."""
        return min(table.kernel.info.max_entries for table in self._of(name))

    def memory(self) -> dict[str, int]:
        """Bytes of kernel memory by map (not joined), as the kernel accounts them."""
        return {name: table.kernel.memory() for name, table in sorted(self._tables.items())}

    def close(self) -> None:
        """Close the descriptors."""
        for table in self._tables.values():
            table.kernel.close()

    def _of(self, name: str) -> tuple[_Table, ...]:
        if name in self._joined:
            return self._joined[name]
        if name not in self._tables:
            raise DatapathError(f"no map {name}: there are {', '.join(self.names())}")
        return (self._tables[name],)

    def _route(self, name: str, key: Any) -> _Table:
        tables = self._of(name)
        return tables[0] if len(tables) == 1 or _is_v4(key) else tables[1]

    def _split(
        self, name: str, items: Sequence[Any], key_of: Callable[[Any], Any]
    ) -> Iterator[tuple[_Table, Sequence[Any]]]:
        tables = self._of(name)
        parts: tuple[Sequence[Any], ...]
        if len(tables) == 1:
            parts = (items,)
        else:
            halves: tuple[list[Any], list[Any]] = ([], [])
            for item in items:
                halves[0 if _is_v4(key_of(item)) else 1].append(item)
            parts = halves
        for table, part in zip(tables, parts, strict=True):
            if part:
                yield table, part


def _is_v4(key: Any) -> bool:
    """Keys of joined maps begin with an address in the 16-byte form."""
    address: bytes = key[0]
    return address.startswith(V4_MAPPED)
