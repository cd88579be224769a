# SPDX-License-Identifier: Apache-2.0
"""Flows and drops for Prometheus: bounded, and none of them twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flowground import ALLOW_WEB, CLIENT, WEB, Station, event_abi, pod, upsert

from netaccel.datapath.abi import Abi
from netaccel.model.address import parse_address
from netaccel.observe.conntrack import Census
from netaccel.observe.figures import Figures
from netaccel.observe.flows.counts import FlowCounts, Names
from netaccel.observe.flows.metrics import FlowMetrics
from netaccel.observe.metrics import AgentFacts, Metrics
from netaccel.records import DropPair, DropPairKey, Traffic


@pytest.fixture(scope="module")
def abi(compile_text: Callable[[str], bytes]) -> Abi:
    return event_abi(compile_text)


@pytest.fixture
def station(abi: Abi) -> Station:
    return Station(abi)


def samples(station: Station, limit: int = 1000) -> dict[str, float]:
    """By the sample as the exposition format writes it."""
    metrics = Metrics(Figures, Census, AgentFacts)
    metrics.more.append(FlowMetrics(station.flows, limit).families)
    lines = [line for line in metrics.text().decode().splitlines() if line.startswith("netaccel_")]
    assert len({line.rpartition(" ")[0] for line in lines}) == len(lines), "a sample stands there twice"
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_verdicts_by_direction_and_namespace_of_the_pod(station: Station) -> None:
    station.tell(
        station.event(),
        station.event(direction="POLICY_INGRESS", verdict="VERDICT_AUDITED"),
        station.event(type="EVENT_DROP", verdict="VERDICT_DROPPED", reason="DROP_POLICY_DENIED"),
    )
    found = samples(station)
    for verdict, direction, namespace in (
        ("forwarded", "egress", "default"),
        ("audited", "ingress", "shop"),
        ("dropped", "egress", "default"),
    ):
        labels = f'direction="{direction}",namespace="{namespace}",verdict="{verdict}"'
        assert found[f"netaccel_flow_verdicts_total{{{labels}}}"] == 1


def test_events_by_stage(station: Station) -> None:
    station.tell(station.event(), station.event())
    station.maps.count("COUNTER_EVENT_SEEN", 5)
    station.maps.count("COUNTER_EVENT_LOST", 5)
    found = samples(station)
    stages = {
        stage: found[f'netaccel_flow_events_total{{stage="{stage}"}}']
        for stage in ("seen", "exported", "lost", "read")
    }
    assert stages == {"seen": 7, "exported": 2, "lost": 5, "read": 2}
    assert found["netaccel_flow_events_unaccounted"] == 0
    assert found["netaccel_flow_records"] == 2


def test_rules_by_what_they_decided(station: Station) -> None:
    station.maps.tables["rule_counters"] = {
        ALLOW_WEB: [Traffic(1, 60), Traffic(2, 120)],
        8: [Traffic(4, 400), Traffic(0, 0)],
        99: [Traffic(1, 1), Traffic(0, 0)],
    }
    found = samples(station)
    allow = (
        'action="allow",direction="ingress",kind="NetworkPolicy",monitor="false",namespace="shop",'
        'policy="allow-web",rule="0"'
    )
    assert found[f"netaccel_policy_rule_packets_total{{{allow}}}"] == 3
    assert found[f"netaccel_policy_rule_bytes_total{{{allow}}}"] == 180
    isolation = (
        allow.replace('"allow"', '"isolation"').replace("allow-web", "deny-all").replace('"0"', '"isolation"')
    )
    assert found[f"netaccel_policy_rule_packets_total{{{isolation}}}"] == 4
    assert len([name for name in found if "rule_packets" in name]) == 2, "a rule without a name has no series"


def test_rules_beyond_the_budget_share_one_series(station: Station) -> None:
    station.maps.tables["rule_counters"] = {ALLOW_WEB: [Traffic(9, 9)], 8: [Traffic(4, 4)]}
    found = samples(station, limit=1)
    other = next(name for name in found if "rule_packets" in name and "_other" in name)
    assert found[other] == 4


async def test_drops_by_reason_and_namespace(station: Station) -> None:
    c = station.abi.constants
    key = DropPairKey(CLIENT, WEB, 8080, 6, c["EVENT_KERNEL_DROP"], 3, 4, 0)
    await station.flows.count_drops()
    station.flows._pairs._last = None
    station.maps.tables["drop_pairs"][key] = DropPair(7, 420, 0)
    await station.flows.count_drops()
    labels = 'direction="ingress",namespace="default",reason="no_socket",type="kernel_drop"'
    found = samples(station)
    assert found[f"netaccel_flow_dropped_packets_total{{{labels}}}"] == 7
    assert found[f"netaccel_flow_dropped_bytes_total{{{labels}}}"] == 420


def test_names_have_a_budget_and_keep_what_they_have() -> None:
    names = Names(2)
    assert [names.bounded(name) for name in ("a", "b", "c", "a")] == ["a", "b", "_other", "a"]


def test_namespaces_beyond_the_budget_share_one_series(station: Station) -> None:
    station.flows.counts = FlowCounts(namespaces=2)
    station.flows.log.listeners[:] = [station.flows.counts.told]
    for number in range(1, 6):
        address = parse_address(f"10.0.3.{number}")
        station.flows.hear(upsert(pod(f"team-{number}", "a", "n1", address)))
        station.tell(station.event(src=address))
    counted = {labels[2]: count for labels, count in station.flows.counts.verdicts.items()}
    assert counted == {"team-1": 1, "team-2": 1, "_other": 3}
