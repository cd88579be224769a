# SPDX-License-Identifier: Apache-2.0
"""Call by call: what an accelerated connection answers is what plain TCP answers, or stands here as known.

Each script does the same with a plain pair of sockets and with an enrolled one, and tells what it saw.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
from accelpairs import World, paired

from netaccel.datapath import netlink
from tests.kernels import needs

pytestmark = [
    pytest.mark.root,
    needs.acceleration,
]

DELIVERY = 0.01  # seconds; loopback delivers within the call as a rule
SIOCATMARK, SIOCOUTQ, SIOCOUTQNSD = 0x8905, 0x5411, 0x894B
SO_PEEK_OFF, SO_ZEROCOPY, MSG_ZEROCOPY, TCP_INQ, TCP_ULP = 42, 60, 0x4000000, 36, 31
LINGER_NOW = struct.pack("ii", 1, 0)
EVENTS = {
    getattr(select, name): name
    for name in (
        "POLLIN",
        "POLLOUT",
        "POLLPRI",
        "POLLERR",
        "POLLHUP",
        "POLLRDHUP",
        "POLLRDNORM",
        "POLLRDBAND",
    )
}


class Tale:
    """What calls answered."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Do it; note the result, or the name of the error."""
        try:
            found = function(*arguments)
        except OSError as error:
            found = errno.errorcode[error.errno or 0]
        time.sleep(DELIVERY)
        self.said.append(found)
        return found

    def poll(self, *sockets: socket.socket) -> None:
        """Note what poll(2) says of each."""
        for one in sockets:
            waits = select.poll()
            waits.register(one, sum(EVENTS))
            bits = dict(waits.poll(0)).get(one.fileno(), 0)
            self.said.append(" ".join(name for bit, name in EVENTS.items() if bits & bit))

    def ask(self, one: socket.socket, number: int) -> None:
        """Note what an ioctl says that fills an int."""
        self.call(lambda: struct.unpack("i", fcntl.ioctl(one, number, bytes(4)))[0])


Script = Callable[[Tale, socket.socket, socket.socket], None]


# ------------------------------------------------------------------------- scripts that are the same


def sends(t: Tale, a: socket.socket, b: socket.socket) -> None:
    for size in (1, 0, 2, 1000, 70_000):
        t.call(a.send, b"x" * size)
        t.poll(a, b)
        t.call(b.recv, 1 << 17)
    t.call(a.sendmsg, [b"one", b"", b"two"])
    t.call(a.sendmsg, [])
    t.call(a.sendmsg, [b""])
    t.call(a.send, b"more", socket.MSG_MORE)
    t.call(a.send, b"most", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    t.call(os.write, a.fileno(), b"written")
    t.call(os.writev, a.fileno(), [b"vec", b"tor"])
    t.call(b.recv, 1 << 17)
    t.call(b.recv, 1 << 17)


def receives(t: Tale, a: socket.socket, b: socket.socket) -> None:
    t.call(b.recv, 10)
    for piece in (b"first", b"second", b"third"):
        t.call(a.send, piece)
    t.call(b.recv, 0)
    t.call(b.recv, 3, socket.MSG_PEEK)
    t.call(b.recv, 100, socket.MSG_PEEK)
    t.call(b.recv, 2)
    t.call(b.recv, 5, socket.MSG_WAITALL)
    t.call(b.recv, 1, socket.MSG_DONTWAIT)
    t.call(os.read, b.fileno(), 2)
    parts = [bytearray(2), bytearray(1), bytearray(100)]
    t.call(os.readv, b.fileno(), parts)
    t.said.append([bytes(part) for part in parts])
    t.call(b.recv, 100, socket.MSG_WAITALL)
    t.call(a.send, b"ancillary")
    t.call(b.recvmsg, 100, 100)
    t.call(b.recvmsg, 100, 100)
    t.call(b.recvfrom, 100)
    t.call(a.send, b"from")
    t.call(b.recvfrom, 100)
    t.call(b.recv, 10, socket.MSG_ERRQUEUE)


def counts(t: Tale, a: socket.socket, b: socket.socket) -> None:
    for piece in (b"one", b"three", b""):
        t.call(a.send, piece)
        t.ask(b, termios.FIONREAD)
        t.ask(a, SIOCOUTQ)
        t.ask(a, SIOCOUTQNSD)
        t.ask(b, SIOCATMARK)
    t.call(b.recv, 4)
    t.ask(b, termios.FIONREAD)
    t.call(b.recv, 100)
    t.ask(b, termios.FIONREAD)


def half_close(t: Tale, a: socket.socket, b: socket.socket) -> None:
    t.call(a.send, b"last words")
    t.call(a.shutdown, socket.SHUT_WR)
    t.poll(a, b)
    t.call(a.send, b"too late")
    t.ask(b, termios.FIONREAD)
    t.call(b.recv, 4)
    t.poll(b)
    t.call(b.recv, 100)
    t.call(b.recv, 100)
    t.poll(b)
    t.call(b.send, b"answer")
    t.poll(a)
    t.call(a.recv, 100)
    t.call(a.recv, 100)
    t.call(b.shutdown, socket.SHUT_WR)
    t.poll(a, b)
    t.call(a.recv, 100)
    t.call(b.send, b"too late")
    t.call(a.shutdown, socket.SHUT_RDWR)


def deaf(t: Tale, a: socket.socket, b: socket.socket) -> None:
    """shutdown(SHUT_RD): what is there is read, and what still comes."""
    t.call(a.send, b"before")
    t.call(b.shutdown, socket.SHUT_RD)
    t.poll(b)
    t.call(b.recv, 100)
    t.call(b.recv, 100)
    t.call(a.send, b"after")
    t.poll(a, b)
    t.call(b.recv, 100)
    t.call(b.recv, 100)
    t.call(b.send, b"back")
    t.call(a.recv, 100)


def closes(t: Tale, a: socket.socket, b: socket.socket) -> None:
    t.call(b.send, b"read")
    t.call(a.recv, 100)
    t.call(b.close)
    t.poll(a)
    t.call(a.send, b"to nobody")
    t.poll(a)
    t.call(a.send, b"to nobody")
    t.call(a.recv, 100)
    t.call(a.recv, 100)
    t.poll(a)
    t.call(a.getsockopt, socket.SOL_SOCKET, socket.SO_ERROR)


def reset(t: Tale, a: socket.socket, b: socket.socket) -> None:
    t.call(b.send, b"read")
    t.call(a.recv, 100)
    t.call(b.setsockopt, socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOW)
    t.call(b.close)
    t.poll(a)
    t.call(a.recv, 100)
    t.call(a.recv, 100)
    t.call(a.send, b"to nobody")
    t.poll(a)


def reset_seen_by_error(t: Tale, a: socket.socket, b: socket.socket) -> None:
    t.call(b.setsockopt, socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOW)
    t.call(b.close)
    t.call(a.getsockopt, socket.SOL_SOCKET, socket.SO_ERROR)
    t.call(a.recv, 100)
    t.call(a.send, b"to nobody")


def names(t: Tale, a: socket.socket, b: socket.socket) -> None:
    t.call(a.send, b"warm")
    t.call(b.recv, 10)
    t.said.append([a.getpeername() == b.getsockname(), b.getpeername() == a.getsockname()])
    t.call(a.connect, b.getsockname())
    t.call(a.listen)


OPTIONS = {
    socket.SOL_SOCKET: (
        "SO_RCVBUF", "SO_SNDBUF", "SO_ERROR", "SO_TYPE", "SO_DOMAIN", "SO_PROTOCOL", "SO_KEEPALIVE",
        "SO_LINGER", "SO_RCVLOWAT", "SO_OOBINLINE", "SO_ACCEPTCONN", "SO_PRIORITY", "SO_MARK", "SO_REUSEADDR",
    ),
    socket.IPPROTO_TCP: (
        "TCP_NODELAY", "TCP_CORK", "TCP_KEEPIDLE", "TCP_USER_TIMEOUT", "TCP_QUICKACK",
        "TCP_NOTSENT_LOWAT", "TCP_CONGESTION",
    ),
}  # fmt: skip


def options(t: Tale, a: socket.socket, b: socket.socket) -> None:
    t.call(a.send, b"warm")
    t.call(b.recv, 10)
    for level, known in OPTIONS.items():
        for name in known:
            size = 16 if name == "TCP_CONGESTION" else 8 if name == "SO_LINGER" else 4
            t.said.append(name)
            t.call(a.getsockopt, level, getattr(socket, name), size)
            t.call(b.getsockopt, level, getattr(socket, name), size)
    for name in ("SO_RCVBUF", "SO_SNDBUF", "SO_KEEPALIVE"):
        t.call(a.setsockopt, socket.SOL_SOCKET, getattr(socket, name), 20_000)
        t.call(a.getsockopt, socket.SOL_SOCKET, getattr(socket, name))


def low_water(t: Tale, a: socket.socket, b: socket.socket) -> None:
    t.call(b.setsockopt, socket.SOL_SOCKET, socket.SO_RCVLOWAT, 8)
    t.call(a.send, b"four")
    t.poll(b)
    t.call(a.send, b"more")
    t.poll(b)
    t.call(b.recv, 100)
    t.call(b.setsockopt, socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    t.call(a.send, b"one")
    t.poll(b)
    t.call(b.recv, 100)


def blocking_later(t: Tale, a: socket.socket, b: socket.socket) -> None:
    t.call(a.send, b"before")
    t.call(b.recv, 3)
    os.set_blocking(b.fileno(), True)
    t.call(b.recv, 100)
    t.call(a.send, b"whole" * 4)
    t.call(b.recv, 20, socket.MSG_WAITALL)
    os.set_blocking(b.fileno(), False)
    t.call(a.send, b"after")
    t.call(b.recv, 100)


def urgent(t: Tale, a: socket.socket, b: socket.socket) -> None:
    t.call(a.send, b"before")
    t.call(b.recv, 100)
    t.call(a.send, b"in!", socket.MSG_OOB)
    t.poll(b)
    t.ask(b, SIOCATMARK)
    t.call(b.recv, 1, socket.MSG_OOB)
    t.call(b.recv, 1, socket.MSG_OOB)
    t.call(b.recv, 100)
    t.ask(b, SIOCATMARK)
    t.call(a.send, b"after")
    t.call(b.recv, 100)
    t.call(a.send, b"once more")
    t.call(b.recv, 100)


def fills(t: Tale, a: socket.socket, b: socket.socket) -> None:
    """A reader that stops: the writer is told to wait, in the end, and not a byte is lost."""
    total = 0
    while total < 100 << 20:
        try:
            total += a.send(b"%08d" % (total % 10**8) * 1000)
        except BlockingIOError:
            break
    t.poll(a)
    got = bytearray()
    while len(got) < total:
        select.select([b], [], [], 5)
        got += b.recv(1 << 20)
    t.said.append(len(got) == total)
    t.call(b.recv, 10)
    t.poll(a, b)


def into(t: Tale, a: socket.socket, b: socket.socket) -> None:
    """sendfile(2) and splice(2) into a socket."""
    with tempfile.TemporaryFile() as file, ExitStack() as stack:
        file.write(b"of a file")
        file.flush()
        t.call(os.sendfile, a.fileno(), file.fileno(), 3, 6)
        ends = os.pipe()
        for end in ends:
            stack.callback(os.close, end)
        os.write(ends[1], b"of a pipe")
        t.call(os.splice, ends[0], a.fileno(), 100)
        t.call(b.recv, 100)
        t.call(b.recv, 100)


def tls(t: Tale, a: socket.socket, b: socket.socket) -> None:
    """Refused or not, nothing else changes by asking for a ULP that is not there."""
    t.call(a.send, b"warm")
    t.call(a.setsockopt, socket.IPPROTO_TCP, TCP_ULP, b"none")
    t.call(b.recv, 100)


def reset_unread(t: Tale, a: socket.socket, b: socket.socket) -> None:
    t.call(a.send, b"unread")
    t.call(a.setsockopt, socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOW)
    t.call(a.close)
    t.call(b.recv, 100)
    t.call(b.recv, 100)


SAME: tuple[Script, ...] = (
    sends, receives, counts, half_close, deaf, closes, reset, reset_seen_by_error, names, options, low_water,
    blocking_later, urgent, fills, into, tls, reset_unread,
)  # fmt: skip


# ------------------------------------------------------------------------------- known differences


def closes_unread(t: Tale, a: socket.socket, b: socket.socket) -> None:
    t.call(a.send, b"unread")
    t.call(b.close)
    t.poll(a)
    t.call(a.recv, 100)


def urgent_behind(t: Tale, a: socket.socket, b: socket.socket) -> None:
    t.call(a.send, b"unread")
    t.call(a.send, b"!", socket.MSG_OOB)
    t.call(b.recv, 1, socket.MSG_OOB)


def urgent_without(t: Tale, a: socket.socket, b: socket.socket) -> None:
    t.call(b.recv, 1, socket.MSG_OOB)


def truncating(t: Tale, a: socket.socket, b: socket.socket) -> None:
    t.call(a.send, b"thrown away")
    space = bytearray(11)
    t.call(b.recv_into, space, 11, socket.MSG_TRUNC)
    t.said.append(bytes(space))
    t.call(b.recv, 100)


def truncating_nowhere(t: Tale, a: socket.socket, b: socket.socket) -> None:
    t.call(a.send, b"thrown away")
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.recv(b.fileno(), None, 11, socket.MSG_TRUNC)
    t.said.append(done if done >= 0 else errno.errorcode[ctypes.get_errno()])


def peek_offset(t: Tale, a: socket.socket, b: socket.socket) -> None:
    t.call(b.setsockopt, socket.SOL_SOCKET, SO_PEEK_OFF, 0)
    t.call(a.send, b"abcd")
    t.call(b.recv, 2, socket.MSG_PEEK)
    t.call(b.recv, 2, socket.MSG_PEEK)


def queue_told(t: Tale, a: socket.socket, b: socket.socket) -> None:
    t.call(b.setsockopt, socket.IPPROTO_TCP, TCP_INQ, 1)
    t.call(a.send, b"abcd")
    t.call(b.recvmsg, 3, 100)


def zerocopy_later(t: Tale, a: socket.socket, b: socket.socket) -> None:
    t.call(a.setsockopt, socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    t.call(a.send, b"z" * 20_000, MSG_ZEROCOPY)
    t.call(lambda: len(b.recv(1 << 17)))
    t.poll(a)


class Known(NamedTuple):
    """What a script tells of plain TCP and of an accelerated connection, where it is not the same."""

    script: Script
    plain: list[Any]
    accelerated: list[Any]


ALL_WRONG = "POLLIN POLLOUT POLLERR POLLHUP POLLRDHUP POLLRDNORM"
QUEUE = [(socket.IPPROTO_TCP, TCP_INQ, b"\1\0\0\0")]
KNOWN = (
    # Who closes with redirected bytes unread ends its direction, where TCP resets.
    Known(
        closes_unread,
        [6, None, ALL_WRONG, "ECONNRESET"],
        [6, None, "POLLIN POLLOUT POLLRDHUP POLLRDNORM", b""],
    ),
    # MSG_OOB of recv is not looked at while redirected bytes wait, and finds no urgent byte by another error.
    Known(urgent_behind, [6, 1, b"!"], [6, 1, b"u"]),
    Known(urgent_without, ["EINVAL"], ["EAGAIN"]),
    # MSG_TRUNC takes the bytes away, as it should, but copies them first.
    Known(truncating, [11, 11, bytes(11), "EAGAIN"], [11, 11, b"thrown away", "EAGAIN"]),
    Known(truncating_nowhere, [11, 11], [11, "EFAULT"]),
    Known(peek_offset, [None, 4, b"ab", b"cd"], [None, 4, b"ab", b"ab"]),
    # TCP_INQ's message is not there.
    Known(queue_told, [None, 4, (b"abc", QUEUE, 0, None)], [None, 4, (b"abc", [], 0, None)]),
    # Asked for after it was enrolled, MSG_ZEROCOPY copies, and nobody says that it is done.
    Known(zerocopy_later, [None, 20_000, 20_000, "POLLOUT POLLERR"], [None, 20_000, 20_000, "POLLOUT"]),
)


# -------------------------------------------------------------------------------------------- tests


@pytest.fixture
def world(inside: str) -> Iterator[World]:
    netlink.set_up("lo")
    with paired() as found:
        yield found


FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])


def told(world: World, script: Script, family: int, *, enrolled: bool) -> list[Any]:
    tale = Tale()
    a, b = world.pair(family, enrolled=enrolled)
    script(tale, a, b)
    return [without_ports(one) for one in tale.said]


def without_ports(found: Any) -> Any:
    """Addresses differ in their ports from pair to pair."""
    return found[:-1] if isinstance(found, tuple) and found and isinstance(found[-1], tuple) else found


@FAMILIES
@pytest.mark.parametrize("script", SAME, ids=lambda script: script.__name__)
def test_the_same_as_plain_tcp(world: World, script: Script, family: int) -> None:
    plain = told(world, script, family, enrolled=False)
    assert told(world, script, family, enrolled=True) == plain
    assert world.redirected() or script is reset_seen_by_error


@FAMILIES
@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.script.__name__)
def test_known_differences(world: World, known: Known, family: int) -> None:
    assert told(world, known.script, family, enrolled=False) == known.plain
    assert told(world, known.script, family, enrolled=True) == known.accelerated
