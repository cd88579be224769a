# SPDX-License-Identifier: Apache-2.0
"""Changes devices, addresses, routes and network namespaces; the only module that imports pyroute2.

Functions work on the calling thread's network namespace; :func:`inside_namespace` moves it for a while.
They are synchronous and take milliseconds; :mod:`.rtnetlink` reads. :func:`changes` tells when to look
again: it carries kinds, not contents, so that an overflow of the socket's queue loses nothing.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pyroute2 import IPRoute, config
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netns import create as _netns_create
from pyroute2.netns import remove as _netns_remove

from netaccel.datapath import libbpf
from netaccel.datapath.rtnetlink import Device, devices
from netaccel.errors import DatapathError

_T = TypeVar("_T")

NAMESPACES = Path("/run/netns")
"""Where iproute2 keeps the names of namespaces."""

config.default_communicate_timeout = 60
"""Seconds; pyroute2's own are 2. A new namespace waits for others that are being made or taken down."""

_CLONE_NEWNET = 0x40000000
_SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h, from kernel 5.14


# --------------------------------------------------------------- namespaces


def namespace_path(namespace: str | os.PathLike[str]) -> Path:
    """The file of a namespace given by name (``ip netns``) or by path."""
    path = Path(namespace)
    return path if len(path.parts) > 1 else NAMESPACES / path


@contextmanager
def inside_namespace(namespace: str | os.PathLike[str]) -> Iterator[None]:
    """Move the calling thread into a network namespace and back. Do not await inside.

    Sockets stay where they were opened. Mounts are left alone, unlike with ``ip netns exec``.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            target = os.open(namespace_path(namespace), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise DatapathError(f"network namespace {namespace}: there is none", errno.ENOENT) from error
        try:
            libbpf.setns(target, _CLONE_NEWNET)
        finally:
            os.close(target)
        try:
            yield
        finally:
            libbpf.setns(home, _CLONE_NEWNET)
    finally:
        os.close(home)


def create_namespace(name: str) -> None:
    """A named namespace with its loopback up. DatapathError where the name is taken."""
    if namespace_path(name).exists():
        raise DatapathError(f"network namespace {name}: there is one already", errno.EEXIST)
    try:
        _netns_create(name)
    except OSError as error:
        raise DatapathError(
            f"network namespace {name}: {error.strerror or error}", error.errno or 0
        ) from error
    with inside_namespace(name):
        set_up("lo")


def delete_namespace(name: str) -> None:
    """Remove a named namespace; what is absent is fine. Its devices go with it, a moment later."""
    try:
        _netns_remove(name)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DatapathError(f"network namespace {name}: {error.strerror}", error.errno or 0) from error


def netns_cookie() -> int:
    """The kernel's cookie of this namespace (what BPF programs compare); 0 on kernels before 5.14."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            raw = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError as error:
            if error.errno == errno.ENOPROTOOPT:
                return 0
            raise
    return int(struct.unpack("=Q", raw)[0])


# ------------------------------------------------------------------- looking


def device(name: str) -> Device:
    """One device by name. DatapathError where there is none."""
    found = next((d for d in devices() if d.name == name), None)
    if found is None:
        raise DatapathError(f"device {name}: there is none in this network namespace", errno.ENODEV)
    return found


def _netlink(what: str, action: Callable[[IPRoute], _T]) -> _T:
    """Talk to the kernel; DatapathError with ``what`` where it refuses.

    pyroute2 drives an event loop of its own, which cannot run inside another: under asyncio it gets a thread,
    a fresh one, since that inherits this thread's namespace.
    """

    def work() -> _T:
        with IPRoute() as ip:
            return action(ip)

    try:
        if not _under_asyncio():
            return work()
        with ThreadPoolExecutor(max_workers=1) as fresh:
            return fresh.submit(work).result()
    except NetlinkError as error:
        raise DatapathError(f"{what}: {os.strerror(error.code)}", error.code) from error


def _under_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


# ------------------------------------------------------------------ watching

_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # RTMGRP_LINK, IPV4 and IPV6 addresses, IPV4 and IPV6 routes
_KINDS = {16: "device", 17: "device", 20: "address", 21: "address", 24: "route", 25: "route"}
_IFINDEX = slice(20, 24)  # of a device's message: struct ifinfomsg's ifi_index behind struct nlmsghdr
ALL_KINDS = frozenset(_KINDS.values())


class Change(NamedTuple):
    """What changed in a namespace: ``device``, ``address``, ``route``; which devices (ifindex), None: any."""

    kinds: frozenset[str]
    devices: frozenset[int] | None = frozenset()

    def and_then(self, other: Change) -> Change:
        """Both of them."""
        any_device = self.devices is None or other.devices is None
        devices = None if any_device else (self.devices or frozenset()) | (other.devices or frozenset())
        return Change(self.kinds | other.kinds, devices)


NOTHING = Change(frozenset())
ANYTHING = Change(ALL_KINDS, None)


async def changes() -> AsyncIterator[Change]:
    """What changed in this namespace since the last turn.

    The first turn comes at once and names everything, so that whoever looks on every turn misses nothing.
    """
    loop = asyncio.get_running_loop()
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    ) as feed:
        feed.setblocking(False)
        feed.bind((0, _GROUPS))
        yield ANYTHING
        while True:
            ready = loop.create_future()
            loop.add_reader(feed, _resolve, ready)
            try:
                await ready
            finally:
                loop.remove_reader(feed)
            if (change := _drain(feed)).kinds:
                yield change


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _drain(feed: socket.socket) -> Change:
    """What the messages that wait say (struct nlmsghdr: length, type, ...), at most a thousand reads."""
    kinds, devices = set(), set()
    for _ in range(1000):
        try:
            data = feed.recv(1 << 16)
        except BlockingIOError:
            break
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            return ANYTHING  # messages were lost: look at everything
        at = 0
        while at + 16 <= len(data):
            length, kind = struct.unpack_from("=IH", data, at)
            if kind in _KINDS:
                kinds.add(_KINDS[kind])
            if _KINDS.get(kind) == "device" and at + _IFINDEX.stop <= len(data):
                devices.add(int.from_bytes(data[at:][_IFINDEX], sys.byteorder))
            at += max((length + 3) & ~3, 16)
    return Change(frozenset(kinds), frozenset(devices))


def has_filters(ifindex: int) -> bool:
    """Whether any filter hangs on a device's clsact qdisc, whoever put it there."""
    parents = (0xFFFFFFF2, 0xFFFFFFF3)  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS), ..._EGRESS
    try:
        return _netlink(
            "filters", lambda ip: any(list(ip.get_filters(index=ifindex, parent=p)) for p in parents)
        )
    except DatapathError as error:
        if error.errno in (errno.EINVAL, errno.ENODEV):  # no clsact qdisc, no device
            return False
        raise


# ------------------------------------------------------------------ changing


def add_veth(name: str, peer: str, peer_namespace: str | None = None, mtu: int = 1500) -> None:
    """A veth pair; the peer's end in a named namespace where one is given. Both stay down."""
    far: dict[str, Any] = {"ifname": peer, "mtu": mtu}
    if peer_namespace:
        far["net_ns_fd"] = peer_namespace
    _netlink(
        f"veth {name}",
        lambda ip: ip.link("add", ifname=name, kind="veth", mtu=mtu, peer=far),
    )


def add_bridge(name: str) -> None:
    """A bridge that forwards at once, up."""
    _netlink(f"bridge {name}", lambda ip: ip.link("add", ifname=name, kind="bridge", br_forward_delay=0))
    set_up(name)


def delete_device(name: str) -> None:
    """Remove a device; what is absent is fine."""
    found = next((d for d in devices() if d.name == name), None)
    if found:
        _netlink(f"device {name}", lambda ip: ip.link("del", index=found.ifindex))


def set_up(name: str, *, up: bool = True) -> None:
    """Set a device up or down."""
    index = device(name).ifindex
    _netlink(f"device {name}", lambda ip: ip.link("set", index=index, state="up" if up else "down"))


def set_mtu(name: str, mtu: int) -> None:
    """Set a device's MTU."""
    index = device(name).ifindex
    _netlink(f"device {name}", lambda ip: ip.link("set", index=index, mtu=mtu))


def set_master(name: str, master: str) -> None:
    """Make a device a port of a bridge."""
    index, bridge = device(name).ifindex, device(master).ifindex
    _netlink(f"device {name}", lambda ip: ip.link("set", index=index, master=bridge))


def move(name: str, namespace: str) -> None:
    """Move a device to a named namespace."""
    index = device(name).ifindex
    _netlink(f"device {name}", lambda ip: ip.link("set", index=index, net_ns_fd=namespace))


def add_address(name: str, address: str) -> None:
    """Add ``192.0.2.1/24`` or ``2001:db8::1/64`` (usable at once, without duplicate detection)."""
    found = ipaddress.ip_interface(address)
    index = device(name).ifindex
    extra = {"flags": 2} if found.version == 6 else {}  # IFA_F_NODAD
    _netlink(
        f"address {address} on {name}",
        lambda ip: ip.addr(
            "replace", index=index, address=str(found.ip), prefixlen=found.network.prefixlen, **extra
        ),
    )


def add_route(destination: str, gateway: str | None = None, name: str | None = None) -> None:
    """Add or replace a route (``default4``, ``default6`` or a CIDR) by a gateway, a device or both."""
    target = {"default4": "0.0.0.0/0", "default6": "::/0"}.get(destination, destination)
    route: dict[str, Any] = {"dst": target}
    if ipaddress.ip_network(target).version == 6:
        route["family"] = socket.AF_INET6
    if gateway:
        route["gateway"] = gateway
    if name:
        route["oif"] = device(name).ifindex
    _netlink(f"route {destination}", lambda ip: ip.route("replace", **route))


def add_neighbour(name: str, address: str, mac: str) -> None:
    """A permanent neighbour."""
    index = device(name).ifindex
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    _netlink(
        f"neighbour {address} on {name}",
        lambda ip: ip.neigh("replace", dst=address, lladdr=mac, ifindex=index, family=family, state=0x80),
    )


# ------------------------------------------------------------------- sysctls


def _sysctl_path(name: str) -> Path:
    # Device names may hold dots, so the kernel's own spelling with slashes is taken as it is.
    return Path("/proc/sys", name if "/" in name else name.replace(".", "/"))


def sysctl(name: str) -> str:
    """Read ``net.ipv4.ip_forward`` (or ``net/ipv4/conf/eth0.1/forwarding``) of this namespace."""
    try:
        return _sysctl_path(name).read_text(encoding="ascii").strip()
    except OSError as error:
        raise DatapathError(f"sysctl {name}: {error.strerror}", error.errno or 0) from error


def set_sysctl(name: str, value: str | int) -> None:
    """Write a sysctl of this namespace."""
    try:
        _sysctl_path(name).write_text(f"{value}\n", encoding="ascii")
    except OSError as error:
        raise DatapathError(
            f"sysctl {name}: can't be set to {value}: {error.strerror}", error.errno or 0
        ) from error


# ------------------------------------------------------------------ offloads

_SIOCETHTOOL = 0x8946
_ETHTOOL = {"tx": (0x16, 0x17), "gro": (0x2B, 0x2C), "tso": (0x1E, 0x1F), "gso": (0x23, 0x24)}


def offload(name: str, feature: str) -> bool:
    """Whether ``tx`` (checksums), ``tso``, ``gso`` or ``gro`` is on (ETHTOOL_G* of linux/ethtool.h)."""
    return bool(_ethtool(name, _ETHTOOL[feature][0], 0, feature))


def set_offload(name: str, feature: str, *, on: bool) -> None:
    """Turn ``tx``, ``tso``, ``gso`` or ``gro`` on or off."""
    _ethtool(name, _ETHTOOL[feature][1], int(on), feature)


def _ethtool(name: str, command: int, value: int, feature: str) -> int:
    argument = bytearray(struct.pack("=II", command, value))
    request = struct.pack("=16sQ16x", name.encode(), libbpf.address_of(argument))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SIOCETHTOOL, request)
    except OSError as error:
        raise DatapathError(
            f"device {name}: offload {feature}: {error.strerror}", error.errno or 0
        ) from error
    return int(struct.unpack("=II", argument)[1])
