# SPDX-License-Identifier: Apache-2.0
"""An API server's no, as one line and as what follows from it."""

from __future__ import annotations

import email.utils
import json
import time

import pytest

from netaccel.apiserver.refusals import is_expired, is_too_large, refusal
from netaccel.errors import ApiError


def status(code: int, reason: str, message: str = "", **details: object) -> bytes:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}
    return json.dumps({**body, "message": message, "details": details}).encode()


def test_the_line_says_what_was_asked_what_came_and_the_remedy() -> None:
    error = refusal("https://k:6443: GET /api/v1/pods", status(403, "Forbidden", "pods is forbidden"), 403)
    assert str(error) == (
        "https://k:6443: GET /api/v1/pods: 403 Forbidden: pods is forbidden:"
        " grant it with the rights of deploy/base/rbac.yaml"
    )
    assert (error.status, error.reason, error.retry_after) == (403, "Forbidden", None)


def test_the_remedy_for_a_missing_namespace_is_the_namespace() -> None:
    namespace = refusal("POST", status(404, "NotFound", "", name="netaccel", kind="namespaces"), 404)
    assert "kubectl apply -k deploy/" in str(namespace)
    kind = refusal("POST", b"404 page not found", 404)
    assert "kubectl apply -k deploy/" not in str(kind)
    assert "CRDs" in str(kind)


def test_a_message_of_many_lines_becomes_one() -> None:
    assert "\n" not in str(refusal("GET /", status(400, "BadRequest", "one\n  two\n"), 400))


def test_a_watchs_error_event_carries_its_status_inside() -> None:
    error = refusal("watch", status(410, "Expired", "too old resource version: 1 (200)"))
    assert error.status == 410
    assert is_expired(error)
    assert not is_too_large(error)


@pytest.mark.parametrize(
    "error",
    [ApiError("", 410), ApiError("", 410, "Gone"), ApiError("", 0, "Expired"), ApiError("", 500, "Gone")],
)
def test_expired_in_all_its_forms(error: ApiError) -> None:
    assert is_expired(error)


def test_a_version_that_the_server_has_not_reached_is_told_by_a_cause() -> None:
    body = status(504, "Timeout", "Too large", causes=[{"reason": "ResourceVersionTooLarge", "message": ""}])
    assert is_too_large(refusal("GET /", body, 504))
    assert not is_too_large(refusal("GET /", status(504, "Timeout", "took too long"), 504))


def test_how_long_to_wait_from_the_header_in_seconds() -> None:
    assert refusal("GET /", b"busy", 429, "3").retry_after == 3.0


def test_how_long_to_wait_from_the_header_as_a_date() -> None:
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    wait = refusal("GET /", b"busy", 429, date).retry_after
    assert wait is not None
    assert 50 < wait <= 101


@pytest.mark.parametrize("header", ["soon", "", None])
def test_a_header_that_says_nothing(header: str | None) -> None:
    assert refusal("GET /", b"", 429, header).retry_after is None


def test_how_long_to_wait_from_the_body() -> None:
    assert refusal("GET /", status(429, "TooManyRequests", "", retryAfterSeconds=2), 429).retry_after == 2.0


@pytest.mark.parametrize(
    "body", [b"<html>Bad Gateway</html>", b"", b"[]", b'{"kind":3}', b'{"kind":"Pod"}', b"\xff"]
)
def test_a_proxys_page_is_a_no_too(body: bytes) -> None:
    error = refusal("GET /", body, 502)
    assert str(error) == "GET /: 502 Bad Gateway"
    assert error.reason == ""
