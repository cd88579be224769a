# SPDX-License-Identifier: Apache-2.0
"""Back to TCP, all of it: what `netaccel detach` does before it takes the maps away."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from netaccel.accelerate.engine import DRAINING, Engine
from netaccel.accelerate.evidence import Thresholds
from netaccel.accelerate.facts import Facts
from netaccel.accelerate.receipts import Ledger
from netaccel.accelerate.slots import Party
from netaccel.accelerate.visits import Visits
from netaccel.datapath.accel.sockets import AccelSockets
from netaccel.model.address import endpoint_text

PATIENCE = 10.0  # seconds


class _NoPolicy:
    """Nobody joins any more."""

    def revision(self) -> int:
        """Of no policy."""
        return 0

    def refuses(self, parties: tuple[Party, Party], revision: int) -> str:
        """Everybody."""
        return "leaving"

    def client(self, parties: tuple[Party, Party]) -> int | None:
        """Nobody asks."""
        return None


def leave(pins: Path, cgroup: Path, hz: int, patience: float = PATIENCE) -> tuple[int, Sequence[str]]:
    """Stop and drain every pair of a node; how many left, and a line for each that can't: its reader has not
    read, or its namespace can't be entered. What those have in the map is lost with it, so keep it.

    ``pins``: folder of the node's maps, which has some of acceleration. ``cgroup``: root of the node's
    processes. DatapathError.
    """
    with ThreadPoolExecutor(1, "leave") as own_thread:  # its namespace changes
        return own_thread.submit(_leave, pins, cgroup, hz, patience).result()


def _leave(pins: Path, cgroup: Path, hz: int, patience: float) -> tuple[int, Sequence[str]]:
    programs = AccelSockets.open(pins, hz)
    try:
        engine = Engine(
            programs, Visits(cgroup), _NoPolicy(), Thresholds(), Ledger(), may_splice=lambda _: ""
        )
        engine.adopt()
        count = len(engine.slots.used)
        until = time.monotonic() + patience
        while True:
            engine.round(Facts(draining=True))
            if engine.drained() or time.monotonic() > until:
                break
            time.sleep(DRAINING)
        left = [
            f"{_text(slot.parties[0])} and {_text(slot.parties[1])}" for slot in engine.slots.used.values()
        ]
        left += [f"socket {cookie}" for cookie in engine.orphans]
        return count - len(engine.slots.used), left
    finally:
        programs.close()


def _text(party: Party) -> str:
    return endpoint_text(party.address, party.port)
