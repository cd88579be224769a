# SPDX-License-Identifier: Apache-2.0
"""Which pods' packets the agent lets go past the node's stack, and when it takes that back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace as replaced

from netaccel.accelerate.view import Carried, Connection
from netaccel.agent import peers as module
from netaccel.agent.peers import PeerWays
from netaccel.datapath.abi import Abi
from netaccel.datapath.fake import FakeMaps
from netaccel.datapath.peersight import Sight
from netaccel.datapath.pods import Placement
from netaccel.datapath.rtnetlink import Device, Link
from netaccel.errors import DatapathError
from netaccel.model.address import Address, parse_address
from netaccel.model.endpoint import Pod, PodKey

ABI = Abi.from_elf((Path(__file__).parents[2] / "netaccel/objects/tc_pod.o").read_bytes())
A, B = PodKey("default", "a"), PodKey("default", "b")
ADDRESSES = {A: Address(parse_address("10.0.0.1")), B: Address(parse_address("10.0.0.2"))}
INDEX = {A: 11, B: 12}


def device(ifindex: int) -> Device:
    mac = bytes([2, 0, 0, 0, 0, ifindex])
    return Device(ifindex, f"veth{ifindex}", "veth", 1500, True, False, "UP", mac, 2, 1, 0)


class Ground:
    """A node whose netfilter, devices and policies are as a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
        self.needed = ""
        self.unknown = ""
        self.generation = 1
        self.ready = {A, B}
        self.queues: dict[int, frozenset[str]] = {}
        self.failing: set[int] = set()
        self.maps = FakeMaps()
        self.pods = [Pod(key, addresses=(ADDRESSES[key],), uid=key.name) for key in (A, B)]
        self.plane: Any = SimpleNamespace(
            loaded=SimpleNamespace(maps=self.maps, abi=ABI),
            settings=SimpleNamespace(peer=settings.get("peer", "auto")),
            without_peer=settings.get("without", ""),
            view=SimpleNamespace(pod_devices=[device(index) for index in INDEX.values()]),
        )
        monkeypatch.setattr(module.netfilter, "why_needed", lambda: self.needed)
        monkeypatch.setattr(module.netfilter, "why_unknown", lambda: self.unknown)
        monkeypatch.setattr(module.netfilter, "generation", lambda: self.generation)
        monkeypatch.setattr(module.rtnetlink, "queues", lambda: self.queues)
        monkeypatch.setattr(module.peersight, "look", self.look)
        monkeypatch.setattr(module, "_PAUSE", 0.02)
        monkeypatch.setattr(module, "_SETTLE", 0.0)
        monkeypatch.setattr(module, "_COST", 0)
        self.ways = PeerWays(self.plane, lambda: self.pods, lambda key, _: key in self.ready)

    def look(self, near: Device, addresses: Any, queues: Any) -> Sight:
        if near.ifindex in self.failing:
            raise DatapathError("addresses: No such device", 19)
        link = Link(near)
        own = frozenset(addresses)
        ways = dict.fromkeys(addresses, near.ifindex)
        return Sight(link, link, own, None, queues.get(near.ifindex, frozenset()), 0, ways)

    def placed(self, *keys: PodKey) -> None:
        self.ways.placed(Placement({key: INDEX[key] for key in keys}, {}))

    def there(self) -> set[PodKey]:
        return {key for key, address in ADDRESSES.items() if self.ways.carries(address, address)}


@contextmanager
def running(ground: Ground) -> Iterator[asyncio.Task[None]]:
    task = asyncio.create_task(ground.ways.run())
    try:
        yield task
    finally:
        task.cancel()


async def until(question: Any) -> None:
    async with asyncio.timeout(20):
        while not question():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
def ground(monkeypatch: pytest.MonkeyPatch) -> Ground:
    return Ground(monkeypatch)


async def test_pods_that_are_ready_take_it(ground: Ground) -> None:
    ground.ready = {A}
    with running(ground):
        ground.placed(A, B)
        await until(lambda: ground.there() == {A})
        assert ground.ways.tier().on
        ground.ready = {A, B}
        await until(lambda: ground.there() == {A, B})
    assert ground.ways.way(ADDRESSES[A], ADDRESSES[B]) == "peer"
    assert ground.ways.way(ADDRESSES[A], parse_address("10.0.0.3")) == "tc"


async def test_a_pod_that_is_elsewhere_leaves_at_once(ground: Ground) -> None:
    with running(ground):
        ground.placed(A, B)
        await until(lambda: ground.there() == {A, B})
        ground.placed(A)
        assert ground.there() == {A}


async def test_netfilter_takes_it_from_all_and_gives_it_back(ground: Ground) -> None:
    with running(ground):
        ground.placed(A, B)
        await until(lambda: ground.there() == {A, B})
        ground.needed, ground.generation = "netfilter's chain ip nat p has a rule", 2
        await until(lambda: not ground.there())
        assert ground.ways.tier().reason == ground.needed
        ground.needed, ground.generation = "", 3
        await until(lambda: ground.there() == {A, B})
        ground.unknown = "IPVS has services"
        await until(lambda: not ground.there())
        ground.unknown = ""
        await until(lambda: ground.there() == {A, B})


async def test_what_is_against_one_pod_is_said_of_it_alone(ground: Ground) -> None:
    ground.queues = {INDEX[B]: frozenset({"tbf"})}
    with running(ground):
        ground.placed(A, B)
        await until(lambda: ground.there() == {A})
    assert list(ground.ways.reasons()) == [B]
    assert "tbf" in ground.ways.reasons()[B]
    one = Connection("default/a", "10.0.0.1", 40000, "10.0.0.2", 80, Carried("tc"), peer="default/b")
    assert ground.ways.with_path(one).tcp_reason == "default/b: veth12 has a queueing discipline (tbf)"
    for elsewhere in (replaced(one, peer=""), replaced(one, remote="127.0.0.1", peer="default/a")):
        assert not ground.ways.with_path(elsewhere).tcp_reason


async def test_what_takes_it_from_all_is_said_of_each_connection(ground: Ground) -> None:
    ground.needed = "netfilter's chain ip nat p has a rule"
    one = Connection("default/a", "10.0.0.1", 40000, "10.0.0.2", 80, Carried("tc"), peer="default/b")
    with running(ground):
        ground.placed(A, B)
        await until(lambda: ground.ways.tier().reason == ground.needed)
    assert ground.ways.with_path(one).tcp_reason == ground.needed


async def test_a_pod_that_goes_while_it_is_looked_at_harms_no_other(ground: Ground) -> None:
    ground.failing = {INDEX[B]}
    with running(ground):
        ground.placed(A, B)
        await until(lambda: ground.there() == {A})
        assert ground.ways.tier().on


async def test_what_can_not_be_asked_keeps_the_stack(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise DatapathError("netfilter can't be asked: Operation not permitted", 1)

    with running(ground) as task:
        ground.placed(A, B)
        await until(lambda: ground.there() == {A, B})
        monkeypatch.setattr(module.netfilter, "generation", refuse)
        await until(lambda: not ground.there())
        assert "can't be asked" in ground.ways.tier().reason
        assert not task.done()


async def test_new_addresses_of_a_pod_are_looked_at(ground: Ground) -> None:
    other = Address(parse_address("10.0.0.9"))
    with running(ground):
        ground.placed(A, B)
        await until(lambda: ground.there() == {A, B})
        ground.pods[0] = replace(ground.pods[0], addresses=(other,))
        await until(lambda: ground.ways.carries(other, other))
    assert ground.there() == {B}


async def test_an_earlier_agents_entries_stay_as_they_are(ground: Ground) -> None:
    with running(ground):
        ground.placed(A, B)
        await until(lambda: ground.there() == {A, B})
    ground.ready = set()
    ground.maps.writes.clear()
    ground.ways = PeerWays(ground.plane, lambda: ground.pods, lambda key, _: key in ground.ready)
    assert ground.there() == {A, B}
    with running(ground):
        ground.placed(A, B)
        await until(lambda: ground.ways.tier().on)
    assert ground.there() == {A, B}
    assert not ground.maps.writes


@pytest.mark.parametrize(
    ("settings", "asked"),
    [({"peer": "off"}, False), ({"without": "this kernel has no bpf_check_mtu (5.12)"}, True)],
    ids=["setting", "kernel"],
)
async def test_where_it_never_is(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], asked: bool
) -> None:
    ground = Ground(monkeypatch, **settings)
    await ground.ways.run()
    ground.placed(A, B)
    tier = ground.ways.tier()
    assert (tier.on, tier.asked, ground.there()) == (False, asked, set())
    assert tier.reason in ("the setting peer is off", settings.get("without"))
