# SPDX-License-Identifier: Apache-2.0
"""The socket iterators: programs that the kernel runs on every entry of a map or every socket (bpf/sock)."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from netaccel.datapath import libbpf
from netaccel.datapath.bpfmap import KernelMap
from netaccel.datapath.bpfobject import BpfObject
from netaccel.errors import DatapathError
from netaccel.records import SockPeer

_COOKIE = struct.Struct("=Q")
_RETRIES = 1000
"""Reads that the kernel cuts short after a million objects without output."""


class StaleSockets:
    """Lists the sockets whose backend was removed, of every network namespace (sock_stale.o)."""

    def __init__(self, pins: Path) -> None:
        """``pins``: folder of the node's maps. DatapathError where the kernel lacks what it takes."""
        self._stack = ExitStack()
        with self._stack as guard:
            obj = guard.enter_context(open_shared("sock_stale", pins))
            self._codec = obj.abi.codec("sock_peer")
            self._link = _link(guard, obj, "sock_stale", obj.map_fd("sock_peer"))
            self._stack = guard.pop_all()

    def read(self) -> dict[int, SockPeer]:
        """By socket cookie, what each was given."""
        data = run(self._link)
        size = _COOKIE.size + self._codec.size
        return {
            _COOKIE.unpack_from(data, at)[0]: self._codec.unpack(data[at + _COOKIE.size : at + size])
            for at in range(0, len(data), size)
        }

    def close(self) -> None:
        """Free the program."""
        self._stack.close()


class DestroyStale:
    """Destroys the stale sockets of this thread's network namespace (sock_destroy.o, kernel 6.5)."""

    def __init__(self, pins: Path) -> None:
        """``pins``: folder of the node's maps. DatapathError where the kernel lacks what it takes."""
        self._stack = ExitStack()
        with self._stack as guard:
            obj = guard.enter_context(open_shared("sock_destroy", pins))
            self._links = [_link(guard, obj, f"sock_destroy_{proto}") for proto in ("tcp", "udp")]
            self._stack = guard.pop_all()

    def run(self) -> list[int]:
        """Cookies of the destroyed sockets; their entries of ``sock_peer`` are gone too."""
        return [cookie for link in self._links for (cookie,) in _COOKIE.iter_unpack(run(link))]

    def close(self) -> None:
        """Free the programs."""
        self._stack.close()


def open_shared(name: str, pins: Path, settings: Mapping[str, int] | None = None) -> BpfObject:
    """Load one of the package's objects on the node's pinned maps. ``settings``: constants. DatapathError."""
    obj = BpfObject.named(name)
    try:
        if settings is not None:
            obj.set_constant("settings", settings)
        for map_name in obj.map_definitions():
            with KernelMap.open_pinned(pins / map_name) as shared:
                obj.reuse(map_name, shared.fd)
        obj.load()
    except OSError as error:
        obj.close()
        raise DatapathError(f"{pins}: can't open a map of the node: {error}", error.errno or 0) from error
    except DatapathError:
        obj.close()
        raise
    return obj


def run(link: int) -> bytes:
    """What the iterator's program writes in one pass, in this thread's network namespace. DatapathError."""
    try:
        descriptor = libbpf.iter_create(link)
        try:
            return b"".join(_read(descriptor))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DatapathError(f"socket iterator: {error.strerror}", error.errno or 0) from error


def _read(descriptor: int) -> list[bytes]:
    parts: list[bytes] = []
    for _ in range(_RETRIES):
        try:
            while part := os.read(descriptor, 1 << 16):
                parts.append(part)
        except BlockingIOError:
            continue
        return parts
    raise BlockingIOError("the iterator does not end")


def _link(guard: ExitStack, obj: BpfObject, program: str, over: int | None = None) -> int:
    try:
        link = libbpf.iter_link(obj.program(program).fd, over)
    except OSError as error:
        raise DatapathError(
            f"iterator {program} can't be attached: {error.strerror}", error.errno or 0
        ) from error
    guard.callback(os.close, link)
    return link
