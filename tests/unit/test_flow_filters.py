# SPDX-License-Identifier: Apache-2.0
"""Which records a query wants, and how it says that it can't be understood."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flowground import CLIENT, DB6, N2, SERVICE_PORT, WEB, WEB6, Station, event_abi

from netaccel.datapath.abi import Abi
from netaccel.errors import ConfigError
from netaccel.observe.flows.filters import Query, parse_since
from netaccel.observe.flows.record import FlowRecord
from netaccel.observe.flows.selector import parse_selector

EVENTS = {
    "web to db": {},
    "web to Service db": {"service": SERVICE_PORT, "sport": 40001},
    "client to web, dropped": {
        "src": CLIENT, "dst": WEB, "sport": 40002, "dport": 8080,
        "direction": "POLICY_INGRESS", "type": "EVENT_DROP", "verdict": "VERDICT_DROPPED",
        "reason": "DROP_POLICY_ISOLATED", "rule": 8, "identity": 0,
    },
    "web to db over IPv6, audited": {
        "src": WEB6, "dst": DB6, "sport": 40003, "dport": 53, "proto": 17, "verdict": "VERDICT_AUDITED",
        "rule": 0, "shadow_rule": 8, "path": "PATH_PEER",
    },
    "web to node n2, dropped by the kernel": {
        "dst": N2, "sport": 0, "dport": 0, "proto": 1, "icmp_type": 8, "type": "EVENT_KERNEL_DROP",
        "verdict": "VERDICT_DROPPED", "reason": 3, "rule": 0,
    },
}  # fmt: skip
ALL = set(EVENTS)
DB, SERVICE, DROP, AUDIT, KERNEL = EVENTS


@pytest.fixture(scope="module")
def abi(compile_text: Callable[[str], bytes]) -> Abi:
    return event_abi(compile_text)


@pytest.fixture(scope="module")
def station(abi: Abi) -> Station:
    station = Station(abi)
    station.tell(*(station.event(**fields) for fields in EVENTS.values()))
    return station


@pytest.fixture(scope="module")
def records(station: Station) -> dict[str, FlowRecord]:
    return dict(zip(EVENTS, station.flows.log, strict=True))


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({}, ALL),
        ({"pod": ["web-0"]}, ALL),
        ({"pod": ["shop/db-*"]}, {DB, SERVICE, AUDIT}),
        ({"pod": ["shop/web-0"]}, set()),
        ({"namespace": ["shop"]}, {DB, SERVICE, AUDIT}),
        ({"namespace": ["sh*", "none"]}, {DB, SERVICE, AUDIT}),
        ({"label": ["app=db,tier!=web"]}, {DB, SERVICE, AUDIT}),
        ({"label": ["app in (db, cache)"]}, {DB, SERVICE, AUDIT}),
        ({"label": ["tier"]}, {DB, SERVICE, AUDIT}),
        ({"service": ["shop/db"]}, {DB, SERVICE}),
        ({"service": ["db"]}, set()),
        ({"to": ["service:shop/db"]}, {DB, SERVICE}),
        ({"node": ["n2"]}, {DB, SERVICE, AUDIT, KERNEL}),
        ({"ip": ["203.0.113.9"]}, {DROP}),
        ({"ip": ["203.0.113.0/24", "fd00::2:0/112"]}, {DROP, AUDIT}),
        ({"ip": ["0.0.0.0/0"]}, ALL - {AUDIT}),
        ({"port": ["5432"]}, {DB, SERVICE}),
        ({"port": ["40001-40002"]}, {SERVICE, DROP}),
        ({"from": ["world"]}, {DROP}),
        ({"to": ["pod:default/web-0"]}, {DROP}),
        ({"to": ["node:n2"]}, {DB, SERVICE, AUDIT, KERNEL}),
        ({"from": ["namespace:default"], "to": ["label:app=db"]}, {DB, SERVICE, AUDIT}),
        ({"from": ["ip:10.0.1.1"]}, {DB, SERVICE, KERNEL}),
        ({"protocol": ["udp"]}, {AUDIT}),
        ({"protocol": ["1", "UDP"]}, {AUDIT, KERNEL}),
        ({"verdict": ["dropped"]}, {DROP, KERNEL}),
        ({"verdict": ["AUDITED"]}, {AUDIT}),
        ({"reason": ["policy_*"]}, {DROP}),
        ({"reason": ["no-socket"]}, {KERNEL}),
        ({"rule": ["shop/allow-web"]}, {DB, SERVICE}),
        ({"rule": ["networkpolicy deny-all"]}, {DROP, AUDIT}),
        ({"rule": ["NetworkPolicy shop/allow-web ingress[0]"]}, {DB, SERVICE}),
        ({"rule": ["shop/allow-web ingress[1]"]}, set()),
        ({"path": ["peer"]}, {AUDIT}),
        ({"direction": ["ingress"]}, {DROP}),
        ({"type": ["kernel-drop", "drop"]}, {DROP, KERNEL}),
        ({"verdict": ["dropped"], "direction": ["egress"]}, {KERNEL}),
    ],
)
def test_what_a_filter_wants(
    station: Station, records: dict[str, FlowRecord], filters: dict[str, list[str]], wanted: set[str]
) -> None:
    test = station.flows.wanted(Query(filters))
    assert {name for name, record in records.items() if test(record)} == wanted


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("pod", "a/b/c", "give NAMESPACE/NAME"),
        ("pod", "shop/", "give NAMESPACE/NAME"),
        ("namespace", "a/b", "give a namespace's name"),
        ("label", "app==,", "is no term"),
        ("ip", "10.0.0.0/33", "give an address or CIDR"),
        ("ip", "db-0", "give an address or CIDR"),
        ("port", "70000", "give a number or a range"),
        ("port", "9-8", "give a number or a range"),
        ("from", "somebody", "give pod:NAMESPACE/NAME"),
        ("to", "world:1", "give pod:NAMESPACE/NAME"),
        ("protocol", "tpc", "give ICMP, TCP"),
        ("protocol", "256", "give ICMP, TCP"),
        ("verdict", "denied", "give forwarded, dropped, audited"),
        ("path", "wire", "give socket, xdp, tc"),
        ("direction", "in", "give ingress, egress"),
        ("type", "old", "give new, closed"),
        ("reason", "policy denied!", "give a reason's name"),
        ("rule", " ", "give a policy's NAMESPACE/NAME"),
        ("colour", "red", "no such filter"),
    ],
)
def test_a_bad_filter_says_which_and_what_to_give(station: Station, name: str, given: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        station.flows.wanted(Query({name: [given]}))
    message = str(caught.value)
    assert message.startswith(name)
    assert said in message
    assert "\n" not in message


def test_since() -> None:
    assert parse_since("5m", 1000.0) == 700 * 10**9
    assert parse_since("1.5h", 10_000.0) == 4600 * 10**9
    assert parse_since("2026-11-25T19:12:03Z", 0) == parse_since("2026-11-25T20:12:03+01:00", 0)
    for odd in ("", "5", "m", "yesterday", "5 minutes"):
        with pytest.raises(ConfigError, match="give an age"):
            parse_since(odd, 0)


@pytest.mark.parametrize(
    ("selector", "labels", "holds"),
    [
        ("a=1", {"a": "1"}, True),
        ("a==1", {"a": "2"}, False),
        ("a!=1", {}, True),
        ("a in (1,2)", {"a": "2"}, True),
        ("a notin (1,2)", {}, True),
        ("a notin (1,2),b", {"b": ""}, True),
        ("!a", {"a": ""}, False),
        ("a=", {"a": ""}, True),
        ("app.kubernetes.io/name=web", {"app.kubernetes.io/name": "web"}, True),
    ],
)
def test_selectors(selector: str, labels: dict[str, str], holds: bool) -> None:
    assert parse_selector(selector)(labels) is holds


@pytest.mark.parametrize("odd", ["", ",", "a b", "a in 1", "=1", "a=1,,b"])
def test_odd_selectors(odd: str) -> None:
    with pytest.raises(ValueError, match="is no term"):
        parse_selector(odd)
