# SPDX-License-Identifier: Apache-2.0
"""That no event is lost silently: seen = exported + aggregated + lost, and exported = read + waiting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from netaccel.observe.figures import Labels


class Counters(Protocol):
    """What is read here of netaccel.datapath.maps.KernelMaps."""

    def get(self, name: str, key: Any) -> Any:
        """One value; of a per-CPU map one for each CPU."""
        ...


@dataclass(slots=True)
class Taken:
    """What this agent made of samples, since it started."""

    read: int = 0
    unparsable: int = 0
    """Of these, of another size or without a known type."""
    lag: float = 0.0
    """Seconds between the oldest event of the last batch and its reading."""


class Account(NamedTuple):
    """One reading; exact while nothing happens, else some events apart.

    ``seen`` to ``lost``: the programs', since the datapath was made. ``read``, ``unparsable``: this agent's.
    ``waiting``: in the ring. ``unaccounted``: exported in this agent's time, neither read nor waiting, and
    what the programs' own sum lacks.
    """

    seen: int
    exported: int
    aggregated: int
    lost: int
    read: int
    unparsable: int
    waiting: int
    unaccounted: int


class Accountant:
    """Compares the programs' counters with what was read. ``waiting``: samples in the ring now."""

    def __init__(self, maps: Counters, labels: Labels, taken: Taken, waiting: Callable[[], int]) -> None:
        self._maps = maps
        self._waiting = waiting
        self._taken = taken
        by_name = {name: index for index, name in labels.labels("counter").items()}
        self._indices = [by_name[f"event_{what}"] for what in ("seen", "exported", "aggregated", "lost")]
        self._before = self._counts()[1] - waiting()  # told to somebody who read before us

    def account(self) -> Account:
        """Read now. DatapathError."""
        seen, exported, aggregated, lost = self._counts()
        taken, waiting = self._taken, self._waiting()
        ours = exported - self._before - taken.read - waiting
        theirs = seen - exported - aggregated - lost
        return Account(
            seen, exported, aggregated, lost, taken.read, taken.unparsable, waiting, abs(ours) + abs(theirs)
        )

    def _counts(self) -> list[int]:
        return [sum(self._maps.get("counters", index)) for index in self._indices]
