# SPDX-License-Identifier: Apache-2.0
"""Records to bytes and back, after the layouts that the object's BTF states.

:class:`Abi` reads one object's BTF and gives, for every map, the codecs of its key and value, and the
constants of ``bpf/include/abi.h``. Where a struct and its record disagree it raises :class:`AbiError`:
the object and this package were not built from the same source.

Byte order: fields of type ``__be16`` and the like are ``int`` in host order in the record; ``__u8[N]`` is
``bytes``, ``char[N]`` is ``str``, a ``__be32`` whose record field is ``bytes`` is the last four octets of
an IPv4-mapped address. Fields whose name starts with ``pad`` are zeroed and have no record field.
"""

from __future__ import annotations

import re
import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, get_type_hints

from netaccel import records
from netaccel.datapath.btf import Btf, Field, Kind, Struct, Type
from netaccel.errors import AbiError

V4_MAPPED = b"\0" * 10 + b"\xff\xff"
"""First twelve octets of an IPv4 address in the 16-byte form (RFC 4291 2.5.5.2)."""

_INT_FORMAT = {1: "B", 2: "H", 4: "I", 8: "Q"}


class Codec(Protocol):
    """One type's way to bytes and back; ``size`` in bytes."""

    name: str
    size: int

    def pack(self, value: Any) -> bytes:
        """One value as bytes. ValueError where a value does not fit its field."""
        ...

    def unpack(self, data: bytes) -> Any:
        """One value from exactly ``size`` bytes."""
        ...

    def pack_many(self, values: Sequence[Any]) -> bytes:
        """Values one after the other, without gaps."""
        ...

    def unpack_many(self, data: bytes | bytearray | memoryview) -> list[Any]:
        """Values of a buffer that holds a whole number of them."""
        ...


class IntCodec:
    """A plain integer in host byte order."""

    def __init__(self, name: str, size: int) -> None:
        if size not in _INT_FORMAT:
            raise AbiError(f"{name}: an integer of {size} bytes has no codec")
        self.name = name
        self.size = size
        self._letter = _INT_FORMAT[size]

    def pack(self, value: int) -> bytes:
        """One integer as bytes."""
        return self.pack_many((value,))

    def unpack(self, data: bytes) -> int:
        """One integer."""
        return int.from_bytes(data, sys.byteorder)

    def pack_many(self, values: Sequence[int]) -> bytes:
        """Integers one after the other."""
        try:
            return array(self._letter, values).tobytes()
        except OverflowError as error:
            raise ValueError(f"{self.name}: a value is outside 0..2^{8 * self.size}-1") from error

    def unpack_many(self, data: bytes | bytearray | memoryview) -> list[int]:
        """Integers of a buffer."""
        numbers = array(self._letter)
        numbers.frombytes(data)
        return numbers.tolist()


class RecordCodec:
    """A NamedTuple of :mod:`netaccel.records` in the layout of one struct."""

    def __init__(self, record: type[tuple[Any, ...]], layout: Struct) -> None:
        """AbiError unless the record's fields are the struct's, pads apart, in any order."""
        self.name = layout.name
        self.size = layout.size
        self.record = record
        self.offsets = {field.name: field.offset for field in layout.fields}
        plan = _Plan(record, layout)
        self._packer, self._unpacker = plan.compile()

    def pack(self, value: tuple[Any, ...]) -> bytes:
        """One record as bytes. ValueError where a value does not fit its field."""
        return self.pack_many((value,))

    def unpack(self, data: bytes) -> Any:
        """One record."""
        return self._unpacker(data)[0]

    def pack_many(self, values: Iterable[tuple[Any, ...]]) -> bytes:
        """Records one after the other; 250,000 take about 0.2 s."""
        try:
            return self._packer(values)
        except (struct.error, TypeError, AttributeError) as error:
            raise ValueError(f"struct {self.name}: a value does not fit its field: {error}") from error

    def unpack_many(self, data: bytes | bytearray | memoryview) -> list[Any]:
        """Records of a buffer."""
        return self._unpacker(data)


class _Plan:
    """The generated packer and unpacker of one record: one expression per field, in one comprehension."""

    def __init__(self, record: type[tuple[Any, ...]], layout: Struct) -> None:
        self.record = record
        self.layout = layout
        self.names: tuple[str, ...] = record._fields  # type: ignore[attr-defined]
        self.format = "="
        self.arguments: list[str] = []  # of struct.pack, in the struct's order
        self.targets: list[str] = []  # of one unpacked tuple, in the struct's order
        self.values: dict[str, str] = {}  # record field: expression over the targets
        self.checks: list[str] = []
        self._check_names()
        hints = get_type_hints(record, vars(records))
        end = 0
        for field in layout.fields:
            if field.offset != end:
                hole = field.offset - end
                self._fail(f"hole of {hole} bytes before {field.name}: name the padding")
            end += field.type.size
            if field.name.startswith("pad"):
                self.format += f"{field.type.size}x"
            else:
                self._add(field, hints[field.name])
        if end != layout.size:
            self._fail(f"{layout.size - end} bytes of padding at its end have no name")

    def compile(
        self,
    ) -> tuple[Callable[[Iterable[Any]], bytes], Callable[[bytes | bytearray | memoryview], list[Any]]]:
        """Source text made of the plan, executed once."""
        layout = struct.Struct(self.format)
        if layout.size != self.layout.size:
            self._fail(f"is {self.layout.size} bytes, its codec {layout.size}")
        values = ", ".join(self.values[name] for name in self.names)
        row = "(" + ", ".join(f"v_{name}" for name in self.names) + ",)"
        guard = f" if {' and '.join(self.checks)} or fail({row})" if self.checks else ""
        source = (
            f"def packer(rows):\n"
            f"    return join([pack({', '.join(self.arguments)}) for {row} in rows{guard}])\n"
            f"def unpacker(data):\n"
            f"    return [new(record, ({values},)) for ({', '.join(self.targets)},) in iter_unpack(data)]\n"
        )
        scope: dict[str, Any] = {
            "join": b"".join,
            "pack": layout.pack,
            "iter_unpack": layout.iter_unpack,
            "new": tuple.__new__,
            "record": self.record,
            "to_str": _to_str,
            "fail": self._bad_value,
            "V4_MAPPED": V4_MAPPED,
        }
        exec(source, scope)
        return scope["packer"], scope["unpacker"]

    def _check_names(self) -> None:
        struct_names = [f.name for f in self.layout.fields if not f.name.startswith("pad")]
        missing = sorted(set(struct_names) - set(self.names))
        unknown = sorted(set(self.names) - set(struct_names))
        if missing:
            self._fail(f"record {self.record.__name__} lacks {', '.join(missing)}")
        if unknown:
            self._fail(f"record {self.record.__name__} has {', '.join(unknown)}, the struct has not")

    def _add(self, field: Field, hint: type) -> None:
        name, kind = f"v_{field.name}", field.type
        if kind.kind is Kind.ARRAY and kind.element is not None and kind.element.size == 1:
            is_text = kind.element.name == "char"
            if hint is str and is_text:
                self.format += f"{kind.size}s"
                self._slot(field.name, f"{name}.encode()", f"to_str({name})")
                self.checks.append(f"len({name}.encode()) < {kind.size}")
                return
            if hint is bytes and not is_text:
                self.format += f"{kind.size}s"
                self._slot(field.name, name, name)
                self.checks.append(f"len({name}) == {kind.size}")
                return
        elif kind.name == "__be32" and hint is bytes:
            self.format += "4s"
            self._slot(field.name, f"{name}[12:]", f"V4_MAPPED + {name}")
            self.checks.append(f"len({name}) == 16")
            return
        elif hint is int and kind.name.startswith("__be"):
            self._big_endian(field)
            return
        elif hint is int and kind.kind in (Kind.INT, Kind.ENUM) and kind.size in _INT_FORMAT:
            letter = _INT_FORMAT[kind.size]
            self.format += letter.lower() if kind.signed else letter
            self._slot(field.name, name, name)
            return
        self._fail(f"{field.name} is {kind}, its record field {hint.__name__}")

    def _big_endian(self, field: Field) -> None:
        """Octet by octet, so that one format string in host order carries both byte orders."""
        name = f"v_{field.name}"
        shifts = range(8 * (field.type.size - 1), -1, -8)
        self.format += f"{field.type.size}B"
        parts = []
        for shift in shifts:
            mask = "" if shift == shifts[0] else " & 255"  # the first octet refuses what is too large
            self.arguments.append(f"{name} >> {shift}{mask}" if shift else f"{name}{mask}")
            self.targets.append(f"{name}_{shift}")
            parts.append(f"{name}_{shift} << {shift}" if shift else f"{name}_{shift}")
        self.values[field.name] = " | ".join(parts)

    def _slot(self, field: str, argument: str, value: str) -> None:
        self.arguments.append(argument)
        self.targets.append(f"v_{field}")
        self.values[field] = value

    def _bad_value(self, row: tuple[Any, ...]) -> bool:
        raise ValueError(f"struct {self.layout.name}: bytes or text of a wrong length in {row!r}")

    def _fail(self, what: str) -> None:
        raise AbiError(f"struct {self.layout.name}: {what}; rebuild the BPF objects with this package")


def _to_str(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode(errors="replace")


# ------------------------------------------------------------------ the ABI

_RECORDS: Mapping[str, type[tuple[Any, ...]]] = {
    name: value
    for name, value in vars(records).items()
    if isinstance(value, type) and issubclass(value, tuple) and value is not NamedTuple
}


def record_of(struct_name: str) -> type[tuple[Any, ...]] | None:
    """The record of a struct: SockNatKey of ``sock_nat_key``, FrontendKey of ``frontend4_key``."""
    plain = re.sub(r"[46](?=_key$|$)", "", struct_name)
    return _RECORDS.get("".join(word.capitalize() for word in plain.split("_")))


class MapCodec(NamedTuple):
    """Codecs of one map."""

    key: Codec
    value: Codec


class Abi:
    """Codecs and constants of one object."""

    def __init__(self, btf: Btf) -> None:
        """AbiError with the first disagreement between the object's structs and the records."""
        self.btf = btf
        self._codecs: dict[str, Codec] = {}
        self.maps: Mapping[str, MapCodec] = MappingProxyType(
            {
                name: MapCodec(self._codec(found.key), self._codec(found.value))
                for name, found in btf.maps().items()
                if found.key is not None and found.value is not None and _is_ours(found.key, found.value)
            }
        )
        """By the map's name; without the programs' own: ring buffers, structs without a record."""
        self.enums: Mapping[str, Mapping[str, int]] = MappingProxyType(_abi_enums(btf))
        """Enumerators by enum, in the order of their declaration."""
        self.constants: Mapping[str, int] = MappingProxyType(
            {name: value for names in self.enums.values() for name, value in names.items()}
        )
        """Every enumerator of abi.h, flat: ``constants["FRONTEND_WIRE_LOCAL"]``."""

    @classmethod
    def from_elf(cls, data: bytes) -> Abi:
        """The ABI of an object file's bytes."""
        return cls(Btf.from_elf(data))

    def codec(self, struct_name: str) -> Codec:
        """The codec of ``struct struct_name``."""
        if struct_name not in self._codecs:
            record = record_of(struct_name)
            if record is None:
                raise AbiError(f"struct {struct_name}: netaccel.records has no record for it")
            self._codecs[struct_name] = RecordCodec(record, self.btf.struct(struct_name))
        return self._codecs[struct_name]

    def labels(self, enum: str) -> Mapping[int, str]:
        """Lower-case names by value, prefix and closing count left out: ``{1: "no_backend", ...}``."""
        return {
            value: label(enum, name) for name, value in self.enums[enum].items() if not is_count(enum, name)
        }

    def _codec(self, found: Type) -> Codec:
        if found.kind is Kind.STRUCT:
            return self.codec(found.name)
        return IntCodec(found.name, found.size)


def _is_ours(*types: Type) -> bool:
    return all(found.kind is not Kind.STRUCT or record_of(found.name) is not None for found in types)


def label(enum: str, name: str) -> str:
    """An enumerator's name as people and metrics read it."""
    return name.partition("_")[2].lower() or name.lower()


def is_count(enum: str, name: str) -> bool:
    """True for the closing member that counts the others: ``DROP_REASONS`` of ``drop_reason``."""
    return name.rpartition("_")[2] == enum.rpartition("_")[2].upper() + "S"


def _abi_enums(btf: Btf) -> dict[str, Mapping[str, int]]:
    """The enums that ``struct abi_enums`` of settings.h lists; none where the object has no such struct."""
    if not btf.has_struct("abi_enums"):
        return {}
    return {f.type.name: btf.enum(f.type.name) for f in btf.struct("abi_enums").fields}
