# SPDX-License-Identifier: Apache-2.0
"""Sweeping pods' ends of flows: on maps in memory, with names from a real object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from netaccel.config import Timeouts
from netaccel.datapath.abi import Abi
from netaccel.datapath.bpfobject import OBJECTS
from netaccel.model.address import parse_address
from netaccel.observe.conntrack import Fill
from netaccel.observe.policyflows import PolicyCensus, PolicyExpiry, sweep
from netaccel.records import PolicyFlow, PolicyFlowKey

HZ, NOW = 250, 5_000_000
VETH = 7
ENDED_TCP = [("NEW", 64, 66), ("ESTABLISHED", 21604, 21606), ("CLOSING", 124, 126), ("CLOSED", 64, 66)]
ENDED_UDP = [("NEW", 34, 36), ("ESTABLISHED", 184, 186)]


@pytest.fixture(scope="module")
def abi() -> Abi:
    return Abi.from_elf((OBJECTS / "sock_cgroup.o").read_bytes())


class Tables:
    """The maps of one node in memory; of counters one CPU."""

    def __init__(self, *entries: tuple[PolicyFlowKey, PolicyFlow]) -> None:
        self.flows = dict(entries)
        self.counters: dict[int, list[int]] = {}

    def batches(self, name: str) -> Iterator[Sequence[tuple[Any, Any]]]:
        yield list(self.flows.items()) if name == "policy_flows4" else []

    def count(self, name: str) -> int:
        raise AssertionError("nobody asks")

    def capacity(self, name: str) -> int:
        return 10

    def get(self, name: str, key: Any) -> Any:
        return self.counters.get(key, [0]) if name == "counters" else self.flows.get(key)

    def write(self, name: str, entries: Sequence[tuple[Any, Any]]) -> None:
        assert name == "counters"
        self.counters.update(entries)

    def delete(self, name: str, keys: Sequence[Any]) -> None:
        for key in keys:
            del self.flows[key]


def entry(
    abi: Abi, state: str, age: int, proto: int = 6, ifindex: int = VETH
) -> tuple[PolicyFlowKey, PolicyFlow]:
    pod, peer = parse_address("10.0.0.1"), parse_address("10.0.0.2")
    values = dict.fromkeys(PolicyFlow._fields, 0)
    values |= {"seen": (NOW - age * HZ) % 2**32, "state": abi.constants[f"POLICY_FLOW_{state}"]}
    return PolicyFlowKey(pod, peer, 40000, 80, proto, ifindex), PolicyFlow(**values)


def swept(abi: Abi, maps: Tables) -> PolicyCensus:
    return sweep(maps, abi, PolicyExpiry(Timeouts(), abi.constants, HZ), NOW, lambda: {VETH})


@pytest.mark.parametrize(
    ("proto", "state", "stays", "goes"),
    [
        *((6, *row) for row in ENDED_TCP),
        *((17, *row) for row in ENDED_UDP),
        *((1, *row) for row in ENDED_UDP),
    ],
)
def test_a_flow_goes_when_its_state_allows_and_five_seconds(
    abi: Abi, proto: int, state: str, stays: int, goes: int
) -> None:
    assert swept(abi, Tables(entry(abi, state, stays, proto))).ended == ()
    old = entry(abi, state, goes, proto)
    maps = Tables(old)
    assert swept(abi, maps).ended == (old,)
    assert maps.flows == {}


def test_flows_of_a_pod_that_is_gone_go_at_once(abi: Abi) -> None:
    mine, others = entry(abi, "ESTABLISHED", 0, ifindex=VETH + 1), entry(abi, "ESTABLISHED", 0)
    maps = Tables(mine, others)
    assert swept(abi, maps).ended == (mine,)
    assert maps.flows == dict([others])


def test_what_is_handed_on_is_what_the_entry_held_last(abi: Abi) -> None:
    key, old = entry(abi, "CLOSED", 90)
    last = old._replace(sent_packets=9)

    class Busy(Tables):
        """A program writes between the reading and the deletion."""

        def get(self, name: str, key: Any) -> Any:
            return super().get(name, key) if name == "counters" else last

    assert swept(abi, Busy((key, old))).ended == ((key, last),)


def test_an_entry_that_a_new_flow_took_over_meanwhile_stays(abi: Abi) -> None:
    key, old = entry(abi, "CLOSED", 90)
    young = entry(abi, "NEW", 0)[1]

    class Busy(Tables):
        def get(self, name: str, key: Any) -> Any:
            return super().get(name, key) if name == "counters" else young

    maps = Busy((key, old))
    assert swept(abi, maps).ended == ()
    assert maps.flows == {key: old}


def test_evictions_are_what_came_less_what_went_and_what_is_there(abi: Abi) -> None:
    maps = Tables(entry(abi, "CLOSED", 90), entry(abi, "ESTABLISHED", 0, proto=17))
    index = {name: value for value, name in abi.labels("counter").items()}
    maps.counters = {index["policy4_insert"]: [9], index["policy4_delete"]: [2]}
    found = swept(abi, maps)
    assert maps.counters[index["policy4_swept"]] == [1]
    assert found.evictions == {"policy_flows4": 5, "policy_flows6": 0}
    assert found.fill == {"policy_flows4": Fill(1, 10), "policy_flows6": Fill(0, 10)}
