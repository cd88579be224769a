# SPDX-License-Identifier: Apache-2.0
"""Whether traffic gets through, by real sockets of this process in a target's namespace.

``tcp/8080``, ``udp/8007``: a connection, a datagram and its answer. ``icmp``: an echo. ``sctp/9000``: an INIT
chunk in a packet that is made here (kernels may lack SCTP), seen at the other end.
"""

from __future__ import annotations

import errno
import itertools
import os
import select
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from labworld import BOTH, World

from netaccel.datapath.netlink import inside_namespace
from netaccel.lab.handle import wait_for

OPEN, REFUSED, SILENT = "open", "refused", "silent"
CUT = "connected, then silent"  # what a change of policy in between makes; expected of nothing
WAIT = 0.7  # seconds without an answer that are silence: a lost SYN is sent again after 1
PATIENCE = 5.0  # the same, where what answers may have been kept from its processor
_REFUSALS = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EACCES, errno.ENETUNREACH, errno.EPROTO)
_ICMP = {socket.AF_INET: (socket.IPPROTO_ICMP, 8, 0), socket.AF_INET6: (socket.IPPROTO_ICMPV6, 128, 129)}
_SCTP = 132
_numbers = itertools.count(os.getpid())


class Try(NamedTuple):
    """From a target (``pod:ns/name``, ``node-1``, ``client``) to a pod, a node or an address."""

    source: str
    destination: str
    what: str
    expected: str


def address_of(world: World, destination: str, family: socket.AddressFamily) -> str:
    if destination.startswith("pod:"):
        return world.pod_ip(destination.rpartition("/")[2], family)
    if destination.startswith("node-"):
        return world.node_ip(destination, family)
    if destination.startswith("svc:"):
        return world.cluster_ip(family, destination.removeprefix("svc:"))
    return destination.split(",")[BOTH.index(family)]


def attempt(world: World, one: Try, family: socket.AddressFamily, wait: float = WAIT) -> str:
    """What becomes of it: OPEN, REFUSED, SILENT or CUT."""
    address = address_of(world, one.destination, family)
    kind, _, port = one.what.partition("/")
    try:
        match kind:
            case "tcp":
                return _tcp(world, one.source, family, (address, int(port)), wait)
            case "udp":
                return _udp(world, one.source, family, (address, int(port)), wait)
            case "icmp":
                return _echo(world, one.source, family, address, wait)
            case _:
                return _sctp(world, one, family, (address, int(port)), wait)
    except TimeoutError:
        return SILENT
    except OSError as error:
        if error.errno in _REFUSALS:
            return REFUSED
        raise


def _tcp(world: World, source: str, family: socket.AddressFamily, to: tuple[str, int], wait: float) -> str:
    with world.lab.socket(source, family) as client:
        client.settimeout(wait)
        client.connect(to)
        client.settimeout(PATIENCE)  # kernels connect, a server answers
        try:
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            return OPEN if client.recv(1) else REFUSED
        except (ConnectionResetError, BrokenPipeError):  # a policy came into force after the handshake
            return REFUSED
        except TimeoutError:
            return CUT


def _udp(world: World, source: str, family: socket.AddressFamily, to: tuple[str, int], wait: float) -> str:
    with world.lab.socket(source, family, socket.SOCK_DGRAM) as client:
        client.settimeout(wait)
        client.connect(to)
        client.send(b"x")
        return OPEN if client.recv(2048) else REFUSED


def _raw(world: World, target: str, family: socket.AddressFamily, proto: int) -> socket.socket:
    with inside_namespace(world.lab.target(target).place.namespace):
        return socket.socket(family, socket.SOCK_RAW, proto)


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _echo(world: World, source: str, family: socket.AddressFamily, address: str, wait: float) -> str:
    proto, request, reply = _ICMP[family]
    number = next(_numbers) & 0xFFFF
    body = struct.pack("!HH", number, 1) + b"netaccel"
    with _raw(world, source, family, proto) as raw:
        head = struct.pack("!BBH", request, 0, 0)
        if family == socket.AF_INET:  # of ICMPv6 the kernel fills it in
            head = struct.pack("!BBH", request, 0, _checksum(head + body))
        raw.connect((address, 0))
        raw.send(head + body)
        deadline = time.monotonic() + wait
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([raw], [], [], left)[0]:
                return SILENT
            data = raw.recv(2048)
            answer = data[(data[0] & 15) * 4 :] if family == socket.AF_INET else data
            if answer[0] == reply and answer[4:6] == struct.pack("!H", number):
                return OPEN
            unreachable = answer[0] == (3 if family == socket.AF_INET else 1)
            if unreachable and body[:4] in answer[8:]:  # this echo; others' refusals come here too
                return REFUSED
    return SILENT


def _sctp(world: World, one: Try, family: socket.AddressFamily, to: tuple[str, int], wait: float) -> str:
    """An INIT (RFC 9260); the kernel adds no checksum, and none is looked at on the way."""
    sender = 20000 + next(_numbers) % 10000
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, sender, 65536, 1, 1, sender)
    packet = struct.pack("!HHII", sender, to[1], 0, 0) + chunk
    with (
        _raw(world, one.destination, family, _SCTP) as server,
        _raw(world, one.source, family, _SCTP) as client,
    ):
        client.sendto(packet, (to[0], 0))
        deadline = time.monotonic() + wait
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([server], [], [], left)[0]:
                return SILENT
            data = server.recv(2048)
            if packet in data:
                return OPEN
    return SILENT


def outcome(world: World, tries: tuple[Try, ...], wait: float = WAIT) -> dict[tuple[Try, str], str]:
    """All of them, in both families, at one time. ``wait``: seconds that are silence."""
    jobs = [(one, family) for one in tries for family in BOTH]
    with ThreadPoolExecutor(len(jobs)) as pool:
        found = pool.map(lambda job: attempt(world, *job, wait), jobs)
        return {(one, family.name): result for (one, family), result in zip(jobs, found, strict=True)}


def wrong(world: World, tries: tuple[Try, ...], wait: float = WAIT) -> dict[str, str]:
    """What is otherwise than expected, in words."""
    return {
        f"{one.source} → {one.destination} {one.what} {family}, not {one.expected}": result
        for (one, family), result in outcome(world, tries, wait).items()
        if result != one.expected
    }


def expect(world: World, *tries: Try, within: float = 30.0) -> None:
    """Wait until all is as expected, then look once more: it stays so."""
    last: dict[str, str] = {}

    def settled() -> bool:
        nonlocal last
        last = wrong(world, tries)
        return not last

    try:
        wait_for(settled, "traffic as the policies say", within)
    except Exception as error:
        raise AssertionError(f"otherwise than expected: {last}") from error
    hold(world, *tries)


def hold(world: World, *tries: Try) -> None:
    """All is as expected, now."""
    found = wrong(world, tries)
    if found and set(found.values()) <= {SILENT, CUT}:  # dropped, or answered late
        found = wrong(world, tries, PATIENCE)
    assert not found, f"otherwise than before: {found}"
