# SPDX-License-Identifier: Apache-2.0
"""BPF filters of a device's clsact qdisc."""

from __future__ import annotations

import ctypes as c
import errno as e
from typing import NamedTuple

from netaccel.datapath.libbpf.library import INT, SIZE, U32, check, lib


class _TcHook(c.Structure):
    _fields_ = [("sz", SIZE), ("ifindex", INT), ("attach_point", INT), ("parent", U32)]


class _TcOpts(c.Structure):
    _fields_ = [
        ("sz", SIZE),
        ("prog_fd", INT),
        ("flags", U32),
        ("prog_id", U32),
        ("handle", U32),
        ("priority", U32),
    ]


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
    result = lib().bpf_tc_hook_create(c.byref(_hook(ifindex, TC_INGRESS)))
    if result == -e.EEXIST:
        return False
    check(result)
    return True


def tc_hook_destroy(ifindex: int) -> None:
    """Remove the clsact qdisc and every filter on it."""
    check(lib().bpf_tc_hook_destroy(c.byref(_hook(ifindex, TC_INGRESS | TC_EGRESS))))


def tc_attach(ifindex: int, point: int, prog_fd: int, handle: int, priority: int) -> None:
    """Put a filter, replacing the one with this handle and priority in one step."""
    options = _TcOpts(sz=c.sizeof(_TcOpts), prog_fd=prog_fd, flags=1, handle=handle, priority=priority)
    check(lib().bpf_tc_attach(c.byref(_hook(ifindex, point)), c.byref(options)))


def tc_detach(ifindex: int, point: int, handle: int, priority: int) -> None:
    """Remove one filter."""
    options = _TcOpts(sz=c.sizeof(_TcOpts), handle=handle, priority=priority)
    check(lib().bpf_tc_detach(c.byref(_hook(ifindex, point)), c.byref(options)))


def tc_query(ifindex: int, point: int, handle: int, priority: int) -> TcFilter | None:
    """The filter with this handle and priority, None where there is none."""
    options = _TcOpts(sz=c.sizeof(_TcOpts), handle=handle, priority=priority)
    result = lib().bpf_tc_query(c.byref(_hook(ifindex, point)), c.byref(options))
    if result in (-e.ENOENT, -e.EINVAL):  # EINVAL: no clsact qdisc
        return None
    check(result)
    return TcFilter(options.handle, options.priority, options.prog_id)
