# SPDX-License-Identifier: Apache-2.0
"""The order of writes: nothing is named before it is there, nothing goes while it is named."""

from __future__ import annotations

from array import array

from netaccel.compile.desired import ALLOWED
from netaccel.compile.diff import Columns, Delete, Image, Write, freed, steps
from netaccel.model.address import parse_address
from netaccel.records import Backend, Frontend, FrontendKey, Service, SourceRangeKey

FREE, ACTIVE = 0, 1
VIP = parse_address("10.96.0.1")
KEY = FrontendKey(VIP, 80, 6)
RANGE = SourceRangeKey(32 + 120, 1, parse_address("198.51.100.0"))


def backend(number: int, generation: int = 1) -> Backend:
    return Backend(parse_address(f"10.0.0.{number}"), 8080, 6, ACTIVE, 0, 0, 0, 1, generation)


def frontend(offset: int, length: int) -> Frontend:
    return Frontend(1, 0, 1, 0, offset, length, offset, length, 0)


def image(offset: int, *numbers: int) -> Image:
    return Image(
        {1: Service("default", "web", "", 80, 6, 2)},
        {number: backend(number) for number in numbers},
        {offset: array("I", numbers)},
        {RANGE: ALLOWED},
        {KEY: frontend(offset, len(numbers))},
    )


def kinds(old: Image, new: Image) -> list[tuple[str, str]]:
    return [(type(step).__name__, step.map) for step in steps(old, new, FREE)]


def test_what_is_named_is_written_before_what_names_it() -> None:
    assert kinds(Image(), image(0, 1, 2)) == [
        ("Delete", "service_counters"),
        ("Write", "backends"),
        ("Write", "services"),
        ("Write", "maglev"),
        ("Write", "source_ranges"),
        ("Write", "frontends"),
    ]


def test_what_names_goes_before_what_it_names() -> None:
    assert kinds(image(0, 1, 2), Image()) == [
        ("Delete", "frontends"),
        ("Delete", "source_ranges"),
        ("Write", "backends"),
        ("Delete", "services"),
    ]


def test_a_backend_is_replaced_by_a_new_table_then_one_switch_then_the_removal() -> None:
    assert list(steps(image(0, 1, 2), image(2, 1, 3), FREE)) == [
        Write("backends", [(3, backend(3))]),
        Write("maglev", _columns(2, 1, 3)),
        Write("frontends", [(KEY, frontend(2, 2))]),
        Write("backends", [(2, freed(backend(2), FREE))]),
    ]


def test_nothing_changed_means_no_step() -> None:
    assert list(steps(image(0, 1, 2), image(0, 1, 2), FREE)) == []


def test_a_patched_table_writes_only_the_slots_that_changed() -> None:
    old, new = image(10, 1, 2, 1), image(10, 1, 3, 1)
    written = [step for step in steps(old, new, FREE) if step.map == "maglev"]
    assert [list(step.entries) for step in written if isinstance(step, Write)] == [[(11, 3)]]


def test_a_freed_slot_keeps_its_generation_and_nothing_else() -> None:
    assert freed(backend(2, generation=7), FREE) == Backend(bytes(16), 0, 0, FREE, 0, 0, 0, 0, 7)


def test_columns_are_entries() -> None:
    columns = _columns(5, 1, 2, 3)
    assert (len(columns), columns[1], columns[1:]) == (3, (6, 2), [(6, 2), (7, 3)])
    assert list(columns) == [(5, 1), (6, 2), (7, 3)]


def test_counters_of_a_new_service_port_begin_at_zero() -> None:
    assert next(steps(Image(), image(0, 1), FREE)) == Delete("service_counters", [1])


def _columns(first: int, *values: int) -> Columns:
    columns = Columns()
    columns.add(first, array("I", values))
    return columns
