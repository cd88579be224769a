# SPDX-License-Identifier: Apache-2.0
"""The kernel's conntrack table of this thread's network namespace, by ctnetlink or /proc/net/nf_conntrack.

Structures: nfnetlink.h, nfnetlink_conntrack.h, nf_conntrack_common.h and nf_conntrack_tcp.h of
include/uapi/linux/netfilter.
Attributes are in network byte order, netlink's own headers in the host's. Needs CAP_NET_ADMIN.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from netaccel.errors import DatapathError
from netaccel.model.address import IPV4_PREFIX, parse_address

_T = TypeVar("_T")

_NETLINK_NETFILTER = 12
_CT_GET = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_NFGEN = struct.Struct(">BBH")  # struct nfgenmsg: family, version, resource
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
_NUMBER = struct.Struct("=i")  # of an error
_TYPE = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_RECEIVE = 1 << 18

_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _PROTOINFO, _TIMEOUT, _ZONE = 1, 2, 3, 4, 7, 18  # enum ctattr_type
_TUPLE_IP, _TUPLE_PROTO = 1, 2  # enum ctattr_tuple
_TCP = 1  # CTA_PROTOINFO_TCP and, in it, CTA_PROTOINFO_TCP_STATE
_PROTOCOLS = {"tcp": int(socket.IPPROTO_TCP), "udp": int(socket.IPPROTO_UDP)}

SEEN_REPLY = 1 << 1
"""Bit of a status: both ways have carried packets (IPS_SEEN_REPLY)."""
TCP_STATES = (
    *("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT"),
    *("CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"),
)
"""Names by number (enum tcp_conntrack)."""

PROC = Path("/proc/thread-self/net/nf_conntrack")
_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")


class Way(NamedTuple):
    """Addresses (16-byte form) and ports (host order) of packets in one direction."""

    src: bytes
    dst: bytes
    sport: int
    dport: int

    @property
    def answer(self) -> Way:
        """The way of packets that answer these."""
        return Way(self.dst, self.src, self.dport, self.sport)


class Connection(NamedTuple):
    """One TCP or UDP entry. Its translation is what ``reply`` differs by from ``original.answer``."""

    proto: int
    original: Way
    reply: Way
    status: int
    """Bits of enum ip_conntrack_status."""
    left: int
    """Seconds without a packet until the kernel forgets it."""
    state: str
    """One of TCP_STATES; "" for UDP."""

    @property
    def translated(self) -> bool:
        """Whether packets leave other than they came."""
        return self.reply != self.original.answer


Place = tuple[bytes, int, int]
"""Address (16-byte form), port and protocol."""


class _Everything:
    def __contains__(self, place: object) -> bool:
        return True


EVERYTHING: Container[Place] = _Everything()


def count() -> int:
    """Entries of this namespace; 0 where the kernel has no conntrack, or not loaded it."""
    try:
        return int(_COUNT.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def read(wanted: Container[Place] = EVERYTHING) -> list[Connection]:
    """TCP and UDP entries one of whose two ways goes to a wanted place; of zone 0 alone.

    DatapathError where there are entries and neither way of reading them works.
    """
    return _by_either(list, wanted) if count() else []


def has_translated() -> bool:
    """Whether there is an entry that netfilter's NAT translates. DatapathError as :func:`read`."""
    return bool(count()) and _by_either(lambda entries: any(e.translated for e in entries), EVERYTHING)


def _by_either(use: Callable[[Iterator[Connection]], _T], wanted: Container[Place]) -> _T:
    try:
        return use(_dump(wanted))
    except OSError as error:
        try:
            return use(_parse_file(wanted))
        except OSError:  # also where the kernel has no such file: what netlink said is the reason
            raise DatapathError(
                f"the kernel's conntrack can't be read: {error.strerror}: it takes CAP_NET_ADMIN and"
                " the module nf_conntrack_netlink, or /proc/net/nf_conntrack",
                error.errno or 0,
            ) from error


# ------------------------------------------------------------------ netlink


def _dump(wanted: Container[Place]) -> Iterator[Connection]:
    length = _HEADER.size + _NFGEN.size
    request = _HEADER.pack(length, _CT_GET, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + _NFGEN.pack(0, 0, 0)
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
    ) as netlink:
        netlink.settimeout(10)
        netlink.bind((0, 0))
        netlink.send(request)
        while True:
            data = netlink.recv(_RECEIVE)
            yield from parse(data, wanted)
            if _is_last(data):
                return


def _is_last(data: bytes) -> bool:
    """Whether the dump ends here. OSError where it ends by an error."""
    for at, length, kind in _messages(data):
        if kind in (_NLMSG_ERROR, _NLMSG_DONE):
            number = -_NUMBER.unpack_from(data, at)[0] if length >= _NUMBER.size else 0
            if number > 0:
                raise OSError(number, os.strerror(number))
            return True
    return False


def _messages(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Where each message's body is, its length, its type."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
        yield at + _HEADER.size, length - _HEADER.size, kind
        at += (length + 3) & ~3


def parse(data: bytes, wanted: Container[Place] = EVERYTHING) -> Iterator[Connection]:
    """The wanted entries in one buffer of a dump. OSError (EBADMSG) where a message is cut."""
    for at, length, kind in _messages(data):
        if kind in (_NLMSG_ERROR, _NLMSG_DONE):
            return
        found = _entry(data, at + _NFGEN.size, at + length, wanted)
        if found:
            yield found


def _entry(data: bytes, start: int, end: int, wanted: Container[Place]) -> Connection | None:
    at, original, proto = _way(data, start, end, _TUPLE_ORIG)
    if original is None:
        return None
    at, reply, _ = _way(data, at, end, _TUPLE_REPLY)
    if reply is None:
        return None
    if (original.dst, original.dport, proto) not in wanted and (reply.dst, reply.dport, proto) not in wanted:
        return None
    status = left = 0
    state = ""
    for kind, begin, stop in _attributes(data, at, end):
        if kind == _STATUS:
            status = int.from_bytes(data[begin:stop], "big")
        elif kind == _TIMEOUT:
            left = int.from_bytes(data[begin:stop], "big")
        elif kind == _PROTOINFO:
            state = _tcp_state(data, begin, stop)
        elif kind == _ZONE and any(data[begin:stop]):
            return None
    return Connection(proto, original, reply, status, left, state)


def _attributes(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Type, start and end of each attribute's content."""
    while at + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size or at + length > end:
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
        yield kind & _TYPE, at + _ATTRIBUTE.size, at + length
        at += (length + 3) & ~3


def _shape(address: int) -> struct.Struct:
    """A whole tuple as the kernel writes it: headers (length, type) between address and port fields."""
    return struct.Struct(f"=HHHHHH{address}sHH{address}sHHHHB3xHH2s2xHH2s2x")


# The kernel writes tuples in one order (net/netfilter/nf_conntrack_netlink.c, ctnetlink_dump_tuples), so they
# are read by one call where they have this shape: a table may hold 100,000.
_SHAPES = {52: (_shape(4), IPV4_PREFIX), 76: (_shape(16), b"")}


def _way(data: bytes, at: int, end: int, wanted: int) -> tuple[int, Way | None, int]:
    """The tuple at ``at``: where the next attribute is, its way and protocol; None: not TCP or UDP."""
    length = _ATTRIBUTE.unpack_from(data, at)[0] if at + _ATTRIBUTE.size <= end else 0
    shape = _SHAPES.get(length)
    if shape and at + length <= end:
        layout, prefix = shape
        field = layout.unpack_from(data, at)
        headers = (field[1], field[3], field[5], field[8], field[11], field[13], field[16], field[19])
        if [kind & _TYPE for kind in headers] == [wanted, 1, *_ADDRESSES[length], 2, 1, 2, 3]:
            way = Way(prefix + field[6], prefix + field[9], _port(field[17]), _port(field[20]))
            return at + length, way if field[14] in _PROTOCOLS.values() else None, field[14]
    return _way_of_any_shape(data, at, end, wanted)


_ADDRESSES = {52: (1, 2), 76: (3, 4)}  # CTA_IP_V4_SRC, ..._DST, CTA_IP_V6_SRC, ..._DST


def _way_of_any_shape(data: bytes, at: int, end: int, wanted: int) -> tuple[int, Way | None, int]:
    for kind, begin, stop in _attributes(data, at, end):
        if kind != wanted:
            break
        parts = {part: (b, e) for part, b, e in _attributes(data, begin, stop)}
        if parts.keys() != {_TUPLE_IP, _TUPLE_PROTO}:  # a zone for one direction, or not a tuple
            return end, None, 0
        ip = {part: data[b:e] for part, b, e in _attributes(data, *parts[_TUPLE_IP])}
        proto = {part: data[b:e] for part, b, e in _attributes(data, *parts[_TUPLE_PROTO])}
        number = proto.get(1, b"\0")[0]
        if number not in _PROTOCOLS.values() or not {2, 3} <= proto.keys():
            return end, None, 0
        src, dst = (ip.get(part) for part in ((1, 2) if 1 in ip else (3, 4)))
        if src is None or dst is None:
            return end, None, 0
        prefix = IPV4_PREFIX if len(src) == 4 else b""
        way = Way(prefix + src, prefix + dst, _port(proto[2]), _port(proto[3]))
        return (stop + 3) & ~3, way, number
    return end, None, 0


def _port(raw: bytes) -> int:
    return int.from_bytes(raw, "big")


def _tcp_state(data: bytes, at: int, end: int) -> str:
    for kind, begin, stop in _attributes(data, at, end):
        if kind == _TCP:
            for inner, where, _ in _attributes(data, begin, stop):
                if inner == _TCP and data[where] < len(TCP_STATES):
                    return TCP_STATES[data[where]]
    return ""


# --------------------------------------------------------------------- proc


def _parse_file(wanted: Container[Place]) -> Iterator[Connection]:
    with PROC.open(encoding="ascii") as lines:
        for line in lines:
            found = parse_line(line, wanted)
            if found:
                yield found


def parse_line(line: str, wanted: Container[Place] = EVERYTHING) -> Connection | None:
    """One line of /proc/net/nf_conntrack; None where it is not wanted, not TCP or UDP, or of another zone."""
    words = line.split()
    if len(words) < 5 or words[2] not in _PROTOCOLS:
        return None
    proto, left = _PROTOCOLS[words[2]], int(words[4]) if words[4].isdigit() else 0
    state = words[5] if proto == _PROTOCOLS["tcp"] and words[5] in TCP_STATES else ""
    values: dict[str, list[str]] = {}
    for name, _, value in (word.partition("=") for word in words):
        values.setdefault(name, []).append(value)
    if values.get("zone", ["0"]) != ["0"] or len(values.get("dport", ())) != 2:
        return None
    original, reply = (
        Way(
            bytes(parse_address(values["src"][i])),
            bytes(parse_address(values["dst"][i])),
            int(values["sport"][i]),
            int(values["dport"][i]),
        )
        for i in (0, 1)
    )
    if (original.dst, original.dport, proto) not in wanted and (reply.dst, reply.dport, proto) not in wanted:
        return None
    status = 0 if "[UNREPLIED]" in words else SEEN_REPLY
    return Connection(proto, original, reply, status, left, state)
