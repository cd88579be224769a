# SPDX-License-Identifier: Apache-2.0
"""A node's objects, loaded over the maps that are pinned, so that restart and upgrade lose nothing.

:func:`load` opens the objects, gives them every map that is pinned and still fits, creates the others, and
loads the programs. The caller attaches them (:mod:`.attach`) and then calls :meth:`Loaded.commit`.

A map whose layout, type or size differs from what is pinned is **migrated**::

    1. the programs are loaded over a new map, pinned as NAME-next; the old map's entries are copied into it
    2. the programs take the old ones' place, hook by hook (the caller)
    3. commit: what old programs added to the old map meanwhile is copied too, then NAME-next becomes NAME

Until 3 both maps are pinned, so that a crash at any point leaves the entries of both; the next start goes on
from there. Between 1 and 3, for milliseconds, a hook that runs a new program misses what an old program on
another hook adds: a packet of a flow that is opened just then may be taken for a new flow's, which Maglev
sends to the same backend. What per-CPU counters counted in that window is added at 3.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from netaccel.datapath import bpfobject, libbpf
from netaccel.datapath.abi import Abi
from netaccel.datapath.bpfmap import KernelMap
from netaccel.datapath.bpfobject import BpfObject, Program
from netaccel.datapath.instance import Instance
from netaccel.datapath.kept import KeptPrograms
from netaccel.datapath.maps import KernelMaps
from netaccel.datapath.migrate import Migration, Shape, pinned_shape, room_needed, wanted_shape
from netaccel.errors import AbiError, DatapathError

_NEXT = "-next"


class MapChange(NamedTuple):
    """What became of one map: ``created``, ``kept`` or ``migrated``, and why."""

    name: str
    what: str
    reason: str = ""
    copied: int = 0

    def __str__(self) -> str:
        """One line for a log."""
        text = f"map {self.name}: {self.what}"
        if self.reason:
            text += f": {self.reason}"
        return f"{text}; {self.copied} entries carried over" if self.what == "migrated" else text


class Loaded:
    """A node's objects in the kernel. Closing leaves there what is pinned or attached."""

    def __init__(self, objects: Mapping[str, BpfObject], maps: KernelMaps, nodemaps: _NodeMaps) -> None:
        self.objects = objects
        self.maps = maps
        self.abi: Abi = next(iter(objects.values())).abi
        """Of the first object: its constants are everyone's."""
        self.changes: tuple[MapChange, ...] = tuple(nodemaps.changes)
        """One per map."""
        self._nodemaps = nodemaps

    def program(self, name: str) -> Program:
        """A program of any of the objects. DatapathError where it was not loaded."""
        for obj in self.objects.values():
            if name in obj.program_names():
                return obj.program(name)
        raise DatapathError(f"no object has a program {name}", errno.ENOENT)

    def commit(self) -> None:
        """Finish migrations; call it once the new programs are on every hook."""
        self._nodemaps.commit()

    def close(self) -> None:
        """Close all descriptors."""
        self._nodemaps.close()
        self.maps.close()
        for obj in self.objects.values():
            obj.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(
    instance: Instance,
    objects: Sequence[str | Path],
    *,
    constants: Mapping[str, int],
    sizes: Mapping[str, int],
    leave_out: Sequence[str] = (),
    loaded_first: Callable[[BpfObject], None] | None = None,
) -> Loaded:
    """Load objects (names as ``tc_uplink``, or paths) for a node whose folder the caller has locked.

    The first object makes the maps that are missing; the others are verified side by side. An object that
    is the same, constants and maps included, as the one before is not loaded again (:mod:`.kept`).
    ``constants``: fields of the variable ``settings``; fields not named keep the source's defaults.
    ``sizes``: max_entries by map name. ``leave_out``: programs that this kernel can't load.
    ``loaded_first`` gets the first object as soon as it is loaded, while the others still are not.
    Raises VerifierError, AbiError, UnsupportedError, DatapathError; what was pinned and attached before
    is then as it was.
    """
    instance.maps.mkdir(parents=True, exist_ok=True)
    instance.links.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        nodemaps = _NodeMaps(instance.maps, sizes)
        stack.callback(nodemaps.close)
        opened: dict[str, BpfObject] = {}
        for path in map(object_path, objects):
            obj = opened[path.stem] = stack.enter_context(BpfObject(path))
            if "settings" in obj.btf.section(".rodata"):
                obj.set_constant("settings", constants)
            for name in set(leave_out) & set(obj.program_names()):
                obj.leave_out(name)
        pool = stack.enter_context(ThreadPoolExecutor(len(opened), "verify"))
        under_way: list[Future[None]] = []
        kept = KeptPrograms(instance)
        for number, obj in enumerate(opened.values()):
            nodemaps.bind(obj)
            if nodemaps.has_all(obj) and kept.adopt(obj, nodemaps.ids()):
                continue
            if number and nodemaps.has_all(obj):
                under_way.append(pool.submit(obj.load))
                continue
            obj.load()
            nodemaps.take(obj)
            if loaded_first and not number:
                loaded_first(obj)
        for future in under_way:
            future.result()
        nodemaps.settle()
        for obj in opened.values():
            kept.keep(obj, nodemaps.ids())
        maps = KernelMaps(nodemaps.duplicates(), *(obj.abi for obj in opened.values()))
        pool.shutdown()
        loaded = Loaded(opened, maps, nodemaps)
        stack.pop_all()
    return loaded


def object_path(wanted: str | Path) -> Path:
    """Where an object of the package lies; a path stays as it is."""
    return wanted if isinstance(wanted, Path) else bpfobject.OBJECTS / f"{wanted}.o"


def open_maps(instance: Instance, wanted: str | Path) -> tuple[KernelMaps, Abi]:
    """The pinned maps of a node, with the codecs of an object, for commands that only look.

    DatapathError where no agent ever ran here; AbiError where another version of netaccel runs here.
    """
    abi = Abi.from_elf(object_path(wanted).read_bytes())
    for name, codec in abi.maps.items():
        pin = instance.maps / name
        if pin.exists():
            with KernelMap.open_pinned(pin) as pinned:
                found = (pinned.info.key_size, pinned.info.value_size)
            if found != (codec.key.size, codec.value.size):
                raise AbiError(f"map {name}: the agent here is of another version of netaccel; use that one")
    return KernelMaps.open(instance.maps, abi), abi


def unpin_maps(instance: Instance) -> list[str]:
    """Remove the pins of all maps. Returns a line for each."""
    lines = []
    for pin in sorted(instance.maps.iterdir()) if instance.maps.is_dir() else ():
        pin.unlink()
        lines.append(f"map {pin.name}")
    return lines


class _NodeMaps:
    """The maps of a node while its objects are loaded: pinned ones, and those that an object before made."""

    def __init__(self, folder: Path, sizes: Mapping[str, int]) -> None:
        self.changes: list[MapChange] = []
        self._folder = folder
        self._sizes = sizes
        self._maps: dict[str, KernelMap] = {}
        self._old: dict[
            str, tuple[KernelMap, Shape, Shape, str]
        ] = {}  # to migrate: old, its shape, wanted, why
        self._migrations: dict[str, Migration] = {}

    def bind(self, obj: BpfObject) -> None:
        """Before an object's load: give it what is there."""
        for name in obj.map_definitions():
            if name in self._sizes:
                obj.resize(name, self._sizes[name])
            if name not in self._maps:
                self._find(obj, name)
            if name in self._maps:
                obj.reuse(name, self._maps[name].fd)

    def has_all(self, obj: BpfObject) -> bool:
        """Whether the object makes no map of its own."""
        return obj.map_definitions().keys() <= self._maps.keys()

    def ids(self) -> dict[str, int]:
        """The kernel's numbers of the maps, which it gives once only."""
        return {name: opened.info.id for name, opened in self._maps.items()}

    def take(self, obj: BpfObject) -> None:
        """After an object's load: the maps that it made are everyone's."""
        for name in obj.map_definitions():
            if name not in self._maps:
                self._maps[name] = obj.map(name)

    def settle(self) -> None:
        """After all loads: pin what is new, copy what must move."""
        for name, made in self._maps.items():
            if name in self._old:
                self._migrate(name, made)
            elif not (self._folder / name).exists():
                libbpf.obj_pin(made.fd, str(self._folder / name))
                self.changes.append(MapChange(name, "created"))

    def commit(self) -> None:
        """Catch up, and let the new maps take the old ones' names."""
        for name, migration in self._migrations.items():
            migration.catch_up()
            (self._folder / (name + _NEXT)).replace(self._folder / name)
        self._migrations.clear()

    def duplicates(self) -> dict[str, KernelMap]:
        """The maps, with descriptors of their own."""
        return {name: KernelMap(os.dup(opened.fd), name) for name, opened in self._maps.items()}

    def close(self) -> None:
        """Close what this holds."""
        for opened in (*self._maps.values(), *(entry[0] for entry in self._old.values())):
            opened.close()

    def _find(self, obj: BpfObject, name: str) -> None:
        pin, half_done = self._folder / name, self._folder / (name + _NEXT)
        if not pin.exists():
            return
        old = KernelMap.open_pinned(pin)
        wanted = wanted_shape(obj.btf, obj.map_definitions()[name]._replace(name=name))
        old_shape = pinned_shape(old, wanted)
        reason = wanted.difference(old_shape)
        if reason and wanted.entries < old.info.max_entries and room_needed(old) > wanted.entries:
            self.changes.append(
                MapChange(name, "size kept", f"more than {wanted.entries} entries are in use")
            )
            obj.resize(name, old.info.max_entries)
            wanted = wanted_shape(obj.btf, obj.map_definitions()[name]._replace(name=name))
            reason = wanted.difference(old_shape)
        if not reason and not half_done.exists():
            self._maps[name] = old
            self.changes.append(MapChange(name, "kept"))
        else:
            self._old[name] = (old, old_shape, wanted, reason or "an upgrade was interrupted")

    def _migrate(self, name: str, new: KernelMap) -> None:
        old, old_shape, wanted, reason = self._old[name]
        half_done, pending = (self._folder / (name + _NEXT * times) for times in (1, 2))
        copied = 0
        if half_done.exists():  # an upgrade was interrupted: its entries are the newest
            with KernelMap.open_pinned(half_done) as between:
                copied += Migration.between(between, pinned_shape(between, wanted), new, wanted).copy()
        migration = self._migrations[name] = Migration.between(old, old_shape, new, wanted)
        copied += migration.copy()
        if not migration.possible:
            reason += ", and nothing of it can be carried over"
        pending.unlink(missing_ok=True)
        libbpf.obj_pin(new.fd, str(pending))
        pending.replace(half_done)
        self.changes.append(MapChange(name, "migrated", reason, copied))
