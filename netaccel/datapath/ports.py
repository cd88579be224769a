# SPDX-License-Identifier: Apache-2.0
"""Keeps the kernel's own choice of ports out of the range that SNAT uses (net.ipv4, ip-sysctl.rst).

A loose match between the two would hand the node's own connections to a pod. So what the range shares
with ``ip_local_port_range`` goes into ``ip_local_reserved_ports``; what was added there is noted in the
node's folder, and ``detach`` takes it out again. Both sysctls serve IPv6 too, and each network namespace
has its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from netaccel.config import PortRange
from netaccel.datapath.instance import Instance
from netaccel.errors import ConfigError

# A container's /proc/sys is read-only; a pod may have the node's net sysctls beside it (deploy/base).
_POD_NET = Path("/host/proc/sys/net")
_NET = _POD_NET if _POD_NET.is_dir() else Path("/proc/sys/net")
_LOCAL = _NET / "ipv4/ip_local_port_range"
_RESERVED = _NET / "ipv4/ip_local_reserved_ports"
_NOTE = "reserved-ports"


def parse_ports(text: str) -> set[int]:
    """Read ``1,5-7`` as the kernel writes it."""
    ports: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            ports.update(range(int(first), int(last or first) + 1))
    return ports


def format_ports(ports: Iterable[int]) -> str:
    """Write ``1,5-7``."""
    runs: list[list[int]] = []
    for port in sorted(ports):
        if runs and port == runs[-1][1] + 1:
            runs[-1][1] = port
        else:
            runs.append([port, port])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def reserve(instance: Instance, snat: PortRange) -> set[int]:
    """Reserve what ``snat`` shares with the kernel's range; return what is reserved by us.

    Raises ConfigError where the sysctl can't be written.
    """
    first, last = map(int, _LOCAL.read_text(encoding="ascii").split())
    reserved = parse_ports(_RESERVED.read_text(encoding="ascii"))
    ours = parse_ports(instance.note(_NOTE))
    needed = set(range(max(first, snat.first), min(last, snat.last) + 1))
    wanted = needed - (reserved - ours)
    if wanted != ours or not wanted <= reserved:
        # Note first: after a crash between the two, too much is released rather than too little.
        instance.write_note(_NOTE, format_ports(wanted | ours))
        _write((reserved - ours) | wanted, snat)
        instance.write_note(_NOTE, format_ports(wanted))
    return wanted


def release(instance: Instance) -> set[int]:
    """Take out of the sysctl what :func:`reserve` put there; return it."""
    ours = parse_ports(instance.note(_NOTE))
    if ours:
        reserved = parse_ports(_RESERVED.read_text(encoding="ascii"))
        _write(reserved - ours, None)
        instance.write_note(_NOTE, "")
    return ours


def _write(ports: set[int], snat: PortRange | None) -> None:
    try:
        _RESERVED.write_text(format_ports(ports) + "\n", encoding="ascii")
    except OSError as error:
        remedy = f": give snatPorts outside of {_LOCAL} instead of {snat}" if snat else ""
        raise ConfigError(f"{_RESERVED}: {error.strerror}{remedy}") from error
