# SPDX-License-Identifier: Apache-2.0
"""From one layout to another: what is carried, what is zero, what is lost."""

from __future__ import annotations

import struct

import pytest

from netaccel.datapath.transfer import Layout, Part, Transfer


def u(name: str, offset: int, size: int) -> Part:
    return Part(name, offset, size, f"__u{8 * size}", "int")


def text(name: str, offset: int, size: int) -> Part:
    return Part(name, offset, size, f"char[{size}]", "text")


def be(name: str, offset: int) -> Part:
    return Part(name, offset, 2, "__be16")


OLD = Layout(16, (u("a", 0, 4), u("b", 4, 2), be("port", 6), text("name", 8, 4), u("c", 12, 4)))


def test_the_same_layout_is_left_alone() -> None:
    transfer = Transfer(OLD, OLD)

    assert transfer.is_identity
    assert transfer.convert(bytes(range(32))) == bytes(range(32))


def test_fields_go_where_their_names_are() -> None:
    new = Layout(16, (u("c", 0, 4), be("port", 4), u("b", 6, 2), u("a", 8, 4), text("name", 12, 4)))
    data = struct.pack("=IH2s4sI", 1, 2, b"\x01\xbb", b"web\0", 3)

    found = Transfer(OLD, new).convert(data * 3)

    assert found == struct.pack("=I2sHI4s", 3, b"\x01\xbb", 2, 1, b"web\0") * 3


def test_integers_and_texts_may_grow_and_new_fields_are_zero() -> None:
    new = Layout(32, (u("a", 0, 8), u("b", 8, 4), text("name", 12, 12), u("fresh", 24, 8)))
    transfer = Transfer(OLD, new)

    found = transfer.convert(struct.pack("=IH2s4sI", 2**32 - 1, 7, b"\0\x50", b"abc\0", 9))

    assert found == struct.pack("=QI12sQ", 2**32 - 1, 7, b"abc", 0)
    assert transfer.lost == ("port", "c")
    assert transfer.added == ("fresh",)


@pytest.mark.parametrize(
    "changed",
    [
        u("port", 6, 2),
        Part("b", 4, 2, "__s16", "signed"),
        u("a", 0, 2),
        text("name", 8, 2),
        Part("name", 8, 8, "__u8[8]"),
    ],
    ids=["another-byte-order", "another-sign", "a-smaller-integer", "a-shorter-text", "bytes-for-text"],
)
def test_a_field_that_means_something_else_is_not_carried(changed: Part) -> None:
    transfer = Transfer(OLD, Layout(16, (changed,)))

    assert transfer.added == (changed.name,)
    assert transfer.convert(b"\xff" * 16) == bytes(16)


def test_per_cpu_values_are_rounded_up_to_eight_bytes() -> None:
    old, new = Layout(4, (u("n", 0, 4),)), Layout(12, (u("n", 0, 8), u("more", 8, 4)))
    two_cpus = struct.pack("=I4xI4x", 5, 6)

    found = Transfer(old, new).convert(two_cpus, 8, 16)

    assert found == struct.pack("=Q8xQ8x", 5, 6)
