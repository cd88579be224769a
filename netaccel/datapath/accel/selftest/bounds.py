# SPDX-License-Identifier: Apache-2.0
"""Trials of what plain TCP has no like of: how much waits at a slow reader, and how a pair leaves."""

from __future__ import annotations

import select

from netaccel.datapath.accel.selftest.wire import SurpriseError, Wire
from netaccel.datapath.accel.sockets import AccelSockets
from netaccel.records import AccelSeen

_PATTERN = bytes(range(251)) * 4200
"""What a slow reader is sent: 1 MB, more than bounds and buffers hold. A prime, so that no part is alike."""
_LARGE = 4096
_SPARE = 64
"""Messages beyond the bound that are sent before a reader's queue is said to have none."""


def slow_reader(small: Wire, large: Wire) -> None:
    """Nobody reads: the queue ends at its bounds, the rest goes by TCP until EAGAIN, and nothing is lost."""
    for wire, size in ((small, 1), (large, _LARGE)):
        sent = _fill(wire, size)
        got = wire.read(wire.far, sent)
        if got != _PATTERN[:sent]:
            raise SurpriseError(f"of {sent} bytes sent to a slow reader {_difference(got, sent)}")
        if not wire.wait(wire.near, select.POLLOUT):
            raise SurpriseError("poll says that a connection is full whose peer read all")
        _greet(wire, redirected=True)


def _fill(wire: Wire, size: int) -> int:
    """Send until there is no room, as poll(2) says too; bytes sent."""
    if wire.sockets is None:
        raise SurpriseError("a plain connection has no bounds")
    most_bytes = wire.sockets.constants["ACCEL_QUEUE_BYTES"]
    most_messages = wire.sockets.constants["ACCEL_QUEUE_MESSAGES"]
    sent, invited = 0, False
    while sent + size <= len(_PATTERN):
        taken = wire.send(wire.near, _PATTERN[sent : sent + size])
        messages, queued = wire.redirected()
        if messages > most_messages + _SPARE or queued > most_bytes + _SPARE * _LARGE:
            raise SurpriseError(
                f"{messages} messages of {size} bytes wait at a slow reader; the bound is {most_messages} "
                f"messages and {most_bytes} bytes"
            )
        if taken == "EAGAIN":
            if "out" not in wire.bits(wire.near).split():
                break
            if invited:
                raise SurpriseError("poll says that a full connection has room")
            invited = True  # on a busy machine acknowledgements come later, and make room
            continue
        if not isinstance(taken, int):
            raise SurpriseError(f"a message to a slow reader: {taken}")
        sent, invited = sent + taken, False
    else:
        raise SurpriseError(f"a sender whose peer reads nothing is not told to wait: {sent} bytes were taken")
    if messages > most_messages or queued > most_bytes:
        raise SurpriseError(f"{messages} messages, {queued} bytes wait at a slow reader: over the bounds")
    if not messages:
        raise SurpriseError("nothing went from socket to socket")
    return sent


def _difference(got: bytes, sent: int) -> str:
    if len(got) != sent:
        return f"{len(got)} came"
    return f"those from {next(i for i in range(sent) if got[i] != _PATTERN[i])} on are others"


def eviction(wire: Wire, mixed: Wire) -> None:
    """A pair that is stopped and drained can be taken out: nothing is lost, and the sockets are plain."""
    sockets = wire.sockets
    if sockets is None:
        raise SurpriseError("a plain connection can't leave")
    wire.send(wire.near, b"unread")
    wire.send(wire.far, b"unread too")
    wire.live(on=False)
    unread = sockets.constants["ACCEL_UNREAD"]
    _expect_flags(wire, sockets, unread, "redirected bytes wait")
    if (wire.read(wire.far, 6), wire.read(wire.near, 10)) != (b"unread", b"unread too"):
        raise SurpriseError("redirected bytes are lost when a pair is stopped")
    _expect_flags(wire, sockets, 0, "all was read")
    _greet(wire, redirected=False)
    with mixed.by_tcp():  # these wait in TCP's queue while the sockets leave
        mixed.send(mixed.near, b"by TCP")
    mixed.arrived(mixed.near)
    mixed.live(on=False)
    for each in (wire, mixed):
        sockets.remove(each.cookies)
        if sockets.members() & set(each.cookies):
            raise SurpriseError("a socket can't be taken out of the map")
        if each is mixed and each.read(each.far, 6) != b"by TCP":
            raise SurpriseError("bytes that went by TCP are lost when a pair leaves")
        _greet(each, redirected=False)
        _expect_plain(each, sockets)


def _greet(wire: Wire, *, redirected: bool) -> None:
    before = wire.redirected()
    for one, other in ((wire.near, wire.far), (wire.far, wire.near)):
        sent, got = wire.send(one, b"greetings"), wire.read(other, 9)
        if (sent, got) != (9, b"greetings"):
            raise SurpriseError(f"a message afterwards: sent {sent!r}, received {got!r}")
    if redirected and wire.redirected() == before:
        raise SurpriseError("messages do not go from socket to socket again once all was read")
    if not redirected and wire.redirected() != before:
        raise SurpriseError("a message of a pair that is stopped went from socket to socket")


def _seen(wire: Wire, sockets: AccelSockets) -> list[AccelSeen]:
    """The near end, as the iterator sees it: it looks at this thread's namespace."""
    found = [seen for seen in sockets.scan(everything=True) if seen.cookie == wire.cookies[0]]
    if not found:
        raise SurpriseError("the iterator does not see a socket")
    return found


def _expect_flags(wire: Wire, sockets: AccelSockets, wanted: int, when: str) -> None:
    unread, busy = sockets.constants["ACCEL_UNREAD"], sockets.constants["ACCEL_BUSY"]
    for seen in _seen(wire, sockets):
        if not seen.flags & sockets.constants["ACCEL_ENROLLED"]:
            raise SurpriseError("the iterator sees an enrolled socket as a plain one")
        if seen.flags & unread != wanted or seen.flags & busy:
            raise SurpriseError(f"the iterator sees flags {seen.flags:#x} when {when}")


def _expect_plain(wire: Wire, sockets: AccelSockets) -> None:
    foreign, enrolled = sockets.constants["ACCEL_FOREIGN"], sockets.constants["ACCEL_ENROLLED"]
    for seen in _seen(wire, sockets):
        if seen.flags & (foreign | enrolled):
            raise SurpriseError(f"a socket that left is not plain: flags {seen.flags:#x}")
