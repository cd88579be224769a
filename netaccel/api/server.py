# SPDX-License-Identifier: Apache-2.0
"""The agent's read-only HTTP interface.

``/healthz`` lives · ``/readyz`` serves, else 503 with the reasons · ``/metrics`` · ``/status`` ·
``/api/v1/services[/NAMESPACE/NAME]`` · ``/api/v1/maps[/NAME]`` · ``/api/v1/flows`` · ``/api/v1/drops``
(netaccel/api/flows.py) · ``/api/v1/edges`` · ``/api/v1/world`` (netaccel/api/policy.py) · ``/api/v1/verdict``
(netaccel/api/explain.py) · ``/api/v1/accel/status``, ``/api/v1/accel/connections`` (netaccel/api/accel.py).
Maps are read in a thread: the loop goes on.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

from aiohttp import web

from netaccel import __version__
from netaccel.api.accel import AccelRoutes
from netaccel.api.explain import ExplainRoutes
from netaccel.api.flows import FlowRoutes
from netaccel.api.policy import PolicyRoutes
from netaccel.api.views import ServiceView
from netaccel.errors import DatapathError
from netaccel.observe.flows.station import Flows
from netaccel.observe.metrics import CONTENT_TYPE

_JSON = "application/json"


class Answers(Protocol):
    """What there is to say; the agent implements it. What is neither ``readiness`` nor async may block."""

    def readiness(self) -> list[str]:
        """Reasons why this node is not served yet; empty: it is."""
        ...

    async def status(self) -> Mapping[str, Any]:
        """What /status shows."""
        ...

    def metrics(self) -> bytes:
        """The exposition format."""
        ...

    def services(self) -> list[ServiceView]:
        """Services as the kernel's maps hold them."""
        ...

    def map_names(self) -> list[str]:
        """Maps that can be dumped."""
        ...

    def map_rows(self, name: str) -> list[dict[str, object]]:
        """A map's entries, readable. DatapathError where there is no such map."""
        ...


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(value, ensure_ascii=False) + "\n", status=status, content_type=_JSON)


class _Handlers:
    """One method a path. ``_lock``: one reading of the maps at a time, however many ask."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._lock = asyncio.Lock()

    async def _read(self, function: Callable[..., Any], *arguments: object) -> Any:
        async with self._lock:
            return await asyncio.to_thread(function, *arguments)

    async def index(self, request: web.Request) -> web.Response:
        paths = {r.canonical for r in request.app.router.resources()}
        return _json({"version": __version__, "paths": sorted(paths)})

    async def healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(self, _request: web.Request) -> web.Response:
        reasons = self._answers.readiness()
        return _json({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def metrics(self, _request: web.Request) -> web.Response:
        body = await self._read(self._answers.metrics)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def status(self, _request: web.Request) -> web.Response:
        async with self._lock:
            return _json(await self._answers.status())

    async def services(self, _request: web.Request) -> web.Response:
        return _json(await self._read(self._answers.services))

    async def service(self, request: web.Request) -> web.Response:
        wanted = (request.match_info["namespace"], request.match_info["name"])
        for view in await self._read(self._answers.services):
            if (view["namespace"], view["name"]) == wanted:
                return _json(view)
        return _json({"error": f"no Service {wanted[0]}/{wanted[1]} in the maps"}, 404)

    async def maps(self, _request: web.Request) -> web.Response:
        return _json(await self._read(self._answers.map_names))

    async def map(self, request: web.Request) -> web.Response:
        try:
            return _json(await self._read(self._answers.map_rows, request.match_info["name"]))
        except DatapathError as error:
            return _json({"error": str(error)}, 404)


def application(
    answers: Answers,
    *,
    metrics_only: bool = False,
    flows: Flows | None = None,
    policy: PolicyRoutes | None = None,
    explain: ExplainRoutes | None = None,
    accel: AccelRoutes | None = None,
) -> web.Application:
    """All paths, or /metrics alone for an address that others can reach. ``flows`` None: nothing tells
    them. ``policy`` None: nor what policies are judged by. ``explain`` None: nor what the kernel would say.
    ``accel`` None: nor what is accelerated.
    """
    handlers = _Handlers(answers)
    app = web.Application()
    if metrics_only:
        app.router.add_get("/metrics", handlers.metrics)
        return app
    routes: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
        "/": handlers.index,
        "/healthz": handlers.healthz,
        "/readyz": handlers.readyz,
        "/metrics": handlers.metrics,
        "/status": handlers.status,
        "/api/v1/services": handlers.services,
        "/api/v1/services/{namespace}/{name}": handlers.service,
        "/api/v1/maps": handlers.maps,
        "/api/v1/maps/{name}": handlers.map,
    }
    if flows:
        told = FlowRoutes(flows)
        routes |= {"/api/v1/flows": told.flows, "/api/v1/drops": told.drops}
        app.on_shutdown.append(told.close)
    if policy:
        routes |= policy.paths()
    if explain:
        routes["/api/v1/verdict"] = explain.verdict
    if accel:
        routes |= accel.paths()
    for path, handler in routes.items():
        app.router.add_get(path, handler)
    return app


@asynccontextmanager
async def serving(app: web.Application, listener: socket.socket) -> AsyncIterator[None]:
    """Serve on a socket that already listens, until the block ends."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield
    finally:
        await runner.cleanup()
