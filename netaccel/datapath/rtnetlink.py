# SPDX-License-Identifier: Apache-2.0
"""Devices, addresses, routes and neighbours, read from the kernel without a library between (rtnetlink(7)).

A dump takes less than a millisecond, so that an agent can look at a device as soon as it is told of it.
Functions look at the calling thread's network namespace, :func:`addresses` at others' too. They raise
DatapathError where the kernel refuses.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from netaccel.datapath.abi import V4_MAPPED
from netaccel.datapath.nlmsg import ATTRIBUTE, Attributes, ask, attributes_of, dump
from netaccel.errors import DatapathError

_GETLINK, _GETADDR, _GETROUTE, _GETNEIGH, _GETQDISC, _GETTFILTER = 18, 22, 26, 30, 38, 46  # linux/rtnetlink.h
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
_IFLA_XDP, _IFLA_TARGET_NETNSID, _IFLA_XDP_ATTACHED = 43, 46, 2
_IFLA_INFO_DATA, _IFLA_INFO_SLAVE_DATA, _IFLA_BRPORT_ISOLATED, _IFLA_BR_VLAN_FILTERING = 2, 5, 33, 7
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


class Link(NamedTuple):
    """What else is to know of a device before packets go round it."""

    device: Device
    xdp: bool = False
    """Has an XDP program."""
    isolated: bool = False
    """A bridge's port that talks to no other such port."""
    filters_vlans: bool = False
    """A bridge that keeps VLANs apart."""


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
    return sorted(_device(body) for body in dump("devices", _GETLINK, request))


def device(ifindex: int) -> Device | None:
    """One device, None where there is none."""
    request = _LINK.pack(socket.AF_UNSPEC, 0, ifindex, 0, 0) + _attribute(
        _IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS
    )
    try:
        return _device(ask("device", _GETLINK, request)[0])
    except DatapathError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def link(ifindex: int, namespace: int | None = None) -> Link | None:
    """One device, None where there is none. ``namespace``: as of :func:`addresses`."""
    other = b"" if namespace is None else _attribute(_IFLA_TARGET_NETNSID, namespace)
    request = _LINK.pack(socket.AF_UNSPEC, 0, ifindex, 0, 0)
    request += _attribute(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS) + other
    try:
        return _link(ask("device", _GETLINK, request)[0])
    except DatapathError as error:
        if error.errno in (errno.ENODEV, errno.EINVAL):  # EINVAL: the namespace is gone
            return None
        raise


def filters(ifindex: int) -> list[tuple[int, int]]:
    """Priority and handle of each filter of a device's clsact or ingress discipline."""
    found = []
    for parent in (0xFFFFFFF2, 0xFFFFFFF3):  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS), ..._EGRESS
        try:
            bodies = dump("filters", _GETTFILTER, _TRAFFIC.pack(socket.AF_UNSPEC, ifindex, 0, parent, 0))
        except DatapathError as error:
            if error.errno not in (errno.EINVAL, errno.ENODEV):  # no such discipline, no device
                raise
            continue
        for body in bodies:
            _, _, handle, _, info = _TRAFFIC.unpack_from(body)
            found.append((info >> 16, handle))
    return found


def way_to(address: bytes) -> int:
    """Ifindex of the device by which the node's stack would send to an address (16-byte form); 0: none."""
    is_v4 = address.startswith(V4_MAPPED)
    family, packed = (socket.AF_INET, address[12:]) if is_v4 else (socket.AF_INET6, address)
    request = _ROUTE.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0)
    request += ATTRIBUTE.pack(ATTRIBUTE.size + len(packed), _RTA_DST) + packed
    try:
        body = ask("route", _GETROUTE, request)[0]
    except DatapathError as error:
        if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
            return 0
        raise
    if _ROUTE.unpack_from(body)[7] != _RTN_UNICAST:
        return 0
    return _number(attributes_of(body, _ROUTE.size).get(_RTA_OIF))


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
        for body in dump("addresses", _GETADDR, _ADDR.pack(family, 0, 0, 0, device) + other)
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
        for body in dump("neighbours", _GETNEIGH, _NEIGHBOUR.pack(family, 0, 0, 0, 0)):
            _, index, state, _, _ = _NEIGHBOUR.unpack_from(body)
            attributes = attributes_of(body, _NEIGHBOUR.size)
            if not state & _NUD_FAILED and {_NDA_DST, _NDA_LLADDR} <= attributes.keys():
                found.append(Neighbour(index, attributes[_NDA_LLADDR], _long(attributes[_NDA_DST])))
    return found


def bridge_ports() -> list[Neighbour]:
    """Behind which ports bridges have learnt MACs (their forwarding databases)."""
    found = []
    # In strict mode the kernel takes struct ndmsg here and, without a filter, lists every bridge's.
    for body in dump("bridges", _GETNEIGH, _NEIGHBOUR.pack(socket.AF_BRIDGE, 0, 0, 0, 0)):
        _, index, _, flags, _ = _NEIGHBOUR.unpack_from(body)
        attributes = attributes_of(body, _NEIGHBOUR.size)
        if not flags & _NTF_SELF and _NDA_LLADDR in attributes:
            found.append(Neighbour(index, attributes[_NDA_LLADDR]))
    return found


def queues() -> dict[int, frozenset[str]]:
    """Kinds of the queueing disciplines (``tbf``, ``fq_codel``, ...) by device."""
    found: dict[int, set[str]] = {}
    for body in dump("queues", _GETQDISC, _TRAFFIC.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        index = _TRAFFIC.unpack_from(body)[1]
        kind = _text(attributes_of(body, _TRAFFIC.size).get(_TCA_KIND, b""))
        found.setdefault(index, set()).add(kind)
    return {index: frozenset(kinds) for index, kinds in found.items()}


# -------------------------------------------------------------------- decoding


def _device(body: bytes) -> Device:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    attributes = attributes_of(body, _LINK.size)
    info = attributes_of(attributes.get(_IFLA_LINKINFO, b""), 0)
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


def _link(body: bytes) -> Link:
    found = attributes_of(body, _LINK.size)
    info = attributes_of(found.get(_IFLA_LINKINFO, b""), 0)
    xdp = attributes_of(found.get(_IFLA_XDP, b""), 0)
    port = attributes_of(info.get(_IFLA_INFO_SLAVE_DATA, b""), 0)
    data = attributes_of(info.get(_IFLA_INFO_DATA, b""), 0)
    device = _device(body)
    return Link(
        device,
        xdp=any(xdp.get(_IFLA_XDP_ATTACHED, b"")),
        isolated=any(port.get(_IFLA_BRPORT_ISOLATED, b"")),
        filters_vlans=device.kind == "bridge" and any(data.get(_IFLA_BR_VLAN_FILTERING, b"")),
    )


def _address(body: bytes) -> Address:
    _, length, short_flags, scope, index = _ADDR.unpack_from(body)
    attributes = attributes_of(body, _ADDR.size)
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
            bodies = dump("routes", _GETROUTE, request)
        except DatapathError as error:
            if error.errno == errno.ENOENT:  # no route of this family was ever made: no table
                continue
            raise
        for body in bodies:
            header = _ROUTE.unpack_from(body)
            if (header[4], header[7]) == (_RT_TABLE_MAIN, _RTN_UNICAST):
                yield header, attributes_of(body, _ROUTE.size)


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


def _attribute(kind: int, value: int) -> bytes:
    return ATTRIBUTE.pack(ATTRIBUTE.size + _S32.size, kind) + _S32.pack(value)


def _number(raw: bytes | None) -> int:
    return int(_U32.unpack(raw)[0]) if raw else 0


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


def _long(packed: bytes) -> bytes:
    """An address of either family in the 16-byte form."""
    return V4_MAPPED + packed if len(packed) == 4 else packed
