# SPDX-License-Identifier: Apache-2.0
"""Which notices become Events, and when again."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from netaccel.model.event import ObjectKey
from netaccel.writers.bucket import Bucket, Buckets, Rate
from netaccel.writers.journal import Journal, Limits, Telling
from netaccel.writers.notices import Notice, Scope

WEB = ObjectKey("Service", "default", "web")


def notice(message: str = "no room", name: str = "web", uid: str = "1", reason: str = "Rejected") -> Notice:
    return Notice(ObjectKey("Service", "default", name), reason, message, Scope.NODE, uid)


def told(journal: Journal, notices: Iterable[Notice], now: float) -> list[tuple[str, int, bool]]:
    """Message, count and whether it is the combined one, of all that was due and is written now."""
    found = []
    for telling in journal.due(list(notices), now):
        journal.done(telling, now)
        found.append((telling.notice.message, telling.count, telling.combined))
    return found


def test_a_notice_is_told_once_and_again_after_half_an_hour() -> None:
    journal = Journal()
    assert told(journal, [notice()], 0) == [("no room", 1, False)]
    assert told(journal, [notice()], 1799) == []
    assert told(journal, [notice()], 1800) == [("no room", 2, False)]
    assert told(journal, [notice()], 3599) == []


def test_one_that_was_gone_and_is_back_is_told_again() -> None:
    journal = Journal()
    told(journal, [notice()], 0)
    assert told(journal, [], 10) == []
    assert told(journal, [notice()], 20) == [("no room", 2, False)]


def test_one_that_was_gone_for_an_hour_is_new() -> None:
    journal = Journal()
    told(journal, [notice()], 0)
    told(journal, [], 3600)
    assert told(journal, [notice()], 3601) == [("no room", 1, False)]


def test_what_was_not_written_is_due_again() -> None:
    journal = Journal()
    assert len(list(journal.due([notice()], 0))) == 1
    assert len(list(journal.due([notice()], 1))) == 1


def test_many_messages_are_combined_by_object_and_reason() -> None:
    journal = Journal(Limits(similar=2))
    assert told(journal, [notice(f"{n}") for n in range(4)], 0) == [
        ("0", 1, False),
        ("1", 1, False),
        ("2", 1, True),
        ("3", 2, True),
    ]
    assert told(journal, [notice("5", reason="Degraded"), notice("5", name="other")], 1) == [
        ("5", 1, False),
        ("5", 1, False),
    ]


def test_the_combined_ones_are_repeated_as_one_event() -> None:
    journal = Journal(Limits(similar=1))
    several = [notice("0"), notice("1"), notice("2")]
    told(journal, several, 0)
    assert told(journal, several, 1800) == [("0", 2, False), ("1", 3, True), ("2", 4, True)]


def test_messages_are_combined_only_within_the_window() -> None:
    journal = Journal(Limits(similar=1, window=600))
    told(journal, [notice("0")], 0)
    assert told(journal, [notice("1")], 600) == [("1", 1, False)]


def test_each_object_has_its_own_limit_and_loses_nothing_by_it() -> None:
    journal = Journal(Limits(object_burst=2, object_refill=300, similar=99))
    flood = [notice(f"{n}") for n in range(4)]
    assert len(told(journal, [*flood, notice(name="other")], 0)) == 3
    assert journal.held_back == 2
    assert told(journal, flood, 299) == []
    assert told(journal, flood, 300) == [("2", 1, False)]
    assert told(journal, flood, 600) == [("3", 1, False)]
    assert journal.held_back == 0


def test_all_objects_together_have_a_limit() -> None:
    journal = Journal(Limits(burst=3, refill=1))
    many = [notice(name=f"s{n}") for n in range(10)]
    assert len(told(journal, many, 0)) == 3
    assert len(told(journal, many, 2)) == 2
    assert sum(len(told(journal, many, now)) for now in range(3, 20)) == 5


def test_what_is_no_longer_true_is_not_remembered_without_bound() -> None:
    journal = Journal(Limits(size=10, burst=10**6, object_burst=10**6))
    for n in range(1000):
        told(journal, [notice(name=f"s{n}")], n)
    assert len(journal._told) <= 11
    assert len(journal._each._buckets) <= 10
    assert len(journal._firsts) <= 11


@pytest.mark.parametrize(
    ("other", "uid", "instance", "same"),
    [
        (notice(), "1", "", True),
        (notice("other"), "1", "", False),
        (notice(reason="Degraded"), "1", "", False),
        (notice(), "2", "", False),
        (notice(), "1", "node-1", False),
    ],
)
def test_an_events_name_tells_object_reason_message_and_teller(
    other: Notice, uid: str, instance: str, same: bool
) -> None:
    first = Telling(notice(), 1).name("1", "")
    assert (Telling(other, 7).name(uid, instance) == first) is same
    assert first.startswith("web.")


def test_an_events_name_is_never_too_long() -> None:
    name = Telling(notice(name="x" * 199 + "." + "y" * 50), 1).name("1", "")
    assert len(name) <= 253
    assert ".." not in name


def test_a_bucket_fills_up_to_its_burst_and_no_further() -> None:
    bucket = Bucket(Rate(2, 10))
    assert bucket.has(0)
    bucket.take()
    bucket.take()
    assert not bucket.has(9.9)
    assert bucket.has(10)
    bucket.take()
    assert bucket.has(10**6)
    bucket.take()
    bucket.take()
    assert not bucket.has(10**6)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = Bucket(Rate(1, 10))
    bucket.has(100)
    bucket.take()
    assert not bucket.has(50)
    assert bucket.has(60)


def test_the_bucket_longest_unused_is_forgotten() -> None:
    buckets = Buckets(Rate(1, 10), 2)
    first = buckets.of("a")
    buckets.of("b")
    assert buckets.of("a") is first
    buckets.of("c")
    assert buckets.of("a") is first
