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
from pathlib import Path

from bench.kube.crowd import Post
from netaccel.cluster import pki
from netaccel.cluster.controlplane import ControlPlane
from netaccel.datapath import netlink

WORKERS = 8
_BATCH = 64
_TIMEOUT = 60.0


class Loader:
    """Asks as administrator, from the control plane's namespace. Close it."""

    def __init__(self, control: ControlPlane) -> None:
        self._host, self._port = control.options.addresses[0], control.port
        self._namespace = control.options.place.namespace if control.options.place else ""
        pair = control.pki.pair("admin", pki.ADMIN)
        self._tls = _tls(control.pki.ca, pair.certificate, pair.key)
        self._pool = ThreadPoolExecutor(WORKERS)
        self._own = threading.local()
        self._mine = self._connect()

    def close(self) -> None:
        """End its threads."""
        self._mine.close()
        self._pool.shutdown()

    def send(self, posts: Iterable[Post]) -> float:
        """Send them all, in no certain order; seconds that it took."""
        begin = time.monotonic()
        for _ in self._pool.map(self._send_batch, _batches(posts)):
            pass
        return time.monotonic() - begin

    def change(self, post: Post) -> float:
        """Send one; time.monotonic() at which its answer was there."""
        _exchange(self._mine, post)
        return time.monotonic()

    def get(self, path: str) -> bytes:
        """The answer's body."""
        return _exchange(self._mine, Post("GET", path, b""))

    def _send_batch(self, posts: list[Post]) -> None:
        if not hasattr(self._own, "connection"):
            self._own.connection = self._connect()
        for post in posts:
            _exchange(self._own.connection, post)

    def _connect(self) -> http.client.HTTPSConnection:
        where = netlink.inside_namespace(self._namespace) if self._namespace else contextlib.nullcontext()
        with where:
            found = http.client.HTTPSConnection(self._host, self._port, context=self._tls, timeout=_TIMEOUT)
            found.connect()
        found.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return found


def _exchange(connection: http.client.HTTPSConnection, post: Post) -> bytes:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    connection.request(post.method, post.path, body=post.body or None, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status >= 300:
        raise RuntimeError(f"{post.method} {post.path}: {answer.status} {body[:300]!r}")
    return body


def _batches(posts: Iterable[Post]) -> Iterator[list[Post]]:
    """A batch goes over one connection in order, so a Service is there before its slice."""
    iterator = iter(posts)
    while batch := list(itertools.islice(iterator, _BATCH)):
        yield batch


def _tls(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    found = ssl.create_default_context(cafile=str(ca))
    found.load_cert_chain(certificate, key)
    return found
