# SPDX-License-Identifier: Apache-2.0
"""Sweeping flows, deriving evictions, bounding series: on maps in memory, with names from a real object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from netaccel.config import Timeouts
from netaccel.datapath.abi import Abi
from netaccel.datapath.bpfobject import OBJECTS
from netaccel.model.address import parse_address
from netaccel.observe.budget import ZERO, SeriesBudget
from netaccel.observe.conntrack import Census, Expiry, Fill, other_half, sweep
from netaccel.observe.figures import FigureCache, Figures, Tally, read_figures
from netaccel.observe.metrics import AgentFacts, Metrics
from netaccel.records import Flow, FlowKey, Service, ServiceCounters, Traffic

HZ = 250
NOW = 1_000_000


@pytest.fixture(scope="module")
def abi() -> Abi:
    return Abi.from_elf((OBJECTS / "sock_cgroup.o").read_bytes())


class Tables:
    """Maps in memory; counters have two CPUs."""

    def __init__(self, **tables: dict[Any, Any]) -> None:
        self.tables = tables

    def dump(self, name: str) -> Mapping[Any, Any]:
        return self.tables.get(name, {})

    def batches(self, name: str) -> Iterator[Sequence[tuple[Any, Any]]]:
        entries = list(self.tables.get(name, {}).items())
        for start in range(0, len(entries), 2):
            yield entries[start : start + 2]

    def count(self, name: str) -> int:
        return len(self.tables.get(name, {}))

    def capacity(self, name: str) -> int:
        return 10

    def get(self, name: str, key: Any) -> Any:
        return self.tables.setdefault(name, {}).get(key, [0, 0] if name == "counters" else None)

    def write(self, name: str, entries: Sequence[tuple[Any, Any]]) -> None:
        self.tables.setdefault(name, {}).update(entries)

    def delete(self, name: str, keys: Sequence[Any]) -> None:
        for key in keys:
            self.tables[name].pop(key, None)


def flow_pair(abi: Abi, sport: int, state: str, ages: tuple[int, int], proto: int = 6) -> dict[FlowKey, Flow]:
    """Both halves of client 192.0.2.1:sport → 203.0.113.9:80, at 10.0.0.1:8080 by SNAT; ages in seconds."""
    client, frontend, node, backend = map(parse_address, ("192.0.2.1", "203.0.113.9", "10.9.0.1", "10.0.0.1"))

    def half(src: bytes, dst: bytes, ports: tuple[int, int], age: int) -> Flow:
        values = dict.fromkeys(Flow._fields, 0) | {"hop_src": bytes(6), "hop_dst": bytes(6)}
        values |= {"new_src": src, "new_dst": dst, "new_sport": ports[0], "new_dport": ports[1]}
        values |= {"seen": (NOW - age * HZ) % 2**32, "state": abi.constants[state]}
        return Flow(**values)  # type: ignore[arg-type]

    return {
        FlowKey(client, frontend, sport, 80, proto, 0): half(node, backend, (61000, 8080), ages[0]),
        FlowKey(backend, node, 8080, 61000, proto, 1): half(frontend, client, (80, sport), ages[1]),
    }


def run_sweep(abi: Abi, maps: Tables) -> Census:
    return sweep(maps, abi, Expiry(Timeouts(), abi.constants, HZ), NOW, {})


def test_the_halves_of_a_flow_name_each_other(abi: Abi) -> None:
    (key, flow), (reverse_key, reverse) = flow_pair(abi, 4000, "FLOW_SYN", (0, 0)).items()
    assert other_half(key, flow) == reverse_key
    assert other_half(reverse_key, reverse) == key


@pytest.mark.parametrize(
    ("state", "proto", "age", "goes"),
    [
        ("FLOW_SYN", 6, 64, False),
        ("FLOW_SYN", 6, 66, True),
        ("FLOW_FIN_FORWARD", 6, 16, False),
        ("FLOW_FIN_REVERSE", 6, 126, True),
        ("FLOW_CLOSED", 6, 64, False),
        ("FLOW_CLOSED", 6, 66, True),
        ("FLOW_RESET", 6, 66, True),
        ("FLOW_ESTABLISHED", 6, 21600, False),
        ("FLOW_ESTABLISHED", 6, 21606, True),
        ("FLOW_ESTABLISHED", 17, 186, True),
        ("FLOW_UNREPLIED", 17, 34, False),
        ("FLOW_UNREPLIED", 17, 36, True),
    ],
)
def test_a_flow_goes_when_its_state_allows_and_five_seconds(
    abi: Abi, state: str, proto: int, age: int, goes: bool
) -> None:
    maps = Tables(flows4=flow_pair(abi, 4000, state, (age, age), proto))
    assert run_sweep(abi, maps).swept == (2 if goes else 0)
    assert len(maps.tables["flows4"]) == (0 if goes else 2)


def test_a_flow_stays_while_either_half_carries_packets(abi: Abi) -> None:
    maps = Tables(flows4=flow_pair(abi, 4000, "FLOW_ESTABLISHED", (0, 30000)))
    assert run_sweep(abi, maps).swept == 0
    assert len(maps.tables["flows4"]) == 2


def test_an_expired_half_whose_other_half_was_evicted_goes(abi: Abi) -> None:
    key, flow = next(iter(flow_pair(abi, 4000, "FLOW_SYN", (100, 100)).items()))
    maps = Tables(flows4={key: flow})
    assert run_sweep(abi, maps).swept == 1


def test_an_entry_that_a_new_flow_took_over_during_the_sweep_stays(abi: Abi) -> None:
    old, young = (flow_pair(abi, 4000, "FLOW_CLOSED", ages) for ages in ((90, 90), (0, 0)))
    (_, _), (reverse, taken) = young.items()

    class Busy(Tables):
        """A program writes between the sweep's reading and its deletions."""

        def batches(self, name: str) -> Iterator[Sequence[tuple[Any, Any]]]:
            yield from super().batches(name)
            if name == "flows4":
                self.tables[name][reverse] = taken

    maps = Busy(flows4=dict(old))
    maps_before_second_reading = maps.tables["flows4"]
    run_sweep(abi, maps)
    assert maps_before_second_reading[reverse] == taken


def test_a_flow_seen_after_the_clock_was_read_is_young(abi: Abi) -> None:
    maps = Tables(flows4=flow_pair(abi, 4000, "FLOW_SYN", (-1, -1)))
    assert run_sweep(abi, maps).swept == 0


def test_entries_are_counted_by_family_and_state(abi: Abi) -> None:
    flows = flow_pair(abi, 4000, "FLOW_SYN", (0, 0)) | {}
    census = run_sweep(abi, Tables(flows4=flows))
    assert census.flows["IPv4", "syn"] == 2
    assert census.flows["IPv6", "syn"] == 0
    assert census.fill["flows4"] == Fill(2, 10)


def test_evictions_are_inserts_less_deletes_less_live_entries(abi: Abi) -> None:
    insert, delete = abi.constants["COUNTER_FLOW4_INSERT"], abi.constants["COUNTER_FLOW4_DELETE"]
    maps = Tables(flows4=flow_pair(abi, 4000, "FLOW_SYN", (0, 0)), counters={insert: [6, 4], delete: [1, 0]})
    assert run_sweep(abi, maps).evictions["flows4"] == 10 - 1 - 2


def test_what_the_sweep_deletes_is_no_eviction_even_after_a_restart(abi: Abi) -> None:
    maps = Tables(
        flows4=flow_pair(abi, 4000, "FLOW_SYN", (100, 100)),
        counters={abi.constants["COUNTER_FLOW4_INSERT"]: [2, 0]},
    )
    assert run_sweep(abi, maps).evictions["flows4"] == 0
    assert maps.tables["counters"][abi.constants["COUNTER_FLOW4_SWEPT"]] == [2, 0]
    assert run_sweep(abi, maps).evictions["flows4"] == 0


# ---------------------------------------------------------------------- series


def named(name: str) -> Service:
    return Service("default", name, "http", 80, 6, 2)


def counts(packets: int) -> ServiceCounters:
    return ZERO._replace(xdp_request_packets=packets)


def test_service_ports_beyond_the_budget_share_one_series() -> None:
    budget = SeriesBudget(ZERO, 1)
    own = budget.divide(
        {1: named("a"), 2: named("b"), 3: named("c")}, {1: counts(5), 2: counts(9), 3: counts(1)}
    )
    assert [service.name for service, _ in own.values()] == ["b"], "the busiest keeps its own"
    assert budget.others == counts(6)


def test_a_series_stays_with_its_service_port() -> None:
    budget = SeriesBudget(ZERO, 1)
    budget.divide({1: named("a"), 2: named("b")}, {1: counts(5)})
    own = budget.divide({1: named("a"), 2: named("b")}, {1: counts(5), 2: counts(500)})
    assert list(own) == [1]


def test_the_shared_series_never_shrinks() -> None:
    budget = SeriesBudget(ZERO, 0)
    budget.divide({1: named("a"), 2: named("b")}, {1: counts(5), 2: counts(7)})
    budget.divide({2: named("b")}, {2: counts(8)})
    assert budget.others == counts(13)


def test_an_id_given_to_another_service_starts_anew() -> None:
    budget = SeriesBudget(ZERO, 0)
    budget.divide({1: named("a")}, {1: counts(5)})
    budget.divide({1: named("b")}, {1: counts(2)})
    assert budget.others == counts(7)


def test_a_service_port_without_traffic_has_no_series() -> None:
    assert SeriesBudget(ZERO).divide({1: named("a")}, {1: ZERO}) == {}


# --------------------------------------------------------------------- figures


def test_counters_are_summed_over_cpus_and_named(abi: Abi) -> None:
    reason, event = abi.constants["DROP_NO_BACKEND"], abi.constants["COUNTER_SNAT_RETRY"]
    figures = read_figures(
        Tables(
            services={7: named("a")},
            service_counters={7: [counts(1), counts(2)]},
            drops={reason: [Traffic(1, 60), Traffic(2, 40)]},
            counters={event: [3, 4]},
        ),
        abi,
    )
    assert figures.counters[7] == counts(3)
    assert figures.drops["no_backend"] == Traffic(3, 100)
    assert figures.drops["fragment"] == Traffic(0, 0), "reasons that have not happened are there"
    assert figures.events["snat_retry"] == 7


def test_figures_are_read_at_most_once_a_second() -> None:
    times = iter((0.0, 0.5, 0.99, 1.0))
    readings: list[Figures] = []

    def read() -> Figures:
        readings.append(Figures())
        return readings[-1]

    cache = FigureCache(read, lambda: next(times))
    assert cache() is cache() is cache()
    assert len(readings) == 1
    assert cache() is readings[1]


# --------------------------------------------------------------------- metrics


def test_metrics_in_the_exposition_format() -> None:
    metrics = Metrics(
        lambda: Figures(
            services={1: named("a")},
            counters={1: ZERO._replace(tc_reply_bytes=99, connects=4)},
            drops={"no_backend": Traffic(2, 120)},
            events={"snat_retry": 3},
        ),
        lambda: Census(
            flows={("IPv4", "syn"): 2}, evictions={"flows4": 1}, fill={"flows4": Fill(2, 10)}, swept=0
        ),
        lambda: AgentFacts(
            rejected={"Service": 1}, drift_repaired=5, attached={("xdp", "native"): 1}, synced=True
        ),
    )
    metrics.event_latency.observe(0.004)
    lines = metrics.text().decode().splitlines()
    port = 'port="80",protocol="TCP",service="a"'
    for expected in (
        f'netaccel_service_connects_total{{family="IPv4",namespace="default",{port}}} 4.0',
        "netaccel_service_bytes_total{"
        f'direction="reply",family="IPv4",namespace="default",path="tc",{port}}} 99.0',
        'netaccel_dropped_packets_total{reason="no_backend"} 2.0',
        'netaccel_dropped_bytes_total{reason="no_backend"} 120.0',
        'netaccel_datapath_events_total{event="snat_retry"} 3.0',
        'netaccel_flows{family="IPv4",state="syn"} 2.0',
        'netaccel_map_evictions_total{map="flows4"} 1.0',
        'netaccel_map_entries{map="flows4"} 2.0',
        'netaccel_map_capacity{map="flows4"} 10.0',
        'netaccel_rejected_objects{kind="Service"} 1.0',
        "netaccel_drift_repaired_total 5.0",
        'netaccel_attached_programs{hook="xdp",mode="native"} 1.0',
        "netaccel_synced 1.0",
        'netaccel_event_latency_seconds_bucket{le="0.005"} 1.0',
    ):
        assert expected in lines
    assert any("netaccel_build_info{" in line and line.endswith(" 1.0") for line in lines)


def test_what_nobody_wrote_to_is_not_counted_again() -> None:
    counts, stamp = [{"maglev": 1}, {"maglev": 2}], [0]
    tally = Tally(lambda: counts.pop(0), lambda: stamp[0])
    assert tally.read() == tally.read() == {"maglev": 1}
    stamp[0] = 1
    assert tally.read() == {"maglev": 2}
