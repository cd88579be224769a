# SPDX-License-Identifier: Apache-2.0
"""Which pairs are worth it."""

from __future__ import annotations

from netaccel.accelerate import evidence
from netaccel.accelerate.evidence import Absences, Counted, Sample, Thresholds, Watch, joins

LIMITS = Thresholds()
NONE = (Counted(0, 0), Counted(0, 0))


def look(first: tuple[int, int], second: tuple[int, int], seconds: float = 1.0) -> str:
    """What is said of a connection whose ends sent so many segments and bytes in between."""
    return joins((Sample(5, 50), Sample(7, 70)), (at(5, 50, first), at(7, 70, second)), seconds, LIMITS)


def at(segments: int, size: int, more: tuple[int, int]) -> Sample:
    return Sample(segments + more[0], size + more[1])


def test_both_directions_must_be_busy() -> None:
    assert look((100, 6400), (100, 6400)) == ""
    assert look((100, 6400), (99, 6400)) == evidence.SLOW
    assert look((99, 6400), (10_000, 6400)) == evidence.SLOW
    assert look((100, 6400), (100, 6400), seconds=2.0) == evidence.SLOW
    assert look((100, 6400), (100, 6400), seconds=0.0) == evidence.SLOW


def test_exchanges_of_much_data_stay_with_tcp() -> None:
    assert look((100, 6400), (4500, 6_500_000)) == ""
    assert look((100, 6400), (4600, 6_600_000)) == evidence.LARGE


def test_a_pair_that_passes_leaves() -> None:
    watch = Watch(0.0, NONE, LIMITS)
    assert watch.leaves(1.0, (Counted(750, 250), Counted(1000, 0))) == ""
    assert watch.leaves(2.0, (Counted(1500, 1250), Counted(1750, 0))) == evidence.PASSING


def test_few_messages_prove_nothing() -> None:
    watch = Watch(0.0, NONE, LIMITS)
    assert watch.leaves(1.0, (Counted(0, 15), Counted(0, 15))) == ""


def test_passes_of_policy_prove_nothing_but_that_it_is_busy() -> None:
    watch = Watch(0.0, NONE, LIMITS)
    assert watch.leaves(1.0, (Counted(0, 0, 900), Counted(0, 0, 900))) == ""
    assert watch.leaves(11.0, (Counted(0, 0, 9900), Counted(0, 0, 9900))) == ""


def test_a_pair_that_rests_leaves_after_a_while() -> None:
    watch = Watch(0.0, NONE, LIMITS)
    assert watch.leaves(5.0, (Counted(50, 0), Counted(50, 0))) == "", "a tenth of the rate will do"
    assert watch.leaves(14.9, (Counted(60, 0), Counted(60, 0))) == ""
    assert watch.leaves(15.0, (Counted(60, 0), Counted(60, 0))) == evidence.COLD


def test_it_stays_away_for_longer_each_time() -> None:
    absences = Absences(LIMITS)
    absences.left((1, 2), 0.0)
    assert absences.away((1, 2), 9.9)
    assert not absences.away((1, 2), 10.0)
    absences.left((1, 2), 10.0)
    assert absences.away((1, 2), 29.9)
    assert not absences.away((1, 2), 30.0)
    absences.keep({1})
    absences.left((1, 2), 30.0)
    assert not absences.away((1, 2), 40.0), "a connection that is gone is forgotten"
