# SPDX-License-Identifier: Apache-2.0
"""Passes of the engine: adoption, drift, full maps, and when nothing is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from netaccel.compile.invariants import violations
from netaccel.compile.services import NodeFacts
from netaccel.datapath.abi import Abi
from netaccel.datapath.fake import FakeMaps
from netaccel.errors import DatapathError, MapFullError
from netaccel.model.address import parse_address, parse_cidr
from netaccel.model.endpoint import Endpoint, EndpointSlice, SliceKey, SlicePort
from netaccel.model.event import Delete, ObjectKey, Synced, Upsert
from netaccel.model.service import Protocol, Service, ServiceKey, ServicePort
from netaccel.reconcile import Engine, State
from netaccel.records import Node

OBJECTS = Path(__file__).parents[2] / "netaccel" / "objects"
CONSTANTS = dict(Abi.from_elf((OBJECTS / "sock_cgroup.o").read_bytes()).constants)
FREE = CONSTANTS["BACKEND_FREE"]
ADDRESS = parse_address("172.18.0.1")
NODE = NodeFacts("node-1", frozenset((ADDRESS,)), (ADDRESS,), (ADDRESS,))


def service(name: str, number: int, *ranges: str) -> Upsert:
    key = ServiceKey("default", name)
    made = Service(
        key,
        "LoadBalancer",
        (ServicePort("", Protocol.TCP, 80),),
        cluster_ips=(parse_address(f"10.96.0.{number}"),),
        ingress=(parse_address(f"203.0.113.{number}"),) if ranges else (),
        source_ranges=tuple(parse_cidr(text) for text in ranges),
    )
    return Upsert(ObjectKey("Service", *key), made, 0.0)


def endpoints(name: str, *numbers: int) -> Upsert:
    key = SliceKey("default", f"{name}-1")
    found = tuple(Endpoint(parse_address(f"10.0.0.{number}")) for number in numbers)
    made = EndpointSlice(key, ServiceKey("default", name), (SlicePort("", Protocol.TCP, 8080),), found)
    return Upsert(ObjectKey("EndpointSlice", *key), made, 0.0)


WEB = (service("web", 1), endpoints("web", 1, 2, 3))


def running(maps: FakeMaps, *events: Upsert) -> Engine:
    engine = Engine(maps, CONSTANTS, NODE)
    engine.take((*events, Synced()))
    engine.run()
    return engine


def test_nothing_is_written_before_the_source_has_told_all() -> None:
    maps = FakeMaps()
    engine = Engine(maps, CONSTANTS, NODE)
    engine.take(WEB)
    assert not engine.due
    assert engine.run().written == 0
    assert maps.log == []


def test_a_restart_with_a_slow_source_loses_nothing() -> None:
    maps = FakeMaps()
    running(maps, *WEB)
    before = {name: dict(table) for name, table in maps.tables.items()}
    engine = Engine(maps, CONSTANTS, NODE)
    engine.take(WEB[:1])
    engine.run()
    assert maps.tables == before
    engine.take((WEB[1], Synced()))
    assert engine.run().written == 0
    assert maps.tables == before


def test_what_was_pinned_and_is_wanted_no_more_goes_with_the_first_pass() -> None:
    maps = FakeMaps()
    running(maps, *WEB, service("old", 2, "198.51.100.0/24"), endpoints("old", 9))
    report = running(maps, *WEB).run()
    assert report.written == 0
    assert {s.name for s in maps.tables["services"].values()} == {"web"}
    assert not maps.tables["source_ranges"]
    assert sum(b.state != FREE for b in maps.tables["backends"].values()) == 3


def test_a_restart_keeps_every_id() -> None:
    maps = FakeMaps()
    running(maps, *WEB)
    ids = {(b.addr, b.port): (n, b.generation) for n, b in maps.tables["backends"].items()}
    running(maps, service("first", 7), endpoints("first", 77), *WEB)
    now = {(b.addr, b.port): (n, b.generation) for n, b in maps.tables["backends"].items()}
    assert ids.items() <= now.items()


def test_one_endpoint_more_writes_that_one_a_table_and_the_switch() -> None:
    maps = FakeMaps()
    engine = running(maps, *WEB)
    maps.log.clear()
    engine.take((endpoints("web", 1, 2, 3, 4),))
    engine.run()
    assert maps.log == [("write", "backends", 1), ("write", "maglev", 61), ("write", "frontends", 1)]


def test_a_slice_told_again_does_nothing() -> None:
    maps = FakeMaps()
    engine = running(maps, *WEB)
    assert engine.take(WEB) == 0
    assert not engine.due


@pytest.mark.parametrize("name", ["services", "backends", "frontends", "source_ranges", "maglev", "node"])
def test_an_entry_that_somebody_took_away_is_found_counted_and_put_back(name: str) -> None:
    maps = FakeMaps()
    engine = running(maps, *WEB, service("lb", 5, "198.51.100.0/24"))
    before = (
        maps.dump("frontends").keys(),
        maps.dump("services"),
        maps.dump("node"),
        maps.dump("source_ranges"),
    )
    maps.tables[name].pop(next(iter(maps.tables[name])))
    engine.request_compare()
    report = engine.run()
    assert report.drift == {name: 1}
    after = (
        maps.dump("frontends").keys(),
        maps.dump("services"),
        maps.dump("node"),
        maps.dump("source_ranges"),
    )
    assert after == before
    t = maps.tables
    assert not list(violations(t["services"], t["frontends"], t["backends"], t["maglev"], FREE))
    engine.request_compare()
    assert engine.run().drift == {}


def test_an_entry_that_somebody_added_is_taken_away() -> None:
    maps = FakeMaps()
    engine = running(maps, *WEB)
    key, value = next(iter(maps.tables["frontends"].items()))
    maps.tables["frontends"][key._replace(port=9999)] = value
    maps.tables["backends"][77] = maps.tables["backends"][1]
    engine.request_compare()
    assert engine.run().drift == {"frontends": 1, "backends": 1}
    assert all(key.port != 9999 for key in maps.tables["frontends"])
    assert maps.tables["backends"][77].state == FREE


def test_ids_are_known_although_their_names_were_wiped() -> None:
    """Else every flow and socket would lose its backend."""
    maps = FakeMaps()
    engine = running(maps, *WEB)
    before = maps.dump("backends"), maps.dump("services")
    maps.tables["services"].clear()
    maps.tables["backends"].clear()
    engine.request_compare()
    engine.run()
    assert (maps.dump("backends"), maps.dump("services")) == before


def test_a_comparison_that_finds_nothing_writes_nothing() -> None:
    maps = FakeMaps()
    engine = running(maps, *WEB)
    maps.log.clear()
    engine.request_compare()
    report = engine.run()
    assert (report.compared, report.written, maps.log) == (True, 0, [])


def test_a_map_that_is_full_before_its_size_bars_one_service_alone() -> None:
    """A trie may run out of memory: the kernel's word counts, not the agent's arithmetic."""
    maps = FakeMaps()
    engine = running(maps, *WEB)
    maps.capacities = {**maps.capacities, "source_ranges": 1}
    engine.take((service("greedy", 2, "198.51.100.0/24", "192.0.2.0/24"), service("modest", 3)))
    engine.take((Delete(ObjectKey("EndpointSlice", "default", "web-1"), 0.0),))
    failures = 0
    for _ in range(20):
        if not engine.due:
            break
        try:
            engine.run()
        except MapFullError:
            failures += 1
    assert 1 <= failures <= 3
    states = {key.name: condition.state for key, condition in engine.conditions.items()}
    assert states == {"web": State.ACCEPTED, "greedy": State.REJECTED, "modest": State.ACCEPTED}
    assert "full" in engine.conditions[ServiceKey("default", "greedy")].reasons[0]
    assert {s.name for s in maps.tables["services"].values()} == {"web", "modest"}
    assert all(b.state == FREE for b in maps.tables["backends"].values()), "removals went through"

    maps.capacities = {**maps.capacities, "source_ranges": 10}
    engine.request_compare()
    engine.run()
    assert engine.conditions[ServiceKey("default", "greedy")].state is State.ACCEPTED


def test_a_failed_pass_is_made_up_for() -> None:
    maps = FakeMaps()
    engine = Engine(maps, CONSTANTS, NODE)
    engine.take((*WEB, Synced()))
    maps.fail_after = 5
    with pytest.raises(DatapathError):
        engine.run()
    assert engine.due
    report = engine.run()
    assert report.compared
    assert report.drift == {}, "what an own failure left is no drift"
    assert len(maps.tables["frontends"]) == 2


def test_the_node_map_follows_the_node() -> None:
    maps = FakeMaps()
    engine = running(maps)
    assert maps.tables["node"] == {0: Node(ADDRESS, bytes(16))}
    six = parse_address("fd00:18::1")
    engine.set_node(NodeFacts("node-1", frozenset((six,)), (six,), (six,)))
    engine.run()
    assert maps.tables["node"] == {0: Node(bytes(16), six)}


def test_a_removed_backend_is_reported() -> None:
    maps = FakeMaps()
    engine = running(maps, *WEB)
    engine.take((endpoints("web", 1, 2),))
    assert engine.run().removed_backends == 1
    engine.take((endpoints("web", 1, 2, 3),))
    assert engine.run().removed_backends == 0


def test_a_backend_that_comes_back_at_once_is_a_new_one() -> None:
    """Sockets that were bound to the old one were told that it is gone."""
    maps = FakeMaps()
    engine = running(maps, *WEB)
    old = {b.addr: (n, b.generation) for n, b in maps.tables["backends"].items()}
    engine.take((endpoints("web", 1, 2),))
    engine.run()
    engine.take((endpoints("web", 1, 2, 3),))
    engine.run()
    new = {b.addr: (n, b.generation) for n, b in maps.tables["backends"].items() if b.state != FREE}
    three = parse_address("10.0.0.3")
    assert new[three] != old[three]
    assert {a: v for a, v in new.items() if a != three} == {a: v for a, v in old.items() if a != three}


def test_a_reordered_slice_writes_nothing() -> None:
    maps = FakeMaps()
    engine = running(maps, *WEB)
    maps.log.clear()
    engine.take((endpoints("web", 3, 1, 2),))
    assert engine.run().written == 0
