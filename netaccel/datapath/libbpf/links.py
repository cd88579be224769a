# SPDX-License-Identifier: Apache-2.0
"""Descriptors, ids and pins; links; test runs."""

from __future__ import annotations

import ctypes as c
import errno as e
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from netaccel.datapath.libbpf.elements import address
from netaccel.datapath.libbpf.library import INT, PTR, SIZE, U32, check, lib


class _LinkCreateOpts(c.Structure):
    _fields_ = [
        ("sz", SIZE),
        ("flags", U32),
        ("iter_info", PTR),
        ("iter_info_len", U32),
        ("target_btf_id", U32),
    ]


class _TestRunOpts(c.Structure):
    _fields_ = [
        ("sz", SIZE),
        ("data_in", PTR),
        ("data_out", PTR),
        ("data_size_in", U32),
        ("data_size_out", U32),
        ("ctx_in", PTR),
        ("ctx_out", PTR),
        ("ctx_size_in", U32),
        ("ctx_size_out", U32),
        ("retval", U32),
        ("repeat", INT),
        ("duration", U32),
        ("flags", U32),
        ("cpu", U32),
        ("batch_size", U32),
    ]


def obj_get(path: str) -> int:
    """Open a pinned map, program or link."""
    return check(lib().bpf_obj_get(os.fsencode(path)))


def obj_pin(fd: int, path: str) -> None:
    """Pin; the file must not exist."""
    check(lib().bpf_obj_pin(fd, os.fsencode(path)))


def fd_by_id(kind: str, number: int) -> int:
    """Open a ``prog``, ``map``, ``btf`` or ``link`` by its id."""
    return check(getattr(lib(), f"bpf_{kind}_get_fd_by_id")(number))


def ids(kind: str) -> Iterator[int]:
    """Ids of every ``prog`` or ``link`` of the machine."""
    number = U32(0)
    while True:
        result = getattr(lib(), f"bpf_{kind}_get_next_id")(number.value, c.byref(number))
        if result == -e.ENOENT:
            return
        check(result)
        yield number.value


def info(fd: int, filled: bytes = b"", size: int = 256) -> bytes:
    """A struct bpf_{map,prog,link,btf}_info of a descriptor, zero-padded to ``size`` bytes."""
    buffer = c.create_string_buffer(filled, size)
    length = U32(size)
    check(lib().bpf_obj_get_info_by_fd(fd, buffer, c.byref(length)))
    return buffer.raw


def btf_by_id(number: int) -> bytes:
    """Raw BTF that the kernel keeps under an id."""
    fd = fd_by_id("btf", number)
    try:
        size = struct.unpack_from("=QI", info(fd))[1]
        blob = bytearray(size)
        info(fd, struct.pack("=QI", address(blob), size))
        return bytes(blob)
    finally:
        os.close(fd)


def address_of(data: bytearray) -> int:
    """Where a buffer lies, for the pointers inside a struct bpf_*_info; keep the buffer alive."""
    return address(data)


_SK_MSG_VERDICT, _TRACE_ITER = 7, 28  # of enum bpf_attach_type


def link_create(prog_fd: int, target: int, attach_type: int, flags: int = 0) -> int:
    """Attach by a link; ``target`` is an ifindex or the descriptor of a cgroup. Returns its descriptor.

    libbpf hands attach types that it does not know (tcx before 1.3) to the kernel as they are.
    """
    options = _LinkCreateOpts(sz=c.sizeof(_LinkCreateOpts), flags=flags)
    return check(lib().bpf_link_create(prog_fd, target, attach_type, c.byref(options)))


def link_update(link_fd: int, prog_fd: int) -> None:
    """Replace a link's program atomically."""
    check(lib().bpf_link_update(link_fd, prog_fd, None))


def link_detach(link_fd: int) -> None:
    """Take a link's program off its hook though the link stays open or pinned."""
    check(lib().bpf_link_detach(link_fd))


def iter_link(prog_fd: int, map_fd: int | None = None) -> int:
    """Attach an iterator, over the entries of a map where one is given. Returns the link's descriptor."""
    options = _LinkCreateOpts(sz=c.sizeof(_LinkCreateOpts))
    over = U32(map_fd or 0)  # union bpf_iter_link_info
    if map_fd is not None:
        options.iter_info, options.iter_info_len = c.addressof(over), c.sizeof(over)
    return check(lib().bpf_link_create(prog_fd, 0, _TRACE_ITER, c.byref(options)))


def iter_create(link_fd: int) -> int:
    """One run of an iterator's link: reading the descriptor to its end runs the program on each object."""
    return check(lib().bpf_iter_create(link_fd))


def messages_attach(prog_fd: int, map_fd: int) -> None:
    """Ask a program of sk_msg about what the sockets of a sockmap send; it takes an earlier one's place.

    Sockets keep the program that they were added under.
    """
    check(lib().bpf_prog_attach(prog_fd, map_fd, _SK_MSG_VERDICT, 0))


def tracepoint_link(prog_fd: int) -> int:
    """Attach a tp_btf program to the tracepoint that it was loaded for. Returns the link's descriptor."""
    return check(lib().bpf_raw_tracepoint_open(None, prog_fd))


def prog_query(target: int, attach_type: int, limit: int = 64) -> list[int]:
    """Ids of the programs on a hook (an ifindex for tcx, a cgroup's descriptor)."""
    found, count, flags = (U32 * limit)(), U32(limit), U32()
    check(lib().bpf_prog_query(target, attach_type, 0, c.byref(flags), found, c.byref(count)))
    return list(found[: count.value])


def xdp_query(ifindex: int) -> int:
    """Id of the XDP program of a device, 0 where there is none."""
    number = U32()
    check(lib().bpf_xdp_query_id(ifindex, 0, c.byref(number)))
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
        options.data_in, options.data_size_in = address(data), len(data)
        if room:
            options.data_out, options.data_size_out = c.addressof(out), room
    if context is not None:
        options.ctx_in, options.ctx_size_in = address(context), len(context)
        options.ctx_out, options.ctx_size_out = c.addressof(context_out), len(context)
    check(lib().bpf_prog_test_run_opts(fd, c.byref(options)))
    size = min(options.data_size_out, room) if data is not None else 0
    context_size = options.ctx_size_out if context is not None else 0
    return Run(options.retval, out.raw[:size], context_out.raw[:context_size], options.duration)
