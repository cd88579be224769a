# SPDX-License-Identifier: Apache-2.0
"""Write the status of policies: the elected agent does it for all (docs/decisions/0014-policy-status.md)."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from netaccel.apiserver.api import APPLY, Api
from netaccel.apiserver.backoff import Backoff
from netaccel.errors import ApiError
from netaccel.explain.policies import Standing
from netaccel.model.event import ObjectKey
from netaccel.model.policy import Kind, PolicyKey
from netaccel.writers.notices import KINDS, Served
from netaccel.writers.policystatus import ACCEPTED, THEIRS, PolicyStatus, Reported, applied, policy_status
from netaccel.writers.refusals import Complaint, is_passing, remedy
from netaccel.writers.state import PATH

log = logging.getLogger(__name__)

MANAGER = "netaccel-elected"
LOOK = 60.0
"""Seconds between two looks, and at least between two writes of one policy's counts."""
COUNTS = 60
"""Policies that are written in one look for their counts alone: each write is an event for every agent."""
_SOON = 10.0  # seconds between two looks of which somebody asked for the second
_REFUSED = 300.0


WITH_STATUS = frozenset((Kind.TRAFFIC, Kind.CLUSTER_TRAFFIC, Kind.CLUSTER_NETWORK))
"""Kinds that have a status."""


class _Condition(msgspec.Struct, rename="camel"):
    type: str = ""
    status: str = ""
    last_transition_time: str = ""


class _Status(msgspec.Struct):
    conditions: list[_Condition] = msgspec.field(default_factory=list)


class _Metadata(msgspec.Struct):
    name: str
    namespace: str = ""


class _Object(msgspec.Struct):
    metadata: _Metadata
    status: _Status = msgspec.field(default_factory=_Status)


class _Objects(msgspec.Struct):
    items: list[_Object] = msgspec.field(default_factory=list)


class _Held(msgspec.Struct):
    policy: str
    generation: int = 0
    state: str = ""
    message: str = ""
    allowed: int = 0
    dropped: int = 0
    audited: int = 0


class _Policies(msgspec.Struct):
    held: list[_Held] = msgspec.field(default_factory=list)


class _NodeStatus(msgspec.Struct):
    policies: _Policies = msgspec.field(default_factory=_Policies)


class _NodeState(msgspec.Struct):
    metadata: _Metadata
    status: _NodeStatus = msgspec.field(default_factory=_NodeStatus)


class _NodeStates(msgspec.Struct):
    items: list[_NodeState] = msgspec.field(default_factory=list)


class PolicyStatusWriter:
    """Runs in a task of its own while this agent is elected. It raises nothing for what the API does."""

    def __init__(
        self,
        api: Api,
        standings: Callable[[], Awaitable[Sequence[Standing]]],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``standings``: of all policies, now."""
        self._api = api
        self._standings = standings
        self._clock, self._wall = clock, wall
        self._stirred = asyncio.Event()
        self._complaint = Complaint("the status of policies is not written")
        self._backoff = Backoff(1.0, 30.0)
        self._written: dict[PolicyKey, tuple[PolicyStatus, float]] = {}
        self._before: dict[PolicyKey, dict[str, str]] | None = None  # conditions as they are

    @property
    def problem(self) -> str:
        """What a person must mend, in one line; "" where all is well."""
        return self._complaint.text

    def stir(self) -> None:
        """Policies may have changed. Cheap."""
        self._stirred.set()

    async def run(self) -> None:
        """Look now and then, for ever."""
        while True:
            self._stirred.clear()
            looked = self._clock()
            wait = await self.step()
            if not wait:
                try:
                    await asyncio.wait_for(self._stirred.wait(), LOOK)
                except TimeoutError:
                    continue
                wait = looked + _SOON - self._clock()
            await asyncio.sleep(max(wait, 0.0))

    async def step(self) -> float:
        """Write what is due; 0, or where the API refuses, the seconds to wait."""
        standings = [one for one in await self._standings() if one.key.kind in WITH_STATUS]
        kind = "nodestates.netaccel.io"
        try:
            if self._before is None:
                self._before = await self._conditions({one.key.kind for one in standings})
            if standings:
                reported = await self._reported()
                for standing, status in self._due(standings, reported):
                    kind = f"{_served(standing.key.kind).plural}/status"
                    await self._write(standing, status)
        except ApiError as error:
            if is_passing(error):
                log.debug("the status of policies was not written, it is tried again: %s", error)
                return max(self._backoff.wait(error.retry_after), 1.0)
            self._complaint.say(remedy(error, kind, "policies/"))
            return _REFUSED * random.uniform(0.8, 1.2)
        there = {one.key for one in standings}
        self._written = {key: kept for key, kept in self._written.items() if key in there}
        self._complaint.clear()
        self._backoff.reset()
        return 0.0

    def _due(
        self, standings: Iterable[Standing], reported: dict[str, list[Reported]]
    ) -> list[tuple[Standing, PolicyStatus]]:
        """What people wait for at once; counts a minute apart, the longest unwritten first."""
        urgent, counts = [], []
        for standing in standings:
            status = policy_status(standing, reported.get(str(standing.key), ()))
            known = self._written.get(standing.key)
            if known is None or known[0].matters() != status.matters():
                urgent.append((standing, status))
            elif known[0] != status and self._clock() - known[1] >= LOOK:
                counts.append((known[1], standing, status))
        counts.sort(key=lambda one: one[0])
        return urgent + [(standing, status) for _, standing, status in counts[:COUNTS]]

    async def _write(self, standing: Standing, status: PolicyStatus) -> None:
        key, kind = standing.key, _served(standing.key.kind)
        assert self._before is not None, "read first"
        body = applied(standing, status, kind.version, self._before.get(key, {}), self._wall())
        query = {"fieldManager": MANAGER, "force": "true"}
        path = f"{kind.path(ObjectKey(key.kind.value, key.namespace, key.name))}/status"
        try:
            await self._api.request(
                "PATCH", path, query=query, body=msgspec.json.encode(body), content_type=APPLY
            )
        except ApiError as error:
            if error.status == HTTPStatus.UNPROCESSABLE_ENTITY:
                log.warning("the status of %s is refused, it is left out: %s", key, error)
            elif error.status != HTTPStatus.NOT_FOUND or not await self._is_known(kind):
                raise
            # else: removed meanwhile
        (condition,) = body["status"]["conditions"]
        self._before[key] = condition
        self._written[key] = status, self._clock()

    async def _is_known(self, kind: Served) -> bool:
        """Whether the server has the kind, and with a status."""
        try:
            await self._api.request("GET", _all(kind), query={"limit": "1"})
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return False
        return True

    async def _conditions(self, kinds: Iterable[Kind]) -> dict[PolicyKey, dict[str, str]]:
        """Ours, as they are: by the agent that was elected before."""
        found: dict[PolicyKey, dict[str, str]] = {}
        for kind in kinds:
            for one in (await self._list(_all(_served(kind)), _Objects)).items:
                key = PolicyKey(kind, one.metadata.namespace, one.metadata.name)
                for condition in one.status.conditions:
                    if condition.type in (ACCEPTED, THEIRS):
                        found[key] = msgspec.to_builtins(condition)
        return found

    async def _reported(self) -> dict[str, list[Reported]]:
        """By the policies' names: what each node says."""
        found: dict[str, list[Reported]] = {}
        for state in (await self._list(PATH, _NodeStates)).items:
            for held in state.status.policies.held:
                counts = held.allowed, held.dropped, held.audited
                report = Reported(state.metadata.name, held.generation, held.state, held.message, counts)
                found.setdefault(held.policy, []).append(report)
        return found

    async def _list(self, path: str, kind: type[Any]) -> Any:
        # From the API server's cache: what is out of date there is written a minute later.
        answer = await self._api.request("GET", path, query={"resourceVersion": "0"})
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.DecodeError as error:
            raise ApiError(f"the API server's answer at {path} is no list: {error}") from error


def _served(kind: Kind) -> Served:
    return KINDS[kind.value]


def _all(kind: Served) -> str:
    return f"/apis/{kind.version}/{kind.plural}"
