# SPDX-License-Identifier: Apache-2.0
"""Samples become records with names; the log is bounded and its followers learn what they lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC

import msgspec
import pytest
from flowground import (
    ALLOW_WEB,
    CLIENT,
    DB,
    DB_SERVICE,
    N1,
    N2,
    SERVICE_PORT,
    WEB,
    Station,
    event_abi,
    pod,
    upsert,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from netaccel.datapath.abi import Abi
from netaccel.datapath.kernelbtf import drop_reasons, enumerators
from netaccel.errors import AbiError, CapacityError
from netaccel.model.address import parse_address
from netaccel.model.endpoint import Endpoint, EndpointSlice, SliceKey
from netaccel.model.event import Delete, Forgive, ObjectKey, Reject
from netaccel.model.policy import Action, Direction, Kind, Policy, PolicyKey, Rule, Subject, Tier
from netaccel.model.service import ServiceKey
from netaccel.observe.flows import log as flowlog
from netaccel.observe.flows.decode import Decoder, tcp_flags
from netaccel.observe.flows.directory import Directory
from netaccel.observe.flows.line import line, rule_text
from netaccel.observe.flows.log import FlowLog
from netaccel.observe.flows.record import FlowRecord, Lost, from_json, to_json


@pytest.fixture(scope="module")
def abi(compile_text: Callable[[str], bytes]) -> Abi:
    return event_abi(compile_text)


@pytest.fixture
def station(abi: Abi) -> Station:
    return Station(abi)


def told(station: Station, **fields: object) -> FlowRecord:
    station.tell(station.event(**fields))
    return next(reversed(list(station.flows.log)))


# ------------------------------------------------------------------- decoding


def test_an_event_becomes_a_record_with_names(station: Station) -> None:
    record = told(station)
    assert (str(record.source), record.source_port) == ("default/web-0", 43512)
    assert (str(record.destination), record.destination_port) == ("shop/db-0", 5432)
    assert record.destination.node == "n2"
    assert record.destination.labels == {"app": "db", "tier": "data"}
    assert record.destination.endpoint_of == ("shop/db",)
    assert (record.type, record.verdict, record.direction, record.path) == (
        "new",
        "forwarded",
        "egress",
        "tc",
    )
    assert (record.protocol, record.tcp_flags, record.length, record.reason) == ("TCP", "SYN", 60, "")
    assert str(record.rule) == "NetworkPolicy shop/allow-web ingress[0]"
    assert (record.node, record.boot, record.monotonic) == ("n1", "b007", 1_000_000_000)


def test_sequence_numbers_grow_and_a_successors_are_greater(abi: Abi) -> None:
    first = Station(abi)
    numbers = [told(first).sequence for _ in range(3)]
    assert numbers == sorted(set(numbers))
    assert told(Station(abi)).sequence > numbers[-1]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"rule": 8}, "NetworkPolicy shop/deny-all ingress isolation"),
        ({"rule": 99}, "99 (no longer there)"),
        ({"rule": 0}, "None"),
    ],
)
def test_rules_by_isolation_gone_and_none(station: Station, fields: dict[str, int], text: str) -> None:
    assert str(told(station, **fields).rule) == text


def test_a_rule_has_the_name_that_its_author_gave(station: Station) -> None:
    key = PolicyKey(Kind.NETWORK, "shop", "allow-web")
    policy = Policy(
        key, Tier.NAMESPACED, Subject((), None), ingress=(Rule(Action.ALLOW, None, None, "from web"),)
    )
    station.flows.hear(upsert_policy(policy))
    rule = told(station).rule
    assert rule is not None
    assert rule.rule == "from web"
    assert station.flows.directory.rule_name(key, Direction.INGRESS, 1) == ""
    station.flows.hear(Delete(ObjectKey("NetworkPolicy", "shop", "allow-web"), 0.0))
    assert station.flows.directory.rule_name(key, Direction.INGRESS, 0) == ""


def test_what_a_refused_policy_denies_is_said_to_be_its_refusal(station: Station) -> None:
    key, why = ObjectKey("NetworkPolicy", "shop", "allow-web"), "spec.ingres: there is no such field"
    deny = Rule(Action.DROP, None, None)
    name = PolicyKey(Kind.NETWORK, "shop", "allow-web")
    standing = Policy(name, Tier.NAMESPACED, Subject((), None), (deny,), (deny,), denies=why)
    station.flows.hear(Reject(key, "web.yaml", "spec.ingres", "there is no such field", standing))
    record = told(station, verdict="VERDICT_DROPPED", reason="DROP_POLICY_DENIED", type="EVENT_DROP")
    text = f"rule NetworkPolicy shop/allow-web ingress (refused, so it denies: {why})"
    assert text in line(record)
    assert record.rule is not None
    assert rule_text(record.rule, reasons=False).endswith("ingress (refused, so it denies)")
    assert from_json(to_json(record)) == record
    station.flows.hear(Reject(key, "other.yaml", "spec", "stands in another file", None))
    station.flows.hear(Forgive(key, "web.yaml"))
    assert text in line(told(station)), "one of two refusals is left"
    station.flows.hear(Forgive(key, "other.yaml"))
    assert "rule NetworkPolicy shop/allow-web ingress[0]" in line(told(station))


def test_the_last_good_version_of_a_refused_policy_keeps_its_rules_names(station: Station) -> None:
    name = PolicyKey(Kind.NETWORK, "shop", "allow-web")
    allow, deny = Rule(Action.ALLOW, None, None, "from web"), Rule(Action.DROP, None, None)
    station.flows.hear(upsert_policy(Policy(name, Tier.NAMESPACED, Subject((), None), (allow,))))
    standing = Policy(name, Tier.NAMESPACED, Subject((), None), (deny,), denies="spec: is bad")
    key = ObjectKey("NetworkPolicy", "shop", "allow-web")
    station.flows.hear(Reject(key, "web.yaml", "spec", "is bad", standing))
    assert "ingress[0] (from web)" in line(told(station))


def upsert_policy(policy: Policy):  # type: ignore[no-untyped-def]
    from netaccel.model.event import Upsert

    return Upsert(ObjectKey(policy.key.kind.value, policy.key.namespace, policy.key.name), policy, 0.0)


def test_a_rules_id_that_is_given_to_another_has_the_other_name_in_the_next_batch(station: Station) -> None:
    assert told(station).rule == told(station).rule
    rules = station.maps.tables["policy_rules"]
    rules[ALLOW_WEB] = rules[ALLOW_WEB]._replace(name="another")
    assert "shop/another" in str(told(station).rule)


def test_drops_have_reasons_of_programs_and_of_the_kernel(station: Station) -> None:
    ours = told(station, type="EVENT_DROP", verdict="VERDICT_DROPPED", reason="DROP_POLICY_DENIED")
    assert (ours.type, ours.reason) == ("drop", "policy_denied")
    kernels = told(station, type="EVENT_KERNEL_DROP", verdict="VERDICT_DROPPED", reason=3, location=0xFF00)
    assert (kernels.type, kernels.reason, kernels.location) == ("kernel_drop", "no_socket", "0xff00")
    assert told(station, type="EVENT_KERNEL_DROP", reason=70000).reason == "70000", "a subsystem's own"


def test_services_by_id_and_by_address(station: Station) -> None:
    assert told(station, service=SERVICE_PORT).service == "shop/db"
    to_frontend = told(station, dst=DB_SERVICE)
    assert (to_frontend.destination.kind, to_frontend.service) == ("service", "shop/db")
    assert told(station, dst=N2, dport=30432).service == "shop/db", "a node port"
    assert told(station, dst=N2, dport=30432, proto=17).service == "", "of another protocol"
    assert told(station, dst=CLIENT).service == ""


def test_strangers_and_nodes(station: Station) -> None:
    assert told(station, src=CLIENT).source.kind == "world"
    node = told(station, src=N2).source
    assert (node.kind, node.name) == ("node", "n2")
    bridge = parse_address("10.0.1.254")
    assert told(station, src=bridge).source.kind == "world"
    station.flows.directory.set_local(frozenset((bridge,)))
    assert told(station, src=bridge).source.name == "n1", "an address that the Node object does not name"


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=20))
def test_samples_of_any_bytes_are_counted_and_never_a_crash(samples: list[bytes]) -> None:
    station = Station(_ABI[0])
    station.flows._pump.take(samples)
    taken = station.flows.taken
    assert taken.read == len(samples)
    assert len(station.flows.log) == taken.read - taken.unparsable


@settings(deadline=None)
@given(st.lists(st.binary(min_size=200, max_size=200), max_size=20))
def test_events_of_any_content_become_records_or_are_counted(noise: list[bytes]) -> None:
    station = Station(_ABI[0])
    size = station.codec.size
    types, directions = (_ABI[0].labels(enum) for enum in ("flow_event_type", "policy_direction"))
    samples = []
    for one in noise:
        event = station.codec.unpack(one[:size])
        fields = {"type": one[-1] % len(types), "direction": one[-2] % len(directions)}
        samples.append(station.codec.pack(event._replace(**fields)))
    station.flows._pump.take(samples)
    records = list(station.flows.log)
    assert len(records) == len(samples)
    for record in records:
        assert from_json(to_json(record)) == record
        assert line(record)


_ABI: list[Abi] = []


@pytest.fixture(autouse=True)
def _layouts(abi: Abi) -> None:
    _ABI[:] = [abi]


def test_a_type_or_direction_that_nobody_knows_is_unparsable(abi: Abi, station: Station) -> None:
    decoder = Decoder(station.codec, abi)
    samples = [station.codec.pack(station.event(**fields)) for fields in ({}, {"type": 9}, {"direction": 7})]
    events, unparsable = decoder.decode([*samples, b"", samples[0] + b"x"])
    assert (len(events), unparsable) == (1, 4)


def test_flags_of_tcp() -> None:
    assert tcp_flags(0x12) == "SYN,ACK"
    assert tcp_flags(0) == ""


def test_the_kernels_reasons_come_from_its_own_btf() -> None:
    reasons = drop_reasons()
    assert not reasons or {"no_socket", "netfilter_drop"} <= set(reasons.values())


def test_a_kernel_without_reasons_has_none(tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert drop_reasons(tmp_path / "missing") == {}
    with pytest.raises(AbiError, match="not in this kernel's BTF"):
        enumerators(b"\x9f\xeb\x01\x00" + bytes(20), "skb_drop_reason")


# ---------------------------------------------------------------------- names


def test_a_pods_address_goes_to_its_successor_whatever_comes_first() -> None:
    directory = Directory("n1")
    old, new = pod("shop", "a", "n1", WEB), pod("shop", "b", "n1", WEB)
    directory.hear(upsert(old))
    assert directory.end(WEB).name == "a"
    directory.hear(upsert(new))
    directory.hear(Delete(ObjectKey("Pod", "shop", "a"), 0.0))
    assert directory.end(WEB).name == "b"
    directory.hear(Delete(ObjectKey("Pod", "shop", "b"), 0.0))
    assert directory.end(WEB).kind == "world"


def test_labels_are_those_of_now(station: Station) -> None:
    assert told(station).source.labels == {"app": "web"}
    station.flows.hear(upsert(pod("default", "web-0", "n1", WEB, app="web", version="2")))
    assert told(station).source.labels == {"app": "web", "version": "2"}


def test_a_pod_of_which_only_a_slice_tells_is_a_pod() -> None:
    directory = Directory("n1")
    endpoint = Endpoint(DB, node_name="n2", pod="db-0")
    directory.hear(upsert(EndpointSlice(SliceKey("shop", "db-1"), ServiceKey("shop", "db"), (), (endpoint,))))
    found = directory.end(DB)
    assert (found.kind, str(found), found.node, found.labels) == ("pod", "shop/db-0", "n2", {})
    directory.hear(upsert(pod("shop", "db-0", "n2", DB, app="db")))
    assert directory.end(DB).labels == {"app": "db"}
    directory.hear(Delete(ObjectKey("Pod", "shop", "db-0"), 0.0))
    directory.hear(Delete(ObjectKey("EndpointSlice", "shop", "db-1"), 0.0))
    assert directory.end(DB).kind == "world"


def test_endpoints_come_and_go_with_their_slices(station: Station) -> None:
    directory = station.flows.directory
    second = EndpointSlice(SliceKey("shop", "db-2"), None, (), ())
    directory.hear(upsert(second))
    directory.hear(Delete(ObjectKey("EndpointSlice", "shop", "db-1"), 0.0))
    assert directory.end(DB).endpoint_of == ()


def test_a_flood_of_strangers_stays_bounded() -> None:
    directory = Directory("n1")
    for number in range(40_000):
        directory.end(parse_address("::ffff:0:0")[:12] + number.to_bytes(4))
    assert len(directory._ends) <= 16_384


def test_a_node_that_is_removed_is_the_world(station: Station) -> None:
    station.flows.hear(Delete(ObjectKey("Node", "", "n1"), 0.0))
    assert station.flows.directory.end(N1).kind == "world"
    station.flows.hear(Delete(ObjectKey("Service", "shop", "db"), 0.0))
    assert station.flows.directory.end(DB_SERVICE).kind == "world"
    assert station.flows.directory.service_at(N2, 30432, 6) == ""


# -------------------------------------------------------------- log, followers


def everything(_record: FlowRecord) -> bool:
    return True


def test_the_oldest_go_and_are_counted(abi: Abi) -> None:
    station = Station(abi, limit=10)
    station.tell(*(station.event(sport=n) for n in range(1, 26)))
    assert [one.source_port for one in station.flows.log] == list(range(16, 26))
    assert (station.flows.log.taken, station.flows.log.forgotten) == (25, 15)


async def test_the_last_that_are_wanted_oldest_first(station: Station) -> None:
    station.tell(*(station.event(sport=n, time=n * 10**9) for n in range(1, 5001)))
    found = await station.flows.log.last(3, lambda one: one.source_port % 2 == 0)
    assert [one.source_port for one in found] == [4996, 4998, 5000]
    since = found[1].time
    assert [one.source_port for one in await station.flows.log.last(100, everything, since)] == [
        4998,
        4999,
        5000,
    ]
    assert await station.flows.log.last(0, everything) == []


async def test_flows_that_ended_long_ago_hide_no_newer_records_told_before_them(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flowlog, "_CHUNK", 4)
    station.tell(*(station.event(sport=n, time=n * 10**9) for n in range(1, 11)))
    log = station.flows.log
    new = list(log)[-1]
    log.append([msgspec.structs.replace(new, type="closed", time=new.time - 5 * 10**9)] * 10)
    found = await log.last(100, everything, new.time)
    assert [one.source_port for one in found] == [10]


async def test_a_follower_gets_what_is_wanted_as_it_comes(station: Station) -> None:
    with station.flows.log.follow(lambda one: one.source_port > 1) as follower:
        batches = follower.batches(10)
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
        station.tell(station.event(sport=1))
        await asyncio.sleep(0)
        assert not waiting.done()
        station.tell(station.event(sport=2), station.event(sport=3))
        got = await waiting
        assert [one.source_port for one in got if isinstance(one, FlowRecord)] == [2, 3]
        await batches.aclose()
    assert station.flows.log.followers == 0


async def test_a_slow_follower_loses_records_and_is_told_how_many(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flowlog, "QUEUE", 10)
    with station.flows.log.follow(everything) as follower:
        for first in (0, 8, 16):
            station.tell(*(station.event(sport=first + n) for n in range(8)))
        batches = follower.batches(10)
        got = await anext(batches)
        assert [one.source_port for one in got[:-1] if isinstance(one, FlowRecord)] == list(range(10))
        assert got[-1] == Lost(14)
        assert station.flows.log.missed == 14
        station.tell(station.event(sport=99))
        assert [one.source_port for one in await anext(batches) if isinstance(one, FlowRecord)] == [99]
        await batches.aclose()


async def test_a_silent_log_says_so(station: Station) -> None:
    with station.flows.log.follow(everything) as follower:
        batches = follower.batches(0.01)
        assert await anext(batches) == []
        station.flows.log.end()
        assert [batch async for batch in batches] == []


def test_not_everybody_may_follow() -> None:
    log = FlowLog(10)
    followers = [log.follow(everything) for _ in range(flowlog.FOLLOWERS)]
    with pytest.raises(CapacityError, match="already follow"):
        log.follow(everything)
    followers[0].close()
    log.follow(everything)


# ---------------------------------------------------------------- lines, JSON


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"service": SERVICE_PORT},
            "default/web-0:43512 -> shop/db-0:5432 (service shop/db) tcp egress FORWARDED"
            " rule NetworkPolicy shop/allow-web ingress[0] path=tc",
        ),
        (
            {"verdict": "VERDICT_AUDITED", "rule": 0, "shadow_rule": 8},
            "default/web-0:43512 -> shop/db-0:5432 (endpoint of shop/db) tcp egress AUDITED"
            " would drop: NetworkPolicy shop/deny-all ingress isolation path=tc",
        ),
        (
            {
                "src": parse_address("fd00::9"),
                "dst": parse_address("fd00::2:1"),
                "type": "EVENT_DROP",
                "direction": "POLICY_INGRESS",
                "verdict": "VERDICT_DROPPED",
                "reason": "DROP_POLICY_ISOLATED",
                "rule": 8,
            },
            "[fd00::9]:43512 -> shop/db-0:5432 tcp ingress DROPPED policy_isolated"
            " rule NetworkPolicy shop/deny-all ingress isolation flags=SYN path=tc",
        ),
        (
            {"proto": 1, "icmp_type": 8, "dst": N2, "rule": 0},
            "default/web-0 -> n2 (node) icmp(8,0) egress FORWARDED path=tc",
        ),
    ],
)
def test_lines_for_people(station: Station, fields: dict[str, object], text: str) -> None:
    record = told(station, **fields)
    assert line(record, UTC).split(" ", 3)[3] == text


def test_a_line_begins_with_its_time(station: Station) -> None:
    record = told(station)
    moved = from_json(to_json(record).replace(b'"time":%d' % record.time, b'"time":1764097923123456789'))
    assert line(moved, UTC).startswith("Nov 25 19:12:03.123 default/web-0:43512 ->")
    assert "14 flows lost" in line(Lost(14))


def test_json_comes_back_and_later_fields_are_no_error(station: Station) -> None:
    record = told(station)
    written = to_json(record)
    assert from_json(written) == record
    assert from_json(written[:-1] + b',"later":1}') == record
    assert from_json(to_json(Lost(3))) == Lost(3)
    for odd in (b"", b"[]", b"{}", b'{"lost":"x"}'):
        with pytest.raises(ValueError, match="not a flow"):
            from_json(odd)
