# SPDX-License-Identifier: Apache-2.0
"""Entries of one map into another of a different shape; see :mod:`.loader` for when and why."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from netaccel.datapath import libbpf
from netaccel.datapath.bpfmap import KernelMap, MapType
from netaccel.datapath.btf import Btf, MapTypes
from netaccel.datapath.transfer import Layout, Transfer, layout
from netaccel.errors import MapFullError

_NOEXIST = 1  # BPF_NOEXIST
_LRU = (MapType.LRU_HASH, MapType.LRU_PERCPU_HASH)
# Keys are sockets; contents are in flight; values are read as others than they are written.
_NEVER_COPIED = (MapType.SK_STORAGE, MapType.RINGBUF, MapType.PROG_ARRAY)


@dataclass(frozen=True, slots=True)
class Shape:
    """Everything about a map that must agree before it can be used as another."""

    type: int
    entries: int
    flags: int
    key: Layout
    value: Layout

    def difference(self, old: Shape) -> str:
        """Why ``old`` can't be used in place of this, "" where it can."""
        if self.type != old.type:
            return "its type changed"
        if (self.key, self.value) != (old.key, old.value):
            return "its layout changed"
        if self.entries != old.entries:
            return f"its size changed from {old.entries} to {self.entries}"
        if self.flags != old.flags:
            return "its flags changed"
        return ""


def wanted_shape(btf: Btf, info: libbpf.MapInfo) -> Shape:
    """Shape of a map that an object declares."""
    types = btf.maps().get(info.name, MapTypes(None, None))
    key = layout(btf, types.key) if types.key else Layout(info.key_size, ())
    value = layout(btf, types.value) if types.value else Layout(info.value_size, ())
    return Shape(info.type, info.max_entries, info.flags, key, value)


def pinned_shape(kernel: KernelMap, wanted: Shape) -> Shape:
    """Shape of a map in the kernel, from the BTF that the kernel keeps with it.

    A map without BTF is taken for what is wanted where the sizes agree, else nothing is known of it.
    """
    info = kernel.info
    if info.btf and info.key_type and info.value_type:
        btf = Btf.from_raw(libbpf.btf_by_id(info.btf))
        key, value = (layout(btf, btf.type(number)) for number in (info.key_type, info.value_type))
    else:
        key = wanted.key if wanted.key.size == info.key_size else Layout(info.key_size, ())
        value = wanted.value if wanted.value.size == info.value_size else Layout(info.value_size, ())
    return Shape(info.type, info.max_entries, info.flags, key, value)


def room_needed(kernel: KernelMap) -> int:
    """Entries that a map needs to hold what this one holds; 0 for those that may forget."""
    if kernel.info.type in (*_LRU, *_NEVER_COPIED):
        return 0
    needed = 0
    for total, keys, values in kernel.read():
        if not kernel.is_array:
            needed += total
        elif values != bytes(len(values)):
            size = kernel.value_size
            live = [i for i in range(total) if values[i * size : (i + 1) * size] != bytes(size)]
            needed = 1 + int(struct.unpack_from("=I", keys, 4 * live[-1])[0])
    return needed


@dataclass(slots=True)
class Migration:
    """From ``old`` to ``new``; keeps what it needs to catch up later. Owns neither map."""

    old: KernelMap
    new: KernelMap
    key: Transfer
    value: Transfer
    _counted: dict[bytes, bytes] = field(default_factory=dict)

    @classmethod
    def between(cls, old: KernelMap, old_shape: Shape, new: KernelMap, new_shape: Shape) -> Migration:
        """Plan it."""
        key = Transfer(old_shape.key, new_shape.key)
        return cls(old, new, key, Transfer(old_shape.value, new_shape.value))

    @property
    def possible(self) -> bool:
        """Whether keys keep their meaning: no field of the key came or went."""
        if {self.old.info.type, self.new.info.type} & set(_NEVER_COPIED):
            return False
        same_kind = self.old.is_array == self.new.is_array and self.old.is_per_cpu == self.new.is_per_cpu
        return same_kind and not self.key.lost and not self.key.added

    def copy(self) -> int:
        """Copy what the new map lacks; returns how many entries. Before new programs run."""
        if not self.possible:
            return 0
        copied = 0
        there = self._keys_of_new()
        for keys, values in self._converted():
            if self.new.is_per_cpu and self.new.is_array:
                self._counted.update(zip(keys, values, strict=True))
            fresh = [i for i, key in enumerate(keys) if key not in there]
            self.new.write(b"".join(keys[i] for i in fresh), b"".join(values[i] for i in fresh), len(fresh))
            copied += len(fresh)
        return copied

    def catch_up(self) -> int:
        """Copy what old programs added since :meth:`copy`; new programs are running."""
        if not self.possible or (self.new.is_array and not self.new.is_per_cpu):
            return 0  # arrays are the agent's alone to write
        if self.new.is_array:
            return self._add_counts()
        copied = 0
        there = self._keys_of_new()
        for keys, values in self._converted():
            for key, value in zip(keys, values, strict=True):
                if key not in there:
                    copied += self._add(key, value)
        return copied

    def _add(self, key: bytes, value: bytes) -> bool:
        try:
            self.new.update(key, value, _NOEXIST)
        except FileExistsError:
            return False
        except MapFullError:
            return False
        return True

    def _add_counts(self) -> int:
        """Add what per-CPU counters counted meanwhile, where all fields are counters (64 bits)."""
        if any(part.size != 8 for part in self.value.new.parts):
            return 0
        changed = 0
        words = struct.Struct(f"={self.new.value_size // 8}Q")
        for keys, values in self._converted():
            for key, value in zip(keys, values, strict=True):
                before = self._counted.get(key, bytes(len(value)))
                now = self.new.lookup(key)
                if value == before or now is None:
                    continue
                sums = zip(words.unpack(now), words.unpack(value), words.unpack(before), strict=True)
                self.new.update(key, words.pack(*((n + v - b) % (1 << 64) for n, v, b in sums)))
                changed += 1
        return changed

    def _keys_of_new(self) -> set[bytes]:
        if self.new.is_array:
            return set()
        width = self.new.info.key_size
        return {keys[at : at + width] for _, keys, _ in self.new.read() for at in range(0, len(keys), width)}

    def _converted(self) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Chunks of the old map's entries in the new layout; of arrays what is not zero and has room."""
        old_stride, new_stride = self.old.info.value_size, self.new.info.value_size
        if self.old.is_per_cpu:
            old_stride, new_stride = ((size + 7) // 8 * 8 for size in (old_stride, new_stride))
        for total, keys, values in self.old.read():
            if self.old.is_array and values == bytes(len(values)):
                continue
            new_keys = _split(self.key.convert(keys), self.new.info.key_size)
            new_values = _split(self.value.convert(values, old_stride, new_stride), self.new.value_size)
            if self.old.is_array:
                live = [i for i in range(total) if new_values[i] != bytes(len(new_values[i]))]
                live = [i for i in live if struct.unpack("=I", new_keys[i])[0] < self.new.info.max_entries]
                new_keys, new_values = [new_keys[i] for i in live], [new_values[i] for i in live]
            yield new_keys, new_values


def _split(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]
