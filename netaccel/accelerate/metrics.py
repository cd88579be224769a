# SPDX-License-Identifier: Apache-2.0
"""Acceleration for Prometheus. Services beyond the budget share ``service="_other"``; pods have no series."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from netaccel.accelerate.view import Acceleration, Receipt, Status, Totals

SERVICES = 200
"""Services with series of their own."""
_OTHER = ("_other", "_other")
_LABELS = ("namespace", "service", "path")
_Name = tuple[str, str]


class AccelMetrics:
    """Families of one node; :meth:`families` may block (it reads maps)."""

    def __init__(
        self, found: Callable[[], Acceleration | None], without: Callable[[], Status], limit: int = SERVICES
    ) -> None:
        """``without``: what is told where nothing is accelerated."""
        self._found = found
        self._without = without
        self._sums = _Sums(limit)

    def families(self) -> Iterator[Metric]:
        """All of them, now. DatapathError."""
        found = self._found()
        status = found.status() if found else self._without()
        self._sums.add(status.receipts)
        yield from self._sums.families()
        yield from _totals(status.totals)
        tiers = {"peer": status.peer.on, "socket": status.socket.on}
        yield _by("tier", "1 where it is in force.", "tier", tiers)
        checks = {check.name: check.ok for check in status.checks}
        yield _by("selftest", "1 where this kernel does it right.", "check", checks)
        unreachable = "Pods whose network namespace can't be entered."
        yield _gauge("unreachable_pods", unreachable, len(status.unreachable))


class _Sums:
    """Adds up what receipts grew by, by Service: a receipt that is forgotten takes nothing back."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: dict[tuple[str, str, str], Receipt] = {}
        self._services: dict[_Name, Counter[str]] = {}
        self._passes: Counter[str] = Counter()

    def add(self, receipts: Sequence[Receipt]) -> None:
        """Take a reading in."""
        before, self._seen = self._seen, {}
        for receipt in receipts:
            key = (receipt.service, receipt.client, receipt.server)
            self._seen[key] = receipt
            old = before.get(key)
            passes = _growth(receipt.passes, old.passes if old else {})
            self._passes.update(passes)
            grown = _growth(_figures(receipt), _figures(old) if old else {})
            self._service(receipt.service).update(grown + Counter(tcp_messages=passes.total()))

    def _service(self, service: str) -> Counter[str]:
        namespace, _, name = service.rpartition("/")
        known = self._services
        key = (namespace, name)
        if key not in known and len(known) >= self._limit:
            key = _OTHER
        return known.setdefault(key, Counter())

    def families(self) -> Iterator[Metric]:
        """By Service and path, and passes by reason."""
        for unit in ("bytes", "messages"):
            family = CounterMetricFamily(
                f"netaccel_accel_{unit}",
                f"{unit.capitalize()} of accelerated connections, both ways, by path.",
                labels=_LABELS,
            )
            for name, counts in sorted(self._services.items()):
                family.add_metric((*name, "socket"), counts[f"socket_{unit}"])
                family.add_metric((*name, "tcp"), counts[f"tcp_{unit}"])
            yield family
        yield _by("passes", "Messages of them that went by TCP.", "reason", self._passes, CounterMetricFamily)


def _figures(receipt: Receipt) -> Mapping[str, int]:
    return {
        "socket_bytes": receipt.bytes,
        "socket_messages": receipt.messages,
        "tcp_bytes": receipt.tcp_bytes,
    }


def _growth(now: Mapping[str, int], before: Mapping[str, int]) -> Counter[str]:
    """What came since; all of it where a count began anew."""
    old = {name: before.get(name, 0) for name in now}
    return Counter({name: n - old[name] if n >= old[name] else n for name, n in now.items()})


def _totals(totals: Totals) -> Iterator[Metric]:
    yield _by("pairs", "Pairs of sockets now.", "state", {"live": totals.live, "leaving": totals.leaving})
    yield _gauge("pairs_capacity", "Pairs that fit.", totals.capacity)
    yield _gauge("queued_bytes", "Bytes that wait at receivers of live pairs.", totals.queued_bytes)
    yield _count("promotions", "Connections that were accelerated.", totals.promotions)
    yield _by("evictions", "Those that left, by reason.", "reason", totals.out, CounterMetricFamily)
    yield _count("deferred_evictions", "Those that had to wait for a reader first.", totals.deferred)
    yield _by(
        "refused", "Connections looked at last and not accelerated, by reason.", "reason", totals.refused
    )


def _count(name: str, help_: str, value: int) -> Metric:
    return CounterMetricFamily(f"netaccel_accel_{name}", help_, value=value)


def _gauge(name: str, help_: str, value: int) -> Metric:
    return GaugeMetricFamily(f"netaccel_accel_{name}", help_, value=value)


def _by(
    name: str,
    help_: str,
    label: str,
    values: Mapping[str, int],
    kind: type[CounterMetricFamily | GaugeMetricFamily] = GaugeMetricFamily,
) -> Metric:
    family = kind(f"netaccel_accel_{name}", help_, labels=(label,))
    for value, number in sorted(values.items()):
        family.add_metric((value,), number)
    return family
