# SPDX-License-Identifier: Apache-2.0
"""Which request comes next for a watched kind."""

from __future__ import annotations

import pytest

from netaccel.errors import ApiError, ApiUnreachableError
from netaccel.sources.kubernetes.course import AWAY, FUTILE, Course, OlderStateError, Verdict, Way

INVALID = ApiError("", 422, "Invalid")
EXPIRED = ApiError("", 410, "Expired")
TOO_LARGE = ApiError("", 504, "ResourceVersionTooLarge")
BUSY = ApiError("", 429, "TooManyRequests")
BROKEN = ApiError("", 500, "InternalError")
GARBAGE = ApiError("no event")
AWAY_NOW = ApiUnreachableError("gone")
FORBIDDEN = ApiError("", 403, "Forbidden")


def listed(version: str = "100") -> Course:
    course = Course()
    course.listed(version)
    return course


def without_streams(version: str = "") -> Course:
    course = listed(version) if version else Course()
    if version:
        course.failed(EXPIRED)
    assert course.failed(INVALID) is Verdict.AT_ONCE
    return course


def test_it_begins_with_a_streaming_list() -> None:
    course = Course()
    assert course.way is Way.STREAM
    assert course.query() == {
        "watch": "true",
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
    }


def test_a_list_is_followed_by_a_watch_from_there() -> None:
    course = listed("100")
    assert course.way is Way.WATCH
    course.heard("105")
    assert course.query() == {"watch": "true", "resourceVersion": "105", "allowWatchBookmarks": "true"}


def test_without_streaming_lists_the_first_list_takes_any_version_and_no_pages() -> None:
    course = without_streams()
    assert course.way is Way.CACHED
    assert course.query() == {"resourceVersion": "0"}


def test_later_lists_are_not_older_than_what_was_told() -> None:
    course = without_streams("100")
    assert course.query() == {"resourceVersion": "100", "resourceVersionMatch": "NotOlderThan"}


@pytest.mark.parametrize("error", [EXPIRED, TOO_LARGE])
def test_a_list_from_memory_that_expired_is_asked_for_in_pages(error: ApiError) -> None:
    course = without_streams("100")
    assert course.failed(error) is Verdict.AT_ONCE
    assert course.way is Way.PAGED
    assert set(course.query()) == {"limit"}


def test_pages_that_expired_are_asked_for_in_one_piece() -> None:
    course = without_streams("100")
    course.failed(EXPIRED)
    assert course.failed(EXPIRED) is Verdict.AT_ONCE
    assert course.way is Way.WHOLE
    assert course.query() == {}
    assert course.failed(EXPIRED) is Verdict.AGAIN


def test_a_list_from_memory_whose_watch_expires_at_once_was_stale() -> None:
    course = without_streams()
    course.listed("50")
    assert course.failed(EXPIRED) is Verdict.LIST
    course.failed(INVALID)
    assert course.way is Way.PAGED


def test_a_list_from_memory_that_was_watched_on_was_not() -> None:
    course = without_streams()
    course.listed("50")
    course.heard("51")
    course.failed(EXPIRED)
    course.failed(INVALID)
    assert course.way is Way.CACHED


@pytest.mark.parametrize("error", [EXPIRED, TOO_LARGE, OlderStateError("back")])
def test_a_watch_that_can_not_go_on_is_listed_again(error: ApiError) -> None:
    course = listed()
    assert course.failed(error) is Verdict.LIST
    assert course.way is Way.STREAM


@pytest.mark.parametrize("error", [BUSY, BROKEN, GARBAGE, AWAY_NOW, FORBIDDEN])
def test_a_watch_that_failed_goes_on_where_it_was(error: ApiError) -> None:
    course = listed()
    assert course.failed(error) is Verdict.AGAIN
    assert course.way is Way.WATCH


@pytest.mark.parametrize("error", [BROKEN, GARBAGE])
def test_a_watch_that_fails_again_and_again_is_listed_again(error: ApiError) -> None:
    course = listed()
    verdicts = [course.failed(error) for _ in range(FUTILE)]
    assert verdicts[:-1] == [Verdict.AGAIN] * (FUTILE - 1)
    assert verdicts[-1] is Verdict.LIST


def test_progress_between_failures_is_no_failing_watch() -> None:
    course = listed("100")
    for number in range(10):
        assert course.failed(GARBAGE) is Verdict.AGAIN
        course.heard(str(101 + number))


@pytest.mark.parametrize("error", [BUSY, AWAY_NOW, FORBIDDEN])
def test_what_says_nothing_of_the_way_changes_it_never(error: ApiError) -> None:
    for course in (Course(), listed(), without_streams()):
        way = course.way
        for _ in range(10):
            assert course.failed(error) is Verdict.AGAIN
        assert course.way is way


def test_a_streaming_list_that_fails_again_and_again_is_given_up() -> None:
    course = Course()
    for _ in range(FUTILE):
        course.failed(BROKEN)
    assert course.way is Way.CACHED


def test_a_streaming_list_that_stalled_is_followed_by_a_plain_one() -> None:
    course = Course()
    course.stalled()
    assert course.way is Way.CACHED
    watching = listed()
    watching.stalled()
    assert watching.way is Way.WATCH


def test_a_version_before_what_was_told_is_an_older_state() -> None:
    course = listed("100")
    course.heard("100")
    with pytest.raises(OlderStateError, match="from version 100 to 99"):
        course.heard("99")
    course.heard("")  # an object without one says nothing
    assert course.version == "100"


def test_versions_are_compared_as_numbers_or_not_at_all() -> None:
    course = listed("99")
    course.heard("100")
    course.heard("opaque")
    course.heard("7")
    assert course.version == "7"


def test_a_server_that_was_away_for_long_is_asked_for_everything() -> None:
    course = listed()
    course.returned(AWAY - 1)
    assert course.way is Way.WATCH
    course.returned(AWAY)
    assert course.way is Way.STREAM


def test_a_new_list_tries_streaming_again() -> None:
    course = without_streams()
    course.listed("50")
    course.heard("51")
    course.relist()
    assert course.way is Way.STREAM
