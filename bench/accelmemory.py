# SPDX-License-Identifier: Apache-2.0
"""What an enrolled pair of sockets costs in kernel memory: slabs before and after, cache by cache.

Of each cache the median of the rounds counts: what else runs on the machine takes and frees memory meanwhile.
"""

from __future__ import annotations

import os
import resource
import socket
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.results import Result
from netaccel.datapath import netlink
from netaccel.datapath.accel.sockets import AccelSockets
from netaccel.datapath.clock import jiffies_per_second
from netaccel.records import AccelPair, AccelWanted

PAIRS, ROUNDS = 1000, 7
_SO_COOKIE = 57


def run() -> list[Result]:
    """Slab memory a pair, and the maps' share of it."""
    name = f"netaccel-bench-{os.getpid()}"
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    netlink.create_namespace(name)
    try:
        with netlink.inside_namespace(name):
            netlink.set_up("lo")
            with_sockets, enrolled, maps = zip(*(_round() for _ in range(ROUNDS)), strict=True)
    finally:
        netlink.delete_namespace(name)
    note = f"its two TCP sockets have {_typical(with_sockets):,.0f}; {PAIRS} pairs"
    return [
        Result("kernel memory of an enrolled pair, slabs", _typical(enrolled), "B", note=note),
        Result("its share of the maps (of fixed size)", maps[0], "B"),
    ]


def _typical(rounds: Sequence[Mapping[str, int]]) -> float:
    """Bytes a pair."""
    return sum(statistics.median(each[name] for each in rounds) for name in rounds[0]) / PAIRS


def _round() -> tuple[dict[str, int], dict[str, int], float]:
    """Bytes by cache that the sockets themselves take, and to enrol them; bytes of maps a pair."""
    with ExitStack() as stack:
        programs = AccelSockets.private(jiffies_per_second())
        stack.callback(programs.close)
        before = _slabs()
        pairs = [_pair(stack) for _ in range(PAIRS)]
        there = _slabs()
        live = AccelPair(1, programs.constants["ACCEL_LIVE"], 0)
        programs.write_pairs(dict.fromkeys(range(PAIRS), live))
        cookies = [_cookie(end) for pair in pairs for end in pair]
        step = 500  # of them are enrolled in one pass
        for first in range(0, len(cookies), step):
            part = range(first, min(first + step, len(cookies)))
            found = programs.enrol({cookies[end]: AccelWanted(end, 1, 0) for end in part})
            if len(found) != len(part) or any(result.error for result in found.values()):
                raise RuntimeError(f"not enrolled: {[r for r in found.values() if r.error][:3]}")
        after = _slabs()
        memory = sum(programs.memory().values()) / programs.capacity
    made = {name: there[name] - before.get(name, 0) for name in there}
    return made, {name: after[name] - there.get(name, 0) for name in there}, memory


def _pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = stack.enter_context(socket.create_connection(listener.getsockname()))
        server = stack.enter_context(listener.accept()[0])
    for end in (client, server):
        end.setblocking(False)
    return client, server


def _cookie(end: socket.socket) -> int:
    return int.from_bytes(end.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8), "little")


def _slabs() -> dict[str, int]:
    """Bytes in objects, by cache."""
    lines = (line.split() for line in Path("/proc/slabinfo").read_text().splitlines()[2:])
    return {name: int(objects) * int(size) for name, objects, _, size, *_ in lines}
