# SPDX-License-Identifier: Apache-2.0
"""What the status of a policy says, from what all nodes say; and when it is written. No API."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import pytest
from fakeapi import FakeApi

from netaccel.errors import ApiError, ApiUnreachableError
from netaccel.explain.policies import Decided, Facts, Standing, held, selected, standings
from netaccel.model.endpoint import Namespace, Pod, PodKey
from netaccel.model.event import ObjectKey, Reject, Upsert, object_key
from netaccel.model.policy import Action, Direction, Kind, Policy, PolicyKey, Rule, RuleRef, Subject, Tier
from netaccel.model.snapshot import World
from netaccel.reconcile.status import Condition, State
from netaccel.writers.notices import Scope, notices
from netaccel.writers.policies import COUNTS, LOOK, PolicyStatusWriter
from netaccel.writers.policystatus import Reported, applied, condition, policy_status
from netaccel.writers.state import MAX_POLICIES, Mode, NodeSnapshot, PolicyState, node_state, ready

KEY = PolicyKey(Kind.TRAFFIC, "shop", "web")
STANDING = Standing(KEY, 3, pods=5, nodes=frozenset(("a", "b", "c")))
ALLOW = Rule(Action.ALLOW, None, None)
POLICY = Policy(KEY, Tier.NAMESPACED, Subject((), None), (ALLOW, ALLOW), generation=3, uid="u")
SNAPSHOT = NodeSnapshot("0.4.0", "6.18.5", Mode.BESIDE, policies=(PolicyState(str(KEY), 3, "InForce"),))


def report(node: str, generation: int = 3, state: str = "InForce", message: str = "") -> Reported:
    return Reported(node, generation, state, message, (1, 20, 300))


# -------------------------------------------------------------------- what it says


def test_nodes_enforce_it_that_hold_this_generation() -> None:
    reports = [report("a"), report("b", 2), report("c", state="Waiting"), report("elsewhere")]
    status = policy_status(STANDING, reports)
    assert (status.enforcing, status.expected) == (1, 3)
    assert status.counts == (3, 60, 900), "what older generations decided counts too"
    assert (status.accepted, status.reason) == (True, "Accepted")


def test_a_node_that_refuses_it_says_why_and_nodes_of_one_reason_stand_together() -> None:
    reports = [report(n, state="Refused", message="no room") for n in "ab"] + [report("c", state="Degraded")]
    status = policy_status(STANDING, reports)
    assert status.warnings == (("", "not in force on a, b: no room"),)
    assert status.enforcing == 1
    assert status.accepted, "the object is not at fault"


def test_what_can_not_be_read_is_not_accepted_and_it_is_said_what_holds_instead() -> None:
    status = policy_status(replace(STANDING, refused=("spec.subject: nonsense",)), ())
    assert (status.accepted, status.reason) == (False, "Invalid")
    assert "spec.subject: nonsense; what was in force before stays" in status.message
    status = policy_status(replace(STANDING, stricter=(("spec.ingress[0].from[1]", "is unknown"),)), ())
    assert (status.accepted, status.reason) == (False, "PartlyInvalid")
    assert "spec.ingress[0].from[1]: is unknown" in status.message
    assert status.warnings == (("spec.ingress[0].from[1]", "is unknown"),)


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    status = policy_status(STANDING, ())
    before = {"status": "True", "lastTransitionTime": "2001-01-01T00:00:00Z"}
    assert condition(status, KEY.kind, before, 0.0)["lastTransitionTime"] == "2001-01-01T00:00:00Z"
    refused = policy_status(replace(STANDING, refused=("x",)), ())
    assert condition(refused, KEY.kind, before, 0.0)["lastTransitionTime"] == "1970-01-01T00:00:00Z"


def test_ours_have_figures_and_clusternetworkpolicy_a_sentence() -> None:
    status = policy_status(STANDING, [report("a")])
    body = applied(STANDING, status, "netaccel.io/v1alpha1", {}, 0.0)
    assert body["metadata"] == {"name": "web", "namespace": "shop"}
    assert body["status"]["counts"] == {"allowed": 1, "dropped": 20, "audited": 300}
    assert body["status"]["nodes"] == {"enforcing": 1, "expected": 3}
    assert body["status"]["observedGeneration"] == 3
    cluster = replace(STANDING, key=PolicyKey(Kind.CLUSTER_NETWORK, "", "all"))
    (only,) = applied(cluster, status, "v", {}, 0.0)["status"].values()
    assert only[0]["type"] == "netaccel.io/Accepted"
    assert "selects 5 pods; 1 of 3 nodes enforce it; allowed 1, dropped 20, audited 300" in only[0]["message"]


def test_lists_and_texts_stay_in_the_bounds_of_the_kind() -> None:
    many = replace(STANDING, warnings=tuple(("p" * 999, "m" * 9999) for _ in range(99)))
    warnings = applied(many, policy_status(many, ()), "v", {}, 0.0)["status"]["warnings"]
    assert len(warnings) == 50
    assert {(len(one["path"]), len(one["message"])) for one in warnings} == {(512, 1024)}


# ---------------------------------------------------------------- what nodes say


def world(*more: Any) -> World:
    found = World("a")
    pods = [Pod(PodKey("shop", n), n, labels=(("app", "web"),)) for n in ("a", "b")]
    for obj in (*pods, Namespace("shop"), POLICY, *more):
        found.apply(Upsert(object_key(obj), obj, 0.0))
    return found


def test_a_node_says_what_its_maps_hold_of_policies_of_its_own_pods() -> None:
    other = replace(POLICY, key=PolicyKey(Kind.TRAFFIC, "bank", "web"))
    there = world(other)
    assert selected(there, "a") == {KEY: 1}
    assert [one.state for one in held(there, Facts("a", decided=[]), {KEY: 1})] == ["waiting"]
    counts = [
        Decided(RuleRef(KEY, Direction.INGRESS, n), what, 2, 99)
        for n, what in enumerate(("allowed", "dropped"))
    ]
    (one,) = held(there, Facts("a", decided=counts), {KEY: 1})
    assert (one.state, one.generation, one.counts) == ("in force", 3, {"allowed": 2, "dropped": 2})
    full = {object_key(POLICY): Condition(State.REJECTED, ("no room",))}
    (one,) = held(there, Facts("a", full, decided=counts), {KEY: 1})
    assert (one.state, one.message) == ("refused", "no room")


def test_standings_are_of_the_whole_cluster() -> None:
    there = world()
    there.apply(Reject(ObjectKey("TrafficPolicy", "shop", "bad"), "API", "spec.mode", "no such mode"))
    one, bad = standings(there)
    assert (one.pods, one.nodes, one.generation) == (2, {"a", "b"}, 3)
    assert (bad.key.name, bad.refused) == ("bad", ("spec.mode: no such mode",))
    there.apply(Reject(ObjectKey("TrafficPolicy", "shop", "web"), "API", "spec", "nonsense"))
    one = standings(there)[0]
    assert (one.refused, one.pods) == (("spec: nonsense",), 2), "of what stays in force the pods are known"


def test_events_tell_of_policies_what_is_in_force_in_their_place() -> None:
    there = world()
    key = ObjectKey("NetworkPolicy", "shop", "net")
    stand_in = replace(POLICY, key=PolicyKey(Kind.NETWORK, "shop", "net"), denies="spec: nonsense", uid="n")
    there.apply(Reject(key, "API", "spec", "nonsense", stand_in))
    there.apply(Reject(ObjectKey("TrafficPolicy", "shop", "web"), "API", "spec", "nonsense"))
    first, second = sorted(notices(there, {}), key=lambda one: one.key)
    assert (first.message, first.uid, first.scope) == (
        "spec: nonsense; what it selects is denied",
        "n",
        Scope.CLUSTER,
    )
    assert (second.message, second.uid) == ("spec: nonsense; what was in force before stays", "u")


def test_counts_of_policies_never_cause_a_write() -> None:
    (one,) = SNAPSHOT.policies
    counted = replace(SNAPSHOT, policies=(replace(one, counts=(1, 2, 3)),))
    assert counted.stands() == SNAPSHOT.stands()
    newer = replace(SNAPSHOT, policies=(replace(one, generation=4),))
    assert newer.stands() != SNAPSHOT.stands(), "a generation does, with the other figures"
    assert newer.matters() == SNAPSHOT.matters()


def test_a_nodes_list_is_bounded_and_says_what_it_leaves_out() -> None:
    many = replace(SNAPSHOT, policies=tuple(PolicyState(f"p{n}", 1, "InForce") for n in range(100)))
    status: Any = node_state("a", "", many, ready(many, None, 0.0), 0.0)["status"]
    assert len(status["policies"]["held"]) == MAX_POLICIES
    assert status["policies"]["more"] == 100 - MAX_POLICIES
    bare = replace(SNAPSHOT, policies=())
    assert "policies" not in node_state("a", "", bare, ready(bare, None, 0.0), 0.0)["status"]  # type: ignore[operator]


# ---------------------------------------------------------------- when it is written


class Server(FakeApi):
    """Has NodeStates of nodes a, b, c, and remembers what was written."""

    def __init__(self) -> None:
        self.counts = 0
        self.written: list[str] = []
        self.error: ApiError | None = None
        self.refuse: ApiError | None = None

    def answer(self, method: str, body: bytes) -> bytes:
        if self.error:
            raise self.error
        if method == "PATCH":
            if self.refuse:
                raise self.refuse
            self.written.append(json.loads(body)["metadata"]["name"])
            return b"{}"
        entry = {"generation": 3, "state": "InForce", "allowed": self.counts}
        entries = [{"policy": str(name), **entry} for name in self.names()]
        items = [{"metadata": {"name": n}, "status": {"policies": {"held": entries}}} for n in "abc"]
        return json.dumps({"items": items}).encode()

    def names(self) -> list[PolicyKey]:
        return [KEY]


def writer(server: FakeApi, now: list[float], found: Sequence[Standing] = (STANDING,)) -> PolicyStatusWriter:
    async def now_standing() -> Sequence[Standing]:
        return found

    return PolicyStatusWriter(server, now_standing, clock=lambda: now[0], wall=lambda: 0.0)


async def test_counts_alone_are_written_a_minute_apart() -> None:
    server, now = Server(), [0.0]
    one = writer(server, now)
    for now[0], server.counts, writes in (
        (0, 0, 1),
        (30, 7, 1),
        (LOOK, 7, 2),
        (LOOK + 30, 7, 2),
        (500, 7, 2),
    ):
        assert await one.step() == 0
        assert len(server.written) == writes, now


async def test_what_people_wait_for_is_written_at_once() -> None:
    server, now, found = Server(), [0.0], [STANDING]
    one = writer(server, now, found)
    await one.step()
    found[0] = replace(STANDING, generation=4)
    await one.step()
    assert len(server.written) == 2


async def test_few_are_written_for_their_counts_in_one_look_and_all_have_their_turn() -> None:
    many = [replace(STANDING, key=PolicyKey(Kind.TRAFFIC, "shop", f"p{n}")) for n in range(2 * COUNTS)]
    server, now = Server(), [0.0]
    server.names = lambda: [one.key for one in many]  # type: ignore[method-assign]
    one = writer(server, now, many)
    await one.step()
    server.written.clear()
    for now[0], server.counts in ((LOOK, 1), (2 * LOOK, 2)):
        await one.step()
    assert len(server.written) == len(set(server.written)) == 2 * COUNTS


async def test_networkpolicy_has_no_status() -> None:
    server = Server()
    await writer(server, [0.0], [replace(STANDING, key=PolicyKey(Kind.NETWORK, "shop", "n"))]).step()
    assert server.written == []


async def test_what_passes_is_tried_again_and_what_does_not_is_said() -> None:
    server, now = Server(), [0.0]
    one = writer(server, now)
    server.error = ApiUnreachableError("nobody there")
    assert 1 <= await one.step() <= 30
    assert one.problem == ""
    server.error = None
    server.refuse = ApiError("no right", HTTPStatus.FORBIDDEN, "Forbidden")
    assert await one.step() > 200
    assert "may not write trafficpolicies/status" in one.problem
    server.refuse = ApiError("gone", HTTPStatus.NOT_FOUND, "NotFound")
    assert await one.step() == 0, "a policy that was removed meanwhile is nobody's fault"
    assert one.problem == ""


async def test_a_status_that_the_server_refuses_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    server, now = Server(), [0.0]
    server.refuse = ApiError("status.counts: too odd", HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid")
    assert await writer(server, now).step() == 0
    assert "too odd" in caplog.text
