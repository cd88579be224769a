# SPDX-License-Identifier: Apache-2.0
"""Runs a program many times in the kernel, each time on a fresh packet: see bench/bpf/driver.h."""

from __future__ import annotations

import struct
from typing import NamedTuple

from bench.objects import compiled
from netaccel.datapath.bpfobject import BpfObject, Program

FRAME_MAX = 96
ROUNDS = 32
VERDICTS = 8
PORT_AT = {4: 34, 6: 54}


class Case(NamedTuple):
    """A program and the packets it meets: ``flows`` (a power of two) source ports from ``first_port``."""

    name: str
    program: Program
    frame: bytes
    family: int = 4
    flows: int = 1
    first_port: int = 1024
    verdict: int | None = None
    varies: int = 0
    """Offset in the frame of the port that tells flows apart; 0: the source port."""


class Driver:
    """``kind``: xdp or tc. ``context``: what the programs see as ctx, as a test run takes it."""

    def __init__(self, kind: str, context: bytes | None = None) -> None:
        self.object = compiled(f"{kind}_driver")
        self.object.load()
        self.noop = self.object.program("noop")
        self._run = self.object.program("driver_run")
        self._data = self.object.map(".data.driver")
        self._under_test = self.object.map("under_test")
        self.context = context

    def run(self, case: Case, packets: int) -> float:
        """Nanoseconds a packet, the driver's own work included."""
        self._under_test.update(struct.pack("=I", 0), struct.pack("=i", case.program.fd))
        frame = case.frame.ljust(FRAME_MAX, b"\0")[:FRAME_MAX]
        port_at = case.varies or PORT_AT[case.family]
        head = struct.pack(f"={FRAME_MAX}s{VERDICTS}Q", frame, *[0] * VERDICTS)
        rest = struct.pack("=6I", 0, port_at, case.first_port, case.flows - 1, 0, 0)
        zero = struct.pack("=I", 0)
        self._data.update(zero, head + rest)
        repeat = max(1, packets // ROUNDS)
        result = self._run.test_run(case.frame.ljust(FRAME_MAX, b"\0"), context=self.context, repeat=repeat)
        self._check(case, self._data.lookup(zero) or b"", repeat * ROUNDS)
        return result.duration / ROUNDS

    def _check(self, case: Case, data: bytes, packets: int) -> None:
        verdicts = struct.unpack_from(f"={VERDICTS}Q", data, FRAME_MAX)
        failures = struct.unpack_from("=I", data, FRAME_MAX + 8 * VERDICTS)[0]
        if failures:
            raise RuntimeError(f"{case.name}: the driver failed {failures} times")
        if case.verdict is not None and verdicts[case.verdict & (VERDICTS - 1)] != packets:
            raise RuntimeError(f"{case.name}: verdicts {verdicts}, expected {packets} × {case.verdict}")


def floor() -> BpfObject:
    """The floor programs, loaded."""
    found = compiled("floor")
    found.load()
    return found
