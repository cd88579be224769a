# SPDX-License-Identifier: Apache-2.0
"""HTTP on ports that come and go: listening sockets in step with what is wanted.

A port that can't be had harms only itself: it is said once, and tried again until it is there.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from netaccel.config import HostPort

log = logging.getLogger(__name__)

RETRY = 5.0
"""Seconds between tries of ports that others have (kube-proxy's own for its healthz)."""

PAUSE = 1.0
"""Seconds in which no connection is accepted after one could not be: no file was left to open."""

EVERYWHERE = ("", "0.0.0.0", "::")
"""Hosts that mean every address of both families, as they do for kube-proxy."""

_REMEDIES = {
    errno.EADDRINUSE: "free it",
    errno.EPERM: "free it",  # a Service's node port, on kernels whose programs can't say why
    errno.EADDRNOTAVAIL: "give an address that the node has",
}

Answer = Callable[[web.Request], web.Response]


class Ports:
    """One HTTP server on many ports. :meth:`want` says which, :meth:`run` keeps them until cancelled."""

    def __init__(self, *, retry: float = RETRY) -> None:
        self._retry = retry
        self._answers: dict[int, Answer] = {}
        self._wanted: dict[HostPort, str] = {}
        self._open: dict[HostPort, _Door] = {}
        self._refused: dict[HostPort, str] = {}
        self._stirred = asyncio.Event()
        self._settled = asyncio.Event()

    def want(self, places: Mapping[HostPort, str], answers: Mapping[int, Answer]) -> None:
        """Listen at these places and no others. ``places``: what each is for; ``answers``: by port.

        What is listened at already goes on undisturbed, with its new answer at once.
        """
        self._answers = dict(answers)
        if places == self._wanted:
            return
        self._wanted = dict(places)
        self._settled.clear()
        self._stirred.set()

    def problems(self) -> list[str]:
        """Places that could not be had at the last try, a line each."""
        return list(self._refused.values())

    async def settled(self) -> None:
        """Wait until everything wanted was tried."""
        await self._settled.wait()

    async def run(self) -> None:
        """Listen until cancelled; every socket is closed then."""
        app = web.Application()
        app.router.add_route(hdrs.METH_ANY, "/{path:.*}", self._handle)
        app.on_response_prepare.append(_anonymous)
        runner = web.AppRunner(
            app, access_log=None, logger=_http_log(), handle_signals=False, shutdown_timeout=1.0
        )
        await runner.setup()
        try:
            while True:
                self._stirred.clear()
                self._follow(runner)
                self._settled.set()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._retry if self._refused else None):
                        await self._stirred.wait()
        finally:
            for door in self._open.values():
                door.close()
            self._open.clear()
            await runner.cleanup()

    def _follow(self, runner: web.AppRunner) -> None:
        assert runner.server is not None
        for place in self._open.keys() - self._wanted.keys():
            self._open.pop(place).close()
        for place in self._refused.keys() - self._wanted.keys():
            del self._refused[place]
        for place, what in self._wanted.items():
            if place in self._open:
                continue
            try:
                self._open[place] = _Door(listen(place), runner.server)
            except OSError as error:
                self._refuse(place, what, error)
                continue
            if self._refused.pop(place, None):
                log.info("%s: listening at %s now", what, place)

    def _refuse(self, place: HostPort, what: str, error: OSError) -> None:
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else str(error)
        line = f"{what} at {place}: {reason}: {_REMEDIES.get(number, 'mend it')}"
        if self._refused.get(place) != line:
            log.warning("%s; tried again every %.0f s", line, self._retry)
        self._refused[place] = line

    async def _handle(self, request: web.Request) -> web.Response:
        transport = request.transport
        name = transport.get_extra_info("sockname") if transport else None
        answer = self._answers.get(name[1]) if name else None
        if answer is None:  # a connection that outlived its port
            response = web.Response(status=503)
            response.force_close()
            return response
        return answer(request)


class _Door:
    """Accepts connections at one listening socket, until closed.

    asyncio's own server, closed while a connection arrives, forgets that one and leaves it hanging
    (CPython's issue 109564); here each one accepted is served.
    """

    def __init__(self, listener: socket.socket, server: web.Server) -> None:
        self._listener = listener
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._greeted: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        self._open()

    def close(self) -> None:
        """Accept no more."""
        if self._pause:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def _open(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # gone again
            return
        except OSError as error:
            log.warning("a connection could not be accepted, tried again in %.0f s: %s", PAUSE, error)
            self._loop.remove_reader(self._listener)
            self._pause = self._loop.call_later(PAUSE, self._open)
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._loop.connect_accepted_socket(self._server, connection))
        self._greeted.add(task)
        task.add_done_callback(self._greeted.discard)


async def _anonymous(_: web.Request, response: web.StreamResponse) -> None:
    """Anyone can ask here: what serves, and in which version, is nobody's business."""
    response.headers.popall(hdrs.SERVER, None)


def _http_log() -> logging.Logger:
    """Where aiohttp says what failed. Strangers that don't speak HTTP are answered, and no news."""
    found = log.getChild("http")
    if not found.filters:
        found.addFilter(lambda record: not (record.exc_info and _is_strange(record.exc_info[1])))
    return found


def _is_strange(error: BaseException | None) -> bool:
    return isinstance(error, HttpProcessingError)


def listen(place: HostPort) -> socket.socket:
    """A listening socket that can be bound again at once after a restart. Raises OSError.

    Where the host means every address, both families by one socket if the kernel has IPv6.
    """
    if place.host not in EVERYWHERE:
        family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
        return socket.create_server(place, family=family)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("::", place.port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("0.0.0.0", place.port))
