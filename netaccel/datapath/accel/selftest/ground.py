# SPDX-License-Identifier: Apache-2.0
"""Where the self-test takes place: two network namespaces without a name, a veth between, TCP connections.

The thread that makes a :class:`Ground` moves into them and can't come back: give it one of its own. They end
with the thread and its descriptors, whatever becomes of the process, and with them devices and connections.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from netaccel.datapath import libbpf, netlink
from netaccel.errors import DatapathError

_CLONE_NEWNET = 0x40000000
_NEAR, _FAR = "near", "far"
_ADDRESSES = {  # of documentation (RFC 5737, RFC 3849): no frontend has them
    socket.AF_INET: ("192.0.2.1/30", "192.0.2.2/30"),
    socket.AF_INET6: ("2001:db8::1/64", "2001:db8::2/64"),
}
FAMILIES = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}
_NO_FAMILY = {errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES, errno.EPROTONOSUPPORT}
"""A kernel that was started without IPv6, or has it switched off."""
_BUFFER = 16 * 1024
"""SO_SNDBUF and SO_RCVBUF: a socket that nobody reads is full soon."""
_TO_CONNECT = 3.0
"""Seconds: a lost packet is sent again after one."""


class Ends(NamedTuple):
    """A connection; ``near`` opened it. Both ends are non-blocking and send at once (TCP_NODELAY)."""

    near: socket.socket
    far: socket.socket


class Ground:
    """Two namespaces that reach each other; the calling thread is in the near one."""

    def __init__(self, stack: ExitStack) -> None:
        """``stack`` closes what is opened here. DatapathError, OSError."""
        self._stack = stack
        self._near, self._far = self._namespace(), self._namespace()
        with self._inside(self._near):
            # Made here and moved, so that the two have different indexes: where they are equal, the kernel
            # takes up to a second to let packets through (linkwatch_urgent_event).
            netlink.add_veth(_NEAR, _FAR)
            netlink.move(_FAR, f"/proc/self/fd/{self._far}")
        self.families = [family for family in _ADDRESSES if self._add_addresses(family)]
        with self.far():
            netlink.set_up(_FAR)
        libbpf.setns(self._near, _CLONE_NEWNET)
        netlink.set_up(_NEAR)
        self._await_carrier()

    def _await_carrier(self) -> None:
        end = time.monotonic() + _TO_CONNECT
        while not (_is_up(_NEAR) and self._is_far_up()):
            if time.monotonic() > end:
                raise DatapathError("the veth pair of the self-test does not come up")
            time.sleep(0.001)

    def _is_far_up(self) -> bool:
        with self.far():
            return _is_up(_FAR)

    @contextmanager
    def far(self) -> Iterator[None]:
        """Be in the far namespace for a while."""
        with self._inside(self._far):
            yield

    def connect(self, family: int, count: int) -> list[Ends]:
        """Open connections. OSError."""
        address = _ADDRESSES[socket.AddressFamily(family)][1].partition("/")[0]
        with self.far():
            listener = socket.socket(family, socket.SOCK_STREAM)
        with listener:
            _prepare(listener)
            listener.bind((address, 0))
            listener.listen(count)
            listener.settimeout(_TO_CONNECT)
            return [self._connect(family, listener) for _ in range(count)]

    def _connect(self, family: int, listener: socket.socket) -> Ends:
        near = self._stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        _prepare(near)
        near.settimeout(_TO_CONNECT)
        near.connect(listener.getsockname()[:2])
        far = self._stack.enter_context(listener.accept()[0])
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.setblocking(False)
        self._stack.callback(_abort, near, far)
        return Ends(near, far)

    def _namespace(self) -> int:
        """Make one, be in it, and keep it by a descriptor."""
        libbpf.unshare(_CLONE_NEWNET)
        descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._stack.callback(os.close, descriptor)
        return descriptor

    @contextmanager
    def _inside(self, descriptor: int) -> Iterator[None]:
        with netlink.inside_namespace(f"/proc/self/fd/{descriptor}"):
            yield

    def _add_addresses(self, family: int) -> bool:
        near, far = _ADDRESSES[socket.AddressFamily(family)]
        try:
            socket.socket(family, socket.SOCK_STREAM).close()
            with self._inside(self._near):
                netlink.add_address(_NEAR, near)
            with self.far():
                netlink.add_address(_FAR, far)
        except (OSError, DatapathError) as error:
            if family == socket.AF_INET6 and error.errno in _NO_FAMILY:
                return False
            raise
        return True


def _is_up(name: str) -> bool:
    return netlink.device(name).operstate == "UP"


def _prepare(sock: socket.socket) -> None:
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER)


def _abort(*ends: socket.socket) -> None:
    """Close by a reset: no connection outlives the self-test, to wait for an answer."""
    for end in ends:
        if end.fileno() >= 0:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
