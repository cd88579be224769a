# SPDX-License-Identifier: Apache-2.0
"""Bounds the series of what is numbered (service ports, rules): the first ones with traffic have their own,
the rest share one.

What has a series keeps it as long as it exists, so that none comes and goes. The shared series adds up growth
only: it never shrinks when one of its members goes away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from netaccel.records import ServiceCounters

ZERO = ServiceCounters(*[0] * len(ServiceCounters._fields))

_N = TypeVar("_N")
_C = TypeVar("_C", bound=tuple[int, ...])


class SeriesBudget(Generic[_N, _C]):
    """Divides what has names and counters by id into those with a series of their own and the others."""

    def __init__(self, zero: _C, limit: int = 1000) -> None:
        """``zero``: counters that count nothing."""
        self.limit = limit
        self.others = zero
        self._zero = zero
        self._own: dict[int, _N] = {}
        self._seen: dict[int, tuple[_N, _C]] = {}

    def divide(self, names: Mapping[int, _N], counters: Mapping[int, _C]) -> dict[int, tuple[_N, _C]]:
        """Take a reading in; return what has series of its own. ``others`` holds the rest afterwards."""
        self._own = {id_: name for id_, name in self._own.items() if names.get(id_) == name}
        self._seen = {id_: seen for id_, seen in self._seen.items() if names.get(id_) == seen[0]}
        busy = sorted(
            ((id_, names[id_], counts) for id_, counts in counters.items() if id_ in names and any(counts)),
            key=lambda entry: sum(entry[2]),
            reverse=True,
        )
        for id_, name, counts in busy:
            if id_ in self._own:
                continue
            if len(self._own) < self.limit and id_ not in self._seen:
                self._own[id_] = name
                continue
            before = self._seen.get(id_, (name, self._zero))[1]
            growth = (now - old if now >= old else now for now, old in zip(counts, before, strict=True))
            self.others = self._made(sum(pair) for pair in zip(self.others, growth, strict=True))
            self._seen[id_] = (name, counts)
        return {id_: (name, counters.get(id_, self._zero)) for id_, name in self._own.items()}

    def _made(self, numbers: Iterable[int]) -> _C:
        """Counters of the same type."""
        return tuple.__new__(type(self._zero), numbers)
