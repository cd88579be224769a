# SPDX-License-Identifier: Apache-2.0
"""A small server that says who answers whom: for the examples and the end-to-end tests.

::

    python -m netaccel.lab.server [--http 8080] [--udp 8081] [--drain 2]

    curl http://POD:8080/          pod, node, client and local address, one line
    curl http://POD:8080/json      the same as JSON
    curl 'http://POD:8080/bytes?n=1000000&rate=500000'   n bytes, the same each time; at most rate a second
    curl --data-binary @FILE http://POD:8080/upload      length and SHA-256 of what arrived
    curl http://POD:8080/healthz   200, or 503 after /unready (and again 200 after /ready)

HTTP/1.1 with keep-alive; UDP answers each datagram with the same JSON and the datagram itself as
``payload``. Both families. After SIGTERM it serves on for ``--drain`` seconds, then takes no new
connection and ends with the last one that is busy.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import hashlib
import ipaddress
import json
import os
import signal
import socket
import sys
import termios
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

_CHUNK = 16384
_LOOK = 0.05  # seconds between looks at what is not acknowledged yet
_PKTINFO4 = 8  # IP_PKTINFO of <linux/in.h>: the socket module lacks it


def content(size: int) -> Iterator[bytes]:
    """Yield what ``/bytes?n=size`` sends: blocks that differ, so that a lost or repeated one shows."""
    for block in range(0, size, _CHUNK):
        seed = hashlib.sha256(str(block).encode()).digest()
        yield (seed * (_CHUNK // len(seed)))[: size - block]


def digest(size: int) -> str:
    """SHA-256 of ``content(size)`` in hexadecimal."""
    found = hashlib.sha256()
    for block in content(size):
        found.update(block)
    return found.hexdigest()


def plain(address: str) -> str:
    """Return the address without IPv4 mapping and without scope."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


class Request(NamedTuple):
    """What a client asks for ("": nothing that is HTTP), how long its body is, whether it is its last."""

    target: str
    length: int
    waits: bool
    last: bool


class Server:
    """The state that all connections share."""

    def __init__(self) -> None:
        self.ready = True
        self.busy = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.identity = {
            "pod": os.environ.get("POD_NAME") or os.environ.get("HOSTNAME") or socket.gethostname(),
            "namespace": os.environ.get("POD_NAMESPACE", ""),
            "node": os.environ.get("NODE_NAME", ""),
        }

    def facts(self, client: tuple[str, int], local: tuple[str, int]) -> dict[str, str | int]:
        """Who answers whom."""
        return {
            **self.identity,
            "client": plain(client[0]),
            "client_port": client[1],
            "local": plain(local[0]),
            "local_port": local[1],
        }

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one TCP connection until its end."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while (request := await _request(reader)).target:
                self.busy += 1
                self.idle.clear()
                try:
                    body = await _body(request, reader, writer)
                    await self._answer(request.target, body, writer)
                finally:
                    self.busy -= 1
                    if not self.busy:
                        self.idle.set()
                if request.last:
                    break
        writer.close()

    async def _answer(self, target: str, received: str, writer: asyncio.StreamWriter) -> None:
        url = urlsplit(target)
        facts = self.facts(writer.get_extra_info("peername"), writer.get_extra_info("sockname"))
        if url.path == "/bytes":
            query = dict(parse_qsl(url.query))
            await _send_bytes(writer, int(query.get("n", "1000")), int(query.get("rate", "0")))
            return
        if url.path in ("/ready", "/unready"):
            self.ready = url.path == "/ready"
        status, kind, body = "200 OK", "text/plain", "ok\n"
        if url.path == "/healthz" and not self.ready:
            status, body = "503 Service Unavailable", "not ready\n"
        elif url.path == "/upload":
            body = received
        elif url.path == "/json":
            kind, body = "application/json", json.dumps(facts) + "\n"
        elif url.path == "/":
            body = " ".join(f"{name}={value}" for name, value in facts.items() if value) + "\n"
        elif url.path not in ("/healthz", "/ready", "/unready"):
            status, body = "404 Not Found", f"{url.path}: not here\n"
        _head(writer, status, kind, len(body))
        writer.write(body.encode())
        await writer.drain()

    def datagram(self, udp: socket.socket) -> None:
        """Answer one datagram, from the address that it was sent to."""
        try:
            payload, ancillary, _, client = udp.recvmsg(65535, 256)
        except OSError:  # an ICMP error about an earlier answer
            return
        local = _destination(ancillary)
        facts = self.facts(client, (local, udp.getsockname()[1]))
        answer = json.dumps({**facts, "payload": payload.decode(errors="replace")}).encode()
        with contextlib.suppress(OSError):
            udp.sendmsg([answer], [item for item in ancillary if item[0] != socket.SOL_SOCKET], 0, client)


async def _request(reader: asyncio.StreamReader) -> Request:
    """Read a request's head."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *rest = head.split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    parts = first.split(" ")
    return Request(
        target=parts[1] if len(parts) == 3 else "",
        length=int(fields.get("content-length", "0")),
        waits=fields.get("expect", "").lower() == "100-continue",
        last=fields.get("connection", "" if parts[-1] == "HTTP/1.1" else "close").lower() == "close",
    )


async def _body(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """Read a request's body and return its length and SHA-256, one line."""
    if request.waits:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    left, found = request.length, hashlib.sha256()
    while left:
        block = await reader.readexactly(min(left, _CHUNK))
        found.update(block)
        left -= len(block)
    return f"{request.length} {found.hexdigest()}\n"


def _head(writer: asyncio.StreamWriter, status: str, kind: str, length: int) -> None:
    writer.write(f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode())


async def _send_bytes(writer: asyncio.StreamWriter, size: int, rate: int) -> None:
    _head(writer, "200 OK", "application/octet-stream", size)
    loop = asyncio.get_running_loop()
    start, sent = loop.time(), 0
    for block in content(size):
        writer.write(block)
        await writer.drain()
        sent += len(block)
        if rate and (ahead := sent / rate - (loop.time() - start)) > 0:
            await asyncio.sleep(ahead)
    await _delivered(writer)


async def _delivered(writer: asyncio.StreamWriter) -> None:
    """Wait until the client's kernel has all: a pod that ends takes with it what it had not sent yet."""
    sock = writer.get_extra_info("socket")
    while not writer.is_closing() and (writer.transport.get_write_buffer_size() or _unacknowledged(sock)):  # noqa: ASYNC110
        await asyncio.sleep(_LOOK)


def _unacknowledged(sock: socket.socket) -> int:
    """Bytes (tcp(7), SIOCOUTQ)."""
    found = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(found, sys.byteorder)


def _destination(ancillary: list[tuple[int, int, bytes]]) -> str:
    """Return the address that a datagram was sent to (struct in_pktinfo, in6_pktinfo)."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _PKTINFO4):
            return socket.inet_ntop(socket.AF_INET, data[8:12])
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            return socket.inet_ntop(socket.AF_INET6, data[:16])
    return "0.0.0.0"


def _udp_socket(family: socket.AddressFamily, port: int) -> socket.socket:
    udp = socket.socket(family, socket.SOCK_DGRAM)
    udp.setblocking(False)
    if family == socket.AF_INET6:
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        udp.setsockopt(socket.IPPROTO_IP, _PKTINFO4, 1)
    udp.bind(("", port))
    return udp


async def serve(http: list[int], udp: list[int], drain: float) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    server = Server()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    listeners = [await asyncio.start_server(server.connection, None, port, backlog=1024) for port in http]
    for port in udp:
        for family in (socket.AF_INET, socket.AF_INET6):
            loop.add_reader(found := _udp_socket(family, port), server.datagram, found)
    await stop.wait()
    await asyncio.sleep(drain)
    for listener in listeners:
        listener.close()
    await server.idle.wait()


def main() -> None:
    """Run the server with the process's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m netaccel.lab.server", description="Says who answers whom."
    )
    parser.add_argument(
        "--http", type=int, action="append", default=[], metavar="PORT", help="TCP port, repeatable"
    )
    parser.add_argument(
        "--udp", type=int, action="append", default=[], metavar="PORT", help="UDP port, repeatable"
    )
    parser.add_argument("--drain", type=float, default=2.0, metavar="SECONDS", help="serve on after SIGTERM")
    options = parser.parse_args()
    http = options.http or ([] if options.udp else [8080])
    asyncio.run(serve(http, options.udp, options.drain))


if __name__ == "__main__":
    main()
