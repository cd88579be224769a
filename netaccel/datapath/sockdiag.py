# SPDX-License-Identifier: Apache-2.0
"""The sockets of this thread's network namespace by NETLINK_SOCK_DIAG: list and destroy them.

Structures: include/uapi/linux/{netlink,sock_diag,inet_diag}.h. Destroying needs CAP_NET_ADMIN and a kernel
built with CONFIG_INET_DIAG_DESTROY, as all distributions' are.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple, Self

from netaccel.errors import DatapathError
from netaccel.model.address import IPV4_PREFIX

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_SOCK_DESTROY = 21
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 0x1, 0x4, 0x300
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBBxI")  # struct inet_diag_req_v2 up to its id
_ID = struct.Struct("=2s2s16s16sIQ")  # struct inet_diag_sockid: ports, addresses, interface, cookie
_MESSAGE = struct.Struct("=BBBB")  # struct inet_diag_msg up to its id: family, state, timer, retransmits

ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT = 1, 2, 4, 5, 8
CONNECTED = sum(1 << state for state in (ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT))
"""States (a bit set) of sockets that have a peer and an owner."""


class DiagSocket(NamedTuple):
    """A socket with a peer: that one's address (16-byte form) and port; ``id`` as the kernel gave it."""

    family: int
    proto: int
    cookie: int
    addr: bytes
    port: int
    id: bytes


class SockDiag:
    """A netlink socket; it belongs to the namespace in which it was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
        )
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def connected(self, proto: int) -> list[DiagSocket]:
        """Sockets of both families that have a peer. DatapathError where the kernel refuses."""
        found: list[DiagSocket] = []
        try:
            for family in (socket.AF_INET, socket.AF_INET6):
                request = _REQUEST.pack(family, proto, 0, CONNECTED) + bytes(_ID.size)
                self._send(_SOCK_DIAG_BY_FAMILY, _NLM_F_DUMP, request)
                found.extend(_decode(payload, proto) for payload in self._answers())
        except OSError as error:
            raise DatapathError(
                f"sock_diag refused to list sockets: {error.strerror}; are the modules inet_diag, tcp_diag "
                "and udp_diag there?",
                error.errno or 0,
            ) from error
        return found

    def destroy(self, found: DiagSocket) -> bool:
        """Close it with ECONNABORTED; False where it is gone already. DatapathError where refused."""
        request = _REQUEST.pack(found.family, found.proto, 0, 0) + found.id
        self._send(_SOCK_DESTROY, _NLM_F_ACK, request)
        try:
            for _ in self._answers():
                pass
        except FileNotFoundError:
            return False
        except OSError as error:
            raise DatapathError(
                f"SOCK_DESTROY refused: {error.strerror}; it needs CAP_NET_ADMIN and "
                "CONFIG_INET_DIAG_DESTROY",
                error.errno or 0,
            ) from error
        return True

    def _send(self, kind: int, flags: int, payload: bytes) -> None:
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(payload), kind, flags | _NLM_F_REQUEST, self._sequence, 0)
        self._socket.send(header + payload)

    def _answers(self) -> Iterator[bytes]:
        """Payloads up to the end of the answer. OSError with the kernel's errno."""
        while True:
            data = self._socket.recv(1 << 16)
            at = 0
            while at < len(data):
                length, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
                payload = data[at + _HEADER.size : at + length]
                at += (length + 3) // 4 * 4
                if sequence != self._sequence:
                    continue
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    number = -struct.unpack_from("=i", payload)[0]
                    if number:
                        raise OSError(number, os.strerror(number))
                    return
                yield payload


def _decode(payload: bytes, proto: int) -> DiagSocket:
    family = _MESSAGE.unpack_from(payload)[0]
    raw = payload[_MESSAGE.size : _MESSAGE.size + _ID.size]
    _, port, _, addr, _, cookie = _ID.unpack(raw)
    if family == socket.AF_INET:
        addr = IPV4_PREFIX + addr[:4]
    return DiagSocket(family, proto, cookie, addr, int.from_bytes(port), raw)
