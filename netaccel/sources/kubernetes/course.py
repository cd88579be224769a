# SPDX-License-Identifier: Apache-2.0
"""Which request comes next for one watched kind. Pure.

::

             ┌────────── 422: the server has no streaming lists ──────────┐
    STREAM ──┤                                                            ▼
      ▲      └─ end of initial events ─▶ WATCH ◀─ complete ── CACHED ── expired ──▶ PAGED ── expired ──▶ WHOLE
      └─────────── expired, older state, long away ───┘

STREAM is a watch that begins with all objects, consistent (KEP-3157). CACHED is a list from the server's
memory (``resourceVersion=0``, or not older than what was told): any server can give it cheaply, whole. PAGED
and WHOLE read the server's storage. WATCH goes on where the last answer ended.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from netaccel.apiserver.refusals import is_expired, is_too_large
from netaccel.errors import ApiError, ApiUnreachableError

PAGE = 500
AWAY = 10.0
"""Seconds without a server after which all is listed again: long enough for one to come back with other
data, which may have gone past the version that we know without containing what we know."""
FUTILE = 3
"""Answers that make no sense, one after the other, after which another way is tried."""
_STAYS = frozenset((401, 403, 404, 408, 429))
"""Statuses that say nothing about the way that was tried."""


class Way(enum.Enum):
    """A way to ask."""

    STREAM = "streaming list"
    CACHED = "list from the server's memory"
    PAGED = "list in pages"
    WHOLE = "list from the server's storage"
    WATCH = "watch"


class Verdict(enum.Enum):
    """What follows a failure."""

    AT_ONCE = "another way, at once"
    LIST = "what was watched is listed again, after a while"
    AGAIN = "the same again, after a while"


class OlderStateError(ApiError):
    """The server's state is older than what it told before."""


class Course:
    """What is known of one kind's versions, and what follows from answers."""

    def __init__(self) -> None:
        self.version = ""
        """Up to where the server's changes were told; "" before the first list."""
        self._way = Way.STREAM
        self._cached = ""  # the version of a list from memory from which nothing has been heard yet
        self._cache_expired = False
        self._futile = 0

    @property
    def way(self) -> Way:
        """How to ask next."""
        return self._way

    def query(self) -> Mapping[str, str]:
        """Parameters of that way, without selectors and time-outs."""
        match self._way:
            case Way.STREAM:
                return {
                    "watch": "true",
                    "sendInitialEvents": "true",
                    "resourceVersionMatch": "NotOlderThan",
                    "allowWatchBookmarks": "true",
                }
            case Way.CACHED:
                if not self.version:
                    return {"resourceVersion": "0"}
                return {"resourceVersion": self.version, "resourceVersionMatch": "NotOlderThan"}
            case Way.PAGED:
                return {"limit": str(PAGE)}
            case Way.WHOLE:
                return {}
            case Way.WATCH:
                return {"watch": "true", "resourceVersion": self.version, "allowWatchBookmarks": "true"}

    def listed(self, version: str) -> None:
        """A list was complete at this version."""
        self._cached = version if self._way is Way.CACHED else ""
        self._cache_expired = False
        self.version = version
        self._turn_to(Way.WATCH)

    def heard(self, version: str) -> None:
        """A watch told of this version. Raises OlderStateError where it is before what was told.

        Versions are whole numbers that grow (KEP-5504); others are not compared.
        """
        if not version:
            return
        if version.isdecimal() and self.version.isdecimal() and int(version) < int(self.version):
            raise OlderStateError(f"the server went back from version {self.version} to {version}")
        self._cached = ""
        self._futile = 0
        self.version = version

    def returned(self, away: float) -> None:
        """A server is to be asked again after so many seconds without one."""
        if self._way is Way.WATCH and away >= AWAY:
            self._turn_to(Way.STREAM)

    def relist(self) -> None:
        """Watching on makes no sense."""
        self._turn_to(Way.STREAM)

    def failed(self, error: ApiError) -> Verdict:
        """Learn from an answer that was none."""
        gone = is_expired(error) or is_too_large(error) or isinstance(error, OlderStateError)
        way = self._way
        says_nothing = isinstance(error, ApiUnreachableError) or error.status in _STAYS
        self._futile += not says_nothing
        if way is Way.WATCH:
            if not (gone or self._futile >= FUTILE):
                return Verdict.AGAIN
            self._cache_expired = bool(self._cached) and self._cached == self.version
            self._turn_to(Way.STREAM)
            return Verdict.LIST
        if way is Way.STREAM:
            no_such_way = 400 <= error.status < 500 and not says_nothing
            if gone or no_such_way or self._futile >= FUTILE:
                self._turn_to(Way.PAGED if self._cache_expired else Way.CACHED)
        elif way is Way.CACHED and gone:
            self._turn_to(Way.PAGED)
        elif way is Way.PAGED and gone:
            self._turn_to(Way.WHOLE)
        return Verdict.AGAIN if self._way is way else Verdict.AT_ONCE

    def stalled(self) -> None:
        """The server took a streaming list and told nothing: ask for a plain one."""
        if self._way is Way.STREAM:
            self._turn_to(Way.CACHED)

    def _turn_to(self, way: Way) -> None:
        self._way = way
        self._futile = 0
