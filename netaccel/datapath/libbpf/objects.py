# SPDX-License-Identifier: Apache-2.0
"""Objects before and after load."""

from __future__ import annotations

import ctypes as c
import errno as e
import mmap
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from netaccel.datapath.libbpf.library import BOOL, PTR, SIZE, STR, U32, Pointer, check, lib


class _OpenOpts(c.Structure):
    _fields_ = [
        ("sz", SIZE),
        ("object_name", STR),
        ("relaxed_maps", BOOL),
        ("pin_root_path", STR),
        ("attach_prog_fd", U32),
        ("kconfig", STR),
        ("btf_custom_path", STR),
        ("kernel_log_buf", PTR),
        ("kernel_log_size", SIZE),
        ("kernel_log_level", U32),
    ]


def object_open(path: str, log: c.Array[c.c_char]) -> Pointer:
    """Parse an object file; the verifier's log will be written to ``log`` (:func:`log_buffer`)."""
    options = _OpenOpts(sz=c.sizeof(_OpenOpts), kernel_log_buf=c.addressof(log), kernel_log_size=len(log))
    c.set_errno(0)
    pointer = lib().bpf_object__open_file(os.fsencode(path), c.byref(options))
    if not pointer:
        number = c.get_errno() or e.EINVAL
        raise OSError(number, os.strerror(number), path)
    return int(pointer)


def log_buffer(size: int = (1 << 24) - 1) -> c.Array[c.c_char]:
    """A buffer for the verifier's log: the largest that every kernel takes; pages come when written."""
    return (c.c_char * size).from_buffer(mmap.mmap(-1, size))  # ctypes' own buffers are filled at once


def log_text(log: c.Array[c.c_char]) -> str:
    """What the kernel wrote to a log buffer."""
    return log.value.decode(errors="replace")


def object_load(pointer: Pointer) -> None:
    """Create the maps and load the programs."""
    check(lib().bpf_object__load(pointer))


def object_close(pointer: Pointer) -> None:
    """Free the object and close its descriptors."""
    lib().bpf_object__close(pointer)


def _walk(function: Any, pointer: Pointer) -> Iterator[Pointer]:
    found = function(pointer, None)
    while found:
        yield int(found)
        found = function(pointer, found)


class MapInfo(NamedTuple):
    """A map as its definition or the kernel describes it. ``btf``, ``key_type``: BTF ids, 0 where none."""

    name: str
    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    btf: int = 0
    key_type: int = 0
    value_type: int = 0


def object_maps(pointer: Pointer) -> dict[str, Pointer]:
    """Maps by the kernel's name for them (``flows4``; ``xdp_upli.rodata`` for data sections)."""
    return {lib().bpf_map__name(m).decode(): m for m in _walk(lib().bpf_object__next_map, pointer)}


def object_programs(pointer: Pointer) -> dict[str, Pointer]:
    """Programs by name."""
    return {lib().bpf_program__name(p).decode(): p for p in _walk(lib().bpf_object__next_program, pointer)}


def map_definition(pointer: Pointer) -> MapInfo:
    """What the object asks for, before load."""
    return MapInfo(
        lib().bpf_map__name(pointer).decode(),
        lib().bpf_map__type(pointer),
        0,
        lib().bpf_map__key_size(pointer),
        lib().bpf_map__value_size(pointer),
        lib().bpf_map__max_entries(pointer),
        lib().bpf_map__map_flags(pointer),
    )


def map_is_internal(pointer: Pointer) -> bool:
    """True for data sections."""
    return bool(lib().bpf_map__is_internal(pointer))


def map_set_max_entries(pointer: Pointer, entries: int) -> None:
    """Before load."""
    check(lib().bpf_map__set_max_entries(pointer, entries))


def map_reuse(pointer: Pointer, fd: int) -> None:
    """Use an existing map; the descriptor is duplicated. Before load."""
    check(lib().bpf_map__reuse_fd(pointer, fd))


def map_fd(pointer: Pointer) -> int:
    """Descriptor owned by the object. After load."""
    return check(lib().bpf_map__fd(pointer))


def map_initial_value(pointer: Pointer) -> memoryview:
    """The bytes of a data section, writable until load."""
    size = SIZE()
    start = lib().bpf_map__initial_value(pointer, c.byref(size))
    if not start:
        raise OSError(e.ENOENT, "map has no initial value")
    return memoryview((c.c_char * size.value).from_address(start)).cast("B")


def program_fd(pointer: Pointer) -> int:
    """Descriptor owned by the object. After load."""
    return check(lib().bpf_program__fd(pointer))


def program_section(pointer: Pointer) -> str:
    """ELF section, which states type and hook."""
    return str(lib().bpf_program__section_name(pointer).decode())


def program_set_autoload(pointer: Pointer, wanted: bool) -> None:
    """Leave a program out, or put it back. Before load."""
    check(lib().bpf_program__set_autoload(pointer, wanted))


def program_attach_type(pointer: Pointer) -> int:
    """Expected attach type (enum bpf_attach_type)."""
    return int(lib().bpf_program__expected_attach_type(pointer))


def program_set_flags(pointer: Pointer, flags: int) -> None:
    """BPF_F_* of BPF_PROG_LOAD, added to those of the section name."""
    check(lib().bpf_program__set_flags(pointer, lib().bpf_program__flags(pointer) | flags))
