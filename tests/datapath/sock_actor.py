# SPDX-License-Identifier: Apache-2.0
"""A process with real sockets in a network namespace and a cgroup, driven through its standard input.

``python sock_actor.py NAMESPACE CGROUP``; see sock_world.Actor for the other end.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from netaccel.datapath import libbpf
from netaccel.datapath.cookie import namespace_cookie
from netaccel.datapath.mounts import find_cgroup

TIMEOUT = 10
"""Seconds after which a socket gives up, so that a failed test ends."""

sockets: dict[int, socket.socket] = {}


def enter(namespace: str, cgroup: str) -> None:
    libbpf.setns(os.open(namespace, os.O_RDONLY), 0x40000000)
    Path(cgroup, "cgroup.procs").write_text(str(os.getpid()))


def open_socket(family: int, kind: int, proto: int = 0) -> int:
    made = socket.socket(family, kind, proto)
    made.settimeout(TIMEOUT)
    sockets[made.fileno()] = made
    return made.fileno()


def netns_cookie() -> int:
    return namespace_cookie(find_cgroup(None))


def call(number: int, method: str, *arguments: Any) -> Any:
    """A method of a socket: lists stand for addresses, text to send for bytes."""
    values = [tuple(value) if isinstance(value, list) else value for value in arguments]
    if method.startswith("send"):
        values[0] = values[0].encode()
    return getattr(sockets[number], method)(*values)


def serve(family: int, kind: int, address: str, port: int, name: str) -> None:
    """Answer every connection or datagram with the server's name."""
    server = socket.socket(family, kind)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    if kind == socket.SOCK_STREAM:
        server.listen(64)
    threading.Thread(target=_serve, args=(server, name), daemon=True).start()


def _serve(server: socket.socket, name: str) -> None:
    kept = []  # else they would be closed
    while True:
        if server.type == socket.SOCK_STREAM:
            connection, _ = server.accept()
            connection.send(name.encode())
            kept.append(connection)
        else:
            _, client = server.recvfrom(2048)
            server.sendto(name.encode(), client)


def sysctl(name: str, value: str) -> None:
    Path("/proc/sys", name).write_text(value)


VERBS = {f.__name__: f for f in (open_socket, call, serve, sysctl, netns_cookie)}


def main() -> None:
    enter(sys.argv[1], sys.argv[2])
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        answer: dict[str, Any]
        try:
            answer = {"result": VERBS[verb](*arguments)}
        except OSError as error:
            answer = {"errno": error.errno or 0, "text": str(error)}
        print(json.dumps(answer, default=bytes.decode), flush=True)


main()
