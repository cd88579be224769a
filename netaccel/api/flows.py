# SPDX-License-Identifier: Apache-2.0
"""``/api/v1/flows`` and ``/api/v1/drops``: queries of the log, and streams of what comes.

``/api/v1/flows``: JSON lines, oldest first. ``last`` (20; 0 with ``follow=1``), ``since``, ``follow``, and
filters, each any number of times (netaccel/observe/flows/filters.py). A line ``{"lost": N}`` stands where a
slow reader lost lines. ``/api/v1/drops``: what was dropped most, by reason, rule and pair (``top``: how many
of each, 20), with the same filters; ``follow=1``: as ``/api/v1/flows`` of dropped packets.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from aiohttp import web

from netaccel.errors import CapacityError, ConfigError, DatapathError
from netaccel.observe.flows.filters import NAMES, Query, Wanted, parse_since
from netaccel.observe.flows.record import DROPS, FlowRecord, Lost, to_json
from netaccel.observe.flows.station import Flows

_LINES = "application/x-ndjson"
_LAST = 20
_CHUNK = 256  # records a write
_PATIENCE = 5.0  # seconds after which a silent stream looks whether its reader is still there
_OTHERS = ("last", "since", "follow", "top")


@dataclass(frozen=True, slots=True)
class _Asked:
    wanted: Wanted
    since: int
    last: int
    top: int
    follow: bool


class FlowRoutes:
    """One method a path."""

    def __init__(self, flows: Flows) -> None:
        self._flows = flows

    async def flows(self, request: web.Request) -> web.StreamResponse:
        """The log's records."""
        return await self._lines(request, drops_only=False)

    async def drops(self, request: web.Request) -> web.StreamResponse:
        """The largest, or a stream."""
        try:
            asked = self._read(request)
            if not asked.follow:
                found = await self._flows.drops(asked.wanted, asked.since, asked.top)
                return web.Response(body=msgspec.json.encode(found) + b"\n", content_type="application/json")
        except (ConfigError, DatapathError) as error:
            return _refusal(error)
        return await self._lines(request, drops_only=True)

    async def close(self, _app: web.Application) -> None:
        """Send all followers away."""
        self._flows.log.end()

    def _read(self, request: web.Request) -> _Asked:
        """ConfigError for what is no parameter, or has no such value."""
        query = request.query
        if unknown := sorted(set(query) - set(NAMES) - set(_OTHERS)):
            raise ConfigError(f"{unknown[0]}: no such filter; known are {', '.join((*NAMES, *_OTHERS))}")
        follow = query.get("follow", "") in ("1", "true")
        since = parse_since(query["since"], time.time()) if "since" in query else 0
        default = 0 if follow else self._flows.log.limit if since else _LAST
        return _Asked(
            wanted=self._flows.wanted(Query({name: query.getall(name) for name in NAMES if name in query})),
            since=since,
            last=_count("last", query.get("last"), default),
            top=_count("top", query.get("top"), _LAST),
            follow=follow,
        )

    async def _lines(self, request: web.Request, *, drops_only: bool) -> web.StreamResponse:
        try:
            asked = self._read(request)
            wanted = _only_drops(asked.wanted) if drops_only else asked.wanted
            follower = self._flows.log.follow(wanted) if asked.follow else None
        except (ConfigError, CapacityError) as error:
            return _refusal(error)
        response = web.StreamResponse(headers={"Content-Type": _LINES, "Cache-Control": "no-store"})
        try:
            # Who follows from now on may meet a record twice: in what was there, and in what comes.
            found = await self._flows.log.last(asked.last, wanted, asked.since)
            await response.prepare(request)
            await _write(response, found)
            if follower:
                newest = found[-1].sequence if found else 0
                async for lines in follower.batches(_PATIENCE):
                    if request.transport is None or request.transport.is_closing():
                        break
                    await _write(response, [one for one in lines if _is_new(one, newest)])
            await response.write_eof()
        except ConnectionError:
            pass  # the reader went away, which ends a stream
        finally:
            if follower:
                follower.close()
        return response


def _is_new(line: FlowRecord | Lost, newest: int) -> bool:
    return isinstance(line, Lost) or line.sequence > newest


def _only_drops(wanted: Wanted) -> Wanted:
    return lambda record: record.type in DROPS and wanted(record)


async def _write(response: web.StreamResponse, lines: Sequence[FlowRecord | Lost]) -> None:
    """Some at a time: the reader's socket bounds how far we are ahead of it."""
    for at in range(0, len(lines), _CHUNK):
        await response.write(b"".join(to_json(line) + b"\n" for line in lines[at : at + _CHUNK]))


def _count(name: str, given: str | None, default: int) -> int:
    if given is None:
        return default
    if not given.isdecimal() or len(given) > 9:
        raise ConfigError(f"{name} {given!r}: give a number")
    return int(given)


def _refusal(error: Exception) -> web.Response:
    status = 400 if isinstance(error, ConfigError) else 503 if isinstance(error, CapacityError) else 500
    return web.json_response({"error": str(error)}, status=status)
