# SPDX-License-Identifier: Apache-2.0
"""What one agent does for all, while it is elected: notice silent agents, write the cluster's Events and the
status of policies.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from urllib.parse import quote

import msgspec

from netaccel.apiserver.api import APPLY, Api
from netaccel.apiserver.backoff import Backoff
from netaccel.apiserver.election import Election
from netaccel.errors import ApiError
from netaccel.explain.policies import Standing
from netaccel.writers.events import EventWriter
from netaccel.writers.nodestate import FIELD_MANAGER
from netaccel.writers.notices import Notice, Scope
from netaccel.writers.policies import PolicyStatusWriter
from netaccel.writers.refusals import Complaint, is_passing, remedy
from netaccel.writers.silence import Heartbeat, Listener, unknown
from netaccel.writers.state import PATH, READY
from netaccel.writers.times import seconds

log = logging.getLogger(__name__)

ELECTED_MANAGER = "netaccel-elected"
"""Of what the elected agent says about others; the agent that is back takes it over by force."""
_LOOK = 30.0  # seconds between two looks at the heartbeats
_REFUSED = 300.0


class _Condition(msgspec.Struct):
    type: str = ""
    status: str = ""


class _Status(msgspec.Struct):
    heartbeat: str = ""
    conditions: list[_Condition] = msgspec.field(default_factory=list)


class _Managed(msgspec.Struct):
    manager: str = ""
    time: str = ""


class _Metadata(msgspec.Struct, rename="camel"):
    name: str
    resource_version: str = ""
    managed_fields: list[_Managed] = msgspec.field(default_factory=list)


class _NodeState(msgspec.Struct):
    metadata: _Metadata
    status: _Status = msgspec.field(default_factory=_Status)


class _List(msgspec.Struct):
    items: list[_NodeState] = msgspec.field(default_factory=list)


class Warden:
    """Sets Ready to Unknown in NodeStates whose agents are silent."""

    def __init__(
        self,
        api: Api,
        server_time: Callable[[], float | None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``server_time``: the API server's clock, see Election."""
        self._api = api
        self._server_time = server_time
        self._clock = clock
        self._listener = Listener()
        self._complaint = Complaint("silent agents are not noticed")
        self._backoff = Backoff(1.0, 30.0)

    @property
    def problem(self) -> str:
        """What a person must mend, in one line; "" where all is well."""
        return self._complaint.text

    async def run(self) -> None:
        """Look now and then, for ever."""
        while True:
            wait = await self.step()
            await asyncio.sleep(wait or _LOOK)

    async def step(self) -> float:
        """Look once; 0, or where the API refuses, the seconds to wait."""
        try:
            beats = await self._beats()
            for heard in self._listener.silent(beats, self._clock(), self._server_time()):
                await self._mark(heard)
        except ApiError as error:
            if is_passing(error):
                log.debug("silent agents were not looked for, it is tried again: %s", error)
                return max(self._backoff.wait(error.retry_after), 1.0)
            self._complaint.say(remedy(error, "nodestates.netaccel.io", "policies/"))
            return _REFUSED * random.uniform(0.8, 1.2)
        self._complaint.clear()
        self._backoff.reset()
        return 0.0

    async def _beats(self) -> list[Heartbeat]:
        # From the API server's cache: what is out of date there is refused when it is written.
        answer = await self._api.request("GET", PATH, query={"resourceVersion": "0"})
        try:
            found = msgspec.json.decode(answer, type=_List)
        except msgspec.DecodeError as error:
            raise ApiError(f"the API server's answer is no list of NodeStates: {error}") from error
        return [_heartbeat(state) for state in found.items]

    async def _mark(self, heard: Heartbeat) -> None:
        body = msgspec.json.encode(unknown(heard, time.time()))
        query = {"fieldManager": ELECTED_MANAGER, "force": "true"}
        path = f"{PATH}/{quote(heard.node, safe='')}"
        try:
            await self._api.request("PATCH", path, query=query, body=body, content_type=APPLY)
        except ApiError as error:
            if error.status in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
                return  # written or removed meanwhile: its agent is not silent, or its node is gone
            raise
        log.warning("node %s: its agent is silent, its NodeState is Unknown now", heard.node)


class ClusterWriter:
    """Runs in a task of its own: :meth:`run`. It raises nothing for what the API does or says."""

    def __init__(
        self,
        api: Api,
        node_name: str,
        election: Election,
        notices: Callable[[], Sequence[Notice]],
        standings: Callable[[], Awaitable[Sequence[Standing]]] | None = None,
    ) -> None:
        """``notices``: what is true now; those of the whole cluster are told while this agent is elected.

        ``standings``: of policies, whose status is written then; None: policy is off.
        """
        self.election = election
        self._api = api
        self._node = node_name
        self._notices = notices
        self._events: EventWriter | None = None
        self._standings = standings
        self._warden: Warden | None = None
        self._policies: PolicyStatusWriter | None = None

    @property
    def problem(self) -> str:
        """What a person must mend, in one line; "" where all is well."""
        parts = (self.election, self._events, self._warden, self._policies)
        return "; ".join(part.problem for part in parts if part and part.problem)

    def stir(self) -> None:
        """The notices may have changed. Cheap."""
        for part in (self._events, self._policies):
            if part:
                part.stir()

    async def run(self) -> None:
        """Stand for election, and do the duties while elected, for ever."""
        await self.election.run(self._duties)

    async def _duties(self) -> None:
        # Both begin anew with each term: what others saw and told meanwhile is not known here.
        self._events = EventWriter(self._api, self._node, self._notices, scope=Scope.CLUSTER)
        self._warden = Warden(self._api, self.election.server_time)
        if self._standings:
            self._policies = PolicyStatusWriter(self._api, self._standings)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._events.run())
                group.create_task(self._warden.run())
                if self._policies:
                    group.create_task(self._policies.run())
        finally:
            self._events = self._warden = self._policies = None


def _heartbeat(state: _NodeState) -> Heartbeat:
    by_agent = (managed.time for managed in state.metadata.managed_fields if managed.manager == FIELD_MANAGER)
    ready = next((found.status for found in state.status.conditions if found.type == READY), "")
    return Heartbeat(
        state.metadata.name,
        state.status.heartbeat,
        ready,
        state.metadata.resource_version,
        seconds(max(by_agent, default="")),
    )
