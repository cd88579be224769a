# SPDX-License-Identifier: Apache-2.0
"""What the compiled policy maps answer is what an evaluator of the API's words answers, whatever happened."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import policy_worlds as worlds
from hypothesis import HealthCheck, given, settings
from policy_kernel import Answer, Half, Kernel

from netaccel import oracle
from netaccel.compile.policy.changes import everything
from netaccel.compile.policy.compiler import Compiler
from netaccel.datapath.abi import Abi
from netaccel.model.address import Address, is_ipv4
from netaccel.model.endpoint import Pod
from netaccel.model.event import Event
from netaccel.model.policy import ICMP, ICMPV6, Direction
from netaccel.model.snapshot import World

OBJECTS = Path(__file__).parents[2] / "netaccel" / "objects"
CONSTANTS = dict(Abi.from_elf((OBJECTS / "sock_cgroup.o").read_bytes()).constants)
slow = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
bounded = settings(max_examples=40, deadline=None, suppress_health_check=slow)

Flow = tuple[int, Direction, Address, int, int]
"""ifindex, direction, peer, protocol, port."""
SERVICES = ((6, 80), (6, 81), (6, 443), (6, 8080), (17, 80), (17, 8080), (132, 80), (47, 0))


def half(outcome: oracle.Outcome) -> Half:
    return Half(outcome.action.value, outcome.rule, outcome.isolated)


def flows(world: World) -> Iterator[tuple[Flow, oracle.Question, tuple[object, ...]]]:
    """Every flow of this node's pods that policy is asked about, by a few ports."""
    devices = worlds.devices_of(world)
    parties = [oracle.locate(world, address) for address in worlds.addresses_of(world)]
    for pod in (world.pod(key) for key in devices):
        assert pod is not None
        selecting = oracle.selecting(world, pod)
        for peer in parties:
            own = own_address(pod, peer.address)
            if own is None:
                continue
            icmp = (ICMP, 8 << 8) if is_ipv4(own) else (ICMPV6, 128 << 8)
            for protocol, port in (*SERVICES, icmp):
                me = oracle.party_of_pod(pod, own)
                for direction in Direction:
                    ends = (peer, me) if direction is Direction.INGRESS else (me, peer)
                    question = oracle.Question(*ends, protocol, port)
                    yield (devices[pod.key], direction, peer.address, protocol, port), question, selecting


def own_address(pod: Pod, peer: Address) -> Address | None:
    return next((own for own in pod.addresses if is_ipv4(own) == is_ipv4(peer)), None)


def compare(world: World, kernel: Kernel) -> int:
    """Hold every flow's answer to the oracle's; how many there were."""
    count = 0
    for flow, question, selecting in flows(world):
        judged = oracle.judge(world, flow[1], question, selecting)
        if judged.exempt is not None:
            continue
        count += 1
        answer = kernel.judge(*flow)
        assert answer == Answer(half(judged.enforced), half(judged.shadow)), (flow, question)
    return count


def step(compiler: Compiler, kernel: Kernel, world: World) -> None:
    kernel.write_all(compiler.update(world, world.drain_changes(), worlds.devices_of(world)))
    compiler.commit()


@settings(bounded, max_examples=90)  # some 1,200 flows each: more than 100,000 in all
@given(worlds.clusters())
def test_every_verdict_and_rule_is_the_oracles(events: list[Event]) -> None:
    world = worlds.world_of(events)
    compiler, kernel = Compiler(CONSTANTS, worlds.NODE), Kernel()
    step(compiler, kernel, world)
    compare(world, kernel)


@bounded
@given(worlds.histories)
def test_step_by_step_and_at_once_give_the_same(history: tuple[list[Event], list[list[Event]]]) -> None:
    first, later = history
    world = worlds.world_of(first)
    compiler, kernel = Compiler(CONSTANTS, worlds.NODE), Kernel()
    step(compiler, kernel, world)
    for batch in later:
        world.apply_all(batch)
        step(compiler, kernel, world)
        assert kernel.dump() == compiler.image.dump(), "the maps are as the compiler thinks"
    at_once, fresh = Compiler(CONSTANTS, worlds.NODE), Kernel()
    fresh.write_all(at_once.update(world, everything(world), worlds.devices_of(world)))
    for flow, _, _ in flows(world):
        assert kernel.judge(*flow) == fresh.judge(*flow)
    assert {name: len(table) for name, table in kernel.dump().items()} == {
        name: len(table) for name, table in fresh.dump().items()
    }, "nothing is left over"


PEERS = (*worlds.POD4, *worlds.POD6[:4], *worlds.NODE4[1:], *worlds.OUTSIDE[:4])


def answers(kernel: Kernel) -> dict[Flow, Answer]:
    """What new flows of every pod get at the moment."""
    ifindexes = range(10, 10 + len(worlds.PODS))
    some = itertools.product(ifindexes, Direction, PEERS, ((6, 80), (17, 8080)))
    return {(n, d, peer, *service): kernel.judge(n, d, peer, *service) for n, d, peer, service in some}


@settings(bounded, max_examples=20)
@given(worlds.histories)
def test_after_any_single_write_a_verdict_is_the_old_one_or_the_new_one_or_a_denial(
    history: tuple[list[Event], list[list[Event]]],
) -> None:
    first, later = history
    world = worlds.world_of(first)
    compiler, kernel = Compiler(CONSTANTS, worlds.NODE), Kernel()
    step(compiler, kernel, world)
    for batch in later:
        world.apply_all(batch)
        todo = compiler.update(world, world.drain_changes(), worlds.devices_of(world))
        after = kernel.copy()
        after.write_all(todo)
        old, new = answers(kernel), answers(after)
        moving = [flow for flow in old if old[flow] != new[flow]] + list(old)[::3]
        for one in todo:
            for _ in kernel.write(one):
                for flow in moving:
                    now = kernel.judge(*flow)
                    assert now.enforced in (old[flow].enforced, new[flow].enforced) or (
                        now.enforced.action != "Allow"
                    ), (flow, one)
        compiler.commit()
