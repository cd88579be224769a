# SPDX-License-Identifier: Apache-2.0
"""Everything at ``/metrics``. Label sets are bounded; what exceeds the budget is in ``service="_other"``."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from netaccel import __version__
from netaccel.observe.budget import ZERO, SeriesBudget
from netaccel.observe.conntrack import Census
from netaccel.observe.figures import Figures
from netaccel.records import Service, ServiceCounters

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PORT_LABELS = ("namespace", "service", "port", "protocol", "family")
_OTHER = ("_other", "_other", "", "", "")
_PATHS = ("xdp", "tc")
_DIRECTIONS = ("request", "reply")
_PROTOCOLS = {6: "TCP", 17: "UDP", 132: "SCTP"}
_FAMILIES = {2: "IPv4", 10: "IPv6"}
_DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

_MOMENTS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.25, 1)


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """What the agent itself knows."""

    rejected: Mapping[str, int] = field(default_factory=dict)
    """Objects refused now, by kind."""
    drift_repaired: int = 0
    """Map entries found other than written, and put right."""
    attached: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Programs by hook and mode."""
    synced: bool = False


class Metrics(Collector):
    """The registry of one agent."""

    def __init__(
        self,
        figures: Callable[[], Figures],
        census: Callable[[], Census],
        facts: Callable[[], AgentFacts],
        series_limit: int = 1000,
    ) -> None:
        self._figures = figures
        self._census = census
        self._facts = facts
        self._budget: SeriesBudget[Service, ServiceCounters] = SeriesBudget(ZERO, series_limit)
        self.more: list[Callable[[], Iterable[Metric]]] = []
        """Who else has families to tell; they may read maps."""
        self._registry = CollectorRegistry()
        self.reconcile_duration = Histogram(
            "netaccel_reconcile_duration_seconds",
            "From the first event of a batch taken to the last map written.",
            registry=self._registry,
            buckets=_DURATIONS,
        )
        self.event_latency = Histogram(
            "netaccel_event_latency_seconds",
            "From an object's arrival to the last map written for it.",
            registry=self._registry,
            buckets=_DURATIONS,
        )
        self.device_latency = Histogram(
            "netaccel_device_latency_seconds",
            "From the kernel's word of a change of devices to pods' programs and enforced policies.",
            registry=self._registry,
            buckets=_MOMENTS,
        )
        self._registry.register(self)

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """Called by the registry."""
        figures = self._figures()
        yield _build_info()
        yield from self._services(figures)
        yield from _drops(figures)
        yield from _census(self._census())
        yield from _facts(self._facts())
        for families in self.more:
            yield from families()

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: registering must not read the maps."""
        return ()

    def _services(self, figures: Figures) -> Iterator[Metric]:
        own = self._budget.divide(figures.services, figures.counters)
        rows = [(_port_labels(service), counts) for service, counts in own.values()]
        if any(self._budget.others):
            rows.append((_OTHER, self._budget.others))
        for unit in ("packets", "bytes"):
            family = CounterMetricFamily(
                f"netaccel_service_{unit}",
                f"{unit.capitalize()} translated, by service port, path and direction.",
                labels=(*_PORT_LABELS, "path", "direction"),
            )
            for labels, counts in rows:
                for path in _PATHS:
                    for direction in _DIRECTIONS:
                        value = getattr(counts, f"{path}_{direction}_{unit}")
                        family.add_metric((*labels, path, direction), value)
            yield family
        yield _per_port(
            "netaccel_service_connects",
            "Calls of connect() and first sendmsg() translated at the socket.",
            [(labels, counts.connects) for labels, counts in rows],
        )
        yield _per_port(
            "netaccel_service_refused",
            "Connections and packets refused, by service port.",
            [(labels, counts.refused) for labels, counts in rows],
        )


def _port_labels(service: Service) -> tuple[str, ...]:
    return (
        service.namespace,
        service.name,
        str(service.port),
        _PROTOCOLS.get(service.proto, str(service.proto)),
        _FAMILIES.get(service.family, str(service.family)),
    )


def _per_port(name: str, help_: str, rows: Iterable[tuple[tuple[str, ...], int]]) -> Metric:
    family = CounterMetricFamily(name, help_, labels=_PORT_LABELS)
    for labels, value in rows:
        family.add_metric(labels, value)
    return family


def _build_info() -> Metric:
    info = GaugeMetricFamily("netaccel_build_info", "Always 1.", labels=("version", "python", "kernel"))
    info.add_metric((__version__, platform.python_version(), platform.release()), 1)
    return info


def _drops(figures: Figures) -> Iterator[Metric]:
    packets = CounterMetricFamily(
        "netaccel_dropped_packets", "Packets and calls not carried, by reason.", labels=("reason",)
    )
    octets = CounterMetricFamily(
        "netaccel_dropped_bytes", "Bytes not carried, by reason.", labels=("reason",)
    )
    for reason, traffic in figures.drops.items():
        packets.add_metric((reason,), traffic.packets)
        octets.add_metric((reason,), traffic.bytes)
    yield packets
    yield octets
    events = CounterMetricFamily(
        "netaccel_datapath_events", "What the programs did, by enum counter of abi.h.", labels=("event",)
    )
    for name, value in figures.events.items():
        events.add_metric((name,), value)
    yield events


def _census(census: Census) -> Iterator[Metric]:
    flows = GaugeMetricFamily(
        "netaccel_flows", "Entries of the flow tables at the last sweep.", labels=("family", "state")
    )
    for (family, state), count in census.flows.items():
        flows.add_metric((family, state), count)
    yield flows
    evictions = CounterMetricFamily(
        "netaccel_map_evictions",
        "Entries that the kernel evicted from LRU maps, derived: inserts - deletes - live entries.",
        labels=("map",),
    )
    for name, count in census.evictions.items():
        evictions.add_metric((name,), count)
    yield evictions
    entries = GaugeMetricFamily("netaccel_map_entries", "Entries at the last sweep.", labels=("map",))
    capacity = GaugeMetricFamily("netaccel_map_capacity", "Entries that fit.", labels=("map",))
    for name, fill in census.fill.items():
        entries.add_metric((name,), fill.entries)
        capacity.add_metric((name,), fill.capacity)
    yield entries
    yield capacity


def _facts(facts: AgentFacts) -> Iterator[Metric]:
    rejected = GaugeMetricFamily(
        "netaccel_rejected_objects", "Objects refused now, by kind.", labels=("kind",)
    )
    for kind, count in facts.rejected.items():
        rejected.add_metric((kind,), count)
    yield rejected
    yield CounterMetricFamily(
        "netaccel_drift_repaired",
        "Map entries that differed from what was written.",
        value=facts.drift_repaired,
    )
    attached = GaugeMetricFamily(
        "netaccel_attached_programs", "Programs by hook and mode.", labels=("hook", "mode")
    )
    for (hook, mode), count in facts.attached.items():
        attached.add_metric((hook, mode), count)
    yield attached
    yield GaugeMetricFamily("netaccel_synced", "1 once the first state has been written.", value=facts.synced)
