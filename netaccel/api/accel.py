# SPDX-License-Identifier: Apache-2.0
"""``/api/v1/accel/status``, ``/api/v1/accel/connections``: same-node acceleration.

``connections``: of the node's pods; ``pod=NAMESPACE/NAME``: of one. The JSON is that of
netaccel/accelerate/view.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from netaccel.accelerate.view import Acceleration, Connection, Status
from netaccel.errors import DatapathError

_POD = "pod"


class AccelRoutes:
    """One method a path."""

    def __init__(
        self,
        found: Callable[[], Acceleration | None],
        without: Callable[[], Status],
        pods: Callable[[], Mapping[str, str]],
    ) -> None:
        """``without``: what is told where nothing is accelerated. ``pods``: the node's, by
        ``namespace/name``; why one has no connections to tell of, "" where it has.
        """
        self._found = found
        self._without = without
        self._pods = pods
        self._one = asyncio.Lock()  # a reading at a time, however many ask

    def paths(self) -> Mapping[str, Callable[[web.Request], Any]]:
        """Handlers by path."""
        return {"/api/v1/accel/status": self.status, "/api/v1/accel/connections": self.connections}

    async def status(self, _request: web.Request) -> web.Response:
        """Tiers, self-test, pairs, receipts."""
        found = self._found()
        if found is None:
            return _answer(self._without())
        return await self._read(found.status)

    async def connections(self, request: web.Request) -> web.Response:
        """TCP connections with their path, and why it is that one."""
        pod = request.query.get(_POD)
        if unknown := sorted(set(request.query) - {_POD}):
            return _refusal(f"{unknown[0]}: no such parameter; known is {_POD}", 400)
        if pod is not None and (problem := self._no_pod(pod)):
            return _refusal(*problem)
        found = self._found()
        if found is None:
            return _refusal(f"connections are not looked at: {self._without().socket.reason}", 404)
        try:
            return await self._read(lambda: _connections(found, pod))
        except LookupError as error:
            return _refusal(str(error), 503)

    def _no_pod(self, pod: str) -> tuple[str, int] | None:
        """Why there is nothing to say of it, and the status."""
        namespace, slash, name = pod.partition("/")
        if not (namespace and slash and name) or "/" in name:
            return f"{_POD} {pod!r}: give NAMESPACE/NAME", 400
        pods = self._pods()
        if pod in pods:
            return (f"pod {pod} can't be shown: {pods[pod]}", 404) if pods[pod] else None
        some = ", ".join(sorted(pods)[:5]) + (", …" if len(pods) > 5 else "")
        return f"no pod {pod} runs on this node; its pods: {some or 'none'}", 404

    async def _read(self, ask: Callable[[], object]) -> web.Response:
        async with self._one:
            try:
                return _answer(await asyncio.to_thread(ask))
            except DatapathError as error:
                return _refusal(str(error), 500)


def _connections(found: Acceleration, pod: str | None) -> Sequence[Connection]:
    """LookupError where a pod has none because it can't be looked into."""
    connections = found.connections(pod)
    if pod is not None and not connections:
        for line in found.status().unreachable:
            if line.startswith(f"{pod}: "):
                raise LookupError(f"pod {line}")
    return connections


def _answer(found: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(found) + b"\n", content_type="application/json")


def _refusal(reason: str, status: int) -> web.Response:
    return web.json_response({"error": reason}, status=status)
