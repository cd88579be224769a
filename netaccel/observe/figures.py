# SPDX-License-Identifier: Apache-2.0
"""Counters of the datapath with their names, all CPUs together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from netaccel.records import Service, ServiceCounters, Traffic


class Maps(Protocol):
    """What is read here of netaccel.datapath.maps.Maps."""

    def dump(self, name: str) -> Mapping[Any, Any]:
        """Every entry; of a per-CPU map a list of values each."""
        ...


class Labels(Protocol):
    """Names of enumerators (netaccel.datapath.abi.Abi)."""

    def labels(self, enum: str) -> Mapping[int, str]:
        """Lower-case names by value."""
        ...


class Countable(Protocol):
    """What is counted here of netaccel.datapath.maps.KernelMaps."""

    def count(self, name: str, mark: str = "") -> int:
        """Entries in use; with ``mark`` those whose field is not zero."""
        ...


def in_force(maps: Countable) -> dict[str, int]:
    """Service ports, frontends and backends that the maps hold; slots of removed backends don't count."""
    return {
        "services": maps.count("services"),
        "frontends": maps.count("frontends"),
        "backends": maps.count("backends", "state"),
    }


class Tally:
    """Counts of maps that the agent alone writes, made anew only after it has: counting 250,000 entries takes
    a tenth of a second, and an idle node's would be counted again and again.

    ``stamp``: differs after each write.
    """

    def __init__(self, count: Callable[[], dict[str, int]], stamp: Callable[[], object]) -> None:
        self._count = count
        self._stamp = stamp
        self._known: tuple[object, dict[str, int]] | None = None

    def read(self) -> dict[str, int]:
        """The counts; blocking where something was written."""
        stamp = self._stamp()
        if self._known is None or self._known[0] != stamp:
            self._known = stamp, self._count()
        return self._known[1]


@dataclass(frozen=True, slots=True)
class Figures:
    """One reading. Sums of all CPUs since the datapath was made."""

    services: Mapping[int, Service] = field(default_factory=dict)
    """Names by service port id."""
    counters: Mapping[int, ServiceCounters] = field(default_factory=dict)
    """By service port id; those that are all zero may be missing."""
    drops: Mapping[str, Traffic] = field(default_factory=dict)
    """By reason."""
    events: Mapping[str, int] = field(default_factory=dict)
    """By name of enum counter."""


def read_figures(maps: Maps, labels: Labels) -> Figures:
    """Read the counters now."""
    reasons = {k: v for k, v in labels.labels("drop_reason").items() if v != "none"}
    drops = {key: total(per_cpu) for key, per_cpu in maps.dump("drops").items()}
    events = {key: sum(per_cpu) for key, per_cpu in maps.dump("counters").items()}
    return Figures(
        services=dict(maps.dump("services")),
        counters={key: total(per_cpu) for key, per_cpu in maps.dump("service_counters").items()},
        drops={name: drops.get(key, Traffic(0, 0)) for key, name in reasons.items()},
        events={name: events.get(key, 0) for key, name in labels.labels("counter").items()},
    )


def total(per_cpu: Sequence[Any]) -> Any:
    """Field by field sum of records of one type."""
    return type(per_cpu[0])._make(map(sum, zip(*per_cpu, strict=True)))


class FigureCache:
    """Readings no more often than once a second, however many ask."""

    def __init__(self, read: Callable[[], Figures], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._figures = Figures()
        self._until = float("-inf")

    def __call__(self) -> Figures:
        """The last reading, or a new one."""
        now = self._clock()
        if now >= self._until:
            self._figures = self._read()
            self._until = now + 1.0
        return self._figures
