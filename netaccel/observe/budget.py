# SPDX-License-Identifier: Apache-2.0
"""Bounds the series of service ports: the first ones with traffic keep their own, the rest share one.

A service port that has a series keeps it as long as it exists, so that none comes and goes. The shared
series adds up growth only: it never shrinks when one of its members goes away.
"""

from __future__ import annotations

from collections.abc import Mapping

from netaccel.records import Service, ServiceCounters

ZERO = ServiceCounters(*[0] * len(ServiceCounters._fields))


class SeriesBudget:
    """Divides service ports into those with a series of their own and the others."""

    def __init__(self, limit: int = 1000) -> None:
        self.limit = limit
        self.others = ZERO
        self._own: dict[int, Service] = {}
        self._seen: dict[int, tuple[Service, ServiceCounters]] = {}

    def divide(
        self, services: Mapping[int, Service], counters: Mapping[int, ServiceCounters]
    ) -> dict[int, tuple[Service, ServiceCounters]]:
        """Take a reading in; return what has series of its own. ``others`` holds the rest afterwards."""
        self._own = {id_: name for id_, name in self._own.items() if services.get(id_) == name}
        self._seen = {id_: seen for id_, seen in self._seen.items() if services.get(id_) == seen[0]}
        busy = sorted(
            (
                (id_, services[id_], counts)
                for id_, counts in counters.items()
                if id_ in services and any(counts)
            ),
            key=lambda entry: sum(entry[2]),
            reverse=True,
        )
        for id_, name, counts in busy:
            if id_ in self._own:
                continue
            if len(self._own) < self.limit and id_ not in self._seen:
                self._own[id_] = name
                continue
            before = self._seen.get(id_, (name, ZERO))[1]
            growth = (now - old if now >= old else now for now, old in zip(counts, before, strict=True))
            self.others = ServiceCounters(*map(sum, zip(self.others, growth, strict=True)))
            self._seen[id_] = (name, counts)
        return {id_: (name, counters.get(id_, ZERO)) for id_, name in self._own.items()}
