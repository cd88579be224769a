# SPDX-License-Identifier: Apache-2.0
"""Recorded edges for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from netaccel.observe.edges.recorder import EdgeRecorder


def families(recorder: EdgeRecorder) -> Iterator[Metric]:
    """All of them, now."""
    tally = recorder.tally
    flows = CounterMetricFamily(
        "netaccel_edge_flows",
        "Flows by what became of them in the record of edges; lost: memory, disk or events had no room.",
        labels=("outcome",),
    )
    flows.add_metric(("recorded",), tally.recorded)
    flows.add_metric(("lost",), tally.lost)
    yield flows
    yield CounterMetricFamily(
        "netaccel_edges_removed", "Recorded edges removed for their age or for room.", value=tally.removed
    )
    yield GaugeMetricFamily(
        "netaccel_edges_waiting", "Edges that are not on disk yet.", value=recorder.waiting
    )
    yield GaugeMetricFamily("netaccel_edges_bytes", "Size on disk.", value=recorder.size())
