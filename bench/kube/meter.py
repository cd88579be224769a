# SPDX-License-Identifier: Apache-2.0
"""CPU and memory of all processes of a cgroup: a proxy's and those that it starts (nft, iptables-restore)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from netaccel.datapath.cgroup import processes

_EVERY = 0.2
TICKS = os.sysconf("SC_CLK_TCK")


def cpu(group: Path) -> float:
    """Seconds of CPU that the group has used (cgroup-v2.rst, cpu.stat); those of the dead count."""
    for line in (group / "cpu.stat").read_text(encoding="ascii").splitlines():
        if line.startswith("usage_usec"):
            return int(line.split()[1]) / 1e6
    raise RuntimeError(f"{group}: no usage_usec in cpu.stat")


def resident(group: Path) -> float:
    """Resident memory of the group in MB (10^6 bytes)."""
    return sum(_status(pid, "VmRSS") for pid in processes(group))


class Peak:
    """The most that was resident since :meth:`reset`, looked at five times a second."""

    def __init__(self, group: Path) -> None:
        self._group = group
        self.value = 0.0

    def look(self) -> None:
        """Look now."""
        self.value = max(self.value, resident(self._group))

    def reset(self) -> None:
        """Begin anew."""
        self.value = 0.0


@contextmanager
def watched(group: Path) -> Iterator[Peak]:
    """Look at the group from a thread until the context ends."""
    peak, over = Peak(group), threading.Event()

    def look() -> None:
        while not over.wait(_EVERY):
            peak.look()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def share(group: Path, seconds: float) -> float:
    """Per cent of a core that the group uses for so long."""
    before, begin = cpu(group), time.monotonic()
    time.sleep(seconds)
    return 100 * (cpu(group) - before) / (time.monotonic() - begin)


def by_name(group: Path) -> dict[str, int]:
    """Process ids by their command's name."""
    found = {}
    for pid in processes(group):
        with suppress(OSError):
            found[Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()] = pid
    return found


def process_cpu(pid: int) -> float:
    """Seconds of CPU of one process (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def process_resident(pid: int) -> float:
    """Resident memory of one process in MB."""
    return _status(pid, "VmRSS")


def _status(pid: int, field: str) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0
