# SPDX-License-Identifier: Apache-2.0
"""Writers of Events and the elected agent's duties where the API fails; tests/kube has them at a real one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from fakeapi import FakeApi

from netaccel.errors import ApiError, ApiUnreachableError
from netaccel.model.event import ObjectKey
from netaccel.writers.cluster import Warden
from netaccel.writers.events import EventWriter
from netaccel.writers.notices import Notice, Scope

NOTICES = [
    Notice(ObjectKey("Service", "default", name), "Rejected", "no room", Scope.NODE, f"uid-{name}")
    for name in ("a", "b", "c")
]


class Faulty(FakeApi):
    """An API that fails for the n-th request, and remembers what was created."""

    def __init__(self, *faults: ApiError | bytes | None) -> None:
        self.faults = list(faults)
        self.created: list[str] = []

    def answer(self, method: str, body: bytes) -> bytes:
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, ApiError):
            raise fault
        if method == "POST":
            event: dict[str, Any] = msgspec.json.decode(body)
            self.created.append(event["regarding"]["name"])
        return fault or b"{}"


def writer(api: Faulty) -> EventWriter:
    return EventWriter(api, "node-1", lambda: NOTICES, clock=lambda: 0.0)


@pytest.mark.parametrize("error", [ApiUnreachableError("away"), ApiError("busy", 429), ApiError("", 503)])
async def test_what_fails_in_the_middle_is_taken_up_where_it_was(error: ApiError) -> None:
    api = Faulty(None, error)
    events = writer(api)
    assert 0 < await events.step() <= 30
    assert api.created == ["a"]
    assert events.problem == ""
    assert await events.step() == 0
    assert api.created == ["a", "b", "c"]


async def test_an_event_that_is_refused_for_what_it_says_harms_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    api = Faulty(None, ApiError("note: too long", 422, "Invalid"))
    events = writer(api)
    assert await events.step() == 0
    assert await events.step() == 0
    assert api.created == ["a", "c"]
    assert [record.message.count("Service default/b") for record in caplog.records] == [1]


async def test_no_rights_are_said_once_and_tried_slowly(caplog: pytest.LogCaptureFixture) -> None:
    api = Faulty(*[ApiError("forbidden", 403, "Forbidden")] * 2)
    events = writer(api)
    assert await events.step() >= 240
    assert await events.step() >= 240
    assert len(caplog.records) == 1
    assert await events.step() == 0
    assert events.problem == ""


@pytest.mark.parametrize("fault", [ApiUnreachableError("away"), b"<html>", b'{"items": 7}'])
async def test_the_warden_outlives_a_bad_answer(fault: ApiError | bytes) -> None:
    warden = Warden(Faulty(fault, b'{"items": []}'), lambda: None)
    assert 0 < await warden.step() <= 30
    assert warden.problem == ""
    assert await warden.step() == 0


async def test_an_annotation_is_told_at_a_pod_without_asking_for_it() -> None:
    told = Notice(ObjectKey("Pod", "shop", "a"), "WrongAnnotation", "no wish", Scope.NODE, "uid-a")
    api = Recording()
    assert await EventWriter(api, "node-1", lambda: [told], clock=lambda: 0.0).step() == 0
    (event,) = api.events
    assert event["regarding"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "shop",
        "name": "a",
        "uid": "uid-a",
    }
    assert event["action"] == "Acceleration"


class Recording(FakeApi):
    """An API that takes everything."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def answer(self, method: str, body: bytes) -> bytes:
        assert method == "POST", "the uid is known"
        self.events.append(msgspec.json.decode(body))
        return b"{}"
