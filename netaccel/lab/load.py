# SPDX-License-Identifier: Apache-2.0
"""Requests and responses over one connection, as fast as they go, counted: for the demo and the tests.

::

    python -m netaccel.lab.load --listen 9000               echoes what comes, on any number of connections
    python -m netaccel.lab.load --connect ADDR:9000 [--size 64] [--window 0.5] [--seconds 10]

The client prints a line of JSON for each window (``port``: its own; ``rate``: exchanges a second) and one
at the end: ``port``, ``exchanges``, ``sent`` and ``received`` (bytes). A line on its standard input ends the
load before its time; the connection stays open until that is closed. Sockets are non-blocking, and never
spliced.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import sys
import time
from collections.abc import Iterator, Mapping

from netaccel.config import HostPort, parse_host_port

_CHUNK = 1 << 18


class Echo:
    """A server: whatever a connection sends comes back."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(
            ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128
        )
        self._poll = select.epoll()
        self._poll.register(self._listener, select.EPOLLIN)
        self._open: dict[int, socket.socket] = {}
        self._owed: dict[int, bytes] = {}

    def run(self) -> None:
        """For ever."""
        while True:
            for number, _ in self._poll.poll():
                if number == self._listener.fileno():
                    self._accept()
                else:
                    self._turn(number)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open[client.fileno()] = client
        self._poll.register(client, select.EPOLLIN)

    def _turn(self, number: int) -> None:
        client = self._open[number]
        try:
            owed = self._owed.pop(number, b"") or client.recv(_CHUNK)
            rest = owed[client.send(owed) :] if owed else b""
        except BlockingIOError:
            rest = owed
        except OSError:
            owed = rest = b""
        if not owed:
            del self._open[number]
            client.close()
            return
        if rest:
            self._owed[number] = rest
        self._poll.modify(client, select.EPOLLOUT if rest else select.EPOLLIN)


class Client:
    """One connection that asks and waits for the answer."""

    def __init__(self, where: HostPort, size: int) -> None:
        self._socket = socket.create_connection(where, timeout=10)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._poll.register(sys.stdin, select.POLLIN)
        self._message = bytes(range(256)) * (size // 256 + 1)
        self._size = size
        self.exchanges = 0
        self.received = 0
        self.stopped = False
        self.port: int = self._socket.getsockname()[1]

    def run(self, seconds: float, window: float) -> Iterator[float]:
        """Exchanges a second, window by window. ConnectionError where it ends, or answers something else."""
        begun = time.monotonic()
        while not self.stopped and time.monotonic() - begun < seconds:
            since, before = time.monotonic(), self.exchanges
            while (passed := time.monotonic() - since) < window and not self.stopped:
                self._exchange()
            yield (self.exchanges - before) / passed

    def totals(self) -> dict[str, int]:
        """What was carried."""
        sent = self.exchanges * self._size
        return {"port": self.port, "exchanges": self.exchanges, "sent": sent, "received": self.received}

    def _exchange(self) -> None:
        message = self._message[: self._size]
        if self._socket.send(message) != self._size:
            raise ConnectionError("a request did not fit: give a smaller --size")
        answer = b""
        while len(answer) < self._size:
            for number, _ in self._poll.poll():
                if number == sys.stdin.fileno():
                    self._hear()
                    continue
                part = self._socket.recv(_CHUNK)
                if not part:
                    raise ConnectionError("the server closed the connection")
                answer += part
        if answer != message:
            raise ConnectionError("the answer is not the request")
        self.exchanges += 1
        self.received += len(answer)

    def _hear(self) -> None:
        """A line ends the load; without a standard input it goes on."""
        self._poll.unregister(sys.stdin)
        self.stopped = bool(sys.stdin.readline())


def _say(facts: Mapping[str, int]) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve or ask, as the process's arguments say."""
    parser = argparse.ArgumentParser(
        prog="python -m netaccel.lab.load", description="Requests and responses."
    )
    role = parser.add_mutually_exclusive_group(required=True)
    role.add_argument("--listen", type=int, metavar="PORT")
    role.add_argument("--connect", type=parse_host_port, metavar="ADDRESS:PORT")
    parser.add_argument("--size", type=int, default=64, help="bytes of a request, and of its answer")
    parser.add_argument("--window", type=float, default=0.5, help="seconds between lines")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    if options.listen is not None:
        Echo(options.listen).run()
    client = Client(options.connect, options.size)
    for rate in client.run(options.seconds, options.window):
        _say({"port": client.port, "rate": round(rate)})
    _say(client.totals())
    sys.stdin.read()


if __name__ == "__main__":
    main()
