# SPDX-License-Identifier: Apache-2.0
"""The election where a server does not do what it should; tests/kube has it against a real one."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from fakeapi import FakeApi

from netaccel.apiserver.election import Election, Terms
from netaccel.errors import ApiError, ApiUnreachableError

TERMS = Terms(duration=45.0, deadline=30.0, renew=10.0)


class Server(FakeApi):
    """One Lease with optimistic locking, and faults."""

    def __init__(self) -> None:
        self.lease: dict[str, object] | None = None
        self.version = 0
        self.fault = ""
        self.stamp = "2026-01-01T00:00:00Z"

    def answer(self, method: str, body: bytes) -> bytes:
        if self.fault == "away":
            raise ApiUnreachableError("nobody answers")
        if self.fault == "garbage":
            return b"<html>"
        if method == "GET":
            if self.lease is None:
                raise ApiError("no such Lease", 404)
            return self._lease_as_it_is()
        asked = msgspec.json.decode(body)
        if asked["metadata"].get("resourceVersion", "") != (str(self.version) if self.lease else ""):
            raise ApiError("changed meanwhile", 409, "Conflict")
        self.version += 1
        self.lease = asked["spec"]
        if self.fault == "answer lost":
            raise ApiUnreachableError("the answer broke off")
        return self._lease_as_it_is()

    def _lease_as_it_is(self) -> bytes:
        managed = [{"time": self.stamp}]
        metadata = {"resourceVersion": str(self.version), "managedFields": managed}
        return msgspec.json.encode({"metadata": metadata, "spec": self.lease})


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def candidate(server: Server, clock: Clock, identity: str) -> Election:
    return Election(server, namespace="netaccel", identity=identity, terms=TERMS, clock=clock)


async def test_the_first_one_is_elected_and_the_second_waits_for_as_long_as_was_promised() -> None:
    server, clock = Server(), Clock()
    first, second = candidate(server, clock, "a"), candidate(server, clock, "b")
    await first._stand()
    assert 45 <= await second._stand() <= 54
    assert (first.leads, second.leads, second.holder) == (True, False, "a")
    clock.now += 44.9
    await second._stand()
    assert not second.leads
    clock.now += 0.1
    await second._stand()
    assert (first.leads, second.leads) == (False, True)


async def test_two_never_lead_at_the_same_time() -> None:
    server, clock = Server(), Clock()
    both = [candidate(server, clock, name) for name in ("a", "b")]
    led = set()
    for tick in range(2000):
        clock.now += 1.0
        server.fault = "away" if tick % 97 < 50 else ""
        if tick % 10 == 0:
            await both[tick // 700 % 2]._stand()
        if tick % 13 == 0:
            await both[1 - tick // 700 % 2]._stand()
        assert not all(one.leads for one in both), tick
        led |= {one.identity for one in both if one.leads}
    assert led == {"a", "b"}, "each had its time"


async def test_a_lease_that_changes_is_alive_whatever_its_times_say() -> None:
    server, clock = Server(), Clock()
    second = candidate(server, clock, "b")
    for renewed in range(10):
        server.version += 1
        server.lease = {
            "holderIdentity": "a",
            "leaseDurationSeconds": 45,
            "renewTime": f"19{renewed}0-01-01T00:00:00Z",
        }
        await second._stand()
        clock.now += 40
    assert not second.leads


async def test_an_answer_that_was_lost_costs_nothing() -> None:
    server, clock = Server(), Clock()
    one = candidate(server, clock, "a")
    server.fault = "answer lost"
    await one._stand()
    assert not one.leads, "it can't be sure"
    server.fault = ""
    await one._stand()
    assert one.leads
    assert server.lease is not None
    assert server.lease["leaseTransitions"] == 0


async def test_two_that_reach_for_it_at_once_get_one_lease() -> None:
    server, clock = Server(), Clock()
    both = [candidate(server, clock, name) for name in ("a", "b")]
    await asyncio.gather(*(one._stand() for one in both))
    assert sorted(one.leads for one in both) == [False, True]
    assert all(one.problem == "" for one in both)


@pytest.mark.parametrize("fault", ["away", "garbage"])
async def test_a_server_that_is_away_is_asked_again_quietly(fault: str) -> None:
    server, clock = Server(), Clock()
    one = candidate(server, clock, "a")
    server.fault = fault
    assert 5 <= await one._stand() <= 15
    assert one.problem == ""


async def test_a_lease_given_back_is_free_at_once() -> None:
    server, clock = Server(), Clock()
    first, second = candidate(server, clock, "a"), candidate(server, clock, "b")
    await first._stand()
    await second._stand()
    await first._resign()
    assert not first.leads
    await second._stand()
    assert second.leads


async def test_the_servers_clock_goes_on_with_ours() -> None:
    server, clock = Server(), Clock()
    one = candidate(server, clock, "a")
    assert one.server_time() is None
    await one._stand()
    clock.now += 12.5
    assert one.server_time() == pytest.approx(1767225600 + 12.5, abs=0.001)
