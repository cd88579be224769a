# SPDX-License-Identifier: Apache-2.0
"""The programs and maps of socket-to-socket acceleration (bpf/accel/sockets.bpf.c).

What is enrolled, and when a pair may leave, is decided in :mod:`netaccel.accelerate`. Maps and the sockets in
them outlive this object: enrolled sockets go on from socket to socket without an agent.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from netaccel.datapath import libbpf
from netaccel.datapath.bpfmap import KernelMap
from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.maps import KernelMaps
from netaccel.datapath.migrate import pinned_shape, wanted_shape
from netaccel.datapath.sockiter import run
from netaccel.errors import DatapathError
from netaccel.records import AccelEnd, AccelPair, AccelResult, AccelSeen, AccelWanted

_OBJECT = "accel_sockets"
_OWN = "accel_"
"""What this object's own maps begin with; the others are the node's."""
_SOCKETS = "accel_map"
_WALKS = 16  # through the map, before they are taken to be endless
_STATE = 4  # offset of struct accel_pair's state, in every version


class AccelSockets:
    """One instance of the programs. Not for two threads at once."""

    def __init__(self, obj: BpfObject, guard: ExitStack) -> None:
        """``obj``: loaded, owned by ``guard``, which is taken over. DatapathError."""
        self._stack = guard
        abi = obj.abi
        self.constants = abi.constants
        self._seen, self._result = abi.codec("accel_seen"), abi.codec("accel_result")
        self._sockets = obj.map(_SOCKETS)
        guard.callback(self._sockets.close)
        tables = [name for name in obj.map_definitions() if name.startswith(_OWN) and name != _SOCKETS]
        self._maps = KernelMaps({name: obj.map(name) for name in tables}, abi)
        guard.callback(self._maps.close)
        try:
            libbpf.messages_attach(obj.program("accel_msg").fd, self._sockets.fd)
            self._scan, self._list, self._enrol = (
                _link(guard, obj, name) for name in ("accel_scan", "accel_list", "accel_enrol")
            )
        except OSError as error:
            raise DatapathError(
                f"acceleration's programs can't be attached: {error.strerror}", error.errno or 0
            ) from error

    @classmethod
    def open(cls, pins: Path, hz: int) -> Self:
        """The node's, over its pinned maps (``pins``: their folder), which are made where they are missing.

        Maps of another version's layout are stopped and put aside: what they hold goes by TCP from then on.
        VerifierError, DatapathError where the kernel lacks what it takes.
        """
        with ExitStack() as guard:
            obj = guard.enter_context(BpfObject.named(_OBJECT))
            obj.set_constant("settings", {"hz": hz})
            if not _fits(obj, pins):
                _put_aside(obj, pins)
            fresh = []
            for name in obj.map_definitions():
                if not (pins / name).exists():
                    fresh.append(name)
                    continue
                with KernelMap.open_pinned(pins / name) as there:
                    obj.reuse(name, there.fd)
            obj.load()
            for name in fresh:
                try:
                    libbpf.obj_pin(obj.map_fd(name), str(pins / name))
                except OSError as error:
                    raise DatapathError(
                        f"{pins / name}: can't be pinned: {error.strerror}", error.errno or 0
                    ) from error
            return cls(obj, guard.pop_all())

    @classmethod
    def private(cls, hz: int, obj: BpfObject | None = None) -> Self:
        """With maps of its own, which end with it. ``obj``: opened, instead of the package's; taken over."""
        with ExitStack() as guard:
            opened = guard.enter_context(obj or BpfObject.named(_OBJECT))
            opened.set_constant("settings", {"hz": hz})
            opened.load()
            return cls(opened, guard.pop_all())

    # ---------------------------------------- in this thread's network namespace

    def scan(self, *, everything: bool = False) -> list[AccelSeen]:
        """Connections that may be worth it, and all enrolled sockets; or every connection. DatapathError."""
        found: list[AccelSeen] = self._seen.unpack_many(run(self._list if everything else self._scan))
        return found

    def enrol(self, wanted: Mapping[int, AccelWanted]) -> dict[int, AccelResult]:
        """Enrol sockets, by their cookies; what became of those that are here. DatapathError.

        Of a socket's end all counters begin at zero.
        """
        self._maps.write("accel_wanted", list(wanted.items()))
        try:
            results: list[AccelResult] = self._result.unpack_many(run(self._enrol))
        finally:
            self._maps.delete("accel_wanted", list(wanted))
        return {result.cookie: result for result in results}

    # ------------------------------------------------------------------ anywhere

    def pairs(self) -> dict[int, AccelPair]:
        """By slot; those that were never used are left out."""
        return self._maps.dump("accel_pairs")

    def ends(self) -> dict[int, AccelEnd]:
        """By number, 2 × slot and 2 × slot + 1; those that were never used are left out."""
        return self._maps.dump("accel_ends")

    def end(self, number: int) -> AccelEnd:
        """One end."""
        found: AccelEnd = self._maps.get("accel_ends", number)
        return found

    def write_pairs(self, pairs: Mapping[int, AccelPair]) -> None:
        """By slot; what programs do follows at once."""
        self._maps.write("accel_pairs", list(pairs.items()))

    def members(self) -> set[int]:
        """Cookies of the enrolled sockets that are not closed; of those that close meanwhile, some.

        Whoever is missing counts as closed, with nothing to read. A socket that closes under the walk sends
        it back to the start, so the last stretch of it is whole. DatapathError where that doesn't end.
        """
        found: set[int] = set()
        key: bytes | None = None
        for _ in range(_WALKS * self._sockets.info.max_entries):
            key = libbpf.map_next_key(self._sockets.fd, key, 8)
            if key is None:
                return found
            found.add(int.from_bytes(key, "little"))
        raise DatapathError(f"sockets leave {_SOCKETS} faster than it can be read")

    def remove(self, cookies: Iterable[int]) -> None:
        """Make plain TCP sockets of them. Redirected bytes that they have not read are lost: drain first."""
        for cookie in cookies:
            self._sockets.delete(cookie.to_bytes(8, "little"))

    def forget(self, slot: int) -> None:
        """What the slot's ends were, once both sockets are removed."""
        self._maps.delete("accel_ends", [2 * slot, 2 * slot + 1])

    @property
    def capacity(self) -> int:
        """Slots."""
        return self._maps.capacity("accel_pairs")

    def memory(self) -> dict[str, int]:
        """Bytes of kernel memory by map."""
        return {**self._maps.memory(), _SOCKETS: self._sockets.memory()}

    def close(self) -> None:
        """Free programs and descriptors."""
        self._stack.close()


def _link(guard: ExitStack, obj: BpfObject, program: str) -> int:
    link = libbpf.iter_link(obj.program(program).fd)
    guard.callback(os.close, link)
    return link


def _own(obj: BpfObject) -> dict[str, Any]:
    return {name: found for name, found in obj.map_definitions().items() if name.startswith(_OWN)}


def _fits(obj: BpfObject, pins: Path) -> bool:
    """Whether every pinned map is as the object wants it."""
    for name, definition in _own(obj).items():
        if (pins / name).exists():
            with KernelMap.open_pinned(pins / name) as there:
                wanted = wanted_shape(obj.btf, definition._replace(name=name))
                if wanted.difference(pinned_shape(there, wanted)):
                    return False
    return True


def _put_aside(obj: BpfObject, pins: Path) -> None:
    """Stop an older version's pairs. Its sockets stay in their map: their queues would go with it."""
    stopped = obj.abi.constants["ACCEL_STOPPED"].to_bytes(4, "little")
    with KernelMap.open_pinned(pins / "accel_pairs") as pairs:
        for slot in range(pairs.info.max_entries):
            key = slot.to_bytes(4, "little")
            value = pairs.lookup(key)
            if value and any(value):
                pairs.update(key, value[:_STATE] + stopped + value[_STATE + 4 :])
    number = 1 + len(list(pins.glob(f"{_SOCKETS}-old*")))
    for name in _own(obj):
        if name == _SOCKETS:
            (pins / name).rename(pins / f"{name}-old{number}")
        else:
            (pins / name).unlink(missing_ok=True)
