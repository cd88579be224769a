# SPDX-License-Identifier: Apache-2.0
"""Acceleration for Prometheus. Services beyond the budget share ``service="_other"``; pods have no series."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from netaccel.accelerate.view import OTHERS, Acceleration, Receipt, Status, Totals

SERVICES = 200
"""Services with series of their own."""
_OTHER = ("_other", "_other")
_LABELS = ("namespace", "service", "path")
_PATHS = ("socket", "tcp")
_Name = tuple[str, str]


class AccelMetrics:
    """Families of one node; :meth:`families` may block (it reads maps)."""

    def __init__(
        self, found: Callable[[], Acceleration | None], without: Callable[[], Status], limit: int = SERVICES
    ) -> None:
        """``without``: what is told where nothing is accelerated."""
        self._found = found
        self._without = without
        self._limit = limit
        self._own: set[_Name] = set()

    def families(self) -> Iterator[Metric]:
        """All of them, now. DatapathError."""
        found = self._found()
        status = found.status() if found else self._without()
        yield from self._services(status.receipts)
        passes: Counter[str] = Counter()
        for receipt in status.receipts:
            passes.update(receipt.passes)
        yield _by("passes", "Messages of them that went by TCP.", "reason", passes, CounterMetricFamily)
        yield from _totals(status.totals)
        tiers = {"peer": status.peer.on, "socket": status.socket.on}
        yield _by("tier", "1 where it is in force.", "tier", tiers)
        checks = {check.name: check.ok for check in status.checks}
        yield _by("selftest", "1 where this kernel does it right.", "check", checks)
        unreachable = "Pods whose network namespace can't be entered."
        yield _gauge("unreachable_pods", unreachable, len(status.unreachable))

    def _services(self, receipts: Iterable[Receipt]) -> Iterator[Metric]:
        """What has a series of its own keeps it: receipts only grow, and so does every series."""
        by_service: dict[_Name, list[Receipt]] = {}
        for receipt in receipts:
            by_service.setdefault(self._name(receipt.service), []).append(receipt)
        counts = {name: _figures(some) for name, some in sorted(by_service.items())}
        for unit in ("bytes", "messages"):
            family = CounterMetricFamily(
                f"netaccel_accel_{unit}",
                f"{unit.capitalize()} of accelerated connections, both ways, by path.",
                labels=_LABELS,
            )
            for name, figures in counts.items():
                for path in _PATHS:
                    family.add_metric((*name, path), figures[f"{path}_{unit}"])
            yield family

    def _name(self, service: str) -> _Name:
        namespace, slash, plain = service.partition("/")
        name = (namespace, plain) if slash else ("", "")
        if service == OTHERS or (name not in self._own and len(self._own) >= self._limit):
            return _OTHER
        self._own.add(name)
        return name


def _figures(receipts: Iterable[Receipt]) -> Counter[str]:
    """By the names of :func:`AccelMetrics._services`' series."""
    found: Counter[str] = Counter()
    for receipt in receipts:
        found["socket_bytes"] += receipt.bytes
        found["socket_messages"] += receipt.messages
        found["tcp_bytes"] += receipt.tcp_bytes
        found["tcp_messages"] += sum(receipt.passes.values())
    return found


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
