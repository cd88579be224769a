# SPDX-License-Identifier: Apache-2.0
"""Which agents have been silent for too long. Pure: the caller tells the times.

No clock of another node is believed: a heartbeat is as old as the time for which it was seen not to change.
Only a heartbeat that is met for the first time is dated back, by the API server's own notes: when it was
written (managedFields) and what time it is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from netaccel.writers.times import rfc3339

UNKNOWN_AFTER = 180.0
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What one NodeState says. ``written``: by the server's clock, when its agent last wrote it, or None.

    ``status``: of its condition Ready, "" where there is none. ``version``: its resourceVersion.
    """

    node: str
    beat: str
    status: str
    version: str
    written: float | None = None


_Sign = tuple[str, float | None, str]  # what its agent changes when it writes


class Listener:
    """Remembers since when each heartbeat has been the same."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[_Sign, float]] = {}

    def silent(self, beats: Iterable[Heartbeat], now: float, server: float | None) -> list[Heartbeat]:
        """Those that have to be called Unknown and are not yet.

        ``now``: this process's monotonic clock. ``server``: the API server's, seconds since the epoch.
        """
        since: dict[str, tuple[_Sign, float]] = {}
        found = []
        for heard in beats:
            sign = heard.beat, heard.written, heard.status
            before = self._since.get(heard.node)
            if before is None:
                before = sign, now - _age(heard, server)
            elif before[0] != sign:
                before = sign, now
            since[heard.node] = before
            if now - before[1] > UNKNOWN_AFTER and heard.status != "Unknown":
                found.append(heard)
        self._since = since
        return found


def _age(heard: Heartbeat, server: float | None) -> float:
    """Seconds, by the server's clock alone; 0 where it does not say."""
    return max(0.0, server - heard.written) if server is not None and heard.written is not None else 0.0


def unknown(heard: Heartbeat, now: float) -> dict[str, object]:
    """What is applied to its NodeState. It holds only for the version that was seen. ``now``: time.time()."""
    condition = {
        "type": "Ready",
        "status": "Unknown",
        "reason": "AgentSilent",
        "message": f"its agent last wrote at {heard.beat or 'an unknown time'}; what is pinned serves on",
        "lastTransitionTime": rfc3339(now),
    }
    return {
        "apiVersion": "netaccel.io/v1alpha1",
        "kind": "NodeState",
        "metadata": {"name": heard.node, "resourceVersion": heard.version},
        "status": {"conditions": [condition]},
    }
