# SPDX-License-Identifier: Apache-2.0
"""How a watched kind is, and how patient its reflector. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds.

    ``silence``: without a byte of a watch (bookmarks come every minute). ``first_silence``: the same before
    all initial objects were told. ``watch``: a watch's life, from this to twice of it. ``healthy``: a watch
    that lived so long was none that fails. ``absent``: between questions for a kind that the cluster doesn't
    have. ``forget``: after so long, what was told of such a kind is gone with it. ``hold``: for which the
    first policies wait for all pods, at most.
    """

    silence: float = 150.0
    first_silence: float = 30.0
    watch: float = 300.0
    healthy: float = 10.0
    retry: tuple[float, float] = (0.5, 10.0)
    refused: tuple[float, float] = (2.0, 60.0)
    absent: tuple[float, float] = (2.0, 30.0)
    forget: float = 60.0
    hold: float = 30.0


@dataclass(slots=True)
class Standing:
    """How one kind is. Times are monotonic."""

    heard: float | None = None
    """When what was told was last known to be current."""
    listed: bool = False
    refused: bool = False
    """The server said no, in a way that only a person can change."""
    problem: str = ""
    since: float = 0.0
    """Since when there is a problem."""
