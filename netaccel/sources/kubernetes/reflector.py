# SPDX-License-Identifier: Apache-2.0
"""One watched kind, kept in step with the API server: requests in the order of a course, events out.

::

    api.stream, api.request ─▶ wire ─▶ told ─▶ events
               ▲                                 │ versions, refusals
               └──────────── course ◀────────────┘

A connection that breaks, a version that expired, a server that comes back with an older state: what was told
stays in force, the next list is compared with it, and only differences are told.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from http import HTTPStatus

import msgspec

from netaccel.apiserver.api import Api
from netaccel.apiserver.backoff import Backoff
from netaccel.apiserver.refusals import refusal
from netaccel.errors import ApiError, ApiUnreachableError
from netaccel.model.event import Event
from netaccel.sources.kubernetes import wire
from netaccel.sources.kubernetes.course import Course, Verdict, Way
from netaccel.sources.kubernetes.kinds import Watched
from netaccel.sources.kubernetes.standing import Standing, Timings
from netaccel.sources.kubernetes.told import Told

log = logging.getLogger(__name__)

INLINE = 64 << 10
"""Bytes that are decoded on the event loop, in about a millisecond; a thread's hop costs less beyond."""
_SLICE = 256 << 10
_REFUSED = frozenset((401, 403, 404))
"""Answers that a person has to do something about: asked again slowly."""


class Reflector:
    """Run :meth:`run` in a task; it ends by cancellation only."""

    def __init__(
        self,
        api: Api,
        watched: Watched,
        tell: Callable[[Sequence[Event]], None],
        timings: Timings,
    ) -> None:
        """``tell`` is called with each batch, and with an empty one when ``standing`` changed."""
        self.watched = watched
        self.standing = Standing()
        self._api = api
        self._tell = tell
        self._timings = timings
        self._told = Told(watched.kind, watched.path)
        self._course = Course()
        self._retry = Backoff(*timings.retry)
        self._refused = Backoff(*timings.refused)
        self._absent = Backoff(*timings.absent)
        self._absent_since: float | None = None
        self._wider: Watched | None = None
        self._patience: asyncio.Timeout | None = None
        self._listing = False
        self._opened = 0.0  # when the last watch began
        self._lost: float | None = None  # since when no server is known to be there
        self._sure = False  # the version is this server's, as it comes from a list of a moment ago

    def widen(self) -> None:
        """Ask for the whole kind from now on; what was told stays, and only differences will be."""
        if self.watched.selectors and self._wider is None:
            self._wider = replace(self.watched, selectors={})
            self.standing.listed = False
            if self._patience is not None and not self._patience.expired():
                self._patience.reschedule(asyncio.get_running_loop().time())

    def _is_to_widen(self) -> bool:
        """Whether the turn under way is the last one with selectors."""
        return self._wider is not None

    async def run(self) -> None:
        """Keep in step for ever."""
        while True:
            if self._wider is not None:
                self.watched, self._wider = self._wider, None
                self._course.relist()
            started = time.monotonic()
            try:
                await self._turn()
                error: ApiError | None = None
            except ApiError as raised:
                error = raised
            finally:
                self._told.drop_list()
                self._listing = False
            now = time.monotonic()
            lived = self._course.way is Way.WATCH and now - started >= self._timings.healthy
            if lived:
                self._retry.reset()
            seconds = self._after(error, now)
            if seconds is not None and not (lived and error is None):
                await asyncio.sleep(seconds)

    def _after(self, error: ApiError | None, now: float) -> float | None:
        """Learn from the end of a turn: seconds to wait, None where the next one follows at once."""
        if self._is_to_widen():
            return None
        if error is None:
            # A list is followed by its watch. The end of a watch that was short may be a server's that ends.
            return None if self._sure else self._retry.wait()
        self._sure = False
        if error.status == HTTPStatus.NOT_FOUND and self.watched.optional:
            return self._is_absent(now)
        match self._course.failed(error):
            case Verdict.AT_ONCE:
                log.debug("%s: %s; now a %s", self.watched.name, error, self._course.way.value)
                return None
            case Verdict.LIST:
                log.info("%s: listed again: %s", self.watched.name, error)
                return self._retry.wait()
            case Verdict.AGAIN:
                refused = error.status in _REFUSED
                self._fell_ill(error, now, refused=refused)
                return (self._refused if refused else self._retry).wait(error.retry_after)

    # ------------------------------------------------------------------- one turn

    async def _turn(self) -> None:
        """Ask once, in the way that the course says; returns at the end of a list or of a watch."""
        if self._lost is not None:
            self._course.returned(time.monotonic() - self._lost)
        if self._course.way is Way.WATCH and not self._sure:
            await self._check_version()
        match self._course.way:
            case Way.STREAM | Way.WATCH:
                await self._watch()
            case Way.CACHED | Way.PAGED | Way.WHOLE:
                await self._list()

    async def _check_version(self) -> None:
        """Ask for anything as new as what is known: a server that was set back has no such thing.

        A watch from a version that the server hasn't reached yet is not refused: it is silent until then, and
        what happened before is never told.
        """
        query = {
            "limit": "1",
            "resourceVersion": self._course.version,
            "resourceVersionMatch": "NotOlderThan",
        }
        try:
            await self._api.request("GET", self.watched.path, query=query)
        except ApiError as error:
            if error.status in (400, 403, 422):  # it isn't for us to ask so: then a list has to tell
                self._course.relist()
                return
            raise

    # --------------------------------------------------------------------- watches

    async def _watch(self) -> None:
        """A watch, with all objects first where it is a streaming list."""
        initial = self._listing = self._course.way is Way.STREAM
        if initial:
            self._told.begin_list()
        seconds = int(self._timings.watch * random.uniform(1.0, 2.0))
        query = {**self.watched.selectors, **self._course.query(), "timeoutSeconds": str(seconds)}
        stream = self._api.stream(self.watched.path, query, silence=self._timings.silence)
        async with stream as batches:
            self._opened = time.monotonic()
            if not initial:
                self._well(self._opened)
            while (lines := await self._next(batches)) is not None:
                received = time.monotonic()
                events, error = await self._digested(lines, received)
                if not self._listing:
                    self._heard(received)
                    # Here, not where the end was read: that may be a thread, before its events are told.
                    self.standing.listed = not self._is_to_widen()
                if events or (initial and not self._listing):
                    self._tell(events)
                if error is not None:
                    raise error
        if self._is_to_widen():
            return
        self._sure = False
        self._lost = time.monotonic()
        if self._listing:
            raise ApiUnreachableError(f"{self._api.where}: a streaming list of {self.watched.name} broke off")

    async def _next(self, batches: AsyncIterator[list[bytes]]) -> list[bytes] | None:
        """The next lines; None at the end, and where another watch shall begin."""
        if self._is_to_widen():
            return None
        limit = self._timings.first_silence if self._listing else None
        try:
            async with asyncio.timeout(limit) as self._patience:
                return await anext(batches, None)
        except TimeoutError as error:
            if self._is_to_widen():
                return None
            self._course.stalled()
            text = f"a streaming list of {self.watched.name} stalled: a plain one is asked for"
            raise ApiUnreachableError(f"{self._api.where}: {text}") from error
        finally:
            self._patience = None

    async def _digested(self, lines: list[bytes], received: float) -> tuple[Sequence[Event], ApiError | None]:
        if sum(map(len, lines)) <= INLINE:
            return self._digest(lines, received)
        return await asyncio.to_thread(self._digest, lines, received)

    def _digest(self, lines: list[bytes], received: float) -> tuple[Sequence[Event], ApiError | None]:
        """Lines to events; those before the first line that ends the watch, and that end."""
        events: list[Event] = []
        try:
            for line in lines:
                events += self._event(line, received)
        except ApiError as error:
            return events, error
        return events, None

    def _event(self, line: bytes, received: float) -> Iterator[Event]:
        kind, document = wire.event(line)
        if kind == "ERROR":
            raise refusal(f"{self._api.where}: watch of {self.watched.name}", document)
        if kind not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK"):
            return  # of a newer API
        head = wire.head(document)
        if self._listing:
            if kind == "BOOKMARK":
                if head.ends_initial:
                    yield from self._end_list(head.version, received)
                return
        else:
            self._course.heard(head.version)
        if kind == "DELETED":
            key = self._told.key(head)
            if key is not None:
                yield from self._told.gone(key, received)
        elif kind != "BOOKMARK":
            yield from self._told.there(document, head, received)

    # ----------------------------------------------------------------------- lists

    async def _list(self) -> None:
        """A plain list, in pages where the course says so."""
        self._listing = True
        self._told.begin_list()
        query = {**self.watched.selectors, **self._course.query()}
        while True:
            body = await self._api.request("GET", self.watched.path, query=query)
            received = time.monotonic()
            page = await asyncio.to_thread(wire.page, body, self.watched.kind)
            del body  # the items hold it until they are read
            for items in _sliced(page.items):
                self._tell(await asyncio.to_thread(self._read_items, items, received))
            if not page.next:
                break
            query["continue"] = page.next
        events = tuple(self._end_list(page.version, received))
        self._heard(received)
        self.standing.listed = not self._is_to_widen()
        self._tell(events)

    def _read_items(self, items: Sequence[msgspec.Raw], received: float) -> Sequence[Event]:
        return [event for item in items for event in self._told.there(item, wire.head(item), received)]

    def _end_list(self, version: str, received: float) -> Iterator[Event]:
        yield from self._told.end_list(received)
        self._course.listed(version)
        self._listing = False
        self._sure = True

    # -------------------------------------------------------------------- standing

    def _heard(self, at: float) -> None:
        """The server told something: what was told before is current."""
        self.standing.heard = at
        self._well(at)

    def _well(self, at: float) -> None:
        """The server serves the kind."""
        self._absent_since = None
        self._absent.reset()
        self._answered(at)

    def _answered(self, at: float) -> None:
        """The server answers, if only that it has no such kind."""
        self._lost = None
        self._refused.reset()
        if self.standing.problem:
            log.info("%s: well again after %.0f s", self.watched.name, at - self.standing.since)
            self.standing.problem = ""
            self.standing.refused = False
            self._tell(())

    def _is_absent(self, now: float) -> float:
        """The cluster doesn't have the kind, so there are no objects of it; seconds to the next question.

        Whoever removes a kind is told of the end of its objects first. Where we missed that, they are gone
        once the kind has been away for long enough to be no server's mistake.
        """
        if self._absent_since is None:
            self._absent_since = now
            log.debug("%s: the cluster has no such kind", self.watched.name)
        events: tuple[Event, ...] = ()
        if now - self._absent_since >= self._timings.forget:
            self._told.begin_list()
            events = tuple(self._told.end_list(now))
        self._course.relist()
        self.standing.heard = now
        self.standing.listed = True
        self._answered(now)
        self._tell(events)
        return self._absent.wait()

    def _fell_ill(self, error: ApiError, now: float, *, refused: bool) -> None:
        if self._lost is None:
            # A silent connection was lost when it fell silent, not when that was noticed.
            last = max(self._opened, self.standing.heard or 0.0)
            self._lost = last if now - last >= self._timings.silence else now
        if not self.standing.problem:
            self.standing.since = now
        if str(error) != self.standing.problem:
            log.warning("%s: %s", self.watched.name, error)
        self.standing.problem = str(error)
        self.standing.refused = refused
        self._tell(())


def _sliced(items: list[msgspec.Raw]) -> Iterator[list[msgspec.Raw]]:
    """Items in groups of some hundred kilobytes; the list is empty at the end."""
    items.reverse()
    while items:
        group: list[msgspec.Raw] = []
        size = 0
        while items and size < _SLICE:
            size += len(memoryview(items[-1]))
            group.append(items.pop())
        yield group
