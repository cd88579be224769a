# SPDX-License-Identifier: Apache-2.0
"""Which flow records become edges, and which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from netaccel.model.address import parse_address
from netaccel.model.endpoint import ContainerPort, Pod, PodKey
from netaccel.model.policy import Direction, Kind, PolicyKey, RuleRef
from netaccel.model.service import Protocol
from netaccel.observe.edges.edge import EdgeKey, End, Verdict, Where
from netaccel.observe.edges.recorder import EdgeRecorder
from netaccel.observe.edges.store import Limits
from netaccel.observe.edges.told import EdgeListener
from netaccel.observe.flows import record as flows
from netaccel.observe.flows.record import FlowRecord, RuleName

PORTS = (ContainerPort("http", Protocol.TCP, 8080),)
POD = Pod(PodKey("shop", "web-0"), "node-1", ports=PORTS)
WEB = flows.End("10.0.0.2", "pod", "shop", "web-0", "node-1", {"app": "web"})
DB = flows.End("10.0.0.3", "pod", "shop", "db-0", "node-1", {"app": "db"})
STRANGER = flows.End("192.0.2.1", "world")
NODE = flows.End("172.30.0.11", "node", "", "node-1")
RULE = RuleName(7, "TrafficPolicy", "shop", "web", "ingress", 0, "Allow")
SHADOW = RuleName(8, "TrafficPolicy", "shop", "new", "ingress", -1, "isolation", monitor=True)


def record(source: flows.End = STRANGER, destination: flows.End = WEB, **fields: Any) -> FlowRecord:
    usual: dict[str, Any] = {
        "node": "node-1",
        "boot": "b",
        "sequence": 1,
        "time": 1_000_000_000_000,
        "monotonic": 5,
        "type": "new",
        "verdict": "forwarded",
        "direction": "ingress",
        "protocol": "TCP",
        "source_port": 40_000,
        "destination_port": 8080,
        "rule": RULE,
        "shadow_rule": RULE,
    }
    return FlowRecord(source=source, destination=destination, **(usual | fields))


@pytest.fixture
def recorder(tmp_path: Path) -> EdgeRecorder:
    return EdgeRecorder(tmp_path / "edges.db", Limits())


def told(recorder: EdgeRecorder, *records: FlowRecord) -> list[EdgeKey]:
    EdgeListener(recorder, {POD.key: POD}.get)(records)
    return list(recorder._waiting)


def test_a_new_flow_is_an_edge_with_the_pods_labels_and_named_ports(recorder: EdgeRecorder) -> None:
    (key,) = told(recorder, record())
    web = End(Where.POD, parse_address("10.0.0.2"), "shop", "web-0", "node-1", (("app", "web"),), PORTS)
    stranger = End(Where.WORLD, parse_address("192.0.2.1"))
    rule = RuleRef(PolicyKey(Kind.TRAFFIC, "shop", "web"), Direction.INGRESS, 0)
    assert key == EdgeKey(stranger, web, 6, 8080, Direction.INGRESS, Verdict.ALLOWED, rule)
    (edge,) = recorder._waiting.values()
    assert (edge.first, edge.last, edge.count) == (1000.0, 1000.0, 1)


def test_an_audited_flow_names_the_rule_that_would_have_denied_it(recorder: EdgeRecorder) -> None:
    (key,) = told(recorder, record(verdict="audited", shadow_rule=SHADOW))
    assert key.verdict is Verdict.AUDITED
    assert key.rule == RuleRef(PolicyKey(Kind.TRAFFIC, "shop", "new"), Direction.INGRESS, -1)


def test_a_drop_is_an_edge_where_a_policy_decided_it(recorder: EdgeRecorder) -> None:
    drop = {"type": "drop", "verdict": "dropped", "tcp_flags": "SYN"}
    keys = told(
        recorder,
        record(**drop, reason="policy_denied"),
        record(**drop, reason="no_route", destination_port=1),
        record(**drop, reason="policy_unready", destination_port=2),
        record(type="kernel_drop", verdict="dropped", reason="tcp_csum", destination_port=3),
    )
    assert [(key.verdict, key.port) for key in keys] == [(Verdict.DENIED, 8080)]


def test_a_flow_that_goes_on_was_met_and_is_no_new_one(recorder: EdgeRecorder) -> None:
    told(
        recorder,
        record(),
        record(type="summary", time=1_060_000_000_000),
        record(type="closed", time=1_090_000_000_000),
    )
    (edge,) = recorder._waiting.values()
    assert (edge.first, edge.last, edge.count) == (1000.0, 1090.0, 1)


@pytest.mark.parametrize(
    ("source", "destination", "direction", "ports", "opener"),
    [
        (WEB, STRANGER, "ingress", (8080, 40_000), "192.0.2.1"),  # an answer of a flow from outside
        (STRANGER, WEB, "ingress", (40_000, 8080), "192.0.2.1"),
        (STRANGER, WEB, "egress", (443, 40_000), "10.0.0.2"),  # an answer to the pod
        (WEB, DB, "ingress", (40_000, 5432), "10.0.0.2"),
        (DB, WEB, "ingress", (5432, 40_000), "10.0.0.2"),
    ],
)
def test_a_dropped_packet_on_its_way_back_belongs_to_the_flow_that_it_answers(
    recorder: EdgeRecorder,
    source: flows.End,
    destination: flows.End,
    direction: str,
    ports: tuple[int, int],
    opener: str,
) -> None:
    (key,) = told(
        recorder,
        record(
            source,
            destination,
            type="drop",
            verdict="dropped",
            reason="policy_isolated",
            tcp_flags="ACK",
            direction=direction,
            source_port=ports[0],
            destination_port=ports[1],
        ),
    )
    assert key.source.address == parse_address(opener)
    assert key.port == min(ports)


def test_icmp_is_told_by_type_and_code_and_an_answer_by_what_it_answers(recorder: EdgeRecorder) -> None:
    icmp = {"protocol": "ICMP", "source_port": 0, "destination_port": 0}
    keys = told(
        recorder,
        record(**icmp, icmp_type=8, icmp_code=0),
        record(**icmp, icmp_type=0, icmp_code=0),
        record(**icmp, icmp_type=3, icmp_code=4),
        record(**icmp, type="closed"),
    )
    assert [(key.protocol, key.port) for key in keys] == [(1, 8 << 8), (1, 3 << 8 | 4)]


def test_an_address_of_a_service_is_no_end(recorder: EdgeRecorder) -> None:
    service = flows.End("10.96.0.10", "service", "shop", "web")
    assert told(recorder, record(WEB, service, direction="egress")) == []


def test_a_node_keeps_its_name_and_other_protocols_their_number(recorder: EdgeRecorder) -> None:
    (key,) = told(recorder, record(NODE, protocol="47", destination_port=0))
    assert (str(key.source), key.protocol) == ("node node-1", 47)


def test_what_can_not_be_read_is_counted(recorder: EdgeRecorder) -> None:
    strange = RuleName(9, "FuturePolicy", "a", "b", "ingress", 0)
    assert told(recorder, record(verdict="teleported"), record(rule=strange)) == []
    assert recorder.tally.lost == 2


def test_a_rule_that_is_not_there_any_more_is_no_rule(recorder: EdgeRecorder) -> None:
    (key,) = told(recorder, record(rule=RuleName(7)))
    assert key.rule is None
