# SPDX-License-Identifier: Apache-2.0
"""The BTF parser, on objects that the compiler made and on bytes that are damaged."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from netaccel.datapath.btf import Btf, Elf, Kind
from netaccel.errors import AbiError

TEXT = """
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

enum colour { RED, GREEN = 5, BLUE };
enum wide { HUGE_VALUE = 0x123456789abcULL };

struct sample {
	__u8 addr[16];
	__be16 port;
	__u16 plain;
	enum colour colour;
	char name[8];
	__s32 delta;
	__u64 count;
};
struct bits { __u32 a : 3; __u32 b : 29; };
struct holder { struct sample s; struct bits bits; enum wide wide; };

struct holder held SEC(".abi");

struct {
	__uint(type, 1);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct sample);
} table SEC(".maps");

struct {
	__uint(type, 27);
	__uint(max_entries, 4096);
} events SEC(".maps");

const volatile __u32 first = 1;
const volatile __u16 second = 2;
"""


@pytest.fixture(scope="session")
def image(compile_text: Callable[[str], bytes]) -> bytes:
    return compile_text(TEXT)


@pytest.fixture(scope="session")
def btf(image: bytes) -> Btf:
    return Btf.from_elf(image)


def test_a_struct_s_layout(btf: Btf) -> None:
    sample = btf.struct("sample")

    assert sample.size == 48
    assert [(f.name, f.offset, f.type.size, str(f.type)) for f in sample.fields] == [
        ("addr", 0, 16, "__u8[16]"),
        ("port", 16, 2, "__be16"),
        ("plain", 18, 2, "__u16"),
        ("colour", 20, 4, "enum colour"),
        ("name", 24, 8, "char[8]"),
        ("delta", 32, 4, "__s32"),
        ("count", 40, 8, "__u64"),
    ]
    assert [f.type.signed for f in sample.fields if f.type.kind is Kind.INT] == [False, False, True, False]


def test_enums_keep_their_order(btf: Btf) -> None:
    assert list(btf.enum("colour").items()) == [("RED", 0), ("GREEN", 5), ("BLUE", 6)]


def test_map_definitions_name_their_types(btf: Btf) -> None:
    maps = btf.maps()

    assert str(maps["table"].key) == "__u32"
    assert str(maps["table"].value) == "struct sample"
    assert (maps["events"].key, maps["events"].value) == (None, None)


def test_variables_have_their_place_in_the_section(btf: Btf, image: bytes) -> None:
    content = Elf(image).section(".rodata")
    assert content is not None
    for name, value in {"first": 1, "second": 2}.items():
        offset, kind = btf.variable(".rodata", name)
        assert int.from_bytes(content[offset : offset + kind.size], "little") == value


def test_raw_btf_needs_no_object(image: bytes, btf: Btf) -> None:
    blob = Elf(image).section(".BTF")
    assert blob is not None

    assert Btf.from_raw(blob).struct("sample") == btf.struct("sample")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda b: b.struct("absent"), "struct absent: not in the object's BTF"),
        (lambda b: b.enum("absent"), "enum absent: not in the object's BTF"),
        (lambda b: b.variable(".rodata", "absent"), "variable absent: not in section .rodata"),
        (lambda b: b.struct("bits"), "struct bits: a is a bitfield"),
    ],
)
def test_what_is_absent_or_forbidden_is_said(btf: Btf, ask: Callable[[Btf], object], message: str) -> None:
    with pytest.raises(AbiError, match=message):
        ask(btf)


@pytest.mark.parametrize("damage", [b"", b"\x7fELF", b"#!/bin/sh\n" * 100], ids=["empty", "cut", "text"])
def test_what_is_no_object_is_refused(damage: bytes) -> None:
    with pytest.raises(AbiError, match="not a 64-bit ELF object"):
        Btf.from_elf(damage)


def test_an_object_cut_short_is_refused(image: bytes) -> None:
    with pytest.raises(AbiError, match="cut short"):
        Btf.from_elf(image[: len(image) // 2])


def test_an_object_without_types_is_refused(compile_text: Callable[[str], bytes], image: bytes) -> None:
    with pytest.raises(AbiError, match=r"no \.BTF section"):
        Btf.from_elf(image.replace(b".BTF\0", b".xxx\0"))


def test_an_object_of_a_newer_compiler_is_refused(image: bytes) -> None:
    blob = bytearray(Elf(image).section(".BTF") or b"")
    first_type = int.from_bytes(blob[4:8], "little")
    blob[first_type + 7] = 31  # the kind of type 1
    with pytest.raises(AbiError, match="BTF kind 31 is not known"):
        Btf.from_raw(bytes(blob))
