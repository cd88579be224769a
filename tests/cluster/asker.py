# SPDX-License-Identifier: Apache-2.0
"""Ask servers again and again and count: a program that runs inside some namespace or pod.

    python3 asker.py SECONDS-BETWEEN URL...

``http://…``: a connection for each request. ``kept+http://…``: one connection for all requests, for as long
as it lives. ``bytes+http://…``: one long answer of `netaccel.lab.server`, its blocks compared as they come.

It says "asking" when every URL was asked once. After SIGTERM, or an hour, it prints one line of JSON: by URL
``requests`` (blocks), ``failures`` as [seconds since the epoch, seconds it took, reason], ``slowest`` in
seconds, and ``servers``: how often each answered (the answer's ``pod``).
"""

import hashlib
import http.client
import json
import signal
import sys
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

HOUR = 3600
PATIENCE = 10  # seconds for one connect, write or read: a machine may be busy, a dead peer stays silent
BLOCK = 16384  # of netaccel.lab.server


class Road:
    """One URL and what became of the requests."""

    def __init__(self, url: str) -> None:
        kind, plus, rest = url.partition("+")
        parts = urlsplit(rest if plus else url)
        self.kind = kind if plus else "new"
        self.host, self.port, self.path = parts.hostname or "", parts.port or 80, parts.path or "/"
        if parts.query:
            self.path += f"?{parts.query}"
        self.requests, self.slowest = 0, 0.0
        self.failures: list[tuple[float, float, str]] = []
        self.servers: Counter[str] = Counter()
        self._connection: http.client.HTTPConnection | None = None
        self._answer: http.client.HTTPResponse | None = None
        self._block = 0

    def step(self) -> None:
        began, clock = time.time(), time.monotonic()
        self.requests += 1
        try:
            self._next_block() if self.kind == "bytes" else self._ask()
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            self.failures.append((began, round(time.monotonic() - clock, 3), reason))
            self._close()
        self.slowest = max(self.slowest, time.monotonic() - clock)

    def _connect(self) -> http.client.HTTPConnection:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
            self._answer, self._block = None, 0
        return self._connection

    def _ask(self) -> None:
        connection = self._connect()
        kept = self.kind == "kept"
        if kept and connection.sock is None:
            connection.connect()
            connection.auto_open = 0  # a connection that ended is a failure
        connection.request("GET", self.path, headers={} if kept else {"Connection": "close"})
        answer = connection.getresponse()
        body = answer.read().decode()
        if answer.status != 200:
            raise OSError(f"HTTP {answer.status} {body[:80]}")
        self.servers[json.loads(body)["pod"]] += 1
        if not kept:
            self._close()

    def _next_block(self) -> None:
        connection = self._connect()
        if self._answer is None:
            connection.request("GET", self.path)
            self._answer = connection.getresponse()
        found = self._answer.read(BLOCK)
        seed = hashlib.sha256(str(self._block).encode()).digest()
        if found != seed * (BLOCK // len(seed)):
            raise ValueError(f"{len(found)} bytes at {self._block} are not those that were sent")
        self._block += BLOCK

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def run(road: Road, pause: float, first: threading.Barrier, ended: threading.Event) -> None:
    road.step()
    first.wait()
    until = time.monotonic() + HOUR
    while not ended.wait(pause) and time.monotonic() < until:
        road.step()


def main(pause: float, urls: list[str]) -> None:
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    roads = [Road(url) for url in urls]
    first = threading.Barrier(len(roads) + 1)
    threads = [threading.Thread(target=run, args=(road, pause, first, ended)) for road in roads]
    for thread in threads:
        thread.start()
    first.wait()
    print("asking", flush=True)
    for thread in threads:
        thread.join()
    said = ("requests", "failures", "slowest", "servers")
    print(
        json.dumps(
            {url: {name: getattr(r, name) for name in said} for url, r in zip(urls, roads, strict=True)}
        )
    )


main(float(sys.argv[1]), sys.argv[2:])
