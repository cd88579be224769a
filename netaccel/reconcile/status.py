# SPDX-License-Identifier: Apache-2.0
"""What became of each Service, and what the reconciler has done so far."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple


class State(enum.Enum):
    """What became of an object."""

    ACCEPTED = "Accepted"
    DEGRADED = "Degraded"
    """In force, but for what the reasons say."""
    REJECTED = "Rejected"
    """Not in force; what was, stays, less what is gone."""
    IGNORED = "Ignored"
    """Nothing for a service proxy to do."""


class Condition(NamedTuple):
    """A state and why, a line for each reason."""

    state: State
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """One pass that succeeded."""

    services: int = 0
    """Services that were looked at."""
    written: int = 0
    """Entries written and removed."""
    removed_backends: int = 0
    """Backends whose slot became free."""
    frontends: int = 0
    """Frontends that were added and removed."""
    drift: Counter[str] = field(default_factory=Counter)
    """Entries found other than written, by map."""
    compared: bool = False
    """The maps were read first."""
    duration: float = 0.0
    """Seconds that the pass took."""
    latency: float | None = None
    """Seconds from the oldest event's arrival to the last write; None: no event led to it."""


@dataclass(slots=True)
class Stats:
    """Since the start. Read by metrics and status; written by the reconciler alone."""

    reconciles: int = 0
    errors: int = 0
    """Passes that the datapath made fail; each is tried again."""
    hook_errors: int = 0
    """Calls after removed backends that failed; each is tried again."""
    compares: int = 0
    written: int = 0
    removed_backends: int = 0
    rejected: int = 0
    """Services that are rejected now."""
    degraded: int = 0
    """Services that are degraded now."""
    drift: Counter[str] = field(default_factory=Counter)
    """Repaired, by map."""
    last_duration: float = 0.0
    last_latency: float = 0.0
    last_error: str = ""
    """Of the last pass; empty where it succeeded."""

    def add(self, report: Report) -> None:
        """Count one pass."""
        self.reconciles += 1
        self.compares += report.compared
        self.written += report.written
        self.removed_backends += report.removed_backends
        self.drift.update(report.drift)
        self.last_duration = report.duration
        self.last_error = ""
        if report.latency is not None:
            self.last_latency = report.latency
