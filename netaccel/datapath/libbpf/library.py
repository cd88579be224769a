# SPDX-License-Identifier: Apache-2.0
"""The library itself: found, its functions typed, its messages kept."""

from __future__ import annotations

import ctypes as c
import os
import threading
from functools import cache
from typing import Any

from netaccel.errors import UnsupportedError

_OLDEST = (1, 1)
Pointer = int
"""Address of one of libbpf's objects; 0 is never valid."""

PTR, STR, INT, U32 = c.c_void_p, c.c_char_p, c.c_int, c.c_uint32
U64, SIZE, BOOL = c.c_uint64, c.c_size_t, c.c_bool
U32_PTR = c.POINTER(U32)

# name: (result, arguments). Functions that return INT give -errno on failure.
_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "libbpf_major_version": (U32, []),
    "libbpf_minor_version": (U32, []),
    "libbpf_num_possible_cpus": (INT, []),
    "libbpf_set_print": (PTR, [PTR]),
    "bpf_object__open_file": (PTR, [STR, PTR]),
    "bpf_object__load": (INT, [PTR]),
    "bpf_object__close": (None, [PTR]),
    "bpf_object__next_map": (PTR, [PTR, PTR]),
    "bpf_object__next_program": (PTR, [PTR, PTR]),
    "bpf_map__name": (STR, [PTR]),
    "bpf_map__fd": (INT, [PTR]),
    "bpf_map__type": (INT, [PTR]),
    "bpf_map__key_size": (U32, [PTR]),
    "bpf_map__value_size": (U32, [PTR]),
    "bpf_map__max_entries": (U32, [PTR]),
    "bpf_map__map_flags": (U32, [PTR]),
    "bpf_map__set_max_entries": (INT, [PTR, U32]),
    "bpf_map__set_autocreate": (INT, [PTR, BOOL]),
    "bpf_map__reuse_fd": (INT, [PTR, INT]),
    "bpf_map__is_internal": (BOOL, [PTR]),
    "bpf_map__initial_value": (PTR, [PTR, c.POINTER(SIZE)]),
    "bpf_program__name": (STR, [PTR]),
    "bpf_program__fd": (INT, [PTR]),
    "bpf_program__section_name": (STR, [PTR]),
    "bpf_program__set_autoload": (INT, [PTR, BOOL]),
    "bpf_program__expected_attach_type": (INT, [PTR]),
    "bpf_program__set_expected_attach_type": (INT, [PTR, INT]),
    "bpf_program__set_flags": (INT, [PTR, U32]),
    "bpf_program__flags": (U32, [PTR]),
    "bpf_program__get_type": (INT, [PTR]),
    "bpf_map_create": (INT, [INT, STR, U32, U32, U32, PTR]),
    "bpf_map_lookup_elem": (INT, [INT, PTR, PTR]),
    "bpf_map_update_elem": (INT, [INT, PTR, PTR, U64]),
    "bpf_map_delete_elem": (INT, [INT, PTR]),
    "bpf_map_get_next_key": (INT, [INT, PTR, PTR]),
    "bpf_map_lookup_batch": (INT, [INT, PTR, PTR, PTR, PTR, U32_PTR, PTR]),
    "bpf_map_update_batch": (INT, [INT, PTR, PTR, U32_PTR, PTR]),
    "bpf_map_delete_batch": (INT, [INT, PTR, U32_PTR, PTR]),
    "bpf_obj_get": (INT, [STR]),
    "bpf_obj_pin": (INT, [INT, STR]),
    "bpf_obj_get_info_by_fd": (INT, [INT, PTR, U32_PTR]),
    "bpf_prog_get_fd_by_id": (INT, [U32]),
    "bpf_map_get_fd_by_id": (INT, [U32]),
    "bpf_btf_get_fd_by_id": (INT, [U32]),
    "bpf_link_get_fd_by_id": (INT, [U32]),
    "bpf_prog_get_next_id": (INT, [U32, U32_PTR]),
    "bpf_link_get_next_id": (INT, [U32, U32_PTR]),
    "bpf_link_create": (INT, [INT, INT, INT, PTR]),
    "bpf_link_update": (INT, [INT, INT, PTR]),
    "bpf_link_detach": (INT, [INT]),
    "bpf_iter_create": (INT, [INT]),
    "bpf_prog_attach": (INT, [INT, INT, INT, U32]),
    "bpf_raw_tracepoint_open": (INT, [STR, INT]),
    "bpf_prog_query": (INT, [INT, INT, U32, U32_PTR, U32_PTR, U32_PTR]),
    "bpf_prog_test_run_opts": (INT, [INT, PTR]),
    "bpf_xdp_query_id": (INT, [INT, INT, U32_PTR]),
    "bpf_tc_hook_create": (INT, [PTR]),
    "bpf_tc_hook_destroy": (INT, [PTR]),
    "bpf_tc_attach": (INT, [PTR, PTR]),
    "bpf_tc_detach": (INT, [PTR, PTR]),
    "bpf_tc_query": (INT, [PTR, PTR]),
    "ring_buffer__new": (PTR, [INT, PTR, PTR, PTR]),
    "ring_buffer__consume": (INT, [PTR]),
    "ring_buffer__epoll_fd": (INT, [PTR]),
    "ring_buffer__free": (None, [PTR]),
}


_PrintCallback = c.CFUNCTYPE(INT, INT, STR, PTR)


class _Messages(threading.local):
    """Those of calls in this thread: objects load side by side."""

    def __init__(self) -> None:
        self.kept: list[str] = []


_messages = _Messages()


@cache
def lib() -> c.CDLL:
    """Return the loaded library. UnsupportedError where it is missing or too old."""
    try:
        library = c.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise UnsupportedError(
            "libbpf.so.1 is not installed: install libbpf1 (Debian, Ubuntu) or libbpf (Fedora, Arch, Alpine)"
        ) from error
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    found = (library.libbpf_major_version(), library.libbpf_minor_version())
    if found < _OLDEST:
        raise UnsupportedError(f"libbpf {found[0]}.{found[1]} is too old: 1.1 or newer is needed")
    library.libbpf_set_print(_on_print)
    return library


def _keep_message(level: int, text: bytes, arguments: int) -> int:
    """Keep libbpf's warnings (level 0) for the error that follows instead of writing them to stderr."""
    if level == 0:
        buffer = c.create_string_buffer(4096)
        c.CDLL(None).vsnprintf(buffer, SIZE(len(buffer)), text, PTR(arguments))
        _messages.kept.append(buffer.value.decode(errors="replace").strip())
        del _messages.kept[:-100]
    return 0


_on_print = _PrintCallback(_keep_message)


def take_messages() -> list[str]:
    """Warnings of libbpf in this thread since the last call, forgotten afterwards."""
    found, _messages.kept = _messages.kept, []
    return found


def version() -> tuple[int, int]:
    """(major, minor) of the library. UnsupportedError where it is missing or too old."""
    return lib().libbpf_major_version(), lib().libbpf_minor_version()


@cache
def cpus() -> int:
    """CPUs the kernel may ever have: the number of values of a per-CPU map's entry."""
    return check(lib().libbpf_num_possible_cpus())


def check(result: int) -> int:
    """Return a result that is no error; else raise OSError with the kernel's errno."""
    if result < 0:
        raise OSError(-result, os.strerror(-result) if -result != ENOTSUPP else "operation not supported")
    return result


ENOTSUPP = 524
"""The kernel's internal "not supported", which reaches user space from map operations."""
