# SPDX-License-Identifier: Apache-2.0
"""A node's acceleration as tests want it, and an agent's HTTP server around it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from netaccel.accelerate.view import (
    Acceleration,
    Carried,
    Check,
    Connection,
    Receipt,
    Status,
    Tier,
    Totals,
)
from netaccel.api.accel import AccelRoutes
from netaccel.api.server import Answers, application, serving
from netaccel.errors import DatapathError

PODS = {
    "shop/web-0": "",
    "shop/db-0": "",
    "shop/idle-0": "",
    "shop/far-0": "",
    "shop/host-0": "it is elsewhere",
}
ON, OFF = Tier(True), Tier(False, "the setting accelerate is disabled", asked=False)
STATUS = Status(
    node="node-1",
    peer=ON,
    socket=ON,
    checks=(Check("order", True), Check("splice", False, "EAGAIN while poll says readable")),
    totals=Totals(
        live=1,
        capacity=4096,
        promotions=4,
        evictions=3,
        deferred=1,
        queued_bytes=512,
        refused={"blocking": 2, "may splice": 7},
        out={"rate": 2, "closed": 1},
    ),
    receipts=(
        Receipt("shop/db", "shop/web-0", "shop/db-0", 2, 1000, 64000, 640, {"unread": 8, "full": 2}),
        Receipt("", "shop/web-0", "shop/idle-0", 1, 10, 100),
    ),
    unreachable=("shop/far-0: no process of it is seen",),
    through_stack=("shop/idle-0: veth3 has a queueing discipline (tbf)",),
)
FAST = Connection(
    "shop/web-0",
    "10.0.0.2",
    43210,
    "10.0.0.3",
    5432,
    Carried("socket", 500, 32000, 500, 32000, 320, 320, "peer"),
    peer="shop/db-0",
    service="shop/db",
    passes={"unread": 8},
)
SLOW = Connection(
    "shop/web-0",
    "fd00::2",
    43211,
    "fd00::9",
    80,
    Carried("tc", tcp_sent_bytes=70, tcp_received_bytes=900),
    reason="the other end is no pod of this node",
)


class Fake:
    """Implements netaccel.accelerate.view.Acceleration."""

    def __init__(self, status: Status = STATUS) -> None:
        self.now = status
        self.ends = [FAST, SLOW]
        self.problem = ""

    def status(self) -> Status:
        if self.problem:
            raise DatapathError(self.problem)
        return self.now

    def connections(self, pod: str | None) -> Sequence[Connection]:
        return [one for one in self.ends if pod in (None, one.pod)]

    def path_of(self, src: bytes, sport: int, dst: bytes, dport: int) -> Carried | None:
        return FAST.carried if (sport, dport) == (FAST.local_port, FAST.remote_port) else None


def routes(found: Acceleration | None) -> AccelRoutes:
    return AccelRoutes(lambda: found, lambda: Status("node-1", ON, OFF), lambda: PODS)


@contextmanager
def agent(found: Acceleration | None) -> Iterator[str]:
    """ADDRESS:PORT where it answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    begun, done = threading.Event(), threading.Event()

    async def serve() -> None:
        async with serving(application(cast("Answers", None), accel=routes(found)), listener):
            begun.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert begun.wait(60)
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        done.set()
        thread.join(10)
