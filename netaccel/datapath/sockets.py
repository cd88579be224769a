# SPDX-License-Identifier: Apache-2.0
"""Destroying the sockets that are connected to a backend which was removed.

A socket that socket load balancing connected would send to its backend for ever; a DNS client that never
connects again would stick to a dead server. So such sockets are destroyed: the owner gets ECONNABORTED (a
send() on a UDP socket EDESTADDRREQ), connects again and gets a live backend. Sockets of terminating backends
stay.

``sock_peer`` says which sockets are meant, of all the node's network namespaces. The kernel destroys those of
one namespace at a time, so a thread of the reaper's own enters each that has one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from netaccel.datapath.cgroup import processes
from netaccel.datapath.maps import Maps
from netaccel.datapath.netlink import inside_namespace, netns_cookie
from netaccel.datapath.sockdiag import SockDiag
from netaccel.datapath.sockiter import DestroyStale, StaleSockets
from netaccel.errors import DatapathError
from netaccel.records import SockPeer

log = logging.getLogger(__name__)

OWN_NAMESPACE = Path("/proc/self/ns/net")

Stale = Mapping[int, SockPeer]
"""Sockets to destroy: by cookie, what they were given."""


class Destroyer(Protocol):
    """A way to find and destroy stale sockets. Every call may raise DatapathError."""

    name: str
    """For people: what it is in the kernel."""

    def stale(self) -> Stale:
        """Those of every namespace."""
        ...

    def destroy(self, stale: Stale) -> Collection[int]:
        """Destroy those of this thread's namespace and their entries; cookies of the destroyed."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class SocketReaper:
    """Destroys the stale sockets of one node: of the processes below its cgroup, and of its own namespace."""

    def __init__(
        self, destroyer: Destroyer, maps: Maps, cgroup: Path, namespace: Path = OWN_NAMESPACE
    ) -> None:
        """``destroyer`` is taken over (:func:`open_destroyer`); ``namespace``: the node's own."""
        self.method = destroyer.name
        self.destroyed = 0
        """Sockets since the start."""
        self.forgotten = 0
        """Entries of ``sock_peer`` that were removed because no socket with that peer is left."""
        self._destroyer = destroyer
        self._maps = maps
        self._cgroup = cgroup
        self._namespace = namespace
        self._missed: set[tuple[int, SockPeer]] = set()
        self._thread = ThreadPoolExecutor(1, "sockets")  # its namespace changes: nobody else's thread

    async def reap(self) -> int:
        """Destroy every stale socket that can be reached. Returns their number. DatapathError."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._reap)

    async def close(self) -> None:
        """Wait for a run under way, free the programs."""
        await asyncio.to_thread(self._thread.shutdown)
        self._destroyer.close()

    def _reap(self) -> int:
        left = dict(self._destroyer.stale())
        wanted = {peer.netns for peer in left.values()}
        visited: set[int] = set()
        count = 0
        places = namespaces(self._cgroup, self._namespace) if left else {}
        for inode, paths in places.items():
            cookie, destroyed = self._destroy_inside(inode, paths, wanted, left)
            visited.add(cookie)
            count += len(destroyed)
            for number in destroyed:
                left.pop(number, None)
        self.destroyed += count
        self._forget({(number, peer) for number, peer in left.items() if peer.netns in visited})
        return count

    def _destroy_inside(
        self, inode: int, paths: list[Path], wanted: set[int], stale: Stale
    ) -> tuple[int, Collection[int]]:
        """Cookie of the namespace (0: unknown), and of the sockets destroyed there."""
        for path in paths:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except (FileNotFoundError, ProcessLookupError):
                continue  # the process ended
            try:
                if os.fstat(descriptor).st_ino != inode:
                    continue  # another process has its number
                with inside_namespace(f"/proc/self/fd/{descriptor}"):
                    cookie = netns_cookie()
                    worthwhile = not cookie or cookie in wanted
                    return cookie, self._destroyer.destroy(stale) if worthwhile else ()
            finally:
                os.close(descriptor)
        return 0, ()

    def _forget(self, missed: set[tuple[int, SockPeer]]) -> None:
        """Remove entries that led to no socket twice: it is closed, or connected elsewhere.

        Once is not enough: a connect() under way has its entry before it has its peer.
        """
        gone = missed & self._missed
        if gone:
            self._maps.delete("sock_peer", [cookie for cookie, _ in gone])
            self.forgotten += len(gone)
        self._missed = missed - gone


def open_destroyer(pins: Path, maps: Maps, free_state: int) -> Destroyer:
    """The best way that this kernel has.

    ``pins``: folder of the node's maps; ``maps``: the same; ``free_state``: ``constants["BACKEND_FREE"]``.
    """
    finder: StaleSockets | None = None
    try:
        finder = StaleSockets(pins)
        return IteratorDestroyer(finder, DestroyStale(pins))
    except DatapathError as error:
        log.info("sockets of removed backends are destroyed by sock_diag: %s", error)
        return DiagDestroyer(maps, free_state, finder)


class IteratorDestroyer:
    """By programs in the kernel alone (6.5 and newer)."""

    name = "bpf_sock_destroy"

    def __init__(self, finder: StaleSockets, killer: DestroyStale) -> None:
        self._finder = finder
        self._killer = killer

    def stale(self) -> Stale:
        """From the iterator over ``sock_peer``."""
        return self._finder.read()

    def destroy(self, stale: Stale) -> Collection[int]:
        """By the iterators over sockets, which judge for themselves."""
        return self._killer.run()

    def close(self) -> None:
        """Free the programs."""
        self._finder.close()
        self._killer.close()


class DiagDestroyer:
    """By netlink, for kernels without bpf_sock_destroy; without BTF it reads the maps whole."""

    name = "sock_diag"

    def __init__(self, maps: Maps, free_state: int, finder: StaleSockets | None) -> None:
        self._maps = maps
        self._free = free_state
        self._finder = finder

    def stale(self) -> Stale:
        """From the iterator over ``sock_peer`` where the kernel has it."""
        if self._finder:
            return self._finder.read()
        live = {
            (number, backend.generation)
            for number, backend in self._maps.dump("backends").items()
            if backend.state != self._free
        }
        peers: dict[int, SockPeer] = self._maps.dump("sock_peer")
        return {c: peer for c, peer in peers.items() if (peer.backend, peer.generation) not in live}

    def destroy(self, stale: Stale) -> Collection[int]:
        """Those that still have the peer that they were given."""
        done: list[int] = []
        with SockDiag() as diag:
            for proto in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
                for found in diag.connected(proto):
                    peer = stale.get(found.cookie)
                    if peer is None or (peer.backend_addr, peer.backend_port) != (found.addr, found.port):
                        continue
                    # The entry first: the owner may connect again the moment it hears of this.
                    self._maps.delete("sock_peer", [found.cookie])
                    if diag.destroy(found):
                        done.append(found.cookie)
        return done

    def close(self) -> None:
        """Free the program."""
        if self._finder:
            self._finder.close()


def namespaces(cgroup: Path, own: Path) -> dict[int, list[Path]]:
    """Network namespaces of the processes below a cgroup, and ``own``: by inode, paths that open it.

    Raises DatapathError where other users' processes may not be looked at.
    """
    found: dict[int, list[Path]] = {}
    for path in (own, *(Path(f"/proc/{number}/ns/net") for number in processes(cgroup))):
        try:
            found.setdefault(path.stat().st_ino, []).append(path)
        except (FileNotFoundError, ProcessLookupError):
            continue  # the process ended
        except PermissionError as error:
            raise DatapathError(f"{path}: {error.strerror}: give the agent CAP_SYS_PTRACE") from error
    return found
