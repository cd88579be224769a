# SPDX-License-Identifier: Apache-2.0
"""Questions to the kernel by netlink(7), and its answers, as bytes: for rtnetlink and netfilter.

Functions ask in the calling thread's network namespace. DatapathError where the kernel refuses.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

from netaccel.errors import DatapathError

NETFILTER = 12  # NETLINK_NETFILTER
ATTRIBUTE = struct.Struct("=HH")
"""Struct nlattr: length, type."""

_SOL_NETLINK, _NETLINK_GET_STRICT_CHK = 270, 12  # linux/netlink.h: filters are obeyed, from kernel 4.20
_REQUEST, _DUMP = 1, 0x300  # NLM_F_REQUEST, NLM_F_DUMP
_DUMP_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: what was listed changed meanwhile
_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_S32 = struct.Struct("=i")
_TYPE = 0x3FFF  # of an attribute, without the flags for nesting and byte order
_RECEIVE = 1 << 17
_TRIES = 5

Attributes = dict[int, bytes]


def dump(what: str, kind: int, request: bytes, protocol: int = socket.NETLINK_ROUTE) -> list[bytes]:
    """Bodies of all messages of one dump; again where the kernel says that it was not consistent."""
    return _ask(what, kind, request, _DUMP, protocol)


def ask(what: str, kind: int, request: bytes, protocol: int = socket.NETLINK_ROUTE) -> list[bytes]:
    """The body of one answer, in a list."""
    return _ask(what, kind, request, 0, protocol)


def attributes_of(data: bytes, at: int) -> Attributes:
    """Attributes from an offset on, by type; of several with one type the last."""
    return dict(each_attribute(data, at))


def each_attribute(data: bytes, at: int = 0) -> Iterator[tuple[int, bytes]]:
    """Attributes from an offset on: type and content."""
    while at + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, at)
        yield kind & _TYPE, data[at + ATTRIBUTE.size : at + length]
        at += max(ATTRIBUTE.size, (length + 3) & ~3)


def _ask(what: str, kind: int, request: bytes, flags: int, protocol: int) -> list[bytes]:
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as feed:
            feed.settimeout(10)
            feed.bind((0, 0))
            feed.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
            for sequence in range(1, _TRIES + 1):
                length = _HEADER.size + len(request)
                feed.send(_HEADER.pack(length, kind, _REQUEST | flags, sequence, 0) + request)
                bodies, whole = _answer(feed, sequence, many=bool(flags))
                if whole:
                    break
            return bodies
    except OSError as error:
        raise DatapathError(f"{what}: {error.strerror or error}", error.errno or 0) from error


def _answer(feed: socket.socket, sequence: int, *, many: bool) -> tuple[list[bytes], bool]:
    """Bodies up to the end of an answer, and whether nothing changed meanwhile. OSError."""
    bodies: list[bytes] = []
    whole = True
    while True:
        data = feed.recv(_RECEIVE)
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, flags, number, _ = _HEADER.unpack_from(data, at)
            body = data[at + _HEADER.size : at + length]
            at += max(_HEADER.size, (length + 3) & ~3)
            if number != sequence:
                continue
            whole = whole and not flags & _DUMP_INTERRUPTED
            if kind in (_ERROR, _DONE):
                code = -_S32.unpack_from(body)[0] if len(body) >= _S32.size else 0
                if code > 0:
                    raise OSError(code, os.strerror(code))
                return bodies, whole
            bodies.append(body)
            if not many:
                return bodies, True
