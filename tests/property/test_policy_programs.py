# SPDX-License-Identifier: Apache-2.0
"""What the programs of pods' devices answer over compiled maps is what the oracle answers: real verdicts."""

from __future__ import annotations

from collections.abc import Iterator

import policy_worlds as worlds
import pytest
from hypothesis import HealthCheck, given, settings

from netaccel.explain.kernel import Kernel
from netaccel.explain.model import Model
from netaccel.model.address import is_ipv4
from netaccel.model.event import Event
from netaccel.model.policy import ICMP, ICMPV6, Direction
from netaccel.model.snapshot import World
from netaccel.oracle import Party, Question, census, party_of_pod

pytestmark = pytest.mark.root
slow = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
bounded = settings(max_examples=25, deadline=None, suppress_health_check=slow)
PORTS = (*((protocol, port) for protocol in (6, 17, 132) for port in worlds.PORT_NUMBERS[1:]), (47, 0))
"""With as many clusters more than 100,000 questions."""


def questions(world: World) -> Iterator[tuple[Direction, Question]]:
    """Every pod with every address, both ways, by a few ports."""
    known = census(world)
    peers = [known.get(address, Party(address)) for address in worlds.addresses_of(world)]
    for pod in world.pods(worlds.NODE):
        for own in () if pod.host_network else pod.addresses:
            me = party_of_pod(pod, own)
            echo = (ICMP, 8 << 8) if is_ipv4(own) else (ICMPV6, 128 << 8)
            for peer in peers:
                if peer.address == own and peer.pod is not pod:
                    continue  # another pod has this address: what is sent to it never leaves this one
                if is_ipv4(peer.address) == is_ipv4(own):
                    for protocol, port in (*PORTS, echo):
                        yield Direction.INGRESS, Question(peer, me, protocol, port)
                        yield Direction.EGRESS, Question(me, peer, protocol, port)


@bounded
@given(worlds.clusters())
def test_the_programs_say_what_the_oracle_says(events: list[Event]) -> None:
    world = worlds.world_of(events)
    model = Model(world)
    with Kernel(world) as kernel:
        for direction, question in questions(world):
            said = kernel.ask(direction, question)
            assert said is not None
            expected = model.ask(direction, question)
            assert (said.enforced, said.shadow) == (expected.enforced, expected.shadow), (direction, question)
