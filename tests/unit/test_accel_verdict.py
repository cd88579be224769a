# SPDX-License-Identifier: Apache-2.0
"""What follows of a self-test's checks."""

from __future__ import annotations

from netaccel.datapath.accel.programs import Call
from netaccel.datapath.accel.selftest import CALLS, NAMES, verdict
from netaccel.model.acceleration import Check


def _checks(*failed: str) -> list[Check]:
    return [Check(name, name not in failed, "so and so" if name in failed else "") for name in NAMES]


def test_all_right() -> None:
    found = verdict(_checks())
    assert (found.on, found.reason, found.broken, found.may_splice) == (True, "", frozenset(), True)


def test_each_check_but_those_of_calls_keeps_it_off() -> None:
    for name in NAMES:
        found = verdict(_checks(name))
        assert found.on == (name in CALLS)
        if name not in CALLS:
            assert found.reason == f"this kernel fails the self-test: {name}: so and so"
            assert not found.may_splice


def test_a_call_that_goes_wrong_is_named() -> None:
    found = verdict(_checks("splice"))
    assert (found.on, found.broken, found.may_splice) == (True, {Call.SPLICE}, False)
    found = verdict(_checks("fionread-tcp"))
    assert (found.on, found.broken, found.may_splice) == (True, {Call.FIONREAD}, True)
    assert verdict(_checks("splice", "fionread-tcp")).broken == set(Call)


def test_what_was_not_tried_is_not_known() -> None:
    assert verdict([]).reason == "the self-test of this kernel ended before programs"
    assert verdict(_checks()[:3]).reason == f"the self-test of this kernel ended before {NAMES[3]}"
    assert not verdict(_checks()[:-1]).on


def test_what_is_wrong_goes_before_what_is_missing() -> None:
    checks = [*_checks()[:2], Check("time", ok=False, detail="it hangs")]
    assert verdict(checks).reason == "this kernel fails the self-test: time: it hangs"
