# SPDX-License-Identifier: Apache-2.0
"""The programs' clock: jiffies, low 32 bits, which no file or call of the kernel tells exactly."""

from __future__ import annotations

import time

from netaccel.datapath.bpfobject import BpfObject

_CLOCK_MONOTONIC_COARSE = 6  # include/uapi/linux/time.h; it advances once a jiffy
_ETH_ZLEN = 60


def jiffies_per_second() -> int:
    """CONFIG_HZ: the coarse clock's resolution is one tick (kernel/time/posix-stubs.c, KTIME_LOW_RES)."""
    return round(1 / time.clock_getres(_CLOCK_MONOTONIC_COARSE))


class Clock:
    """Asks a program that returns bpf_jiffies64(). Owns the program: :meth:`close` it."""

    def __init__(self) -> None:
        """Load the program. DatapathError where it is refused."""
        self._object = BpfObject.named("probe_jiffies")
        self._object.load()
        self._program = self._object.program("probe_jiffies")

    def now(self) -> int:
        """Jiffies now, low 32 bits."""
        return self._program.test_run(bytes(_ETH_ZLEN)).retval & 0xFFFFFFFF

    def close(self) -> None:
        """Free the program."""
        self._object.close()
