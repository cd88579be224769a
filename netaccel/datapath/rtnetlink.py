# SPDX-License-Identifier: Apache-2.0
"""Devices, addresses, routes and neighbours, read from the kernel without a library between (rtnetlink(7)).

A dump takes less than a millisecond, so that an agent can look at a device as soon as it is told of it.
Functions look at the calling thread's network namespace, :func:`addresses` at others' too. They raise
DatapathError where the kernel refuses.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from netaccel.datapath.abi import V4_MAPPED
from netaccel.errors import DatapathError

_SOL_NETLINK, _NETLINK_GET_STRICT_CHK = 270, 12  # linux/netlink.h: filters are obeyed, from kernel 4.20
_REQUEST, _DUMP = 1, 0x300  # NLM_F_REQUEST, NLM_F_DUMP
_DUMP_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: what was listed changed meanwhile
_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
_GETLINK, _GETADDR, _GETROUTE, _GETNEIGH, _GETQDISC = 18, 22, 26, 30, 38  # linux/rtnetlink.h
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr: length, type
_TYPE = 0x3FFF  # of an attribute, without the flags for nesting and byte order
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_ADDR = struct.Struct("=BBBBi")  # struct ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, dst_len, ..., [4] table, [7] type, flags
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # struct ndmsg: family, index, state, flags, type
_TRAFFIC = struct.Struct("=BxxxiIII")  # struct tcmsg: family, index, handle, parent, info
_HOP = struct.Struct("=HBBi")  # struct rtnexthop: length, flags, hops, index
_U32 = struct.Struct("=I")
_S32 = struct.Struct("=i")
# linux/if_link.h, if_addr.h, rtnetlink.h, neighbour.h
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_OPERSTATE, _IFLA_LINKINFO, _IFLA_EXT_MASK, _IFLA_LINK_NETNSID, _IFLA_INFO_KIND = 16, 18, 29, 37, 1
_RTEXT_FILTER_SKIP_STATS = 8
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS, _IFA_TARGET_NETNSID = 1, 2, 8, 10
_RTA_DST, _RTA_OIF, _RTA_PRIORITY, _RTA_MULTIPATH = 1, 4, 6, 9
_RT_TABLE_MAIN, _RTN_UNICAST = 254, 1
_NDA_DST, _NDA_LLADDR = 1, 2
_TCA_KIND = 1
_NUD_FAILED = 0x20
_NTF_SELF = 2
_SCOPE_LINK = 253  # RT_SCOPE_LINK: link-local and narrower scopes have larger numbers
_IFA_F_SECONDARY, _IFA_F_TENTATIVE = 1, 0x40
_IFF_UP, _IFF_LOOPBACK = 1, 8
_OPERSTATES = ("UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP")  # RFC 2863
_RECEIVE = 1 << 17
_TRIES = 5

Attributes = dict[int, bytes]


class Device(NamedTuple):
    """A network device. ``kind``: "" for hardware, ``lo`` too; ``peer``, ``master``: ifindex or 0."""

    ifindex: int
    name: str
    kind: str
    mtu: int
    up: bool
    loopback: bool
    operstate: str
    mac: bytes
    peer: int
    """Ifindex of a veth's other end (in the namespace ``peer_namespace`` where that is set)."""
    peer_namespace: int | None
    """Netns id of the other end, None where it is in this namespace."""
    master: int


class Address(NamedTuple):
    """An address of a device in the 16-byte form; ``global_scope``: usable beyond the link."""

    device: int
    address: bytes
    prefix_length: int
    """Of the address's own family: 24, 64."""
    global_scope: bool
    primary: bool
    usable: bool
    """False while duplicate address detection runs or has failed."""


class DefaultRoute(NamedTuple):
    """A default route of the main table; ``family`` AF_INET or AF_INET6."""

    family: int
    device: int
    metric: int


class HostRoute(NamedTuple):
    """A route of the main table to one address (16-byte form)."""

    address: bytes
    device: int


class Neighbour(NamedTuple):
    """Whose MAC an address (16-byte form) is behind a device; ``address`` empty: a bridge's entry."""

    device: int
    mac: bytes
    address: bytes = b""


def devices() -> list[Device]:
    """Every device of this namespace, by ifindex."""
    request = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _attribute(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    return sorted(_device(body) for body in _dump("devices", _GETLINK, request))


def device(ifindex: int) -> Device | None:
    """One device, None where there is none."""
    request = _LINK.pack(socket.AF_UNSPEC, 0, ifindex, 0, 0) + _attribute(
        _IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS
    )
    try:
        return _device(_ask("device", _GETLINK, request, 0)[0])
    except DatapathError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def indexes() -> frozenset[int]:
    """Ifindexes of all devices of this namespace. OSError."""
    return frozenset(index for index, _ in socket.if_nameindex())


def addresses(namespace: int | None = None, device: int = 0) -> list[Address]:
    """Addresses in the kernel's order (of a device: primary first), of all devices or of one.

    ``namespace``: netns id, as :attr:`Device.peer_namespace`, of another namespace to look into.
    """
    other = b"" if namespace is None else _attribute(_IFA_TARGET_NETNSID, namespace)
    return [
        _address(body)
        for family in (socket.AF_INET, socket.AF_INET6)
        for body in _dump("addresses", _GETADDR, _ADDR.pack(family, 0, 0, 0, device) + other)
    ]


def default_routes() -> list[DefaultRoute]:
    """Default routes of the main table, best metric first; of multipath routes every device."""
    found = []
    for header, attributes in _routes():
        family, length = header[:2]
        if not length:
            metric = _number(attributes.get(_RTA_PRIORITY))
            found += [DefaultRoute(family, index, metric) for index in _hops(attributes)]
    return sorted(found, key=lambda route: (route.family, route.metric))


def host_routes() -> list[HostRoute]:
    """Routes of the main table to single addresses."""
    found = []
    for header, attributes in _routes():
        if header[1] == (32 if header[0] == socket.AF_INET else 128) and _RTA_DST in attributes:
            address = _long(attributes[_RTA_DST])
            found += [HostRoute(address, index) for index in _hops(attributes)]
    return found


def neighbours() -> list[Neighbour]:
    """Which MACs this namespace's addresses have, as far as the kernel knows now."""
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for body in _dump("neighbours", _GETNEIGH, _NEIGHBOUR.pack(family, 0, 0, 0, 0)):
            _, index, state, _, _ = _NEIGHBOUR.unpack_from(body)
            attributes = _attributes(body, _NEIGHBOUR.size)
            if not state & _NUD_FAILED and {_NDA_DST, _NDA_LLADDR} <= attributes.keys():
                found.append(Neighbour(index, attributes[_NDA_LLADDR], _long(attributes[_NDA_DST])))
    return found


def bridge_ports() -> list[Neighbour]:
    """Behind which ports bridges have learnt MACs (their forwarding databases)."""
    found = []
    # In strict mode the kernel takes struct ndmsg here and, without a filter, lists every bridge's.
    for body in _dump("bridges", _GETNEIGH, _NEIGHBOUR.pack(socket.AF_BRIDGE, 0, 0, 0, 0)):
        _, index, _, flags, _ = _NEIGHBOUR.unpack_from(body)
        attributes = _attributes(body, _NEIGHBOUR.size)
        if not flags & _NTF_SELF and _NDA_LLADDR in attributes:
            found.append(Neighbour(index, attributes[_NDA_LLADDR]))
    return found


def queues() -> dict[int, frozenset[str]]:
    """Kinds of the queueing disciplines (``tbf``, ``fq_codel``, ...) by device."""
    found: dict[int, set[str]] = {}
    for body in _dump("queues", _GETQDISC, _TRAFFIC.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        index = _TRAFFIC.unpack_from(body)[1]
        kind = _text(_attributes(body, _TRAFFIC.size).get(_TCA_KIND, b""))
        found.setdefault(index, set()).add(kind)
    return {index: frozenset(kinds) for index, kinds in found.items()}


# -------------------------------------------------------------------- decoding


def _device(body: bytes) -> Device:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    attributes = _attributes(body, _LINK.size)
    info = _attributes(attributes.get(_IFLA_LINKINFO, b""), 0)
    peer = _number(attributes.get(_IFLA_LINK))
    namespace = attributes.get(_IFLA_LINK_NETNSID)
    state = attributes.get(_IFLA_OPERSTATE, b"\0")[0]
    return Device(
        ifindex=index,
        name=_text(attributes[_IFLA_IFNAME]),
        kind=_text(info.get(_IFLA_INFO_KIND, b"")),
        mtu=_number(attributes.get(_IFLA_MTU)),
        up=bool(flags & _IFF_UP),
        loopback=bool(flags & _IFF_LOOPBACK),
        operstate=_OPERSTATES[state] if state < len(_OPERSTATES) else _OPERSTATES[0],
        mac=attributes.get(_IFLA_ADDRESS, b""),
        peer=peer if peer != index or namespace is not None else 0,
        peer_namespace=None if namespace is None else _S32.unpack(namespace)[0],
        master=_number(attributes.get(_IFLA_MASTER)),
    )


def _address(body: bytes) -> Address:
    _, length, short_flags, scope, index = _ADDR.unpack_from(body)
    attributes = _attributes(body, _ADDR.size)
    packed = attributes.get(_IFA_LOCAL) or attributes[_IFA_ADDRESS]
    flags = _number(attributes.get(_IFA_FLAGS)) if _IFA_FLAGS in attributes else short_flags
    return Address(
        device=index,
        address=_long(packed),
        prefix_length=length,
        global_scope=scope < _SCOPE_LINK,
        primary=len(packed) == 16 or not flags & _IFA_F_SECONDARY,
        usable=not flags & _IFA_F_TENTATIVE,
    )


def _routes() -> Iterator[tuple[tuple[int, ...], Attributes]]:
    for family in (socket.AF_INET, socket.AF_INET6):
        request = _ROUTE.pack(family, 0, 0, 0, _RT_TABLE_MAIN, 0, 0, _RTN_UNICAST, 0)
        try:
            bodies = _dump("routes", _GETROUTE, request)
        except DatapathError as error:
            if error.errno == errno.ENOENT:  # no route of this family was ever made: no table
                continue
            raise
        for body in bodies:
            header = _ROUTE.unpack_from(body)
            if (header[4], header[7]) == (_RT_TABLE_MAIN, _RTN_UNICAST):
                yield header, _attributes(body, _ROUTE.size)


def _hops(attributes: Attributes) -> list[int]:
    """Ifindexes of a route's next hops."""
    if _RTA_MULTIPATH not in attributes:
        index = _number(attributes.get(_RTA_OIF))
        return [index] if index else []
    hops, found, at = attributes[_RTA_MULTIPATH], [], 0
    while at + _HOP.size <= len(hops):
        length, _, _, index = _HOP.unpack_from(hops, at)
        found.append(index)
        at += max(_HOP.size, (length + 3) & ~3)
    return found


def _attributes(data: bytes, at: int) -> Attributes:
    found = {}
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        found[kind & _TYPE] = data[at + _ATTRIBUTE.size : at + length]
        at += max(_ATTRIBUTE.size, (length + 3) & ~3)
    return found


def _attribute(kind: int, value: int) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + _S32.size, kind) + _S32.pack(value)


def _number(raw: bytes | None) -> int:
    return int(_U32.unpack(raw)[0]) if raw else 0


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


def _long(packed: bytes) -> bytes:
    """An address of either family in the 16-byte form."""
    return V4_MAPPED + packed if len(packed) == 4 else packed


# -------------------------------------------------------------------- the wire


def _dump(what: str, kind: int, request: bytes) -> list[bytes]:
    """Bodies of all messages of one dump; again where the kernel says that it was not consistent."""
    return _ask(what, kind, request, _DUMP)


def _ask(what: str, kind: int, request: bytes, flags: int) -> list[bytes]:
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        ) as feed:
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
