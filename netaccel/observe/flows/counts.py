# SPDX-License-Identifier: Apache-2.0
"""What metrics say of flows and drops: sums by verdict or reason, direction and namespace, in bounded
series.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from netaccel.observe.flows.record import FlowRecord

NAMESPACES = 200
"""Namespaces with series of their own: the first ones with traffic; the others share one."""
REASONS = 100
OTHER = "_other"

VerdictLabels = tuple[str, str, str]
"""Verdict, direction, namespace."""
DropLabels = tuple[str, str, str, str]
"""Reason, type, direction, namespace."""


class Names:
    """The first ``limit`` names keep theirs, later ones are OTHER. A name that has a series keeps it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def bounded(self, name: str) -> str:
        """The name, or OTHER."""
        if name not in self._known:
            if len(self._known) >= self._limit:
                return OTHER
            self._known.add(name)
        return name


class FlowCounts:
    """Sums since the agent started."""

    def __init__(self, namespaces: int = NAMESPACES, reasons: int = REASONS) -> None:
        self.verdicts: Counter[VerdictLabels] = Counter()
        """Verdicts told of flows."""
        self.drop_packets: Counter[DropLabels] = Counter()
        self.drop_bytes: Counter[DropLabels] = Counter()
        self._namespaces = Names(namespaces)
        self._reasons = Names(reasons)

    def told(self, records: Sequence[FlowRecord]) -> None:
        """A batch of the log's records."""
        for record in records:
            if record.type in ("new", "drop"):
                space = self._namespaces.bounded(record.pod_end.namespace)
                self.verdicts[record.verdict, record.direction, space] += 1

    def dropped(self, record: FlowRecord, packets: int, octets: int) -> None:
        """A pair of drop_pairs, and what it grew by."""
        labels = self._labels(record)
        self.drop_packets[labels] += packets
        self.drop_bytes[labels] += octets

    def _labels(self, record: FlowRecord) -> DropLabels:
        space = self._namespaces.bounded(record.pod_end.namespace)
        return self._reasons.bounded(record.reason), record.type, record.direction, space
