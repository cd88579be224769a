# SPDX-License-Identifier: Apache-2.0
"""Samples that programs write reach user space once, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.ringbuf import RingBuffer, room

pytestmark = pytest.mark.root

TEXT = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

__u64 number;

SEC("xdp") int tell(struct xdp_md *ctx)
{
	number++;
	return bpf_ringbuf_output(&events, &number, sizeof(number), 0) ? XDP_DROP : XDP_PASS;
}
char _license[] SEC("license") = "Dual BSD/GPL";
"""


@pytest.fixture
def teller(build: Callable[[str], Path]) -> Iterator[BpfObject]:
    with BpfObject(build(TEXT)) as obj:
        obj.load()
        yield obj


def numbers(samples: list[bytes]) -> list[int]:
    return [int.from_bytes(sample, "little") for sample in samples]


def test_samples_come_once_and_in_order(teller: BpfObject) -> None:
    with teller.map("events") as events, RingBuffer(events) as ring:
        assert ring.read() == []
        teller.program("tell").test_run(bytes(64), repeat=5)
        assert numbers(ring.read()) == [1, 2, 3, 4, 5]
        assert ring.read() == []


def test_a_full_ring_refuses_and_the_program_knows(teller: BpfObject) -> None:
    with teller.map("events") as events, RingBuffer(events) as ring:
        assert teller.program("tell").test_run(bytes(64), repeat=1000).retval == 1
        kept = len(ring.read())
        assert 0 < kept < 1000
        assert teller.program("tell").test_run(bytes(64)).retval == 2


async def test_a_reader_is_woken(teller: BpfObject) -> None:
    with teller.map("events") as events, RingBuffer(events) as ring:
        batches = ring.batches()
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
        assert not waiting.done()
        teller.program("tell").test_run(bytes(64), repeat=3)

        assert numbers(await asyncio.wait_for(waiting, 10)) == [1, 2, 3]
        await batches.aclose()


def test_no_more_is_read_than_asked_for(teller: BpfObject) -> None:
    with teller.map("events") as events, RingBuffer(events) as ring:
        teller.program("tell").test_run(bytes(64), repeat=5)
        assert ring.waiting() == 5 * room(8)
        assert numbers(ring.read(2)) == [1, 2]
        assert ring.waiting() == 3 * room(8)
        assert numbers(ring.read(2)) == [3, 4]
        assert numbers(ring.read(2)) == [5]
        assert ring.waiting() == 0


async def test_what_comes_in_a_pause_joins_one_batch(teller: BpfObject) -> None:
    with teller.map("events") as events, RingBuffer(events) as ring:
        batches = ring.batches(limit=8, pause=0.05)
        waiting = asyncio.ensure_future(anext(batches))
        for _ in range(3):
            await asyncio.sleep(0)
            teller.program("tell").test_run(bytes(64), repeat=4)

        assert numbers(await asyncio.wait_for(waiting, 10)) == list(range(1, 9))
        assert numbers(await asyncio.wait_for(anext(batches), 10)) == [9, 10, 11, 12]
        await batches.aclose()
