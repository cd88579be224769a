# SPDX-License-Identifier: Apache-2.0
"""From the ring to the log: read in batches, decoded, named, told."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from netaccel.observe.flows.account import Taken
from netaccel.observe.flows.decode import Decoder
from netaccel.observe.flows.log import FlowLog
from netaccel.observe.flows.naming import Namer

PAUSE = 0.1
"""Seconds in which events join one batch: ten wake-ups a second, however many events."""
LIMIT = 1024
"""Events a batch. With PAUSE it bounds what a flood of events may cost: some 10,000 a second are read, the
ring holds four seconds of more, and what does not fit is counted as lost by the programs."""


class Ring(Protocol):
    """What is read here of netaccel.datapath.ringbuf.RingBuffer."""

    def batches(self, limit: int, pause: float) -> AsyncIterator[list[bytes]]:
        """Samples as they come."""
        ...


class Pump:
    """Reads for ever. ``taken`` is kept up to date."""

    def __init__(self, decoder: Decoder, namer: Namer, log: FlowLog) -> None:
        self.taken = Taken()
        self._decoder = decoder
        self._namer = namer
        self._log = log

    async def run(self, ring: Ring) -> None:
        """Until cancelled. DatapathError where the ring can't be read."""
        async for samples in ring.batches(LIMIT, PAUSE):
            self.take(samples)

    def take(self, samples: Sequence[bytes]) -> None:
        """One batch."""
        events, unparsable = self._decoder.decode(samples)
        self.taken.read += len(samples)
        self.taken.unparsable += unparsable
        if not events:
            return
        self.taken.lag = max(0.0, (time.monotonic_ns() - events[0].time) / 1e9)
        self._namer.begin()
        self._log.append([self._namer.of_event(event) for event in events])
