# SPDX-License-Identifier: Apache-2.0
"""Records to bytes and back; records that do not match their struct are refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netaccel import records
from netaccel.datapath.abi import Abi, IntCodec, RecordCodec, is_count, label, record_of
from netaccel.datapath.btf import Btf, Field, Kind, Struct, Type
from netaccel.errors import AbiError

U8 = Type(Kind.INT, "__u8", 1)
U16 = Type(Kind.INT, "__u16", 2)
U32 = Type(Kind.INT, "__u32", 4)
U64 = Type(Kind.INT, "__u64", 8)
BE16 = Type(Kind.INT, "__be16", 2)
BE32 = Type(Kind.INT, "__be32", 4)
CHAR = Type(Kind.INT, "char", 1, signed=True)


def array(element: Type, count: int) -> Type:
    return Type(Kind.ARRAY, "", element.size * count, count=count, element=element)


def layout(*fields: tuple[str, Type], size: int | None = None) -> Struct:
    placed, at = [], 0
    for name, kind in fields:
        placed.append(Field(name, at, kind))
        at += kind.size
    return Struct("sample", at if size is None else size, tuple(placed))


class Sample(NamedTuple):
    addr: bytes
    port: int
    count: int
    name: str


SAMPLE = layout(
    ("addr", array(U8, 16)),
    ("port", BE16),
    ("pad", U16),
    ("name", array(CHAR, 8)),
    ("pad2", array(U8, 4)),
    ("count", U64),
)


def test_bytes_are_where_the_struct_has_them() -> None:
    codec = RecordCodec(Sample, SAMPLE)

    packed = codec.pack(Sample(bytes(range(16)), 0x1234, 7, "web"))

    assert packed == bytes(range(16)) + b"\x12\x34" + bytes(2) + b"web".ljust(8, b"\0") + bytes(4) + (
        struct.pack("=Q", 7)
    )
    assert codec.size == 40


@given(
    st.lists(
        st.builds(
            Sample,
            addr=st.binary(min_size=16, max_size=16),
            port=st.integers(0, 65535),
            count=st.integers(0, 2**64 - 1),
            name=st.text(alphabet=st.characters(min_codepoint=1, max_codepoint=127), max_size=7),
        )
    )
)
def test_what_is_packed_is_unpacked(rows: list[Sample]) -> None:
    codec = RecordCodec(Sample, SAMPLE)

    data = codec.pack_many(rows)

    assert len(data) == len(rows) * codec.size
    found = codec.unpack_many(data)
    assert found == rows
    assert all(type(row) is Sample for row in found)


def test_an_ipv4_key_holds_the_last_four_octets() -> None:
    class Key(NamedTuple):
        src: bytes
        dport: int

    codec = RecordCodec(Key, layout(("src", BE32), ("dport", BE16), ("pad", U16)))
    key = Key(bytes(10) + b"\xff\xff\xc0\x00\x02\x07", 443)

    assert codec.pack(key) == b"\xc0\x00\x02\x07\x01\xbb\0\0"
    assert codec.unpack(codec.pack(key)) == key


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"addr": bytes(4)}, "addr"),
        ({"port": 65536}, "port"),
        ({"port": -1}, "port"),
        ({"count": 2**64}, "count"),
        ({"name": "eight888"}, "name"),
        ({"port": "80"}, "port"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_not_cut(change: dict[str, Any], field: str) -> None:
    codec = RecordCodec(Sample, SAMPLE)
    good = Sample(bytes(16), 1, 1, "a")

    with pytest.raises(ValueError, match="struct sample"):
        codec.pack(good._replace(**change))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (layout(("addr", array(U8, 16)), ("port", BE16), ("count", U64)), "record Sample has name"),
        (layout(*((f.name, f.type) for f in SAMPLE.fields), ("extra", U32)), "record Sample lacks extra"),
        (layout(("addr", U64), ("port", BE16), ("count", U64), ("name", array(CHAR, 8))), "addr is __u64"),
        (layout(("addr", array(U8, 16)), ("port", BE16), ("count", U64), ("name", U32)), "name is __u32"),
        (layout(*((f.name, f.type) for f in SAMPLE.fields), size=48), "8 bytes of padding at its end"),
        (
            Struct("sample", 44, (*SAMPLE.fields[:-1], Field("count", 36, U64))),
            "hole of 4 bytes before count",
        ),
    ],
    ids=["absent", "unknown", "number-for-bytes", "number-for-text", "tail", "hole"],
)
def test_a_record_that_is_not_its_struct_is_refused_in_one_line(found: Struct, message: str) -> None:
    with pytest.raises(AbiError, match=message) as caught:
        RecordCodec(Sample, found)

    assert str(caught.value).startswith("struct sample: ")
    assert "\n" not in str(caught.value)


def test_integers_refuse_what_does_not_fit() -> None:
    codec = IntCodec("__u32", 4)

    assert codec.unpack_many(codec.pack_many([1, 2**32 - 1])) == [1, 2**32 - 1]
    for wrong in (-1, 2**32):
        with pytest.raises(ValueError, match="__u32"):
            codec.pack(wrong)


def test_structs_find_their_records() -> None:
    assert record_of("sock_nat_key") is records.SockNatKey
    assert record_of("frontend4_key") is record_of("frontend6_key") is records.FrontendKey
    assert record_of("reply_scratch") is None


def test_names_of_reasons_need_no_list() -> None:
    assert label("drop_reason", "DROP_NO_BACKEND") == "no_backend"
    counts = {
        "drop_reason": "DROP_REASONS",
        "flow_path": "PATHS",
        "flow_state": "FLOW_STATES",
        "counter": "COUNTERS",
    }
    assert all(is_count(enum, name) for enum, name in counts.items())
    assert not is_count("flow_path", "PATH_XDP")


# The headers as they are, compiled.


@pytest.fixture(scope="module")
def abi(compile_text: Callable[..., bytes]) -> Abi:
    include = Path(__file__).parents[2] / "bpf" / "include"
    return Abi(Btf.from_elf(compile_text(f'#include "{include}/maps.h"\n#include "{include}/settings.h"\n')))


def test_every_struct_of_every_map_has_its_record(abi: Abi) -> None:
    assert {"frontends4", "frontends6", "services", "backends", "flows4", "flows6"} <= set(abi.maps)
    without = {name for name, found in abi.btf.maps().items() if found.key and found.value} - set(abi.maps)
    assert all("scratch" in name for name in without), f"maps without a record: {without}"


def test_constants_are_flat_and_labels_ordered(abi: Abi) -> None:
    assert abi.constants["FRONTEND_WIRE_LOCAL"] == 1
    reasons = abi.labels("drop_reason")
    assert list(reasons) == list(range(abi.constants["DROP_REASONS"]))
    assert reasons[abi.constants["DROP_SNAT_EXHAUSTED"]] == "snat_exhausted"


def test_all_enums_of_the_header_reach_python(abi: Abi) -> None:
    header = (Path(__file__).parents[2] / "bpf" / "include" / "abi.h").read_text()
    declared = {line.split()[1] for line in header.splitlines() if line.startswith("enum ")}
    assert set(abi.enums) == declared
