# SPDX-License-Identifier: Apache-2.0
"""The system's libbpf (1.1 and newer) through ctypes; the only module that imports ctypes.

Thin: functions take file descriptors and bytes, return file descriptors and bytes, and raise ``OSError``
with the kernel's errno. What the calls mean, and errors for people, are the business of the modules
above (:mod:`.bpfobject`, :mod:`.bpfmap`, :mod:`.attach`). Calls release the interpreter lock.
"""

from __future__ import annotations

import ctypes as c
import errno as e
import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

from netaccel.errors import UnsupportedError

Pointer = int
"""Address of one of libbpf's objects; 0 is never valid."""

_OLDEST = (1, 1)
_P, _S, _I, _U = c.c_void_p, c.c_char_p, c.c_int, c.c_uint32
_U64, _SIZE, _BOOL = c.c_uint64, c.c_size_t, c.c_bool
_UP = c.POINTER(_U)

# name: (result, arguments). Functions that return _I give -errno on failure.
_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "libbpf_major_version": (_U, []),
    "libbpf_minor_version": (_U, []),
    "libbpf_num_possible_cpus": (_I, []),
    "libbpf_set_print": (_P, [_P]),
    "bpf_object__open_file": (_P, [_S, _P]),
    "bpf_object__load": (_I, [_P]),
    "bpf_object__close": (None, [_P]),
    "bpf_object__next_map": (_P, [_P, _P]),
    "bpf_object__next_program": (_P, [_P, _P]),
    "bpf_map__name": (_S, [_P]),
    "bpf_map__fd": (_I, [_P]),
    "bpf_map__type": (_I, [_P]),
    "bpf_map__key_size": (_U, [_P]),
    "bpf_map__value_size": (_U, [_P]),
    "bpf_map__max_entries": (_U, [_P]),
    "bpf_map__map_flags": (_U, [_P]),
    "bpf_map__set_max_entries": (_I, [_P, _U]),
    "bpf_map__set_autocreate": (_I, [_P, _BOOL]),
    "bpf_map__reuse_fd": (_I, [_P, _I]),
    "bpf_map__is_internal": (_BOOL, [_P]),
    "bpf_map__initial_value": (_P, [_P, c.POINTER(_SIZE)]),
    "bpf_program__name": (_S, [_P]),
    "bpf_program__fd": (_I, [_P]),
    "bpf_program__section_name": (_S, [_P]),
    "bpf_program__set_autoload": (_I, [_P, _BOOL]),
    "bpf_program__expected_attach_type": (_I, [_P]),
    "bpf_program__set_expected_attach_type": (_I, [_P, _I]),
    "bpf_program__set_flags": (_I, [_P, _U]),
    "bpf_program__flags": (_U, [_P]),
    "bpf_program__get_type": (_I, [_P]),
    "bpf_map_create": (_I, [_I, _S, _U, _U, _U, _P]),
    "bpf_map_lookup_elem": (_I, [_I, _P, _P]),
    "bpf_map_update_elem": (_I, [_I, _P, _P, _U64]),
    "bpf_map_delete_elem": (_I, [_I, _P]),
    "bpf_map_get_next_key": (_I, [_I, _P, _P]),
    "bpf_map_lookup_batch": (_I, [_I, _P, _P, _P, _P, _UP, _P]),
    "bpf_map_update_batch": (_I, [_I, _P, _P, _UP, _P]),
    "bpf_map_delete_batch": (_I, [_I, _P, _UP, _P]),
    "bpf_obj_get": (_I, [_S]),
    "bpf_obj_pin": (_I, [_I, _S]),
    "bpf_obj_get_info_by_fd": (_I, [_I, _P, _UP]),
    "bpf_prog_get_fd_by_id": (_I, [_U]),
    "bpf_map_get_fd_by_id": (_I, [_U]),
    "bpf_btf_get_fd_by_id": (_I, [_U]),
    "bpf_link_get_fd_by_id": (_I, [_U]),
    "bpf_prog_get_next_id": (_I, [_U, _UP]),
    "bpf_link_get_next_id": (_I, [_U, _UP]),
    "bpf_link_create": (_I, [_I, _I, _I, _P]),
    "bpf_link_update": (_I, [_I, _I, _P]),
    "bpf_link_detach": (_I, [_I]),
    "bpf_iter_create": (_I, [_I]),
    "bpf_prog_query": (_I, [_I, _I, _U, _UP, _UP, _UP]),
    "bpf_prog_test_run_opts": (_I, [_I, _P]),
    "bpf_xdp_query_id": (_I, [_I, _I, _UP]),
    "bpf_tc_hook_create": (_I, [_P]),
    "bpf_tc_hook_destroy": (_I, [_P]),
    "bpf_tc_attach": (_I, [_P, _P]),
    "bpf_tc_detach": (_I, [_P, _P]),
    "bpf_tc_query": (_I, [_P, _P]),
    "ring_buffer__new": (_P, [_I, _P, _P, _P]),
    "ring_buffer__consume": (_I, [_P]),
    "ring_buffer__epoll_fd": (_I, [_P]),
    "ring_buffer__free": (None, [_P]),
}


class _OpenOpts(c.Structure):
    _fields_ = [
        ("sz", _SIZE),
        ("object_name", _S),
        ("relaxed_maps", _BOOL),
        ("pin_root_path", _S),
        ("attach_prog_fd", _U),
        ("kconfig", _S),
        ("btf_custom_path", _S),
        ("kernel_log_buf", _P),
        ("kernel_log_size", _SIZE),
        ("kernel_log_level", _U),
    ]


class _LinkCreateOpts(c.Structure):
    _fields_ = [
        ("sz", _SIZE),
        ("flags", _U),
        ("iter_info", _P),
        ("iter_info_len", _U),
        ("target_btf_id", _U),
    ]


class _TestRunOpts(c.Structure):
    _fields_ = [
        ("sz", _SIZE),
        ("data_in", _P),
        ("data_out", _P),
        ("data_size_in", _U),
        ("data_size_out", _U),
        ("ctx_in", _P),
        ("ctx_out", _P),
        ("ctx_size_in", _U),
        ("ctx_size_out", _U),
        ("retval", _U),
        ("repeat", _I),
        ("duration", _U),
        ("flags", _U),
        ("cpu", _U),
        ("batch_size", _U),
    ]


class _TcHook(c.Structure):
    _fields_ = [("sz", _SIZE), ("ifindex", _I), ("attach_point", _I), ("parent", _U)]


class _TcOpts(c.Structure):
    _fields_ = [
        ("sz", _SIZE),
        ("prog_fd", _I),
        ("flags", _U),
        ("prog_id", _U),
        ("handle", _U),
        ("priority", _U),
    ]


# --------------------------------------------------------- library and log

_PrintCallback = c.CFUNCTYPE(_I, _I, _S, _P)


class _Messages(threading.local):
    """Those of calls in this thread: objects load side by side."""

    def __init__(self) -> None:
        self.kept: list[str] = []


_messages = _Messages()


@cache
def _lib() -> c.CDLL:
    try:
        lib = c.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise UnsupportedError(
            "libbpf.so.1 is not installed: install libbpf1 (Debian, Ubuntu) or libbpf (Fedora, Arch, Alpine)"
        ) from error
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    found = (lib.libbpf_major_version(), lib.libbpf_minor_version())
    if found < _OLDEST:
        raise UnsupportedError(f"libbpf {found[0]}.{found[1]} is too old: 1.1 or newer is needed")
    lib.libbpf_set_print(_on_print)
    return lib


def _keep_message(level: int, text: bytes, arguments: int) -> int:
    """Keep libbpf's warnings (level 0) for the error that follows instead of writing them to stderr."""
    if level == 0:
        buffer = c.create_string_buffer(4096)
        c.CDLL(None).vsnprintf(buffer, _SIZE(len(buffer)), text, _P(arguments))
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
    return _lib().libbpf_major_version(), _lib().libbpf_minor_version()


@cache
def cpus() -> int:
    """CPUs the kernel may ever have: the number of values of a per-CPU map's entry."""
    return _check(_lib().libbpf_num_possible_cpus())


def _check(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result) if -result != ENOTSUPP else "operation not supported")
    return result


ENOTSUPP = 524
"""The kernel's internal "not supported", which reaches user space from map operations."""


# ------------------------------------------------------------------ objects


def object_open(path: str, log: c.Array[c.c_char]) -> Pointer:
    """Parse an object file; the verifier's log will be written to ``log`` (:func:`log_buffer`)."""
    options = _OpenOpts(sz=c.sizeof(_OpenOpts), kernel_log_buf=c.addressof(log), kernel_log_size=len(log))
    c.set_errno(0)
    pointer = _lib().bpf_object__open_file(os.fsencode(path), c.byref(options))
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
    _check(_lib().bpf_object__load(pointer))


def object_close(pointer: Pointer) -> None:
    """Free the object and close its descriptors."""
    _lib().bpf_object__close(pointer)


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
    lib = _lib()
    return {lib.bpf_map__name(m).decode(): m for m in _walk(lib.bpf_object__next_map, pointer)}


def object_programs(pointer: Pointer) -> dict[str, Pointer]:
    """Programs by name."""
    lib = _lib()
    return {lib.bpf_program__name(p).decode(): p for p in _walk(lib.bpf_object__next_program, pointer)}


def map_definition(pointer: Pointer) -> MapInfo:
    """What the object asks for, before load."""
    lib = _lib()
    return MapInfo(
        lib.bpf_map__name(pointer).decode(),
        lib.bpf_map__type(pointer),
        0,
        lib.bpf_map__key_size(pointer),
        lib.bpf_map__value_size(pointer),
        lib.bpf_map__max_entries(pointer),
        lib.bpf_map__map_flags(pointer),
    )


def map_is_internal(pointer: Pointer) -> bool:
    """True for data sections."""
    return bool(_lib().bpf_map__is_internal(pointer))


def map_set_max_entries(pointer: Pointer, entries: int) -> None:
    """Before load."""
    _check(_lib().bpf_map__set_max_entries(pointer, entries))


def map_reuse(pointer: Pointer, fd: int) -> None:
    """Use an existing map; the descriptor is duplicated. Before load."""
    _check(_lib().bpf_map__reuse_fd(pointer, fd))


def map_fd(pointer: Pointer) -> int:
    """Descriptor owned by the object. After load."""
    return _check(_lib().bpf_map__fd(pointer))


def map_initial_value(pointer: Pointer) -> memoryview:
    """The bytes of a data section, writable until load."""
    size = _SIZE()
    start = _lib().bpf_map__initial_value(pointer, c.byref(size))
    if not start:
        raise OSError(e.ENOENT, "map has no initial value")
    return memoryview((c.c_char * size.value).from_address(start)).cast("B")


def program_fd(pointer: Pointer) -> int:
    """Descriptor owned by the object. After load."""
    return _check(_lib().bpf_program__fd(pointer))


def program_section(pointer: Pointer) -> str:
    """ELF section, which states type and hook."""
    return str(_lib().bpf_program__section_name(pointer).decode())


def program_set_autoload(pointer: Pointer, wanted: bool) -> None:
    """Leave a program out, or put it back. Before load."""
    _check(_lib().bpf_program__set_autoload(pointer, wanted))


def program_attach_type(pointer: Pointer) -> int:
    """Expected attach type (enum bpf_attach_type)."""
    return int(_lib().bpf_program__expected_attach_type(pointer))


def program_set_flags(pointer: Pointer, flags: int) -> None:
    """BPF_F_* of BPF_PROG_LOAD, added to those of the section name."""
    _check(_lib().bpf_program__set_flags(pointer, _lib().bpf_program__flags(pointer) | flags))


# --------------------------------------------------------------------- maps


def map_create(kind: int, name: str, key_size: int, value_size: int, entries: int) -> int:
    """A map without BTF. Returns its descriptor."""
    return _check(_lib().bpf_map_create(kind, name.encode(), key_size, value_size, entries, None))


def map_lookup(fd: int, key: bytes, size: int) -> bytes | None:
    """Value of a key (``size`` bytes; all CPUs' values for a per-CPU map), None where it is absent."""
    value = c.create_string_buffer(size)
    result = _lib().bpf_map_lookup_elem(fd, key, value)
    if result == -e.ENOENT:
        return None
    _check(result)
    return value.raw


def map_update(fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
    """Write one entry; ``flags``: BPF_ANY 0, BPF_NOEXIST 1, BPF_EXIST 2."""
    _check(_lib().bpf_map_update_elem(fd, key, value, flags))


def map_delete(fd: int, key: bytes) -> bool:
    """Remove one entry; False where it was absent."""
    result = _lib().bpf_map_delete_elem(fd, key)
    if result == -e.ENOENT:
        return False
    _check(result)
    return True


def map_next_key(fd: int, key: bytes | None, size: int) -> bytes | None:
    """The key after ``key``, the first for None; None at the end."""
    following = c.create_string_buffer(size)
    result = _lib().bpf_map_get_next_key(fd, key, following)
    if result == -e.ENOENT:
        return None
    _check(result)
    return following.raw


class Batch(NamedTuple):
    """Outcome of a batch call: how many entries went through, and the errno that ended it (0: none)."""

    done: int
    errno: int


def _slice(data: bytes | bytearray, start: int) -> Any:
    return c.c_void_p(_address(data) + start)


def _address(data: bytes | bytearray) -> int:
    if isinstance(data, bytearray):
        return c.addressof(c.c_char.from_buffer(data))
    return c.cast(c.c_char_p(data), c.c_void_p).value or 0


def map_update_batch(fd: int, keys: bytes, values: bytes, count: int, at: tuple[int, int] = (0, 0)) -> Batch:
    """Write ``count`` entries; ``at``: offsets in bytes into ``keys`` and ``values``."""
    done = _U(count)
    result = _lib().bpf_map_update_batch(fd, _slice(keys, at[0]), _slice(values, at[1]), c.byref(done), None)
    return Batch(done.value, -result)


def map_delete_batch(fd: int, keys: bytes, count: int, at: int = 0) -> Batch:
    """Remove ``count`` entries; ends with ENOENT at the first that is absent."""
    done = _U(count)
    result = _lib().bpf_map_delete_batch(fd, _slice(keys, at), c.byref(done), None)
    return Batch(done.value, -result)


def map_lookup_batch(
    fd: int, cursor: bytearray, first: bool, keys: bytearray, values: bytearray, count: int
) -> Batch:
    """Read up to ``count`` entries on from ``cursor`` (at least 4 and at least key-size bytes; moved on).

    ENOENT: these were the last. ENOSPC: one bucket holds more than ``count``; come back with more room.
    """
    done = _U(count)
    place = _slice(cursor, 0)
    result = _lib().bpf_map_lookup_batch(
        fd, None if first else place, place, _slice(keys, 0), _slice(values, 0), c.byref(done), None
    )
    return Batch(done.value, -result)


# ------------------------------------------------- descriptors, ids and pins


def obj_get(path: str) -> int:
    """Open a pinned map, program or link."""
    return _check(_lib().bpf_obj_get(os.fsencode(path)))


def obj_pin(fd: int, path: str) -> None:
    """Pin; the file must not exist."""
    _check(_lib().bpf_obj_pin(fd, os.fsencode(path)))


def fd_by_id(kind: str, number: int) -> int:
    """Open a ``prog``, ``map``, ``btf`` or ``link`` by its id."""
    return _check(getattr(_lib(), f"bpf_{kind}_get_fd_by_id")(number))


def ids(kind: str) -> Iterator[int]:
    """Ids of every ``prog`` or ``link`` of the machine."""
    number = _U(0)
    while True:
        result = getattr(_lib(), f"bpf_{kind}_get_next_id")(number.value, c.byref(number))
        if result == -e.ENOENT:
            return
        _check(result)
        yield number.value


def info(fd: int, filled: bytes = b"", size: int = 256) -> bytes:
    """A struct bpf_{map,prog,link,btf}_info of a descriptor, zero-padded to ``size`` bytes."""
    buffer = c.create_string_buffer(filled, size)
    length = _U(size)
    _check(_lib().bpf_obj_get_info_by_fd(fd, buffer, c.byref(length)))
    return buffer.raw


def btf_by_id(number: int) -> bytes:
    """Raw BTF that the kernel keeps under an id."""
    fd = fd_by_id("btf", number)
    try:
        size = struct.unpack_from("=QI", info(fd))[1]
        blob = bytearray(size)
        info(fd, struct.pack("=QI", _address(blob), size))
        return bytes(blob)
    finally:
        os.close(fd)


def address_of(data: bytearray) -> int:
    """Where a buffer lies, for the pointers inside a struct bpf_*_info; keep the buffer alive."""
    return _address(data)


# ------------------------------------------------------------ links and runs

_TRACE_ITER = 28  # BPF_TRACE_ITER of enum bpf_attach_type


def link_create(prog_fd: int, target: int, attach_type: int, flags: int = 0) -> int:
    """Attach by a link; ``target`` is an ifindex or the descriptor of a cgroup. Returns its descriptor.

    libbpf hands attach types that it does not know (tcx before 1.3) to the kernel as they are.
    """
    options = _LinkCreateOpts(sz=c.sizeof(_LinkCreateOpts), flags=flags)
    return _check(_lib().bpf_link_create(prog_fd, target, attach_type, c.byref(options)))


def link_update(link_fd: int, prog_fd: int) -> None:
    """Replace a link's program atomically."""
    _check(_lib().bpf_link_update(link_fd, prog_fd, None))


def link_detach(link_fd: int) -> None:
    """Take a link's program off its hook though the link stays open or pinned."""
    _check(_lib().bpf_link_detach(link_fd))


def iter_link(prog_fd: int, map_fd: int | None = None) -> int:
    """Attach an iterator, over the entries of a map where one is given. Returns the link's descriptor."""
    options = _LinkCreateOpts(sz=c.sizeof(_LinkCreateOpts))
    over = _U(map_fd or 0)  # union bpf_iter_link_info
    if map_fd is not None:
        options.iter_info, options.iter_info_len = c.addressof(over), c.sizeof(over)
    return _check(_lib().bpf_link_create(prog_fd, 0, _TRACE_ITER, c.byref(options)))


def iter_create(link_fd: int) -> int:
    """One run of an iterator's link: reading the descriptor to its end runs the program on each object."""
    return _check(_lib().bpf_iter_create(link_fd))


def prog_query(target: int, attach_type: int, limit: int = 64) -> list[int]:
    """Ids of the programs on a hook (an ifindex for tcx, a cgroup's descriptor)."""
    found, count, flags = (_U * limit)(), _U(limit), _U()
    _check(_lib().bpf_prog_query(target, attach_type, 0, c.byref(flags), found, c.byref(count)))
    return list(found[: count.value])


def xdp_query(ifindex: int) -> int:
    """Id of the XDP program of a device, 0 where there is none."""
    number = _U()
    _check(_lib().bpf_xdp_query_id(ifindex, 0, c.byref(number)))
    return number.value


class Run(NamedTuple):
    """Outcome of a test run; ``duration`` in ns, mean of the repeats."""

    retval: int
    data: bytes
    context: bytes
    duration: int


def test_run(
    fd: int, data: bytes | None, context: bytes | None, repeat: int, flags: int, batch: int, room: int
) -> Run:
    """BPF_PROG_TEST_RUN; see :meth:`.bpfobject.Program.test_run`."""
    options = _TestRunOpts(sz=c.sizeof(_TestRunOpts), repeat=repeat, flags=flags, batch_size=batch)
    out = c.create_string_buffer(room)
    context_out = c.create_string_buffer(len(context) if context else 1)
    if data is not None:
        options.data_in, options.data_size_in = _address(data), len(data)
        if room:
            options.data_out, options.data_size_out = c.addressof(out), room
    if context is not None:
        options.ctx_in, options.ctx_size_in = _address(context), len(context)
        options.ctx_out, options.ctx_size_out = c.addressof(context_out), len(context)
    _check(_lib().bpf_prog_test_run_opts(fd, c.byref(options)))
    size = min(options.data_size_out, room) if data is not None else 0
    context_size = options.ctx_size_out if context is not None else 0
    return Run(options.retval, out.raw[:size], context_out.raw[:context_size], options.duration)


# ----------------------------------------------------------- clsact filters

TC_INGRESS = 1
TC_EGRESS = 2


class TcFilter(NamedTuple):
    """A BPF filter of a device's clsact qdisc."""

    handle: int
    priority: int
    prog_id: int


def _hook(ifindex: int, point: int) -> _TcHook:
    return _TcHook(sz=c.sizeof(_TcHook), ifindex=ifindex, attach_point=point)


def tc_hook_create(ifindex: int) -> bool:
    """Add a clsact qdisc; False where the device has one already."""
    result = _lib().bpf_tc_hook_create(c.byref(_hook(ifindex, TC_INGRESS)))
    if result == -e.EEXIST:
        return False
    _check(result)
    return True


def tc_hook_destroy(ifindex: int) -> None:
    """Remove the clsact qdisc and every filter on it."""
    _check(_lib().bpf_tc_hook_destroy(c.byref(_hook(ifindex, TC_INGRESS | TC_EGRESS))))


def tc_attach(ifindex: int, point: int, prog_fd: int, handle: int, priority: int) -> None:
    """Put a filter, replacing the one with this handle and priority in one step."""
    options = _TcOpts(sz=c.sizeof(_TcOpts), prog_fd=prog_fd, flags=1, handle=handle, priority=priority)
    _check(_lib().bpf_tc_attach(c.byref(_hook(ifindex, point)), c.byref(options)))


def tc_detach(ifindex: int, point: int, handle: int, priority: int) -> None:
    """Remove one filter."""
    options = _TcOpts(sz=c.sizeof(_TcOpts), handle=handle, priority=priority)
    _check(_lib().bpf_tc_detach(c.byref(_hook(ifindex, point)), c.byref(options)))


def tc_query(ifindex: int, point: int, handle: int, priority: int) -> TcFilter | None:
    """The filter with this handle and priority, None where there is none."""
    options = _TcOpts(sz=c.sizeof(_TcOpts), handle=handle, priority=priority)
    result = _lib().bpf_tc_query(c.byref(_hook(ifindex, point)), c.byref(options))
    if result in (-e.ENOENT, -e.EINVAL):  # EINVAL: no clsact qdisc
        return None
    _check(result)
    return TcFilter(options.handle, options.priority, options.prog_id)


# -------------------------------------------------------------- ring buffer

_SampleCallback = c.CFUNCTYPE(_I, _P, _P, _SIZE)


class RawRing:
    """A consumer of one ring buffer map; keeps its callback alive."""

    def __init__(self, fd: int, take: Callable[[bytes], None]) -> None:
        def on_sample(_context: int, data: int, size: int) -> int:
            take(c.string_at(data, size))
            return 0

        self._callback = _SampleCallback(on_sample)
        self._ring = _lib().ring_buffer__new(fd, self._callback, None, None)
        if not self._ring:
            raise OSError(c.get_errno(), "ring buffer could not be opened")
        self.epoll_fd = _check(_lib().ring_buffer__epoll_fd(self._ring))

    def consume(self) -> int:
        """Hand over every sample that is there. Returns their number."""
        return _check(_lib().ring_buffer__consume(self._ring))

    def close(self) -> None:
        """Free the mapping."""
        if self._ring:
            _lib().ring_buffer__free(self._ring)
            self._ring = None


# ------------------------------------------------------ the C library's part


@cache
def _libc() -> c.CDLL:
    return c.CDLL(None, use_errno=True)


def _libc_call(name: str, *arguments: Any) -> None:
    if getattr(_libc(), name)(*arguments) < 0:
        number = c.get_errno()
        raise OSError(number, os.strerror(number))


def mount(source: str, target: str, kind: str, flags: int = 0) -> None:
    """Mount a filesystem without options."""
    _libc_call("mount", source.encode(), os.fsencode(target), kind.encode(), c.c_ulong(flags), None)


def unmount(target: str) -> None:
    """Unmount lazily: open descriptors live on."""
    _libc_call("umount2", os.fsencode(target), 2)


def setns(fd: int, kind: int) -> None:
    """Move this thread to the namespace of a descriptor; ``kind``: CLONE_NEWNET 0x40000000."""
    _libc_call("setns", fd, kind)


def unshare(kind: int) -> None:
    """Give this thread new namespaces (CLONE_NEW*)."""
    _libc_call("unshare", kind)
