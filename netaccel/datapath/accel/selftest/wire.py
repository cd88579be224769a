# SPDX-License-Identifier: Apache-2.0
"""A connection as trials use it: calls that never wait without end, and tell what came of them."""

from __future__ import annotations

import errno
import fcntl
import select
import socket
import struct
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from netaccel.datapath.accel.selftest.ground import Ends
from netaccel.datapath.accel.sockets import AccelSockets
from netaccel.records import AccelPair

STEP = 0.5
"""Seconds that a trial waits for one thing that ought to be there at once."""
_PAUSE = 0.0005

GENERATION = 1
"""Of every slot."""

_SIOCATMARK = 0x8905
_SO_COOKIE = 57  # include/uapi/asm-generic/socket.h
_BITS = {
    select.POLLIN: "in",
    select.POLLOUT: "out",
    select.POLLPRI: "pri",
    select.POLLERR: "err",
    select.POLLHUP: "hup",
    select.POLLRDHUP: "rdhup",
}
# struct tcp_info of linux/tcp.h
_BYTES_RECEIVED, _NOT_SENT, _BYTES_SENT, _BYTES_RETRANS = (
    struct.Struct(form) for form in ("=128xQ", "=144xI", "=200xQ", "=208xQ")
)
_TCP_INFO_SIZE = 256


class SurpriseError(Exception):
    """What a trial saw is not what it ought to be; the text says both."""


def name_of(error: OSError) -> str:
    """``EAGAIN`` for BlockingIOError."""
    return errno.errorcode.get(error.errno or 0, str(error.errno))


class Wire:
    """A connection, accelerated or plain. Calls give what the kernel gave, or the name of its errno."""

    def __init__(self, ends: Ends, sockets: AccelSockets | None = None, slot: int = 0) -> None:
        """``sockets``: where its ends are to be enrolled, under ``slot``; None: a plain connection."""
        self.near, self.far = ends
        self.sockets = sockets
        self.slot = slot
        self.cookies = tuple(
            struct.unpack("=Q", end.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))[0] for end in ends
        )

    # ---------------------------------------------------------------- its pair

    def live(self, *, on: bool) -> None:
        """Let messages go from socket to socket, or by TCP; a plain connection goes by TCP anyway."""
        if self.sockets:
            state = self.sockets.constants["ACCEL_LIVE" if on else "ACCEL_STOPPED"]
            self.sockets.write_pairs({self.slot: AccelPair(generation=GENERATION, state=state, revision=0)})

    @contextmanager
    def by_tcp(self) -> Iterator[None]:
        """What is sent meanwhile goes by TCP."""
        self.live(on=False)
        yield
        self.live(on=True)

    def redirected(self) -> tuple[int, int]:
        """Messages and bytes that went from socket to socket, both ways together."""
        if not self.sockets:
            return 0, 0
        ends = [self.sockets.end(2 * self.slot + side) for side in (0, 1)]
        return sum(end.sent_messages for end in ends), sum(end.sent_bytes for end in ends)

    # ------------------------------------------------------------------- calls

    def send(self, end: socket.socket, data: bytes, flags: int = 0) -> int | str:
        """Bytes that were taken, without waiting for room."""
        try:
            return end.send(data, flags)
        except OSError as error:
            return name_of(error)

    def recv(self, end: socket.socket, size: int, flags: int = 0) -> bytes | str:
        """What is there, without waiting."""
        try:
            return end.recv(size, flags)
        except OSError as error:
            return name_of(error)

    def read(self, end: socket.socket, size: int, part: int = 1 << 16) -> bytes:
        """``size`` bytes, in reads of ``part``; fewer where the end or an error came, or nothing for long."""
        data = b""
        while len(data) < size:
            found = self.recv(end, min(part, size - len(data)))
            if isinstance(found, bytes) and found:
                data += found
            elif found != "EAGAIN" or not self.wait(end, select.POLLIN):
                break
        return data

    def bits(self, end: socket.socket) -> str:
        """What poll(2) says now, as ``in out``."""
        poll = select.poll()
        poll.register(end, select.POLLIN | select.POLLOUT | select.POLLPRI | select.POLLRDHUP)
        found = poll.poll(0)
        return " ".join(name for bit, name in _BITS.items() if found and found[0][1] & bit)

    def wait(self, end: socket.socket, bits: int) -> bool:
        """Until poll(2) says one of these (or an error), not longer than a step."""
        poll = select.poll()
        poll.register(end, bits)
        return bool(poll.poll(STEP * 1000))

    def unread(self, end: socket.socket) -> int:
        """FIONREAD: bytes that can be read."""
        return int(struct.unpack("i", fcntl.ioctl(end, termios.FIONREAD, bytes(4)))[0])

    def at_mark(self, end: socket.socket) -> bool:
        """Whether what is read next came after the urgent byte."""
        return bool(struct.unpack("i", fcntl.ioctl(end, _SIOCATMARK, bytes(4)))[0])

    def arrived(self, end: socket.socket) -> None:
        """Wait until all that this end sent by TCP is in the other's queue."""
        other = self.far if end is self.near else self.near

        def is_there() -> bool:
            sent, there = _tcp_info(end), _tcp_info(other)
            there_bytes = _BYTES_RECEIVED.unpack_from(there)[0]
            if _NOT_SENT.unpack_from(sent)[0]:
                return False
            return bool(there_bytes >= _BYTES_SENT.unpack_from(sent)[0] - _BYTES_RETRANS.unpack_from(sent)[0])

        if not until(is_there):
            raise SurpriseError("bytes sent by TCP do not arrive")


def until(true: Callable[[], bool]) -> bool:
    """Ask again and again, for a step. It is asked after the last pause too: a step may be short of CPU."""
    end = time.monotonic() + STEP
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(_PAUSE)
    return true()


def _tcp_info(end: socket.socket) -> bytes:
    return end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
