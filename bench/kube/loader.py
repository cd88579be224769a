# SPDX-License-Identifier: Apache-2.0
"""Requests to the API server over kept connections, many at a time."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from bench.kube.crowd import Post
from netaccel.cluster import pki
from netaccel.cluster.controlplane import ControlPlane
from netaccel.datapath import netlink

WORKERS = 8
_BATCH = 64
_TIMEOUT = 60.0
_KEPT = 20.0  # seconds of silence after which the server may have closed a connection


class Loader:
    """Asks as administrator, from the control plane's namespace. Close it."""

    def __init__(self, control: ControlPlane) -> None:
        pair = control.pki.pair("admin", pki.ADMIN)
        self._connect = partial(_Connection, control, _tls(control.pki.ca, pair.certificate, pair.key))
        self._pool = ThreadPoolExecutor(WORKERS)
        self._own = threading.local()

    def close(self) -> None:
        """End its threads."""
        self._pool.shutdown()

    def send(self, posts: Iterable[Post]) -> float:
        """Send them all, in no certain order; seconds that it took."""
        begin = time.monotonic()
        for _ in self._pool.map(self._send_batch, _batches(posts)):
            pass
        return time.monotonic() - begin

    def change(self, post: Post) -> float:
        """Send one; time.monotonic() at which its answer was there."""
        self._connection.exchange(post)
        return time.monotonic()

    def get(self, path: str) -> bytes:
        """The answer's body."""
        return self._connection.exchange(Post("GET", path, b""))

    def _send_batch(self, posts: list[Post]) -> None:
        for post in posts:
            self._connection.exchange(post)

    @property
    def _connection(self) -> _Connection:
        """This thread's."""
        if not hasattr(self._own, "connection"):
            self._own.connection = self._connect()
        found: _Connection = self._own.connection
        return found


class _Connection:
    """A kept connection, made anew where it may have been closed."""

    def __init__(self, control: ControlPlane, tls: ssl.SSLContext) -> None:
        self._control, self._tls = control, tls
        self._used = 0.0
        self._http: http.client.HTTPSConnection | None = None

    def exchange(self, post: Post) -> bytes:
        """One request; the answer's body."""
        if self._http is None or time.monotonic() - self._used > _KEPT:
            self._http = self._connect()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        self._http.request(post.method, post.path, body=post.body or None, headers=headers)
        answer = self._http.getresponse()
        body = answer.read()
        self._used = time.monotonic()
        if answer.status >= 300:
            raise RuntimeError(f"{post.method} {post.path}: {answer.status} {body[:300]!r}")
        return body

    def _connect(self) -> http.client.HTTPSConnection:
        if self._http:
            self._http.close()
        options = self._control.options
        namespace = options.place.namespace if options.place else ""
        where = netlink.inside_namespace(namespace) if namespace else contextlib.nullcontext()
        found = http.client.HTTPSConnection(
            options.addresses[0], self._control.port, context=self._tls, timeout=_TIMEOUT
        )
        with where:
            found.connect()
        found.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return found


def _batches(posts: Iterable[Post]) -> Iterator[list[Post]]:
    """A batch goes over one connection in order, so a Service is there before its slice."""
    iterator = iter(posts)
    while batch := list(itertools.islice(iterator, _BATCH)):
        yield batch


def _tls(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    found = ssl.create_default_context(cafile=str(ca))
    found.load_cert_chain(certificate, key)
    return found
