# SPDX-License-Identifier: Apache-2.0
"""Flows and drops for Prometheus. What exceeds a budget of labels is in ``namespace="_other"``,
``policy="_other"``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from netaccel.observe.budget import SeriesBudget
from netaccel.observe.flows.account import Account
from netaccel.observe.flows.counts import OTHER, DropLabels
from netaccel.observe.flows.decode import Words
from netaccel.observe.flows.rules import NO_NUMBER
from netaccel.observe.flows.station import Flows
from netaccel.records import PolicyRule, Traffic

RULES = 1000
"""Rules with series of their own."""
_RULE_LABELS = ("kind", "namespace", "policy", "direction", "rule", "action", "monitor")
_NOTHING = Traffic(0, 0)
_L = TypeVar("_L", bound=tuple[str, ...])


class FlowMetrics:
    """Families of one node's flows; :meth:`families` blocks (it reads maps)."""

    def __init__(self, flows: Flows, limit: int = RULES) -> None:
        self._flows = flows
        self._budget: SeriesBudget[PolicyRule, Traffic] = SeriesBudget(_NOTHING, limit)

    def families(self) -> Iterator[Metric]:
        """All of them, now. DatapathError."""
        flows = self._flows
        yield from _events(flows.account())
        lag = "Age of the oldest event of the last batch when it was read."
        yield _gauge("netaccel_flow_lag_seconds", lag, flows.taken.lag)
        yield _gauge("netaccel_flow_records", "Records kept for `netaccel flows`.", len(flows.log))
        yield _gauge("netaccel_flow_followers", "Who follows flows now.", flows.log.followers)
        missed = "Records that slow followers did not get."
        yield CounterMetricFamily("netaccel_flow_followers_missed", missed, value=flows.log.missed)
        yield _verdicts(flows.counts.verdicts)
        yield from _drops(flows.counts.drop_packets, flows.counts.drop_bytes)
        yield from self._rules()

    def _rules(self) -> Iterator[Metric]:
        names, counters = self._flows.rule_counters()
        own = self._budget.divide(names, counters).values()
        rows = [(_labels(rule, self._flows.words), counts) for rule, counts in own]
        if any(self._budget.others):
            rows.append(((OTHER, OTHER, OTHER, "", "", "", ""), self._budget.others))
        for unit in Traffic._fields:
            family = CounterMetricFamily(
                f"netaccel_policy_rule_{unit}",
                f"{unit.capitalize()} of new flows and of drops, by the rule that decided.",
                labels=_RULE_LABELS,
            )
            for labels, counts in rows:
                family.add_metric(labels, getattr(counts, unit))
            yield family


def _labels(rule: PolicyRule, words: Words) -> tuple[str, ...]:
    return (
        words.kinds.get(rule.kind, str(rule.kind)),
        rule.namespace,
        rule.name,
        words.direction(rule.direction),
        "isolation" if rule.number == NO_NUMBER else str(rule.number),
        words.actions.get(rule.action, str(rule.action)),
        "true" if rule.monitor else "false",
    )


def _events(account: Account) -> Iterator[Metric]:
    told = CounterMetricFamily(
        "netaccel_flow_events",
        "Events by stage: seen = exported + aggregated + lost; read and unparsable are this agent's.",
        labels=("stage",),
    )
    for stage in ("seen", "exported", "aggregated", "lost", "read", "unparsable"):
        told.add_metric((stage,), getattr(account, stage))
    yield told
    yield _gauge("netaccel_flow_events_waiting", "Events in the ring, not read yet.", account.waiting)
    yield _gauge(
        "netaccel_flow_events_unaccounted",
        "Events that are neither read nor waiting nor counted as lost; of a busy node's, those on their way.",
        account.unaccounted,
    )


def _verdicts(counts: Mapping[tuple[str, str, str], int]) -> Metric:
    family = CounterMetricFamily(
        "netaccel_flow_verdicts",
        "Verdicts told of new flows and drops; drops of one pair are told once a second.",
        labels=("verdict", "direction", "namespace"),
    )
    for labels, count in _steady(counts):
        family.add_metric(labels, count)
    return family


def _drops(packets: Mapping[DropLabels, int], octets: Mapping[DropLabels, int]) -> Iterator[Metric]:
    for unit, counts in (("packets", packets), ("bytes", octets)):
        family = CounterMetricFamily(
            f"netaccel_flow_dropped_{unit}",
            f"{unit.capitalize()} dropped, by reason, who did it (drop: netaccel), and the pod's namespace.",
            labels=("reason", "type", "direction", "namespace"),
        )
        for labels, count in _steady(counts):
            family.add_metric(labels, count)
        yield family


def _steady(counts: Mapping[_L, int]) -> Iterable[tuple[_L, int]]:
    """A copy: the event loop may add to it meanwhile."""
    return sorted(dict(counts).items())


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_, value=value)
