# SPDX-License-Identifier: Apache-2.0
"""Bytes cut into lines, however they arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netaccel.apiserver.lines import Lines, LineTooLongError


@given(st.lists(st.binary(max_size=20)), st.lists(st.integers(0, 200)))
def test_the_cuts_of_the_network_make_no_difference(parts: list[bytes], cuts: list[int]) -> None:
    text = b"\n".join(parts) + b"\n"
    lines, found, at = Lines(), [], 0
    for cut in [*sorted(cuts), len(text)]:
        if cut > at:
            found += lines.feed(text[at:cut])
            at = cut
    assert found == [line for line in text.split(b"\n") if line and not line.isspace()]
    assert lines.pending == 0


def test_a_line_without_its_end_is_kept_back() -> None:
    lines = Lines()
    assert lines.feed(b'{"a":') == []
    assert lines.pending == 5
    assert lines.feed(b'1}\n{"b"') == [b'{"a":1}']
    assert lines.pending == 4


def test_a_line_that_never_ends_is_refused() -> None:
    lines = Lines(longest=10)
    lines.feed(b"0123456789")
    with pytest.raises(LineTooLongError, match="more than 10 bytes"):
        lines.feed(b"0")
