# SPDX-License-Identifier: Apache-2.0
"""What flows carried, what was dropped, and that every event is accounted for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flowground import ALLOW_WEB, CLIENT, DB, SERVICE_PORT, WEB, WEB6, Station, event_abi

from netaccel.datapath.abi import Abi
from netaccel.observe.flows import traffic as flowtraffic
from netaccel.observe.flows.account import Accountant, Taken
from netaccel.observe.flows.filters import Query
from netaccel.observe.flows.line import line
from netaccel.observe.flows.record import FlowRecord, Redirected, Traffic
from netaccel.records import DropPair, DropPairKey, PolicyEndpoint, PolicyFlow, PolicyFlowKey

HZ = 250


@pytest.fixture(scope="module")
def abi(compile_text: Callable[[str], bytes]) -> Abi:
    return event_abi(compile_text)


@pytest.fixture
async def station(abi: Abi) -> Station:
    """One that has looked at flows before."""
    found = Station(abi)
    await found.flows.summarise()
    return found


KEY = PolicyFlowKey(WEB, DB, 43512, 5432, 6, 4)


def flow(station: Station, seconds: float, sent: int, got: int, **fields: int) -> PolicyFlow:
    """Of web-0, opened ``seconds`` ago."""
    c = station.abi.constants
    return PolicyFlow(
        revision=1, identity=300, rule=ALLOW_WEB, shadow_rule=0, seen=station.jiffies,
        opened=(station.jiffies - round(seconds * HZ)) % 2**32, state=1, direction=c["POLICY_EGRESS"],
        verdict=c["VERDICT_FORWARDED"], flags=0, service=SERVICE_PORT, sent_packets=sent,
        sent_bytes=100 * sent, received_packets=got, received_bytes=100 * got,
    )._replace(**fields)  # fmt: skip


def later(station: Station, seconds: float) -> None:
    station.jiffies = (station.jiffies + round(seconds * HZ)) % 2**32


def records(station: Station) -> list[FlowRecord]:
    return list(station.flows.log)


async def test_a_lasting_flow_has_summaries_of_what_came_since(station: Station) -> None:
    entries = station.maps.tables["policy_flows"]
    entries[KEY] = flow(station, 59, 10, 20)
    await station.flows.summarise()
    assert records(station) == [], "younger than a minute"

    later(station, 2)
    await station.flows.summarise()
    assert records(station) == [], "older, but without packets since"

    entries[KEY] = entries[KEY]._replace(seen=station.jiffies)
    await station.flows.summarise()
    (first,) = records(station)
    assert (first.type, first.traffic, first.total) == ("summary", Traffic(10, 1000, 20, 2000), first.traffic)
    assert first.age == 61
    assert (str(first.source), str(first.destination), first.service) == (
        "default/web-0",
        "shop/db-0",
        "shop/db",
    )

    await station.flows.summarise()
    assert len(records(station)) == 1, "nothing came since"

    entries[KEY] = entries[KEY]._replace(sent_packets=11, sent_bytes=1100)
    await station.flows.summarise()
    assert (records(station)[1].traffic, records(station)[1].total) == (
        Traffic(1, 100),
        Traffic(11, 1100, 20, 2000),
    )


async def test_an_ended_flow_tells_the_rest_and_the_whole(station: Station) -> None:
    entries = station.maps.tables["policy_flows"]
    entries[KEY] = flow(station, 100, 10, 20)
    await station.flows.summarise()
    await station.flows.ended([(KEY, entries.pop(KEY)._replace(sent_packets=15, sent_bytes=1500))])
    summary, closed = records(station)
    assert (closed.type, closed.traffic, closed.total) == (
        "closed",
        Traffic(5, 500),
        Traffic(15, 1500, 20, 2000),
    )
    assert summary.traffic is not None
    assert summary.traffic.packets + closed.traffic.packets == 15, "the sum of records is what was carried"


async def test_an_ended_flow_is_told_at_its_last_packets_time_and_not_at_the_sweeps(station: Station) -> None:
    entry = flow(station, 100, 10, 20)
    later(station, 30)
    await station.flows.ended([(KEY, entry), (KEY, flow(station, 1, 1, 1))])
    idle, fresh = records(station)
    assert 30 <= (fresh.monotonic - idle.monotonic) / 1e9 <= 30 + 1 / HZ
    assert fresh.time - idle.time == fresh.monotonic - idle.monotonic
    assert idle.age == 100, "before that time it began"


async def test_a_packet_of_a_jiffy_that_is_yet_to_come_was_now(station: Station) -> None:
    entry = flow(station, 1, 1, 1)
    now, ahead = (entry._replace(seen=(entry.seen + more) % 2**32) for more in (0, 1))
    await station.flows.ended([(KEY, now), (KEY, ahead)])
    assert len({record.monotonic for record in records(station)}) == 1


async def test_what_went_from_socket_to_socket_is_told_beside_the_packets(station: Station) -> None:
    asked = []
    told = Redirected(50, 5000, 40, 4000)

    def redirections(*ends: object) -> Redirected | None:
        asked.append(ends)
        return told

    station.flows.ask_redirections(redirections)
    entries = station.maps.tables["policy_flows"]
    entries[KEY] = flow(station, 100, 10, 20)
    await station.flows.summarise()
    told = Redirected(60, 6000, 40, 4000)
    await station.flows.summarise()
    await station.flows.ended([(KEY, entries.pop(KEY))])
    first, second, closed = records(station)
    assert (first.path, first.redirected) == ("socket", Redirected(50, 5000, 40, 4000))
    assert (second.traffic, second.redirected) == (Traffic(), Redirected(10, 1000)), "no packet came"
    assert (closed.redirected, closed.total_redirected) == (Redirected(), told)
    assert set(asked) == {(WEB, 43512, DB, 5432)}
    assert "redirected 60/6000B got 40/4000B after 100s by idle path=socket" in line(closed)
    station.flows.ask_redirections(lambda *_: None)
    await station.flows.ended([(KEY, flow(station, 1, 1, 1))])
    assert (records(station)[-1].redirected, records(station)[-1].path) == (None, "")


async def test_the_path_of_what_ended_is_asked_for(station: Station) -> None:
    station.flows.ask_way(lambda source, destination: "peer" if (source, destination) == (WEB, DB) else "tc")
    await station.flows.ended(
        [(KEY, flow(station, 1, 1, 1)), (KEY._replace(peer=CLIENT), flow(station, 1, 1, 1))]
    )
    assert [record.path for record in records(station)] == ["peer", "tc"]


async def test_redirections_are_asked_from_whoever_opened(station: Station) -> None:
    asked = []
    station.flows.ask_redirections(lambda *ends: asked.append(ends))
    ingress = station.abi.constants["POLICY_INGRESS"]
    await station.flows.ended(
        [
            (KEY._replace(peer=CLIENT), flow(station, 1, 3, 4, direction=ingress)),
            (KEY._replace(proto=17), flow(station, 1, 3, 4)),
        ]
    )
    assert asked == [(CLIENT, 5432, WEB, 43512)], "and only of TCP"


async def test_what_the_peer_opened_goes_from_the_peer_to_the_pod(station: Station) -> None:
    ingress = station.abi.constants["POLICY_INGRESS"]
    await station.flows.ended(
        [(KEY._replace(peer=CLIENT, pod_port=80), flow(station, 1, 3, 4, direction=ingress))]
    )
    (closed,) = records(station)
    assert (closed.source.address, closed.destination_port, str(closed.pod_end)) == (
        "203.0.113.9",
        80,
        "default/web-0",
    )
    assert closed.traffic == Traffic(4, 400, 3, 300)


async def test_a_tuples_next_flow_begins_at_nothing(station: Station) -> None:
    entries = station.maps.tables["policy_flows"]
    entries[KEY] = flow(station, 500, 1000, 1000)
    await station.flows.summarise()
    entries[KEY] = flow(station, 70, 5, 5)
    await station.flows.summarise()
    assert records(station)[-1].traffic == Traffic(5, 500, 5, 500)


async def test_a_refused_flow_is_no_flow(station: Station) -> None:
    refused = flow(station, 100, 1, 1, flags=station.abi.constants["POLICY_FLOW_REJECTED"])
    station.maps.tables["policy_flows"][KEY] = refused
    await station.flows.summarise()
    await station.flows.ended([(KEY, refused)])
    assert records(station) == []


async def test_summaries_are_bounded_and_the_busiest_come_first(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flowtraffic, "SUMMARIES", 2)
    for number in range(1, 5):
        station.maps.tables["policy_flows"][KEY._replace(pod_port=number)] = flow(station, 100, number, 0)
    await station.flows.summarise()
    assert [one.source_port for one in records(station)] == [4, 3]
    await station.flows.summarise()
    assert [one.source_port for one in records(station)] == [4, 3, 1, 2], "the others' turn comes"
    assert station.flows.status()["summaries_left_out"] == 2


async def test_a_short_flow_is_told_at_its_end_alone(station: Station) -> None:
    entries = station.maps.tables["policy_flows"]
    entries[KEY] = flow(station, 1, 5, 5)
    later(station, 300)
    await station.flows.summarise()
    closed = station.abi.constants["POLICY_FLOW_CLOSED"]
    entries[KEY._replace(pod_port=2)] = flow(station, 100, 5, 5, state=closed)
    await station.flows.summarise()
    assert records(station) == []
    await station.flows.ended([(KEY, entries.pop(KEY))])
    assert [(one.traffic, one.age) for one in records(station)] == [(Traffic(5, 500, 5, 500), 1)]


async def test_how_a_flow_ended_is_told(station: Station) -> None:
    names = station.abi.constants
    closed, fin_pod, fin_peer = (names[f"POLICY_FLOW_{name}"] for name in ("CLOSED", "FIN_POD", "FIN_PEER"))
    both = flow(station, 1, 5, 5, state=closed, flags=fin_pod | fin_peer)
    one = flow(station, 1, 5, 5, state=closed, flags=fin_pod)
    open_still = flow(station, 1, 5, 5)
    await station.flows.ended([(KEY, both), (KEY, one), (KEY, open_still)], {KEY.ifindex})
    await station.flows.ended([(KEY, open_still)], {KEY.ifindex + 1})
    assert [record.ended for record in records(station)] == ["fin", "reset", "idle", "device gone"]


async def test_what_an_earlier_agent_told_is_not_told_again(abi: Abi) -> None:
    station = Station(abi)
    entries = station.maps.tables["policy_flows"]
    short = KEY._replace(pod_port=2)
    entries[KEY], entries[short] = flow(station, 100, 10, 10), flow(station, 1, 3, 3)
    await station.flows.summarise()
    entries[KEY] = entries[KEY]._replace(sent_packets=12, sent_bytes=1200)
    await station.flows.summarise()
    await station.flows.ended([(short, entries.pop(short))])
    lasting, ended = records(station)
    assert (lasting.traffic, lasting.total) == (Traffic(2, 200), Traffic(12, 1200, 10, 1000))
    assert ended.traffic == ended.total == Traffic(3, 300, 3, 300), "an earlier agent saw no end of it"


async def test_ages_wrap_with_jiffies(station: Station) -> None:
    station.jiffies = 100
    station.maps.tables["policy_flows"][KEY] = flow(station, 100, 1, 0)
    await station.flows.summarise()
    assert records(station)[0].age == 100


# ------------------------------------------------------------------------ drops


def pair(station: Station, packets: int, **fields: object) -> tuple[DropPairKey, DropPair]:
    c = station.abi.constants
    key = DropPairKey(CLIENT, WEB, 8080, 6, c["EVENT_DROP"], c["DROP_POLICY_ISOLATED"], 4, 8)
    numbers = {name: c[value] if isinstance(value, str) else value for name, value in fields.items()}
    return key._replace(**numbers), DropPair(packets, 60 * packets, station.jiffies)


async def top(station: Station, count: int = 20, **filters: list[str]):  # type: ignore[no-untyped-def]
    station.flows._pairs._last = None  # not within the second
    return await station.flows.drops(station.flows.wanted(Query(filters)), 0, count)


async def test_the_most_by_reason_rule_and_pair(station: Station) -> None:
    pairs = station.maps.tables["drop_pairs"]
    pairs.update(
        [
            pair(station, 5),
            pair(station, 7, dport=81),
            pair(station, 3, type="EVENT_KERNEL_DROP", reason=3, rule=0),
        ]
    )
    found = await top(station)
    assert [(one.reason, one.type, one.packets) for one in found.reasons] == [
        ("policy_isolated", "drop", 12),
        ("no_socket", "kernel_drop", 3),
    ]
    assert [(str(one.rule), one.packets) for one in found.rules] == [
        ("NetworkPolicy shop/deny-all ingress isolation", 12)
    ]
    assert [one.destination_port for one in found.pairs] == [81, 8080, 8080]
    assert (found.packets, found.bytes, found.kept) == (15, 900, 3)
    assert len((await top(station, count=1)).pairs) == 1


async def test_drops_can_be_asked_for_by_filter_and_age(station: Station) -> None:
    pairs = station.maps.tables["drop_pairs"]
    pairs.update([pair(station, 5), pair(station, 7, dport=81)])
    assert (await top(station, port=["81"])).packets == 7
    later(station, 100)
    pairs.update([pair(station, 1, dport=82)])
    station.flows._pairs._last = None
    everything = await top(station)
    newest = max(one.time for one in everything.pairs)
    assert (await station.flows.drops(lambda _one: True, newest - 10**9, 20)).packets == 1


async def test_a_drops_direction_is_that_of_the_devices_pod(station: Station) -> None:
    pairs, devices = (station.maps.tables[name] for name in ("drop_pairs", "policy_endpoints"))
    devices[4] = PolicyEndpoint(1, 1, 1, 1, 0, WEB, WEB6)
    pairs.update([pair(station, 1, src=DB), pair(station, 1, src=WEB, dst=DB)])
    assert {one.source.name: one.direction for one in (await top(station)).pairs} == {
        "db-0": "ingress",
        "web-0": "egress",
    }
    devices.clear()
    assert {one.source.name: one.direction for one in (await top(station)).pairs}["web-0"] == "egress"


async def test_drops_are_counted_by_what_they_grew(station: Station) -> None:
    pairs = station.maps.tables["drop_pairs"]

    async def counted() -> dict[tuple[str, ...], int]:
        station.flows._pairs._last = None
        await station.flows.count_drops()
        return dict(station.flows.counts.drop_packets)

    pairs.update([pair(station, 100)])
    assert await counted() == {}, "an earlier agent's"
    pairs.update([pair(station, 103), pair(station, 2, dport=81)])
    labels = ("policy_isolated", "drop", "ingress", "default")
    assert await counted() == {labels: 5}
    pairs.update([pair(station, 1)])
    assert await counted() == {labels: 6}, "evicted, and there again"
    assert station.flows.counts.drop_bytes[labels] == 360


# ------------------------------------------------------------------- accounting


def test_every_event_is_accounted_for(station: Station) -> None:
    station.tell(station.event(), station.event())
    for name, by in (("SEEN", 12), ("EXPORTED", 3), ("AGGREGATED", 5), ("LOST", 4)):
        station.maps.count(f"COUNTER_EVENT_{name}", by)
    station.waiting = 3
    found = station.flows.account()
    assert (found.seen, found.exported, found.aggregated, found.lost) == (14, 5, 5, 4)
    assert (found.read, found.waiting, found.unaccounted) == (2, 3, 0)
    station.waiting = 2
    assert station.flows.account().unaccounted == 1, "one was exported and came nowhere"
    station.waiting = 3
    station.maps.count("COUNTER_EVENT_SEEN")
    assert station.flows.account().unaccounted == 1, "one was seen and went nowhere"


def test_what_an_earlier_agent_read_is_not_ours(abi: Abi) -> None:
    station = Station(abi)
    station.maps.count("COUNTER_EVENT_EXPORTED", 40)
    taken = Taken()
    accountant = Accountant(station.maps, abi, taken, lambda: 0)
    assert accountant.account().exported == 40
    taken.read = 1
    station.maps.count("COUNTER_EVENT_EXPORTED", 1)
    station.maps.count("COUNTER_EVENT_SEEN", 41)
    assert accountant.account().unaccounted == 0


def test_a_status_for_people(station: Station) -> None:
    station.tell(station.event())
    found = station.flows.status()
    assert found["records"] == 1
    assert found["events"]["read"] == 1  # type: ignore[index]
