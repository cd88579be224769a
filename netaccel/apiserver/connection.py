# SPDX-License-Identifier: Apache-2.0
"""The API server over aiohttp: bytes in, bytes out, on whichever address answers.

::

    request, stream ─▶ _sent: fail-over, one renewal after a 401 ─▶ _answer: one HTTP request to one server

A request that no server took is sent to the next one at once. One that a server may have taken is not sent
again: whoever asked knows whether that would do harm, and how long to wait (``backoff``).
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp

from netaccel import __version__
from netaccel.apiserver import credentials
from netaccel.apiserver.api import JSON
from netaccel.apiserver.credentials import Access, Credentials
from netaccel.apiserver.lines import Lines, LineTooLongError
from netaccel.apiserver.reasons import CONNECT, certificate, is_for_another_name, reason
from netaccel.apiserver.refusals import is_too_large, refusal
from netaccel.apiserver.servers import Rota, Server, check, servers
from netaccel.config import Settings
from netaccel.errors import ApiError, ApiUnreachableError, ConfigError

SILENCE = 30.0
"""Seconds without a byte of an answer."""
_FAREWELL = 0.1
_READ = 1 << 18
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)  # a host that vanished is noticed after 30 s, long before a watch's silence is


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request, before it is known to whom it goes."""

    method: str
    path: str
    query: Mapping[str, str] | None = None
    body: bytes | None = None
    content_type: str = JSON
    silence: float = SILENCE

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class _NotTakenError(Exception):
    """A server was not reached: nothing was sent. The text says why."""


class Connection:
    """Implements netaccel.apiserver.api.Api. Open it with :meth:`open`, use it with ``async with``."""

    def __init__(self, access: Credentials, settings: Settings) -> None:
        self._credentials = access
        self._settings = settings
        self._rota: Rota | None = None
        self._url = ""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0, ttl_dns_cache=30),
            read_bufsize=_READ,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
            headers={
                "User-Agent": f"netaccel/{__version__} ({platform.system().lower()}/{platform.machine()})",
                "Accept": JSON,
                "Accept-Encoding": "identity",  # a node has less CPU to spare than network
            },
        )

    @classmethod
    async def open(cls, settings: Settings, environment: Mapping[str, str] | None = None) -> Self:
        """Find the credentials and check what can be checked; asks no server.

        ``environment``: os.environ unless given. Raises ConfigError. An exec plugin that gives nothing now
        is no reason: it is asked again with each request.
        """
        found = credentials.find(settings.kubeconfig, environment)
        check(settings, in_pod=found.in_pod)
        connection = cls(found, settings)
        try:
            await found.current()
        except ApiUnreachableError:
            pass
        except BaseException:
            await connection.close()
            raise
        return connection

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()
        # Connections that broke are closed with TLS's farewell, which aiohttp does not wait for.
        await asyncio.sleep(_FAREWELL)

    # ---------------------------------------------------------------------- Api

    @property
    def where(self) -> str:
        """URL of the server that is asked now; where credentials come from while no server is known."""
        return self._rota.current.url if self._rota else self._credentials.origin

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = JSON,
    ) -> bytes:
        """One request; the whole answer's body."""
        asked = _Asked(method, path, query, body, content_type)
        server, response = await self._sent(asked)
        try:
            with self._read_from(server, asked):
                return await response.read()
        finally:
            response.release()

    def stream(
        self, path: str, query: Mapping[str, str], *, silence: float
    ) -> AbstractAsyncContextManager[AsyncIterator[list[bytes]]]:
        """GET whose body is lines of JSON without end; see Api."""
        return self._streamed(_Asked("GET", path, query, silence=silence))

    @contextlib.asynccontextmanager
    async def _streamed(self, asked: _Asked) -> AsyncIterator[AsyncIterator[list[bytes]]]:
        server, response = await self._sent(asked)
        lines = self._lines(server, response, asked)
        try:
            _keep_alive(response)
            yield lines
        finally:
            # A watch has no end to wait for, and TLS's farewell would outlive the session.
            if (transport := _transport(response)) is not None:
                transport.abort()
            response.close()

    async def _lines(
        self, server: Server, response: aiohttp.ClientResponse, asked: _Asked
    ) -> AsyncIterator[list[bytes]]:
        lines = Lines()
        while True:
            with self._read_from(server, asked):
                chunk = await response.content.readany()
            if not chunk:
                return  # what is left of a line is no line
            try:
                found = lines.feed(chunk)
            except LineTooLongError as error:
                raise ApiError(f"{server.url}{asked.path}: {error}: it is no Kubernetes API") from error
            if found:
                yield found

    # ------------------------------------------------------------------ sending

    async def _sent(self, asked: _Asked) -> tuple[Server, aiohttp.ClientResponse]:
        """Ask, with fresh credentials once more after a 401; an answer of 2xx, of which the head was read."""
        access = await self._access()
        try:
            return await self._asked_around(asked, access)
        except ApiError as error:
            if error.status != 401:
                raise
            renewed = await self._access(refused=access)
            if renewed is access:
                raise
        return await self._asked_around(asked, renewed)

    async def _access(self, refused: Access | None = None) -> Access:
        """What to ask with; other than ``refused`` if there is any. Raises ApiUnreachableError."""
        try:
            if refused is None:
                access = await self._credentials.current()
            else:
                access = await self._credentials.renew(refused) or refused
        except ConfigError as error:
            # It was well at the start, so a person is about to mend it, and nobody above need know how.
            raise ApiUnreachableError(str(error)) from error
        if self._rota is None or self._url != access.url:
            self._url = access.url
            found = servers(access.url, access.server_name, self._settings.api_servers)
            self._rota = Rota(found, self._settings.node_name)
        return access

    async def _asked_around(self, asked: _Asked, access: Access) -> tuple[Server, aiohttp.ClientResponse]:
        """Ask the server whose turn it is, and the others where it can't be reached."""
        assert self._rota is not None
        reasons: list[str] = []
        for _ in range(len(self._rota)):
            server = self._rota.current
            try:
                return server, await self._by_name(server, asked, access)
            except _NotTakenError as error:
                reasons.append(f"{server.url}: {error}")
                self._rota.move_on(server)
            except ApiError as error:
                if error.status >= 500 and not is_too_large(error):
                    self._rota.move_on(server)  # it is up and can't serve: the others may
                raise
        remedy = "is an API server up, and its address right?"
        raise ApiUnreachableError(f"no API server answers: {'; '.join(reasons)}: {remedy}")

    async def _by_name(self, server: Server, asked: _Asked, access: Access) -> aiohttp.ClientResponse:
        """One server, by each name that its certificate may have."""
        assert self._rota is not None
        while True:
            try:
                return await self._answer(server, asked, access)
            except aiohttp.ClientConnectorCertificateError as error:
                if is_for_another_name(error.certificate_error) and self._rota.next_name(server):
                    continue
                raise _NotTakenError(certificate(server, error.certificate_error)) from error

    async def _answer(self, server: Server, asked: _Asked, access: Access) -> aiohttp.ClientResponse:
        """One HTTP request. Raises ApiError for what isn't 2xx, _NotTakenError where nothing was sent."""
        assert self._rota is not None
        headers = {"Content-Type": asked.content_type} if asked.body is not None else {}
        if access.authorization:
            headers["Authorization"] = access.authorization
        try:
            response = await self._session.request(
                asked.method,
                server.url + asked.path,
                params=asked.query,
                data=asked.body,
                headers=headers,
                proxy=access.proxy,
                ssl=access.tls if access.tls is not None else True,
                server_hostname=self._rota.name(server) if access.tls is not None else None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=None, sock_connect=CONNECT, sock_read=asked.silence
                ),
            )
        except aiohttp.ClientConnectorCertificateError:
            raise
        except (
            aiohttp.ClientConnectorError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.ClientProxyConnectionError,
        ) as error:
            raise _NotTakenError(reason(error)) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._rota.move_on(server)
            raise ApiUnreachableError(f"{server.url}: {asked} was not answered: {reason(error)}") from error
        if 200 <= response.status < 300:
            return response
        try:
            with self._read_from(server, asked):
                body = await response.read()
        finally:
            response.release()
        who = f" with {self._credentials.origin}" if response.status == 401 else ""
        what = f"{server.url}: {asked}{who}"
        raise refusal(what, body, response.status, response.headers.get("Retry-After"))

    @contextlib.contextmanager
    def _read_from(self, server: Server, asked: _Asked) -> Iterator[None]:
        """Turn a break in the middle of an answer into ours."""
        assert self._rota is not None
        try:
            yield
        except TimeoutError as error:
            self._rota.move_on(server)
            text = f"{server.url}: {asked}: not a byte in {asked.silence:g} s: the connection counts as dead"
            raise ApiUnreachableError(text) from error
        except (aiohttp.ClientError, OSError) as error:
            raise ApiUnreachableError(
                f"{server.url}: {asked}: the answer broke off: {reason(error)}"
            ) from error


def _transport(response: aiohttp.ClientResponse) -> asyncio.WriteTransport | None:
    """What an answer comes through; None once it has come whole."""
    return response.connection.transport if response.connection else None


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    """Let the kernel ask now and then whether the other end is still there."""
    transport = _transport(response)
    found = transport.get_extra_info("socket") if transport else None
    if found is not None:
        for level, option, value in _KEEPALIVE:
            found.setsockopt(level, option, value)
