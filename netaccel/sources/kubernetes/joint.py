# SPDX-License-Identifier: Apache-2.0
"""Where the reflectors' events come together, the first policies behind the pods that they are about."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from netaccel.model.event import Event, Reject, Upsert


class Joint:
    """What was told and not taken yet.

    The first policy makes the source ask for all Pods and Nodes (``widen``). Until these are known
    (``is_wide``) policies wait here, for ``patience`` seconds at most: then a server that gives no pods
    delays policy no longer, and peers that aren't known aren't allowed.
    """

    def __init__(self, widen: Callable[[], None], is_wide: Callable[[], bool], *, patience: float) -> None:
        self.arrived = asyncio.Event()
        self._widen = widen
        self._is_wide = is_wide
        self._patience = patience
        self._events: list[Event] = []
        self._held: list[Event] = []
        self._asked = False
        self._until: float | None = None

    def tell(self, events: Sequence[Event]) -> None:
        """Events of any other kind; none: a standing changed."""
        self._events.extend(events)
        self.arrived.set()

    def tell_policies(self, events: Sequence[Event]) -> None:
        """Events of policies."""
        if not self._asked and any(isinstance(event, Upsert | Reject) for event in events):
            self._asked = True
            self._until = time.monotonic() + self._patience
            self._widen()
        if self._until is None:
            self._events.extend(events)
        else:
            self._held.extend(events)
        self.arrived.set()

    def holds_for(self) -> float | None:
        """Seconds for which policies are held back yet; None: none are."""
        return None if self._until is None else max(0.0, self._until - time.monotonic())

    def take(self) -> tuple[Event, ...]:
        """All that may be told now, in order."""
        self.arrived.clear()
        if self._until is not None and (self._is_wide() or time.monotonic() >= self._until):
            self._events += self._held
            self._held.clear()
            self._until = None
        batch, self._events[:] = tuple(self._events), ()
        return batch
