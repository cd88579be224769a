# SPDX-License-Identifier: Apache-2.0
"""Write this node's NodeState: when something changed, and a heartbeat.

One server-side apply (KEP-555) each time, as field manager ``netaccel-agent``, forced: what the elected agent
wrote while this one was silent is taken back. What people wait for (ready, mode, warnings) goes out at once,
at most every ten seconds; figures that change with every deployment in the cluster wait longer, since they
change on all nodes at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import quote

import msgspec

from netaccel.apiserver.api import APPLY, Api
from netaccel.apiserver.backoff import Backoff
from netaccel.errors import ApiError, NetaccelError
from netaccel.writers.refusals import Complaint, is_passing, remedy
from netaccel.writers.state import PATH, READY, Condition, NodeSnapshot, node_state, ready

log = logging.getLogger(__name__)

FIELD_MANAGER = "netaccel-agent"


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Seconds. ``spread``: up to so much later after a change, so that not all nodes write at once."""

    gap: float = 10.0
    """Between two writes, at least."""
    figures: float = 30.0
    """Between two writes, at least, where only figures changed."""
    heartbeat: float = 60.0
    """Between two writes, at most; from three quarters of it on."""
    spread: float = 3.0
    refused: float = 300.0
    """Between tries of what a person must mend."""
    silence: float = 170.0
    """After so long without a write others may have written: it is read before it is written."""


class _Metadata(msgspec.Struct):
    uid: str = ""


class _Status(msgspec.Struct):
    conditions: list[Condition] = msgspec.field(default_factory=list)


class _Identity(msgspec.Struct):
    """Any object, a Node too: of others' conditions nothing is expected."""

    metadata: _Metadata = msgspec.field(default_factory=_Metadata)


_I = TypeVar("_I", bound=_Identity)


class _Object(_Identity):
    status: _Status = msgspec.field(default_factory=_Status)

    @property
    def ready(self) -> Condition | None:
        return next((found for found in self.status.conditions if found.type == READY), None)


class NodeStateWriter:
    """Runs in a task of its own: :meth:`run`. It raises nothing for what the API does or says."""

    def __init__(
        self,
        api: Api,
        node_name: str,
        snapshot: Callable[[], Awaitable[NodeSnapshot]],
        *,
        rhythm: Rhythm | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``snapshot``: the node as it is now; asked when :meth:`stir` was called, and for each heartbeat."""
        self._api = api
        self._node = node_name
        self._path = f"{PATH}/{quote(node_name, safe='')}"
        self._snapshot = snapshot
        self._rhythm = rhythm or Rhythm()
        self._clock, self._wall = clock, wall
        self._stirred = asyncio.Event()
        self._complaint = Complaint("NodeState is not written")
        self._backoff = Backoff(1.0, 30.0)
        self._owner = ""  # the Node's uid
        self._uid = ""  # the NodeState's
        self._condition: Condition | None = None
        self._written: NodeSnapshot | None = None
        self._at = float("-inf")  # when it was written
        self._beat = 0.0  # when it has to be written again
        self._not_before = float("-inf")  # after a try that failed

    @property
    def problem(self) -> str:
        """What a person must mend before it can be written, in one line; "" where all is well."""
        return self._complaint.text

    def stir(self) -> None:
        """Something may have changed. Cheap."""
        self._stirred.set()

    async def run(self) -> None:
        """Write for ever."""
        while True:
            self._stirred.clear()
            wait = await self.step()
            looked = self._clock()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stirred.wait(), wait)
                rest = looked + self._rhythm.gap - self._clock()
                spread = self._rhythm.spread * random.random()
                await asyncio.sleep(min(wait, max(rest, spread)))

    async def step(self) -> float:
        """Write where it is due; seconds until it has to be looked at again, stirred or not."""
        try:
            snapshot = await self._snapshot()
        except NetaccelError as error:
            log.warning("NodeState is not written, it is tried again: %s", error)
            return self._rhythm.gap
        now = self._clock()
        due = self._due(snapshot)
        if now < due:
            return due - now
        try:
            await self._write(snapshot)
        except ApiError as error:
            wait = self._failed(error)
            self._not_before = self._clock() + wait
            return wait
        self._complaint.clear()
        self._backoff.reset()
        self._written, self._at = snapshot, self._clock()
        self._beat = self._at + self._rhythm.heartbeat * random.uniform(0.75, 1.0)
        return self._beat - self._at

    def _due(self, snapshot: NodeSnapshot) -> float:
        """When this has to be written, by the clock."""
        if self._written is None or self._not_before > self._at:
            return self._not_before
        if snapshot.matters() != self._written.matters():
            return self._at + self._rhythm.gap
        if snapshot.stands() != self._written.stands():
            return min(self._beat, self._at + self._rhythm.figures)
        return self._beat

    def _failed(self, error: ApiError) -> float:
        if is_passing(error):
            log.debug("NodeState was not written, it is tried again: %s", error)
            return max(self._backoff.wait(error.retry_after), self._rhythm.gap / 10)
        self._complaint.say(remedy(error, "nodestates.netaccel.io", "policies/"))
        return self._rhythm.refused * random.uniform(0.8, 1.2)

    async def _write(self, snapshot: NodeSnapshot) -> None:
        if self._clock() - self._at > self._rhythm.silence:
            self._condition = (await self._get(self._path, _Object)).ready
        self._owner = self._owner or await self._node_uid()
        made = await self._apply(snapshot)
        if self._uid and made != self._uid:
            # It was removed and is new: perhaps with its Node, which may be another one now.
            owner = await self._node_uid()
            if owner != self._owner:
                self._owner = owner
                made = await self._apply(snapshot)
        self._uid = made

    async def _apply(self, snapshot: NodeSnapshot) -> str:
        """The object's uid."""
        now = self._wall()
        condition = ready(snapshot, self._condition, now)
        body = msgspec.json.encode(node_state(self._node, self._owner, snapshot, condition, now))
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        answer = await self._api.request("PATCH", self._path, query=query, body=body, content_type=APPLY)
        self._condition = condition
        return _decode(answer, _Identity).metadata.uid

    async def _node_uid(self) -> str:
        """Empty where the cluster has no such Node."""
        return (await self._get(f"/api/v1/nodes/{quote(self._node, safe='')}", _Identity)).metadata.uid

    async def _get(self, path: str, kind: type[_I]) -> _I:
        try:
            return _decode(await self._api.request("GET", path), kind)
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return kind()


def _decode(answer: bytes, kind: type[_I]) -> _I:
    try:
        return msgspec.json.decode(answer, type=kind)
    except msgspec.DecodeError as error:
        raise ApiError(f"the API server's answer is no object: {error}") from error
