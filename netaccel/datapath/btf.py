# SPDX-License-Identifier: Apache-2.0
"""BTF, the kernel's type format, read from bytes.

Pure: an ELF object's bytes (:meth:`Btf.from_elf`) or a raw BTF blob as the kernel returns it
(:meth:`Btf.from_raw`) go in, descriptions of structs, enums, maps and variables come out. Only what the
project needs is resolved; a type that is asked for and cannot be described raises :class:`AbiError`.

Sources: Documentation/bpf/btf.rst of the kernel; the ELF-64 object file format.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from netaccel.errors import AbiError

_MAGIC = 0xEB9F


class Kind(IntEnum):
    """BTF_KIND_*, as in the kernel's include/uapi/linux/btf.h."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


_MODIFIERS = (Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG)
# Bytes that follow the 12-byte header: a fixed part and one per element of the type's vlen.
_EXTRA: dict[Kind, tuple[int, int]] = {
    Kind.INT: (4, 0),
    Kind.ARRAY: (12, 0),
    Kind.STRUCT: (0, 12),
    Kind.UNION: (0, 12),
    Kind.ENUM: (0, 8),
    Kind.FUNC_PROTO: (0, 8),
    Kind.VAR: (4, 0),
    Kind.DATASEC: (0, 12),
    Kind.DECL_TAG: (4, 0),
    Kind.ENUM64: (0, 12),
}


@dataclass(frozen=True, slots=True)
class Type:
    """A resolved type. ``name`` is the outermost typedef (``__be16``), or the type's own name."""

    kind: Kind
    name: str
    size: int
    signed: bool = False
    count: int = 0
    element: Type | None = None
    id: int = 0
    """BTF id of the type below typedefs and modifiers."""

    def __str__(self) -> str:
        if self.kind is Kind.ARRAY:
            return f"{self.element}[{self.count}]"
        return f"{self.kind.name.lower()} {self.name}" if self.kind in (Kind.STRUCT, Kind.ENUM) else self.name


@dataclass(frozen=True, slots=True)
class Field:
    """A member of a struct; ``offset`` in bytes."""

    name: str
    offset: int
    type: Type


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct's layout: ``size`` in bytes, fields in order of their offsets."""

    name: str
    size: int
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class MapTypes:
    """Key and value type of one BTF-defined map; None where the definition names none."""

    key: Type | None
    value: Type | None


@dataclass(frozen=True, slots=True)
class _Raw:
    name: str
    kind: Kind
    vlen: int
    flag: bool
    size_or_type: int
    at: int
    """Offset of what follows the header."""


class Btf:
    """All types of one BTF blob, by id and by name."""

    def __init__(self, blob: bytes, symbols: Mapping[str, Symbol] | None = None) -> None:
        """``symbols``: the ELF symbol table, which places the variables of data sections."""
        self._order = _byte_order(blob)
        self._blob = blob
        self._symbols = symbols or {}
        self._types = self._scan()
        self._by_name: dict[tuple[Kind, str], int] = {}
        for number, raw in enumerate(self._types):
            if raw.name:
                self._by_name.setdefault((raw.kind, raw.name), number)

    @classmethod
    def from_elf(cls, data: bytes) -> Btf:
        """BTF of an object file's bytes."""
        elf = Elf(data)
        blob = elf.section(".BTF")
        if blob is None:
            raise AbiError("object has no .BTF section: compile it with clang -g")
        return cls(blob, elf.symbols())

    @classmethod
    def from_raw(cls, blob: bytes) -> Btf:
        """BTF as the kernel returns it for a BTF id or in /sys/kernel/btf."""
        return cls(blob)

    # ------------------------------------------------------------- look-up

    def type(self, number: int) -> Type:
        """The type with this BTF id, typedefs and modifiers resolved."""
        return self._resolve(number)

    def struct(self, name: str) -> Struct:
        """The layout of ``struct name``. AbiError where it is absent or has bitfields."""
        number = self._by_name.get((Kind.STRUCT, name))
        if number is None:
            raise AbiError(f"struct {name}: not in the object's BTF")
        return self._struct(number)

    def struct_of(self, found: Type) -> Struct:
        """The layout of a resolved struct type, named or not."""
        if found.kind is not Kind.STRUCT:
            raise AbiError(f"{found}: not a struct")
        return self._struct(found.id)

    def has_struct(self, name: str) -> bool:
        """True if the blob defines ``struct name``."""
        return (Kind.STRUCT, name) in self._by_name

    def enum(self, name: str) -> Mapping[str, int]:
        """Enumerators of ``enum name`` in the order of their declaration."""
        for kind in (Kind.ENUM, Kind.ENUM64):
            number = self._by_name.get((kind, name))
            if number is not None:
                return self._enumerators(self._types[number])
        raise AbiError(f"enum {name}: not in the object's BTF")

    def maps(self) -> Mapping[str, MapTypes]:
        """Key and value types of every map of the ``.maps`` section."""
        return {name: self._map_types(kind) for name, kind in self.section(".maps").items()}

    def section(self, name: str) -> Mapping[str, Type]:
        """Types of the variables of a data section, by name; empty where there is no such section."""
        number = self._by_name.get((Kind.DATASEC, name))
        if number is None:
            return {}
        found = {}
        raw = self._types[number]
        for i in range(raw.vlen):
            var = self._types[self._u32(raw.at + 12 * i, 1)[0]]
            found[var.name] = self._resolve(var.size_or_type)
        return found

    def variable(self, section: str, name: str) -> tuple[int, Type]:
        """Offset in its section, and type, of a variable. AbiError where it is absent."""
        types = self.section(section)
        symbol = self._symbols.get(name)
        if name not in types or symbol is None or symbol.section != section:
            raise AbiError(f"variable {name}: not in section {section} of the object")
        return symbol.offset, types[name]

    # ------------------------------------------------------------- reading

    def _u32(self, at: int, count: int) -> tuple[int, ...]:
        return struct.unpack_from(f"{self._order}{count}I", self._blob, at)

    def _scan(self) -> list[_Raw]:
        header = struct.unpack_from(self._order + "HBBIIIII", self._blob)
        head, type_off, type_len, str_off, str_len = header[3:8]
        strings = self._blob[head + str_off : head + str_off + str_len]
        at, end = head + type_off, head + type_off + type_len
        types = [_Raw("void", Kind.VOID, 0, False, 0, 0)]
        while at < end:
            name_off, info, size = self._u32(at, 3)
            number = info >> 24 & 0x1F
            if number > max(Kind):
                raise AbiError(f"BTF kind {number} is not known: a newer compiler's object")
            kind, vlen = Kind(number), info & 0xFFFF
            name = strings[name_off : strings.index(b"\0", name_off)].decode()
            types.append(_Raw(name, kind, vlen, bool(info >> 31), size, at + 12))
            fixed, each = _EXTRA.get(kind, (0, 0))
            at += 12 + fixed + each * vlen
        return types

    def _resolve(self, number: int) -> Type:
        name = ""
        raw = self._types[number]
        while raw.kind is Kind.TYPEDEF or raw.kind in _MODIFIERS:
            if raw.kind is Kind.TYPEDEF and not name:
                name = raw.name
            number = raw.size_or_type
            raw = self._types[number]
        name = name or raw.name
        match raw.kind:
            case Kind.INT:
                encoding = self._u32(raw.at, 1)[0] >> 24
                return Type(raw.kind, name, raw.size_or_type, signed=bool(encoding & 1), id=number)
            case Kind.PTR:
                return Type(raw.kind, name or "pointer", 8, id=number)
            case Kind.ENUM | Kind.ENUM64:
                return Type(Kind.ENUM, name, raw.size_or_type, signed=raw.flag, id=number)
            case Kind.ARRAY:
                element_id, _, count = self._u32(raw.at, 3)
                element = self._resolve(element_id)
                return Type(raw.kind, name, element.size * count, count=count, element=element, id=number)
            case Kind.STRUCT | Kind.UNION | Kind.FLOAT:
                return Type(raw.kind, name, raw.size_or_type, id=number)
            case _:
                return Type(raw.kind, name, 0, id=number)

    def _struct(self, number: int) -> Struct:
        raw = self._types[number]
        fields = []
        for i in range(raw.vlen):
            name_off, type_id, bits = self._u32(raw.at + 12 * i, 3)
            name = self._string(name_off)
            width = bits >> 24 if raw.flag else 0
            offset = bits & 0xFFFFFF if raw.flag else bits
            if width or offset % 8:
                raise AbiError(f"struct {raw.name}: {name} is a bitfield, which the ABI forbids")
            fields.append(Field(name, offset // 8, self._resolve(type_id)))
        return Struct(raw.name, raw.size_or_type, tuple(fields))

    def _enumerators(self, raw: _Raw) -> Mapping[str, int]:
        found = {}
        wide = raw.kind is Kind.ENUM64
        for i in range(raw.vlen):
            words = self._u32(raw.at + (12 if wide else 8) * i, 3 if wide else 2)
            value = words[1] | words[2] << 32 if wide else words[1]
            top = 1 << (63 if wide else 31)
            found[self._string(words[0])] = value - 2 * top if raw.flag and value & top else value
        return found

    def _map_types(self, definition: Type) -> MapTypes:
        if definition.kind is not Kind.STRUCT:
            return MapTypes(None, None)
        found: dict[str, Type] = {}
        for field in self._struct(definition.id).fields:
            if field.name in ("key", "value") and field.type.kind is Kind.PTR:
                found[field.name] = self._resolve(self._types[field.type.id].size_or_type)
        return MapTypes(found.get("key"), found.get("value"))

    def _string(self, offset: int) -> str:
        head, _, _, str_off, _ = struct.unpack_from(self._order + "IIIII", self._blob, 4)
        start = head + str_off + offset
        return self._blob[start : self._blob.index(b"\0", start)].decode()


def _byte_order(blob: bytes) -> str:
    if len(blob) >= 24:
        for order in "<>":
            if struct.unpack_from(order + "H", blob)[0] == _MAGIC:
                return order
    raise AbiError("not BTF: its magic number is missing")


# ----------------------------------------------------------------------- ELF


@dataclass(frozen=True, slots=True)
class Symbol:
    """Where a variable or function is: section name, offset and size in bytes."""

    section: str
    offset: int
    size: int


class Elf:
    """Sections and symbols of a 64-bit relocatable object."""

    def __init__(self, data: bytes) -> None:
        if data[:5] != b"\x7fELF\x02" or len(data) < 64:
            raise AbiError("not a 64-bit ELF object")
        self._data = data
        self._order = "<" if data[5] == 1 else ">"
        table = struct.unpack_from(self._order + "Q", data, 0x28)[0]
        width, count, names = struct.unpack_from(self._order + "HHH", data, 0x3A)
        if table + width * count > len(data):
            raise AbiError("ELF object is cut short")
        # sh_name, sh_type, sh_flags, sh_addr, sh_offset, sh_size, sh_link, ...
        headers = [struct.unpack_from(self._order + "IIQQQQI", data, table + width * i) for i in range(count)]
        name_table = self._content(headers[names])
        self._names = [_c_string(name_table, h[0]) for h in headers]
        self._headers = headers

    def section(self, name: str) -> bytes | None:
        """Bytes of a section, None where the object has none of that name."""
        return self._content(self._headers[self._names.index(name)]) if name in self._names else None

    def symbols(self) -> Mapping[str, Symbol]:
        """Named symbols that lie in a section."""
        if ".symtab" not in self._names:
            return {}
        header = self._headers[self._names.index(".symtab")]
        strings = self._content(self._headers[header[6]])
        found = {}
        for entry in struct.iter_unpack(self._order + "IBBHQQ", self._content(header)):
            name_off, _, _, index, value, size = entry
            name = _c_string(strings, name_off)
            if name and 0 < index < len(self._names):
                found[name] = Symbol(self._names[index], value, size)
        return found

    def _content(self, header: tuple[int, ...]) -> bytes:
        return self._data[header[4] : header[4] + header[5]]


def _c_string(table: bytes, offset: int) -> str:
    return table[offset : table.index(b"\0", offset)].decode()
