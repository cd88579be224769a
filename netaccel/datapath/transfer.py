# SPDX-License-Identifier: Apache-2.0
"""From one layout of a struct to another, field by field, by name. Pure.

What an upgrade needs to carry a map's entries over: the old layout comes from the BTF that the kernel keeps
with the old map, the new one from the object. A field is carried where both have it with the same type, or
where an integer or text only grew; a field that is new is zero; padding is nobody's.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass

from netaccel.datapath.btf import Btf, Kind, Type


@dataclass(frozen=True, slots=True)
class Part:
    """A field of a layout, or the whole of a plain integer (with an empty name)."""

    name: str
    offset: int
    size: int
    type: str
    """As C would say it: ``__be16``, ``__u8[16]``."""
    grows: str = ""
    """Parts of the same non-empty kind may be carried into larger ones: ``int``, ``text``."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Size and fields, padding left out."""

    size: int
    parts: tuple[Part, ...]


def layout(btf: Btf, found: Type) -> Layout:
    """Describe a map's key or value type."""
    if found.kind is not Kind.STRUCT:
        return Layout(found.size, (_part("", 0, found),))
    fields = btf.struct_of(found).fields
    return Layout(
        found.size, tuple(_part(f.name, f.offset, f.type) for f in fields if not f.name.startswith("pad"))
    )


def _part(name: str, offset: int, found: Type) -> Part:
    grows = ""
    if found.kind in (Kind.INT, Kind.ENUM) and not found.name.startswith("__be"):
        grows = "signed" if found.signed else "int"
    elif found.kind is Kind.ARRAY and found.element is not None and found.element.name == "char":
        grows = "text"
    return Part(name, offset, found.size, str(found), grows)


class Transfer:
    """Carries packed values of ``old`` into ``new``."""

    def __init__(self, old: Layout, new: Layout) -> None:
        self.old = old
        self.new = new
        before = {part.name: part for part in old.parts}
        carried = [(before[p.name], p) for p in new.parts if p.name in before and _fits(before[p.name], p)]
        names = {part.name for _, part in carried}
        self.lost = tuple(part.name for part in old.parts if part.name not in names)
        """Fields of the old layout that find no place."""
        self.added = tuple(part.name for part in new.parts if part.name not in names)
        """Fields of the new layout that will be zero."""
        self.is_identity = old == new
        self._carried = carried

    def convert(self, data: bytes, old_stride: int = 0, new_stride: int = 0) -> bytes:
        """Convert a buffer of values; strides are for per-CPU values, which are rounded up."""
        old_stride, new_stride = old_stride or self.old.size, new_stride or self.new.size
        if self.is_identity and old_stride == new_stride:
            return data
        count = len(data) // old_stride
        out = bytearray(count * new_stride)
        for old, new in self._carried:
            # Integers of big-endian hosts grow at the front.
            shift = new.size - old.size if sys.byteorder == "big" and new.grows != "text" else 0
            reader = struct.Struct(f"{old.offset}x{old.size}s{old_stride - old.offset - old.size}x")
            at = new.offset + shift
            for (value,) in reader.iter_unpack(data):
                out[at : at + old.size] = value
                at += new_stride
        return bytes(out)


def _fits(old: Part, new: Part) -> bool:
    if old.type == new.type and old.size == new.size:
        return True
    return bool(old.grows) and old.grows == new.grows and old.size <= new.size
