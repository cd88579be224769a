# SPDX-License-Identifier: Apache-2.0
"""A node's maps in memory, for tests: with capacities, failures on demand, and a look after every write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from netaccel.errors import DatapathError, MapFullError
from netaccel.model.address import is_ipv4

CAPACITIES = {
    "frontends": 262144,
    "services": 65536,
    "backends": 262144,
    "maglev": 4194304,
    "source_ranges": 65536,
    "service_counters": 65536,
    "node": 1,
    "identities": 131072,
    "policy_endpoints": 4096,
    "policy_peers": 1048576,
    "policy_rows": 262144,
    "policy_rules": 65536,
    "policy_revision": 1,
    "rule_counters": 65536,
    "pod_peers": 8192,
    "peer_hints": 1,
}
_ARRAYS = ("backends", "maglev", "service_counters", "node", "policy_revision", "rule_counters", "peer_hints")


class FakeMaps:
    """As netaccel.datapath.maps.Maps. Entries go in one by one: a failure leaves part of a batch."""

    def __init__(self, **capacities: int) -> None:
        self.tables: dict[str, dict[Any, Any]] = {name: {} for name in CAPACITIES}
        self.capacities: Mapping[str, int] = {**CAPACITIES, **capacities}
        self.writes: Counter[str] = Counter()
        """Entries written and removed, by map."""
        self.log: list[tuple[str, str, int]] = []
        """Calls: what was done, map, entries."""
        self.fail_after: int | None = None
        """Entries that are still written before one write fails; None: none fails."""
        self.after_write: Callable[[], None] = lambda: None
        """Called after every single entry."""

    def dump(self, name: str) -> dict[Any, Any]:
        """All entries."""
        return dict(self.tables[name])

    def batches(self, name: str) -> Iterator[list[tuple[Any, Any]]]:
        """All entries, some at a time."""
        yield list(self.tables[name].items())

    def capacity(self, name: str) -> int:
        """Entries that fit."""
        return self.capacities[name]

    def write(self, name: str, entries: Sequence[tuple[Any, Any]]) -> None:
        """Add or replace entries, in order."""
        self.log.append(("write", name, len(entries)))
        table = self.tables[name]
        for done, (key, value) in enumerate(entries):
            self._fail(name)
            if name in _ARRAYS:
                if not 0 <= key < self.capacities[name]:
                    raise DatapathError(f"map {name}: can't write it: no such index {key}", 7)
            elif key not in table and self._full(name, key):
                raise MapFullError(f"map {name} is full", 7, done)
            table[key] = value
            self._wrote(name)

    def delete(self, name: str, keys: Sequence[Any]) -> None:
        """Remove entries; absent ones are fine."""
        self.log.append(("delete", name, len(keys)))
        for key in keys:
            self._fail(name)
            if self.tables[name].pop(key, None) is not None:
                self._wrote(name)

    def _full(self, name: str, key: Any) -> bool:
        table = self.tables[name]
        if name != "frontends":
            return len(table) >= self.capacities[name]
        family = is_ipv4(key[0])  # two maps, one for each family
        return sum(is_ipv4(other[0]) == family for other in table) >= self.capacities[name]

    def _fail(self, name: str) -> None:
        if self.fail_after is None:
            return
        if self.fail_after == 0:
            self.fail_after = None
            raise DatapathError(f"map {name}: injected failure", 5)
        self.fail_after -= 1

    def _wrote(self, name: str) -> None:
        self.writes[name] += 1
        self.after_write()
