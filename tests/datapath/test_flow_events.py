# SPDX-License-Identifier: Apache-2.0
"""Events from programs in the kernel to records: none lost silently, however many there are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.clock import jiffies_per_second
from netaccel.datapath.maps import KernelMaps
from netaccel.datapath.ringbuf import RingBuffer, room
from netaccel.observe.flows import pump
from netaccel.observe.flows.directory import Directory
from netaccel.observe.flows.naming import Stamp
from netaccel.observe.flows.record import FlowRecord
from netaccel.observe.flows.station import Flows, Ground

pytestmark = pytest.mark.root

SMALL = 65_536
TEXT = """
#include "event.h"
#include <bpf/bpf_endian.h>

__u32 number;

static __always_inline void compose(struct flow_event *e)
{
	e->src[10] = e->src[11] = e->dst[10] = e->dst[11] = 255;
	e->src[12] = e->dst[12] = 10;
	e->src[15] = 1;
	e->dst[15] = 2;
	e->proto = 6;
	e->dport = bpf_htons(80);
	e->length = 60;
}

/* A new flow each time. */
SEC("tc") int verdict(struct __sk_buff *skb)
{
	struct flow_event e = {};

	compose(&e);
	e.sport = bpf_htons(number++);
	e.verdict = VERDICT_FORWARDED;
	e.type = EVENT_VERDICT;
	event_verdict(&e);
	return 0;
}

/* Drops of 1,024 pairs. */
SEC("tc") int drop(struct __sk_buff *skb)
{
	struct flow_event e = {};

	compose(&e);
	e.src[14] = number >> 8 & 3;
	e.src[15] = number++;
	e.verdict = VERDICT_DROPPED;
	e.type = EVENT_DROP;
	e.reason = DROP_POLICY_DENIED;
	event_tell_drop(&e);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
"""
FRAME = bytes(64)


class Node:
    """Programs that tell, a small ring, and what reads it."""

    def __init__(self, obj: BpfObject, ring: RingBuffer) -> None:
        self.obj = obj
        self.ring = ring
        self.maps = KernelMaps({name: obj.map(name) for name in obj.map_definitions()}, obj.abi)
        codec = obj.abi.codec("flow_event")
        ground = Ground(
            maps=self.maps,
            labels=obj.abi,
            constants=obj.abi.constants,
            codec=codec,
            hz=jiffies_per_second(),
            jiffies=lambda: 0,
            waiting=lambda: ring.waiting() // room(codec.size),
        )
        self.flows = Flows(Stamp("n1", "b007"), ground, Directory("n1"), 1_000)

    async def tell(self, program: str, times: int) -> None:
        """In a thread, as fast as it goes."""
        await asyncio.to_thread(self.obj.program(program).test_run, FRAME, repeat=times)

    async def settle(self) -> None:
        """Until the ring is read empty."""
        async with asyncio.timeout(20):
            while self.ring.waiting():  # noqa: ASYNC110 - the ring is the kernel's
                await asyncio.sleep(0.01)


@pytest.fixture
def node(build: Callable[[str], Path]) -> Iterator[Node]:
    with BpfObject(build(TEXT)) as obj:
        for name, definition in obj.map_definitions().items():
            if definition.max_entries > SMALL // 16:
                obj.resize(name, SMALL // 16)
        obj.resize("flow_events", SMALL)
        obj.load()
        with obj.map("flow_events") as events, RingBuffer(events) as ring:
            node = Node(obj, ring)
            yield node
            node.maps.close()


async def test_an_event_of_a_program_is_a_record(node: Node) -> None:
    reading = asyncio.ensure_future(node.flows.read(node.ring))
    await node.tell("verdict", 3)
    await node.settle()
    reading.cancel()
    records = list(node.flows.log)
    assert [one.source_port for one in records] == [0, 1, 2]
    first = records[0]
    assert (first.source.address, first.destination.address, first.destination_port) == (
        "10.0.0.1",
        "10.0.0.2",
        80,
    )
    assert (first.type, first.verdict, first.protocol, first.length) == ("new", "forwarded", "TCP", 60)
    assert 0 <= node.flows.taken.lag < 20


@pytest.mark.parametrize("program", ["verdict", "drop"])
async def test_more_than_can_be_read_is_accounted_for_to_the_last(
    node: Node, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "PAUSE", 0.01)
    reading = asyncio.ensure_future(node.flows.read(node.ring))
    for _ in range(4):
        await node.tell(program, 50_000)
    await node.settle()
    reading.cancel()
    found = node.flows.account()
    assert found.seen == 200_000
    assert found.seen == found.exported + found.aggregated + found.lost
    assert found.lost > 0, "the ring must have been full"
    assert found.aggregated > 0 or program == "verdict"
    assert (found.read, found.waiting, found.unparsable) == (found.exported, 0, 0)
    assert found.unaccounted == 0
    assert node.flows.log.taken == found.read
    assert node.flows.log.forgotten == found.read - len(node.flows.log)


async def test_a_successor_accounts_for_its_own_time(node: Node) -> None:
    reading = asyncio.ensure_future(node.flows.read(node.ring))
    await node.tell("verdict", 5)
    await node.settle()
    reading.cancel()
    await node.tell("verdict", 7)  # nobody reads
    later = Node(node.obj, node.ring).flows
    assert later.account().waiting == 7
    assert later.account().unaccounted == 0
    reading = asyncio.ensure_future(later.read(node.ring))
    await node.tell("verdict", 2)
    await node.settle()
    reading.cancel()
    assert (later.account().read, later.account().unaccounted) == (9, 0)


async def test_drops_are_counted_by_pair_told_or_not(node: Node) -> None:
    await node.tell("drop", 2_048)
    top = await node.flows.drops(_all, 0, 5)
    (reason,) = top.reasons
    assert (reason.reason, reason.type) == ("policy_denied", "drop")
    found = node.flows.account()
    assert reason.packets + found.lost >= 2_048, "what is neither counted by pair nor lost"
    assert len(top.pairs) == 5
    assert top.bytes == 60 * top.packets


def _all(_record: FlowRecord) -> bool:
    return True
