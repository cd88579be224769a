# SPDX-License-Identifier: Apache-2.0
"""What NodeState says, and when; which agents are silent; from conditions to notices. No API."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from fakeapi import FakeApi

from netaccel.errors import ApiError, ApiUnreachableError, DatapathError
from netaccel.model.event import ObjectKey, Reject, Upsert
from netaccel.model.service import Service, ServiceKey
from netaccel.model.snapshot import World
from netaccel.reconcile import Condition as Became
from netaccel.reconcile import State
from netaccel.writers.nodestate import NodeStateWriter, Rhythm
from netaccel.writers.notices import Notice, Scope, notices, warnings
from netaccel.writers.refusals import is_passing
from netaccel.writers.silence import UNKNOWN_AFTER, Heartbeat, Listener, unknown
from netaccel.writers.state import Condition, Mode, NodeSnapshot, Warned, ready
from netaccel.writers.times import rfc3339, rfc3339_micro, seconds

SNAPSHOT = NodeSnapshot("0.4.0", "6.18.5", Mode.INSTEAD, services=2, last_sync=1.0)
WEB, BAD = ObjectKey("Service", "default", "web"), ObjectKey("Service", "default", "bad")


# --------------------------------------------------------------------------- times


def test_times_are_written_as_the_api_reads_them() -> None:
    assert rfc3339(0.9) == "1970-01-01T00:00:00Z"
    assert rfc3339_micro(1.5) == "1970-01-01T00:00:01.500000Z"


@pytest.mark.parametrize("moment", [0.0, 1.7e9])
def test_times_are_read_as_they_were_written(moment: float) -> None:
    assert seconds(rfc3339(moment)) == moment
    assert seconds(rfc3339_micro(moment)) == moment


@pytest.mark.parametrize("text", [None, "", "yesterday", "2026-13-01T00:00:00Z"])
def test_what_is_no_time_is_none(text: str | None) -> None:
    assert seconds(text) is None


# ----------------------------------------------------------------------- condition


@pytest.mark.parametrize(
    ("snapshot", "status", "reason"),
    [
        (SNAPSHOT, "True", "Serving"),
        (replace(SNAPSHOT, mode=Mode.DRAINING), "True", "Draining"),
        (replace(SNAPSHOT, not_ready=("a", "b")), "False", "NotServing"),
    ],
)
def test_ready_says_why(snapshot: NodeSnapshot, status: str, reason: str) -> None:
    found = ready(snapshot, None, 0.0)
    assert (found.status, found.reason) == (status, reason)
    assert found.message


def test_the_last_transition_is_one_of_status_only() -> None:
    before = Condition("Ready", "True", "Serving", "", "2020-01-01T00:00:00Z")
    draining = replace(SNAPSHOT, mode=Mode.DRAINING)
    assert ready(draining, before, 0.0).last_transition_time == before.last_transition_time
    lost = replace(SNAPSHOT, not_ready=("a",))
    assert ready(lost, before, 0.0).last_transition_time == rfc3339(0.0)
    silent = Condition("Ready", "Unknown", "AgentSilent", "", "2020-01-01T00:00:00Z")
    assert ready(SNAPSHOT, silent, 0.0).last_transition_time == rfc3339(0.0)


# ---------------------------------------------------------------------- the writer


class Refusing(FakeApi):
    """An API that answers as it is told: bytes, or an error."""

    def __init__(self) -> None:
        self.told: bytes | ApiError = b'{"metadata":{"uid":"1"}}'
        self.asked: list[str] = []

    def answer(self, method: str, body: bytes) -> bytes:
        self.asked.append(method)
        if isinstance(self.told, ApiError):
            raise self.told
        return self.told


class Bench:
    """A writer with its clock, its node and its API in a test's hands."""

    def __init__(self) -> None:
        self.now = 0.0
        self.snapshot: NodeSnapshot | DatapathError = SNAPSHOT
        self.api = Refusing()
        self.writer = NodeStateWriter(
            self.api,
            "node-1",
            self._look,
            clock=lambda: self.now,
        )

    async def _look(self) -> NodeSnapshot:
        if isinstance(self.snapshot, DatapathError):
            raise self.snapshot
        return self.snapshot

    async def writes(self, now: float) -> bool:
        self.now = now
        self.api.asked.clear()
        await self.writer.step()
        return "PATCH" in self.api.asked


@pytest.mark.parametrize(
    "error",
    [ApiUnreachableError("down"), ApiError("", 429), ApiError("", 500), ApiError("", 503), ApiError("", 409)],
)
async def test_with_the_api_away_it_tries_soon_and_stays_quiet(error: ApiError) -> None:
    bench = Bench()
    bench.api.told = error
    waits = [await bench.writer.step() for _ in range(20)]
    assert all(0 < wait <= 30 for wait in waits[:1])
    assert bench.writer.problem == ""
    bench.api.told = b"{}"
    assert await bench.writes(100.0)


async def test_a_server_that_asks_for_time_gets_it() -> None:
    bench = Bench()
    bench.api.told = ApiError("", 429, "", 77.0)
    assert await bench.writer.step() >= 77


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ApiError("forbidden", 403), "rbac.yaml"),
        (ApiError("field not declared in schema", 422), "field not declared in schema"),
    ],
)
async def test_what_a_person_must_mend_is_said_once_and_tried_slowly(
    error: ApiError, remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench()
    bench.api.told = error
    assert await bench.writer.step() >= 240
    assert remedy in bench.writer.problem
    assert not await bench.writes(200.0), "not before its time, stirred or not"
    await bench.writes(400.0)
    assert len(caplog.records) == 1
    bench.api.told = b"{}"
    assert await bench.writes(800.0)
    assert bench.writer.problem == ""


async def test_a_server_that_goes_away_later_is_given_time_too() -> None:
    bench = Bench()
    assert await bench.writes(0.0)
    bench.snapshot = replace(SNAPSHOT, mode=Mode.DRAINING)
    bench.api.told = ApiError("", 429, "", 77.0)
    assert await bench.writes(10.0)
    bench.api.told = b"{}"
    assert not await bench.writes(86.0)
    assert await bench.writes(110.0)


async def test_an_answer_that_is_no_object_harms_nothing() -> None:
    bench = Bench()
    bench.api.told = b"<html>"
    assert await bench.writer.step() > 0
    assert bench.writer.problem == ""


async def test_a_node_that_can_not_be_read_now_is_written_later() -> None:
    bench = Bench()
    bench.snapshot = DatapathError("no map")
    assert not await bench.writes(0.0)
    bench.snapshot = SNAPSHOT
    assert await bench.writes(10.0)


async def test_changes_wait_their_turn() -> None:
    bench = Bench()
    assert await bench.writes(0.0)
    for change, first in (
        ({"mode": Mode.DRAINING}, 10.0),
        ({"not_ready": ("a",)}, 10.0),
        ({"warnings": (Warned("", "Node", "x"),)}, 10.0),
        ({"warnings": (Warned("", "Node", "pods: no answer (for 12 s)"),)}, 10.0),
        ({"warnings": (Warned("", "Node", "pods: no answer (for 23 s)"),)}, 30.0),
        ({"frontends": 5}, 30.0),
        ({"drift": 5}, 30.0),
    ):
        start = bench.now
        bench.snapshot = replace(bench.snapshot, **change)  # type: ignore[type-var]
        assert not await bench.writes(start + first - 0.1), change
        assert await bench.writes(start + first), change


async def test_a_heartbeat_comes_within_a_minute_and_not_before_three_quarters() -> None:
    bench = Bench()
    for _ in range(50):
        assert await bench.writes(bench.now)
        start = bench.now
        bench.snapshot = replace(SNAPSHOT, last_sync=start)
        assert not await bench.writes(start + 44.9)
        bench.now = start + 60.0


async def test_a_stir_does_not_outrun_the_gap() -> None:
    bench = Bench()
    looks = []

    async def look() -> NodeSnapshot:
        looks.append(1)
        return SNAPSHOT

    writer = NodeStateWriter(bench.api, "node-1", look, rhythm=Rhythm(spread=0.0))  # type: ignore[arg-type]
    task = asyncio.create_task(writer.run())
    for _ in range(20):
        writer.stir()
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(looks) == 1


@pytest.mark.parametrize(
    ("status", "passing"), [(0, True), (409, True), (504, True), (403, False), (404, False)]
)
def test_what_passes_by_itself(status: int, passing: bool) -> None:
    assert is_passing(ApiError("", status)) is passing


# --------------------------------------------------------------------- silent agents


def beat(text: str, status: str = "True", written: float | None = None) -> Heartbeat:
    return Heartbeat("node-1", text, status, "7", written)


def test_a_heartbeat_is_as_old_as_it_was_seen_not_to_change() -> None:
    listener = Listener()
    assert listener.silent([beat("a")], 0.0, None) == []
    assert listener.silent([beat("a")], UNKNOWN_AFTER, None) == []
    assert listener.silent([beat("a")], UNKNOWN_AFTER + 1, None) == [beat("a")]
    assert listener.silent([beat("b")], UNKNOWN_AFTER + 2, None) == []
    assert listener.silent([beat("b")], 2 * UNKNOWN_AFTER, None) == []


def test_what_it_says_itself_about_the_time_is_not_believed() -> None:
    listener = Listener()
    for now, text in enumerate(("2099-01-01T00:00:00Z", "1999-01-01T00:00:00Z")):
        assert listener.silent([beat(text)], float(now), 1.7e9) == []


def test_a_first_one_is_dated_back_by_the_servers_clock() -> None:
    assert Listener().silent([beat("a", written=1000.0)], 5.0, 1000.0 + UNKNOWN_AFTER) == []
    assert Listener().silent([beat("a", written=1000.0)], 5.0, 1001.0 + UNKNOWN_AFTER) != []
    ahead = Listener()
    assert ahead.silent([beat("a", written=2000.0)], 5.0, 1000.0) == []
    assert ahead.silent([beat("a", written=2000.0)], 6.0 + UNKNOWN_AFTER, 1000.0) != []


def test_who_is_known_to_be_silent_is_not_told_again_and_who_is_back_has_three_minutes() -> None:
    listener = Listener()
    listener.silent([beat("a")], 0.0, None)
    assert listener.silent([beat("a", "Unknown")], 500.0, None) == []
    assert listener.silent([beat("a", "Unknown")], 1000.0, None) == []
    assert listener.silent([beat("a", "True")], 1001.0, None) == []
    assert listener.silent([beat("a", "True")], 1182.0, None) != []


def test_who_is_gone_is_forgotten() -> None:
    listener = Listener()
    listener.silent([beat("a")], 0.0, None)
    listener.silent([], 1.0, None)
    assert listener.silent([beat("a")], 500.0, None) == []


def test_unknown_is_said_of_the_version_that_was_seen() -> None:
    said = unknown(beat("2026-01-01T00:00:00Z"), 0.0)
    assert said["metadata"] == {"name": "node-1", "resourceVersion": "7"}


# ------------------------------------------------------------------------- notices


def world(*rejects: Reject) -> World:
    found = World("node-1")
    key = ServiceKey("default", "web")
    found.apply(Upsert(WEB, Service(key, "ClusterIP", (), uid="uid-web"), 0.0))
    found.apply_all(rejects)
    return found


REJECT = Reject(BAD, "services", "spec.ports[0].port", "70000 is no port")


def test_a_refusal_of_the_source_is_the_clusters_matter() -> None:
    conditions = {BAD: Became(State.REJECTED, ("services: spec.ports[0].port: 70000 is no port",))}
    (found,) = notices(world(REJECT), conditions)
    assert found.scope is Scope.CLUSTER
    assert found.message.startswith("spec.ports[0].port: 70000 is no port")
    assert found.uid == ""


def test_what_has_no_room_here_is_this_nodes_matter() -> None:
    conditions = {WEB: Became(State.REJECTED, ("map backends is full",))}
    assert notices(world(), conditions) == (
        Notice(WEB, "Rejected", "map backends is full", Scope.NODE, "uid-web"),
    )


def test_each_limitation_is_told_apart_and_what_is_well_not_at_all() -> None:
    conditions = {
        WEB: Became(State.DEGRADED, ("a", "b", "a")),
        BAD: Became(State.IGNORED, ("headless",)),
        ObjectKey("Service", "default", "good"): Became(State.ACCEPTED),
    }
    found = notices(world(), conditions)
    assert [(one.key, one.message, one.scope) for one in found] == [
        (WEB, "a", Scope.CLUSTER),
        (WEB, "b", Scope.CLUSTER),
    ]


def test_objects_that_get_no_events_are_warned_of_all_the_same() -> None:
    told = world(Reject(None, "pods", "", "not JSON"), Reject(ObjectKey("Node", "", "n"), "nodes", "", "odd"))
    assert notices(told, {}) == ()
    assert warnings(told, {}, ["eth0: no driver"]) == (
        Warned("", "Node", "eth0: no driver"),
        Warned("", "Rejected", "pods: not JSON"),
        Warned("Node n", "Rejected", "nodes: odd"),
    )


def test_warnings_have_one_order() -> None:
    two = {WEB: Became(State.DEGRADED, ("a",)), BAD: Became(State.REJECTED, ("b",))}
    assert warnings(world(), two) == warnings(world(), dict(reversed(two.items())))


def test_an_object_is_warned_of_once() -> None:
    conditions = {
        BAD: Became(State.REJECTED, ("services: spec.ports[0].port: 70000 is no port",)),
        WEB: Became(State.DEGRADED, ("a", "b")),
    }
    assert warnings(world(REJECT), conditions) == (
        Warned("Service default/bad", "Rejected", "services: spec.ports[0].port: 70000 is no port"),
        Warned("Service default/web", "Degraded", "a; b"),
    )
