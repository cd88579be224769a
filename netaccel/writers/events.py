# SPDX-License-Identifier: Apache-2.0
"""Write Events on the objects that are refused or limited, for ``kubectl describe`` to show.

They are written by events.k8s.io/v1, which counts repeats in a series; core/v1, where kubectl looks, serves
the same objects. kubectl asks for the uid of what it describes, so each Event carries it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus

import msgspec

from netaccel.apiserver.api import MERGE_PATCH, Api
from netaccel.apiserver.backoff import Backoff
from netaccel.errors import ApiError
from netaccel.model.event import ObjectKey
from netaccel.writers.journal import COMBINED, Journal, Limits, Telling
from netaccel.writers.notices import ANNOTATED, KINDS, POLICIES, Notice, Scope
from netaccel.writers.refusals import Complaint, is_passing, remedy
from netaccel.writers.times import rfc3339_micro

log = logging.getLogger(__name__)

CONTROLLER = "netaccel.io/agent"
_NOTE, _INSTANCE = 1024, 128  # bytes and characters that events.k8s.io/v1 allows
_GAP = 5.0  # seconds between two looks
_LOOK = 60.0  # seconds to a look that nobody asked for
_REFUSED = 300.0  # seconds between tries of what a person must mend
_FIRST_REPEAT = 2  # the least count of a series


_SERVED = {**KINDS, **ANNOTATED}


class _Metadata(msgspec.Struct):
    uid: str = ""


class _Series(msgspec.Struct):
    count: int = 1


class _Object(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    series: _Series | None = None


class EventWriter:
    """Runs in a task of its own: :meth:`run`. It raises nothing for what the API does or says."""

    def __init__(
        self,
        api: Api,
        node_name: str,
        notices: Callable[[], Sequence[Notice]],
        *,
        scope: Scope = Scope.NODE,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``notices``: what is true now; those of ``scope`` are told."""
        self._api = api
        self._node = node_name
        self._notices = notices
        self._scope = scope
        self._journal = Journal(limits)
        self._clock = clock
        self._stirred = asyncio.Event()
        self._complaint = Complaint("Events are not written")
        self._backoff = Backoff(1.0, 30.0)

    @property
    def problem(self) -> str:
        """What a person must mend before Events can be written, in one line; "" where all is well."""
        return self._complaint.text

    @property
    def held_back(self) -> int:
        """Notices that wait because of the limits."""
        return self._journal.held_back

    def stir(self) -> None:
        """The notices may have changed. Cheap."""
        self._stirred.set()

    async def run(self) -> None:
        """Write for ever."""
        while True:
            self._stirred.clear()
            failed = await self.step()
            if failed:
                await asyncio.sleep(failed)
                continue
            await asyncio.sleep(_GAP)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stirred.wait(), _LOOK)

    async def step(self) -> float:
        """Tell what is due; 0, or where the API refuses, the seconds to wait."""
        mine = (notice for notice in self._notices() if notice.scope is self._scope)
        for telling in self._journal.due(mine, self._clock()):
            try:
                count = await self._tell(telling)
            except ApiError as error:
                if error.status != HTTPStatus.UNPROCESSABLE_ENTITY:
                    return self._failed(error)
                log.warning("an Event on %s is refused, it is left out: %s", telling.notice.key, error)
                count = telling.count
            if count:
                self._journal.done(telling, self._clock(), count)
        self._complaint.clear()
        self._backoff.reset()
        return 0.0

    def _failed(self, error: ApiError) -> float:
        if is_passing(error):
            log.debug("Events were not written, it is tried again: %s", error)
            return max(self._backoff.wait(error.retry_after), _GAP / 10)
        self._complaint.say(remedy(error, "events.events.k8s.io", "deploy/"))
        return _REFUSED * random.uniform(0.8, 1.2)

    # ------------------------------------------------------------------ one Event

    async def _tell(self, telling: Telling) -> int:
        """Create the Event, or count it up. How often it was told by now; 0: its object is gone."""
        notice = telling.notice
        uid = notice.uid or await self._uid(notice.key)
        if not uid:
            return 0
        name = telling.name(uid, "" if self._scope is Scope.CLUSTER else self._node)
        if telling.count >= _FIRST_REPEAT and await self._repeat(notice.key, name, telling.count):
            return telling.count
        return await self._create(telling, uid, name)

    async def _create(self, telling: Telling, uid: str, name: str) -> int:
        body = msgspec.json.encode(self._event(telling, uid, name))
        try:
            await self._api.request("POST", _path(telling.notice.key), body=body)
        except ApiError as error:
            if error.status == HTTPStatus.CONFLICT:
                found = await self._get(f"{_path(telling.notice.key)}/{name}")
                return found.series.count if found and found.series else 1
            if not _is_going(error):
                raise
            return 0
        return 1

    async def _repeat(self, key: ObjectKey, name: str, count: int) -> bool:
        """Whether the Event was still there."""
        series = {"count": count, "lastObservedTime": rfc3339_micro(time.time())}
        body = msgspec.json.encode({"series": series})
        path = f"{_path(key)}/{name}"
        try:
            await self._api.request("PATCH", path, body=body, content_type=MERGE_PATCH)
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return False
        return True

    def _event(self, telling: Telling, uid: str, name: str) -> dict[str, object]:
        notice = telling.notice
        note = (COMBINED if telling.combined else "") + notice.message
        if self._scope is Scope.NODE:
            note = f"node {self._node}: {note}"
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": notice.key.namespace or "default"},
            "eventTime": rfc3339_micro(time.time()),
            "reportingController": CONTROLLER,
            "reportingInstance": self._node[:_INSTANCE],
            "action": _action(notice.key),
            "reason": notice.reason,
            "type": "Warning",
            "note": note.encode()[:_NOTE].decode(errors="ignore"),
            "regarding": {
                "apiVersion": _SERVED[notice.key.kind].version,
                "kind": notice.key.kind,
                "namespace": notice.key.namespace,
                "name": notice.key.name,
                "uid": uid,
            },
        }

    async def _uid(self, key: ObjectKey) -> str:
        """Empty where the object is gone."""
        found = await self._get(_SERVED[key.kind].path(key))
        return found.metadata.uid if found else ""

    async def _get(self, path: str) -> _Object | None:
        try:
            return msgspec.json.decode(await self._api.request("GET", path), type=_Object)
        except msgspec.DecodeError as error:
            raise ApiError(f"the API server's answer is no object: {error}") from error
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return None


def _action(key: ObjectKey) -> str:
    """What was under way, in one word."""
    if key.kind in POLICIES:
        return "PolicyEnforcement"
    return "Acceleration" if key.kind in ANNOTATED else "ServiceProgramming"


def _path(key: ObjectKey) -> str:
    return f"/apis/events.k8s.io/v1/namespaces/{key.namespace or 'default'}/events"


def _is_going(error: ApiError) -> bool:
    """Whether the namespace is being removed, or is gone, and with it the object."""
    ending = error.status == HTTPStatus.FORBIDDEN and "being terminated" in str(error)
    return ending or error.status == HTTPStatus.NOT_FOUND
