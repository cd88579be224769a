# SPDX-License-Identifier: Apache-2.0
"""Acceleration over HTTP: what there is, and how questions are refused."""

from __future__ import annotations

import http.client
import json
from typing import Any

import msgspec
import pytest
from accelground import STATUS, Fake, agent

from netaccel.accelerate.view import Status
from netaccel.agent.facts import acceleration, tiers, unaccelerated
from netaccel.config import Settings


def get(at: str, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(at, timeout=10)
    try:
        connection.request("GET", f"/api/v1/accel{path}")
        found = connection.getresponse()
        return found.status, json.loads(found.read())
    finally:
        connection.close()


def test_status_is_the_views_own_json() -> None:
    with agent(Fake()) as at:
        status, found = get(at, "/status")
    assert status == 200
    assert msgspec.convert(found, Status) == STATUS


def test_connections_of_one_pod_or_of_all() -> None:
    with agent(Fake()) as at:
        assert [one["local_port"] for one in get(at, "/connections?pod=shop/web-0")[1]] == [43210, 43211]
        assert get(at, "/connections?pod=shop/idle-0") == (200, [])
        assert len(get(at, "/connections")[1]) == 2


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/connections?pod=web-0", 400, "pod 'web-0': give NAMESPACE/NAME"),
        ("/connections?pod=shop/", 400, "give NAMESPACE/NAME"),
        ("/connections?pod=a/b/c", 400, "give NAMESPACE/NAME"),
        ("/connections?colour=red", 400, "colour: no such parameter; known is pod"),
        ("/connections?pod=shop/gone-0", 404, "no pod shop/gone-0 runs on this node; its pods: shop/db-0,"),
        ("/connections?pod=shop/host-0", 404, "pod shop/host-0 can't be shown: it is elsewhere"),
        ("/connections?pod=shop/far-0", 503, "pod shop/far-0: no process of it is seen"),
    ],
)
def test_questions_that_are_refused(path: str, status: int, said: str) -> None:
    with agent(Fake()) as at:
        answer = get(at, path)
    assert answer[0] == status
    assert said in answer[1]["error"]


def test_where_nothing_is_accelerated_status_says_why_and_connections_are_refused() -> None:
    with agent(None) as at:
        status, found = get(at, "/status")
        assert (status, found["socket"]) == (
            200,
            {"on": False, "reason": "the setting accelerate is disabled", "asked": False},
        )
        status, found = get(at, "/connections?pod=shop/web-0")
    assert (status, found["error"]) == (
        404,
        "connections are not looked at: the setting accelerate is disabled",
    )


def test_what_the_kernel_refuses_is_an_error_with_its_reason() -> None:
    fake = Fake()
    fake.problem = "accel_ends: can't be read"
    with agent(fake) as at:
        assert get(at, "/status") == (500, {"error": "accel_ends: can't be read"})


def test_the_short_part_of_status() -> None:
    told = acceleration(STATUS)
    assert told["socket"]["on"] is True
    assert told["live"] == 1
    assert tiers(STATUS) == ("peer", "socket")
    assert told["failed"] == {"splice": "EAGAIN while poll says readable"}
    assert told["unreachable"] == ["shop/far-0: no process of it is seen"]


@pytest.mark.parametrize(("accelerate", "asked"), [("auto", True), ("enabled", True), ("disabled", False)])
def test_without_an_engine_the_settings_say_why(accelerate: str, asked: bool) -> None:
    found = unaccelerated(Settings.model_validate({"node_name": "n1", "accelerate": accelerate}))
    assert not found.socket.on
    assert found.socket.asked is asked
    assert found.socket.reason
