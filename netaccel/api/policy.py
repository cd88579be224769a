# SPDX-License-Identifier: Apache-2.0
"""``/api/v1/policies``, ``/api/v1/edges``, ``/api/v1/world``: policies, and what they were and are judged by.

``/api/v1/edges``: JSON lines, first ``{"window": …}``, then recorded edges in no order; ``since``: seconds
since the epoch, of those last met then or later. ``/api/v1/world``: every object that this agent knows
(netaccel/model/plain.py). ``/api/v1/policies``: each policy, its rules, what they decided
(netaccel/explain/policies.py).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

from aiohttp import web

from netaccel.errors import ConfigError, DatapathError
from netaccel.explain.policies import Decided, Facts, policy_views
from netaccel.model.plain import Told, of_told, world_object
from netaccel.model.policy import RuleRef
from netaccel.observe.edges.edge import Edge, Verdict, edge_object
from netaccel.observe.edges.reader import Reader, Seen
from netaccel.observe.edges.recorder import EdgeRecorder

log = logging.getLogger(__name__)

LINES = "application/x-ndjson"
_CHUNK = 500  # edges a write


class PolicyRoutes:
    """One method a path. ``edges`` None: this agent records none."""

    def __init__(
        self,
        told: Callable[[], Told],
        edges: EdgeRecorder | None,
        facts: Callable[[], Facts] = lambda: Facts(""),
        decided: Callable[[], Sequence[Decided] | None] = lambda: None,
    ) -> None:
        """``decided`` reads the maps, and blocks; the others are asked on the event loop."""
        self._told = told
        self._edges = edges
        self._facts = facts
        self._decided = decided
        self._one = asyncio.Lock()  # a world at a time, however many ask

    def paths(self) -> Mapping[str, Callable[[web.Request], Any]]:
        """Handlers by path."""
        return {
            "/api/v1/policies": self.policies,
            "/api/v1/edges": self.edges,
            "/api/v1/world": self.world,
        }

    async def policies(self, _request: web.Request) -> web.Response:
        """Every policy."""
        async with self._one:
            told, facts = self._told(), self._facts()
            if self._edges:
                await self._edges.flush()
            try:
                body = await asyncio.to_thread(self._views, told, facts)
            except DatapathError as error:
                return _refusal(str(error), 500)
        return web.Response(text=body + "\n", content_type="application/json")

    def _views(self, told: Told, facts: Facts) -> str:
        facts = replace(facts, decided=self._decided(), seen=self._seen())
        return json.dumps(policy_views(of_told(told), facts), ensure_ascii=False)

    def _seen(self) -> list[tuple[RuleRef, Verdict, Seen]]:
        """What the record has of each rule; nothing where it can't be read, which the recorder says."""
        if self._edges is None:
            return []
        try:
            with closing(Reader(self._edges.path)) as reader:
                return reader.by_rule()
        except ConfigError as error:
            log.debug("policies are shown without their past: %s", error)
            return []

    async def world(self, _request: web.Request) -> web.Response:
        """The world now."""
        async with self._one:
            told = self._told()  # on the loop: nobody changes it meanwhile
            body = await asyncio.to_thread(lambda: json.dumps(world_object(told), ensure_ascii=False))
        return web.Response(text=body + "\n", content_type="application/json")

    async def edges(self, request: web.Request) -> web.StreamResponse:
        """The file's edges, with what was in memory until now."""
        if self._edges is None:
            return _refusal("edges are recorded with policy on only: see the setting `policy`", 404)
        try:
            since = float(request.query.get("since", "0"))
        except ValueError:
            return _refusal(f"since {request.query['since']!r}: give seconds since the epoch", 400)
        await self._edges.flush()
        try:
            reader = await asyncio.to_thread(Reader, self._edges.path)
        except ConfigError as error:
            return _refusal(str(error), 503)
        try:
            return await self._stream(request, reader, since)
        finally:
            await asyncio.to_thread(reader.close)

    async def _stream(self, request: web.Request, reader: Reader, since: float) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": LINES, "Cache-Control": "no-store"})
        window = await asyncio.to_thread(reader.window)
        edges = reader.edges(since)
        try:
            await response.prepare(request)
            await response.write(_line({"window": asdict(window)}))
            while chunk := await asyncio.to_thread(_some, edges):
                await response.write(chunk)
            await response.write_eof()
        except ConnectionError:
            pass  # the reader went away, which ends a stream
        return response


def _some(edges: Iterator[Edge]) -> bytes:
    return b"".join(_line(edge_object(edge)) for edge in islice(edges, _CHUNK))


def _line(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _refusal(reason: str, status: int) -> web.Response:
    return web.json_response({"error": reason}, status=status)
