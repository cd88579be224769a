# SPDX-License-Identifier: Apache-2.0
"""A process that serves or asks; it runs in a namespace and a cgroup, and tells lines of JSON.

``python -m bench.kube.client serve PORT``
    Echoes; the first byte of an answer to a new connection is the last octet of the own address.
``… answering HOST:PORT …``
    Tries each until it answers; tells each with the time (time.monotonic(), the machine's).
``… follow HOST:PORT``
    Connects again and again; tells each change of who answers, and when that connection began.
``… latency DIRECT THROUGH BLOCKS``
    Blocks of new connections and of requests over a kept one, to both in turn; tells seconds.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import statistics
import struct
import sys
import time
from collections.abc import Callable

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing resets, so that no port waits."""
PATIENCE = 0.25
BREATH = 0.0005
NEW, KEPT = 50, 200
"""Connections and requests a block."""


def serve(port: str) -> None:
    """One thread, every connection."""
    chosen = selectors.DefaultSelector()
    listener = socket.create_server(("0.0.0.0", int(port)), backlog=1024)
    listener.setblocking(False)
    chosen.register(listener, selectors.EVENT_READ)
    tell("ready")
    while True:
        for key, _ in chosen.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock is listener:
                accept(chosen, listener)
            elif not echo(sock):
                chosen.unregister(sock)
                sock.close()


def accept(chosen: selectors.BaseSelector, listener: socket.socket) -> None:
    """Take what waits."""
    with contextlib.suppress(BlockingIOError, ConnectionError):
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        chosen.register(sock, selectors.EVENT_READ)


def echo(sock: socket.socket) -> bool:
    """Answer with the last octet of the own address; False at the end."""
    try:
        data = sock.recv(4096)
        if data:
            sock.send(socket.inet_aton(sock.getsockname()[0])[3:])
        return bool(data)
    except BlockingIOError:
        return True
    except OSError:
        return False


def ask(target: tuple[str, int]) -> int:
    """A new connection, a byte each way; who answered. OSError where nobody does."""
    with connected(target) as sock:
        return exchange(sock)


def connected(target: tuple[str, int]) -> socket.socket:
    """A new connection."""
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    try:
        sock.connect(target)
    except OSError:
        sock.close()
        raise
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def exchange(sock: socket.socket) -> int:
    """A byte each way."""
    sock.send(b"?")
    answer = sock.recv(1)
    if not answer:
        raise ConnectionResetError("closed")
    return answer[0]


def answering(*targets: str) -> None:
    """Until the last answers."""
    left = dict.fromkeys(targets)
    while left:
        for target in list(left):
            with contextlib.suppress(OSError):
                ask(parse(target))
                tell([target, time.monotonic()])
                del left[target]
        time.sleep(0.01)


def follow(target: str) -> None:
    """For ever."""
    where, last = parse(target), -1
    while True:
        begin = time.monotonic()
        with contextlib.suppress(OSError):
            if (who := ask(where)) != last:
                last = who
                tell([who, begin])
        time.sleep(BREATH)


def latency(direct: str, through: str, blocks: str) -> None:
    """Medians over blocks; a block's own figure is its median. One that fails is left out and told."""
    targets = [parse(direct), parse(through)]
    found: dict[str, list[list[float]]] = {"new": [], "kept": []}
    failed = []
    for number in range(int(blocks)):
        for name, block in (("new", new_block), ("kept", kept_block)):
            pair = [0.0, 0.0]
            for which in (0, 1) if number % 2 else (1, 0):
                try:
                    pair[which] = block(targets[which])
                except OSError as error:
                    failed.append(f"{targets[which]}: {error}")
            if all(pair):
                found[name].append(pair)
    tell({"failed": failed} | {name: summary(pairs[1:]) for name, pairs in found.items()})


def summary(pairs: list[list[float]]) -> dict[str, float]:
    """Seconds direct and through, and the median of the ratios of neighbours."""
    direct, through = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"direct": direct, "through": through, "ratio": statistics.median(b / a for a, b in pairs)}


def new_block(target: tuple[str, int]) -> float:
    """Median seconds from the start of connect() to the answer."""
    return median(NEW, lambda: ask(target))


def kept_block(target: tuple[str, int]) -> float:
    """Median seconds of a request over a connection that stands."""
    with connected(target) as sock:
        exchange(sock)
        return median(KEPT, lambda: exchange(sock))


def median(times: int, action: Callable[[], object]) -> float:
    """Median seconds of an action."""
    spent = []
    for _ in range(times):
        begin = time.perf_counter()
        action()
        spent.append(time.perf_counter() - begin)
    return statistics.median(spent)


def parse(target: str) -> tuple[str, int]:
    """``HOST:PORT``."""
    host, _, port = target.rpartition(":")
    return host, int(port)


def tell(value: object) -> None:
    """A line for whoever started this."""
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    actions: dict[str, Callable[..., None]] = {
        "serve": serve,
        "answering": answering,
        "follow": follow,
        "latency": latency,
    }
    actions[sys.argv[1]](*sys.argv[2:])
