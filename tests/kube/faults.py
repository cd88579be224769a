# SPDX-License-Identifier: Apache-2.0
"""A proxy between a client and the real API server, which does to the client what networks and servers do.

It speaks plain HTTP to the client and the admin's TLS to the API server. Everything passes, unless told::

    async with FaultyProxy(control_plane) as proxy:
        proxy.refuse(422, when=lambda asked: "sendInitialEvents" in asked.query)
        ...                        # a client at proxy.kubeconfig
        proxy.cut(torn=True)       # streams break off within a line
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml
from aiohttp import web

from netaccel.cluster import pki
from netaccel.cluster.controlplane import ControlPlane

ALWAYS = 1 << 30


@dataclass(frozen=True)
class Asked:
    """A request as it came. ``at`` is monotonic."""

    method: str
    path: str
    query: dict[str, str]
    at: float

    @property
    def resource(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def streams(self) -> bool:
        """A streaming list."""
        return "sendInitialEvents" in self.query

    @property
    def watches(self) -> bool:
        """A watch that goes on from a version."""
        return self.query.get("watch") == "true" and not self.streams

    @property
    def lists(self) -> bool:
        """A plain list; not the look for anything new that precedes a watch."""
        return "watch" not in self.query and self.query.get("limit") != "1"


@dataclass
class Refusal:
    """An answer of the proxy's own to some requests."""

    status: int
    reason: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    causes: tuple[str, ...] = ()
    when: Callable[[Asked], bool] = lambda asked: True
    times: int = 1

    def body(self) -> dict[str, Any]:
        details = {"causes": [{"reason": cause} for cause in self.causes]}
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": self.status,
            "reason": self.reason,
            "message": "refused by the test",
            "details": details,
        }


@dataclass(eq=False)
class Stream:
    """An answer that is being passed on."""

    asked: Asked
    response: web.StreamResponse
    transport: asyncio.Transport
    forwarding: asyncio.Task[None] | None = None
    passed: int = 0
    """Bytes so far."""

    @property
    def is_watch(self) -> bool:
        return "watch" in self.asked.query


class Relay:
    """Passes bytes on to a port of 127.0.0.1 from an address of its own, TLS as it is."""

    def __init__(self, host: str, target: int) -> None:
        self.host = host
        self.port = 0
        self.taken = 0
        """Connections so far."""
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._pass, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Refuse new connections and break the others."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0.05)  # asyncio ends what was aborted in the loop's next turns

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        there, away = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, away}
        await asyncio.gather(self._copy(reader, away), self._copy(there, writer))

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


class FaultyProxy:
    """See the module. ``asked`` is all that was asked so far; ``kubeconfig`` leads here."""

    def __init__(self, control_plane: ControlPlane, folder: Path) -> None:
        pair = control_plane.pki.pair("admin", pki.ADMIN)
        self._tls = ssl.create_default_context(cafile=str(control_plane.pki.ca))
        self._tls.load_cert_chain(pair.certificate, pair.key)
        self._target = control_plane.server
        self.kubeconfig = folder / f"faulty-{id(self):x}"
        self.asked: list[Asked] = []
        self.chunk = 0
        """Bytes that are passed on at a time, with ``pause`` seconds after each; 0: as they come."""
        self.pause = 0.0
        self._refusals: list[Refusal] = []
        self._streams: set[Stream] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._port = 0
        self._runner: web.AppRunner | None = None
        self._upstream: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        self._upstream = aiohttp.ClientSession(connector=connector, read_bufsize=1 << 20)
        await self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._open.set()
        await self.down()
        assert self._upstream is not None
        await self._upstream.close()

    # -------------------------------------------------------------- the machine

    async def up(self) -> None:
        """Listen, on the same port as before."""
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]
        user = {"contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}], "current-context": "c"}
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{self._port}"}}
        content = {**user, "clusters": [cluster], "users": [{"name": "u", "user": {}}]}
        self.kubeconfig.write_text(yaml.safe_dump(content))

    async def down(self) -> None:
        """Break all connections and refuse new ones."""
        self.cut()
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    # ------------------------------------------------------------------- faults

    def refuse(self, status: int, reason: str = "", **how: Any) -> Refusal:
        """Answer ``times`` requests that match ``when`` with this."""
        refusal = Refusal(status, reason, **how)
        self._refusals.append(refusal)
        return refusal

    def hold(self) -> None:
        """Pass nothing on any more; connections stay open."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def cut(self, resource: str = "", *, torn: bool = False, after: int = 0) -> int:
        """Break off all streams, within a line if ``torn``; how many there were.

        ``resource``: only those of it. ``after``: only those that passed so many bytes.
        """
        streams = [
            one
            for one in self._streams
            if one.passed >= after and (not resource or one.asked.resource == resource)
        ]
        for stream in streams:
            if torn:
                text = b'{"type":"MODIFIED","object":{"kind":"Serv'
                stream.transport.write(b"%x\r\n%s\r\n" % (len(text), text))
            stream.transport.abort()
        return len(streams)

    def end(self) -> None:
        """Bring all streams to an orderly end."""
        for stream in list(self._streams):
            if stream.forwarding is not None:
                stream.forwarding.cancel()

    async def say(self, resource: str, line: bytes | dict[str, Any]) -> None:
        """Put a line into the open watches of a resource, as if the server had said it."""
        text = line if isinstance(line, bytes) else json.dumps(line).encode()
        streams = [one for one in self._streams if one.is_watch and one.asked.resource == resource]
        assert streams, f"nobody watches {resource}"
        for stream in streams:
            await stream.response.write(text + b"\n")

    def of(self, resource: str) -> list[Asked]:
        """What was asked about a resource."""
        return [asked for asked in self.asked if asked.resource == resource]

    # --------------------------------------------------------------- forwarding

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(request.method, request.path, dict(request.query), time.monotonic())
        self.asked.append(asked)
        for refusal in self._refusals:
            if refusal.times > 0 and refusal.when(asked):
                refusal.times -= 1
                return web.json_response(refusal.body(), status=refusal.status, headers=refusal.headers)
        assert self._upstream is not None
        body = await request.read()
        headers = {"Content-Type": request.content_type} if body else {}
        timeout = aiohttp.ClientTimeout(total=None)
        url = self._target + request.path_qs
        async with self._upstream.request(
            request.method, url, data=body or None, headers=headers, timeout=timeout
        ) as answer:
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type})
            await response.prepare(request)
            assert isinstance(request.transport, asyncio.Transport)
            async with self._passing(Stream(asked, response, request.transport)) as stream:
                stream.forwarding = asyncio.create_task(self._forward(answer, stream))
                await asyncio.gather(stream.forwarding, return_exceptions=True)
        return response

    @contextlib.asynccontextmanager
    async def _passing(self, stream: Stream) -> AsyncIterator[Stream]:
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.discard(stream)
            if stream.forwarding is not None:
                stream.forwarding.cancel()

    async def _forward(self, answer: aiohttp.ClientResponse, stream: Stream) -> None:
        async for data in answer.content.iter_any():
            step = self.chunk or len(data)
            for start in range(0, len(data), step):
                await self._open.wait()
                await stream.response.write(data[start : start + step])
                stream.passed += step
                await asyncio.sleep(self.pause)
