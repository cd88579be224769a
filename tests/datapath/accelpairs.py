# SPDX-License-Identifier: Apache-2.0
"""Accelerated pairs of sockets on the loopback of the thread's network namespace."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from netaccel.datapath.accel.sockets import AccelSockets
from netaccel.datapath.bpfobject import BpfObject
from netaccel.records import AccelPair, AccelWanted

SO_COOKIE = 57


def cookie_of(end: socket.socket) -> int:
    """Unlike any other socket's."""
    return int.from_bytes(end.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")


class World:
    """Pairs of sockets on a namespace's loopback, and the programs."""

    def __init__(self, programs: AccelSockets, stack: ExitStack) -> None:
        self.programs, self._stack, self._slot = programs, stack, 0

    def pair(self, family: int, *, enrolled: bool) -> tuple[socket.socket, socket.socket]:
        address = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        with socket.create_server((address, 0), family=family) as listener:
            a = self._stack.enter_context(socket.create_connection(listener.getsockname()[:2]))
            b = self._stack.enter_context(listener.accept()[0])
        for one in (a, b):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.setblocking(False)
        if enrolled:
            assert not any(self.enrol(a, b))
        return a, b

    def enrol(self, *ends: socket.socket) -> list[int]:
        """Make both an accelerated pair; what the kernel said of each, negative errnos."""
        cookies = [cookie_of(end) for end in ends]
        wanted = {cookie: AccelWanted(2 * self._slot + side, 1, 0) for side, cookie in enumerate(cookies)}
        results = self.programs.enrol(wanted)
        self.programs.write_pairs({self._slot: AccelPair(1, self.programs.constants["ACCEL_LIVE"], 0)})
        self._slot += 1
        return [results[cookie].error for cookie in cookies]

    def redirected(self) -> int:
        """Messages of the pair that was enrolled last."""
        return sum(self.programs.end(2 * self._slot - 2 + side).sent_messages for side in (0, 1))


@contextmanager
def paired(**sizes: int) -> Iterator[World]:
    """``sizes``: entries of maps, where they are not the package's."""
    obj = BpfObject.named("accel_sockets")
    for name, size in sizes.items():
        obj.resize(name, size)
    with ExitStack() as stack:
        programs = AccelSockets.private(250, obj)
        stack.callback(programs.close)
        yield World(programs, stack)
