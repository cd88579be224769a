# SPDX-License-Identifier: Apache-2.0
"""Trials that do the same on a plain and on an accelerated connection, and tell what they saw.

Plain TCP is the judge: each is a generator of (what was done, what came of it), and the two tales must be
equal. That what is compared went from socket to socket at all is looked at by who runs them.
"""

from __future__ import annotations

import os
import random
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

from netaccel.datapath.accel.selftest.wire import STEP, Wire, name_of, until

Tale = Iterator[tuple[str, object]]

_TO_SPLICE = 0.1
"""Seconds for a splice of what poll(2) says is there; short, since kernels are known that fail it."""
_FILE = 300_000
_MIXED = 200
"""Messages of the mix of ways."""


def order(wire: Wire) -> Tale:
    """Some messages go by TCP, some don't: read in the order in which they were sent, by either end."""
    for one, other in ((wire.near, wire.far), (wire.far, wire.near)):
        with wire.by_tcp():
            wire.send(one, b"first.")
        wire.send(one, b"second.")
        wire.arrived(one)
        yield "a message after one that went by TCP", wire.read(other, 13)
        wire.send(one, b"third.")
        wire.send(one, b"fourth.")
        with wire.by_tcp():
            wire.send(one, b"fifth.")
        wire.arrived(one)
        wire.send(one, b"sixth.")
        wire.arrived(one)
        yield "by socket, by TCP and again", wire.read(other, 25, part=4)
        yield "and no more", wire.recv(other, 1)
        yield f"{_MIXED} messages, mixed", _mixed(wire, one, other)


def _mixed(wire: Wire, one: socket.socket, other: socket.socket) -> bool:
    chance = random.Random(6)
    sent, got = bytearray(), bytearray()
    for _ in range(_MIXED):
        wire.live(on=chance.random() < 0.7)
        data = chance.randbytes(chance.randrange(1, 900))
        taken = wire.send(one, data)
        sent += data[: taken if isinstance(taken, int) else 0]
        if chance.random() < 0.5:
            found = wire.recv(other, chance.randrange(1, 3000))
            got += found if isinstance(found, bytes) else b""
    wire.live(on=True)
    got += wire.read(other, len(sent) - len(got))
    return got == sent


def fionread(wire: Wire) -> Tale:
    """Programs size their reads by FIONREAD, or read until it says 0."""
    for one, other in ((wire.near, wire.far), (wire.far, wire.near)):
        wire.send(one, bytes(100))
        wire.send(one, bytes(23))
        until(lambda other=other: wire.unread(other) == 123)  # type: ignore[misc]
        yield "FIONREAD after messages of 100 and 23 bytes", wire.unread(other)
        yield "FIONREAD at their sender", wire.unread(one)
        yield "a read of 50", len(wire.recv(other, 50))
        yield "FIONREAD after a read of 50", wire.unread(other)
        yield "a read of the rest", len(wire.read(other, 73))
        yield "FIONREAD after a read of all", wire.unread(other)


def fionread_of_tcp(wire: Wire) -> Tale:
    """What goes by TCP in between is counted too, sooner or later: 0 means to programs that nothing is there.

    Not so from kernel 6.6.128, 6.12.75, 6.18.14 and 6.19 on, until "without a verdict program, count both".
    """
    for one, other in ((wire.near, wire.far), (wire.far, wire.near)):
        with wire.by_tcp():
            wire.send(one, bytes(30))
        wire.arrived(one)
        yield "FIONREAD of 30 bytes by TCP", wire.unread(other)
        yield "a read of 10", len(wire.recv(other, 10))
        yield "reads of what FIONREAD says", _read_by_count(wire, other)
        wire.send(one, bytes(40))
        with wire.by_tcp():
            wire.send(one, bytes(5))
        wire.arrived(one)
        yield "the same with some from socket to socket", _read_by_count(wire, other)


def _read_by_count(wire: Wire, end: socket.socket) -> int:
    total = 0
    while count := wire.unread(end):
        found = wire.recv(end, count)
        if not isinstance(found, bytes) or len(found) != count:
            break
        total += count
    return total


def peek(wire: Wire) -> Tale:
    """MSG_PEEK, and reads into several buffers."""
    wire.send(wire.near, b"first.")
    wire.send(wire.near, b"second.")
    wire.arrived(wire.near)
    wire.wait(wire.far, select.POLLIN)
    yield "MSG_PEEK of 4", wire.recv(wire.far, 4, socket.MSG_PEEK)
    yield "MSG_PEEK of 100", wire.recv(wire.far, 100, socket.MSG_PEEK)
    yield "a read of 3", wire.recv(wire.far, 3)
    yield "MSG_PEEK after it", wire.recv(wire.far, 100, socket.MSG_PEEK)
    parts = [bytearray(2), bytearray(5), bytearray(10)]
    yield "a read into buffers of 2, 5 and 10", (wire.far.recvmsg_into(parts)[0], parts)
    yield "MSG_PEEK of nothing", wire.recv(wire.far, 1, socket.MSG_PEEK)


def poll(wire: Wire) -> Tale:
    """What poll says, and epoll by level and by edge."""
    with select.epoll() as level, select.epoll() as edge:
        level.register(wire.far, select.EPOLLIN | select.EPOLLRDHUP)
        edge.register(wire.far, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        yield "poll of an empty connection", (wire.bits(wire.near), wire.bits(wire.far))
        yield "epoll of it", (_events(level, 0), _events(edge, 0))
        for when in ("after a message", "after a second one"):
            wire.send(wire.near, b"message")
            yield f"an edge {when}", _events(edge, 1)
            yield f"the level {when}", _events(level, 0)
            yield f"poll {when}", (wire.bits(wire.near), wire.bits(wire.far))
            wire.arrived(wire.near)
            yield f"no edge without news {when}", _events(edge, 0)
        with wire.by_tcp():
            wire.send(wire.near, b"message")
        wire.arrived(wire.near)
        yield "an edge after a message by TCP", _events(edge, 1)
        yield "a read of a part", wire.recv(wire.far, 3)
        yield "the level after it", _events(level, 0)
        yield "a read of the rest", wire.read(wire.far, 18)
        yield "the level after all", _events(level, 0)
        yield "poll after all", wire.bits(wire.far)
        wire.send(wire.near, b"again")
        yield "an edge after a message again", _events(edge, 1)
        yield "a read of it", wire.read(wire.far, 5)
        with wire.by_tcp():
            wire.send(wire.near, b"by TCP")
        yield "an edge after one by TCP alone", _events(edge, 1)
        yield "the level after it", _events(level, 0)
        yield "poll after it", wire.bits(wire.far)
        yield "a read of that", wire.read(wire.far, 6)
        yield "poll at the end", wire.bits(wire.far)


def _events(epoll: select.epoll, seconds: float) -> list[int]:
    return [bits for _, bits in epoll.poll(seconds)]


def splice(wire: Wire) -> Tale:
    """Bytes go from a socket into a pipe, as proxies do it."""
    wire.send(wire.near, b"spliced")
    yield "poll says that bytes are there", wire.wait(wire.far, select.POLLIN)
    with _pipe() as (out, into):
        yield "splice from the socket", _splice(wire.far.fileno(), into) and os.read(out, 100)
    yield "nothing is left to read", wire.recv(wire.far, 100)


def splice_into(wire: Wire) -> Tale:
    """Bytes go from a pipe, and from a file, into a socket."""
    with _pipe() as (out, into):
        os.write(into, b"from a pipe.")
        yield "splice into the socket", _splice(out, wire.near.fileno())
    yield "what was spliced", wire.read(wire.far, 12)
    file = os.memfd_create("selftest")
    try:
        os.write(file, b"from a file.")
        yield "sendfile into the socket", os.sendfile(wire.near.fileno(), file, 5, 7)
    finally:
        os.close(file)
    yield "what was sent", wire.read(wire.far, 7)
    yield f"a file of {_FILE} bytes", _send_file(wire)


def _send_file(wire: Wire) -> bool:
    """Whether a file arrives whole that does not fit into the connection at once."""
    data = random.Random(6).randbytes(_FILE)
    file = os.memfd_create("selftest")
    sent, got, end = 0, b"", time.monotonic() + STEP
    try:
        os.write(file, data)
        while len(got) < _FILE and time.monotonic() < end:
            if sent < _FILE and wire.wait(wire.near, select.POLLOUT):
                with suppress(BlockingIOError):
                    sent += os.sendfile(wire.near.fileno(), file, sent, _FILE - sent)
            got += wire.read(wire.far, sent - len(got), part=7000)
    finally:
        os.close(file)
    return got == data


def _splice(source: int, target: int) -> int:
    """Bytes, 0 where nothing could be spliced."""
    end = time.monotonic() + _TO_SPLICE
    while True:
        late = time.monotonic() > end
        try:
            return os.splice(source, target, 100, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            if late:
                return 0
            time.sleep(_TO_SPLICE / 20)


def _pipe() -> _Pipe:
    return _Pipe()


class _Pipe(ExitStack):
    """Its two descriptors, closed at the end."""

    def __enter__(self) -> tuple[int, int]:  # type: ignore[override]
        ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for end in ends:
            self.callback(os.close, end)
        return ends


def errors(wire: Wire, closed: Wire, reset: Wire) -> Tale:
    """What calls say that can't do what was asked."""
    yield "a read of nothing", wire.recv(wire.near, 1)
    yield "an empty message", wire.send(wire.near, b"")
    for each in (wire, closed, reset):
        each.send(each.near, b"hello")
        each.send(each.far, b"howdy")
        yield "greetings", (each.read(each.near, 5), each.read(each.far, 5))
    wire.near.shutdown(socket.SHUT_WR)
    yield "a message after shutdown", wire.send(wire.near, b"late")
    closed.far.close()
    closed.wait(closed.near, select.POLLIN)
    yield "poll after the peer's close", closed.bits(closed.near)
    yield "a read after the peer's close", closed.recv(closed.near, 1)
    yield "a message after the peer's close", closed.send(closed.near, b"late")
    closed.wait(closed.near, 0)
    yield "poll after the peer refused it", closed.bits(closed.near)
    yield "the next message", closed.send(closed.near, b"later")
    yield "a read then", closed.recv(closed.near, 1)
    reset.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reset.far.close()
    reset.wait(reset.near, 0)
    yield "poll after a reset", reset.bits(reset.near)
    yield "a read after a reset", reset.recv(reset.near, 1)
    yield "the next read", reset.recv(reset.near, 1)
    yield "a message after a reset", reset.send(reset.near, b"late")


def half_close(wire: Wire, reverse: Wire) -> Tale:
    """One end says that it sends no more, and goes on reading; then the other. By whom, is no matter."""
    for each, one, other in ((wire, wire.near, wire.far), (reverse, reverse.far, reverse.near)):
        each.send(one, b"question")
        one.shutdown(socket.SHUT_WR)
        each.wait(other, select.POLLRDHUP)
        yield "poll with bytes and the end there", each.bits(other)
        yield "the bytes before the end", each.read(other, 8, part=3)
        yield "the end", each.recv(other, 1)
        yield "a message after it", each.send(one, b"too late")
        yield "nothing comes after it", each.recv(other, 1)
        yield "an answer", each.send(other, b"answer")
        yield "the answer", each.read(one, 6)
        yield "no end yet", each.recv(one, 1)
        each.send(other, b"last")
        other.shutdown(socket.SHUT_WR)
        each.wait(one, select.POLLHUP)
        yield "poll at the other end", each.bits(one)
        yield "its last bytes", each.read(one, 100)


def urgent(wire: Wire, inline: Wire) -> Tale:
    """MSG_OOB arrives as urgent data, at its place among the others.

    The reader has read what was sent before, or reads that first. One that asks for the urgent byte, or where
    its mark is, while redirected bytes wait, is told wrong by every kernel so far (docs/acceleration.md).
    """
    inline.far.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    for each in (wire, inline):
        for send in (_send_oob, _sendmsg_oob):
            for first in (True, False):
                each.send(each.near, b"before.")
                if first:
                    yield "bytes before an urgent one", each.read(each.far, 7)
                yield "an urgent byte", send(each, b"!")
                each.arrived(each.near)
                each.wait(each.far, select.POLLPRI)
                yield "poll with an urgent byte there", each.bits(each.far)
                each.send(each.near, b"after.")
                each.arrived(each.near)
                if not first:
                    yield "bytes before the urgent one", each.read(each.far, 7)
                yield "at the mark", each.at_mark(each.far)
                yield "the urgent byte", each.recv(each.far, 1, socket.MSG_OOB)
                yield "the bytes after it", each.recv(each.far, 100)
                yield "no mark any more", each.at_mark(each.far)
                yield "and no more", each.recv(each.far, 100)


def _send_oob(wire: Wire, data: bytes) -> int | str:
    return wire.send(wire.near, data, socket.MSG_OOB)


def _sendmsg_oob(wire: Wire, data: bytes) -> int | str:
    try:
        return wire.near.sendmsg([data], (), socket.MSG_OOB)
    except OSError as error:
        return name_of(error)


def close(wire: Wire, unread: Wire) -> Tale:
    """An end is closed while bytes wait to be read: by who sent them, and by who never read them."""
    wire.send(wire.near, b"the last ")
    wire.send(wire.near, b"words")
    wire.near.close()
    wire.wait(wire.far, select.POLLRDHUP)
    yield "poll with bytes and the end there", wire.bits(wire.far)
    yield "what a closed peer had sent", wire.read(wire.far, 14, part=4)
    yield "the end", wire.recv(wire.far, 1)
    unread.send(unread.near, b"never read")
    unread.arrived(unread.near)
    unread.far.close()
    # TCP resets here; accelerated, the peer may see an end first (docs/acceleration.md).
    yield "the peer's close is seen", unread.wait(unread.near, select.POLLIN | select.POLLRDHUP)
    failed = until(lambda: unread.send(unread.near, b"late") in {"EPIPE", "ECONNRESET"})
    yield "messages to nobody fail", failed
