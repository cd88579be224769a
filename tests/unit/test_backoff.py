# SPDX-License-Identifier: Apache-2.0
"""How long to wait before trying again: the whole range, growing, bounded."""

from __future__ import annotations

import pytest

from netaccel.apiserver.backoff import Backoff


def ceilings(backoff: Backoff, count: int) -> list[float]:
    return [backoff.wait() for _ in range(count)]


def test_the_range_doubles_up_to_its_bound() -> None:
    always_most = Backoff(0.5, 20.0, dice=lambda: 1.0)
    assert ceilings(always_most, 8) == [0.5, 1, 2, 4, 8, 16, 20, 20]


def test_the_jitter_is_full_so_the_least_wait_is_none() -> None:
    always_least = Backoff(0.5, 20.0, dice=lambda: 0.0)
    assert ceilings(always_least, 5) == [0.0] * 5


def test_real_dice_stay_within_the_range() -> None:
    for _ in range(200):
        backoff = Backoff(1.0, 4.0)
        waits = ceilings(backoff, 4)
        assert all(0 <= wait <= most for wait, most in zip(waits, (1, 2, 4, 4), strict=True))


def test_what_the_server_asks_is_the_least() -> None:
    assert Backoff(0.5, 20.0, dice=lambda: 0.0).wait(asked=7.0) == 7.0
    assert Backoff(0.5, 20.0, dice=lambda: 1.0).wait(asked=7.0) == 7.5


def test_after_a_success_it_begins_anew() -> None:
    backoff = Backoff(0.5, 20.0, dice=lambda: 1.0)
    ceilings(backoff, 6)
    backoff.reset()
    assert backoff.wait() == 0.5


@pytest.mark.parametrize("failures", [40, 2000])
def test_an_outage_without_end_overflows_nothing(failures: int) -> None:
    assert ceilings(Backoff(0.5, 20.0, dice=lambda: 1.0), failures)[-1] == 20.0
