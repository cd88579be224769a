# SPDX-License-Identifier: Apache-2.0
"""The cookie of this thread's network namespace, as programs see it, on every kernel.

From 5.14 a socket tells it (SO_NETNS_COOKIE). Before, a program does: a process in a cgroup of its own makes
one socket, and the program that is attached there notes the cookie of its namespace.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import uuid
from pathlib import Path

from netaccel.datapath import libbpf, netlink
from netaccel.datapath.bpfobject import BpfObject
from netaccel.errors import DatapathError

_SOCKET_CREATE = 2  # BPF_CGROUP_INET_SOCK_CREATE of enum bpf_attach_type
_MAKE_ONE = """
import socket, sys
with open(sys.argv[1], "w") as procs:
    procs.write("0")
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
"""


def namespace_cookie(tree: Path) -> int:
    """``tree``: a cgroup v2 folder below which a cgroup may be made for a moment. DatapathError."""
    return netlink.netns_cookie() or seen_by_program(tree)


def seen_by_program(tree: Path) -> int:
    """The way of the kernels before 5.14. DatapathError."""
    cgroup = tree / f"netaccel-cookie-{uuid.uuid4().hex[:8]}"
    try:
        cgroup.mkdir()
        try:
            return _ask(cgroup)
        finally:
            cgroup.rmdir()
    except (OSError, subprocess.SubprocessError) as error:
        raise DatapathError(f"cgroup {cgroup}: the namespace's cookie can't be learnt: {error}") from error


def _ask(cgroup: Path) -> int:
    with BpfObject.named("probe_netns") as obj:
        obj.load()
        folder = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            link = libbpf.link_create(obj.program("probe_netns").fd, folder, _SOCKET_CREATE)
        finally:
            os.close(folder)
        try:
            procs = str(cgroup / "cgroup.procs")
            command = [sys.executable, "-I", "-S", "-c", _MAKE_ONE, procs]
            subprocess.run(command, check=True, capture_output=True, timeout=30)
            value = libbpf.map_lookup(obj.map_fd("netns_cookie"), bytes(4), 8) or bytes(8)
        finally:
            os.close(link)
    found: int = struct.unpack("=Q", value)[0]
    if not found:
        raise DatapathError(f"cgroup {cgroup}: no program ran for a socket made there")
    return found
