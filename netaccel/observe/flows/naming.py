# SPDX-License-Identifier: Apache-2.0
"""From an event or a flow's entry to its record."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from netaccel.observe.flows.decode import Words, protocol, tcp_flags
from netaccel.observe.flows.directory import Directory
from netaccel.observe.flows.record import FlowRecord, Redirected, Traffic, Type
from netaccel.observe.flows.rules import Names
from netaccel.records import FlowEvent, PolicyFlow, PolicyFlowKey

_ICMP = (1, 58)
_TCP = 6
ACCELERATED = "socket"
"""The path of what went from socket to socket."""


class Stamp:
    """Whose records they are, and their order.

    Sequence numbers go on from the monotonic clock's reading at the start, so that those of an agent's
    successor are greater without anything being remembered: there are fewer records than nanoseconds.
    """

    def __init__(self, node: str, boot: str, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.node = node
        self.boot = boot
        self.sequence = clock()

    def next(self) -> int:
        """The next record's number."""
        self.sequence += 1
        return self.sequence


def wall_offset() -> int:
    """Nanoseconds to add to CLOCK_MONOTONIC for time since the epoch, now: the wall clock may be set."""
    return time.time_ns() - time.monotonic_ns()


Way = Callable[[bytes, bytes], str]
"""The path of packets from one address to another now; "" where that isn't known."""


def _unknown(_source: bytes, _destination: bytes) -> str:
    """Nobody knows."""
    return ""


class Judged(NamedTuple):
    """A flow's entry and what is told of it. ``age``: seconds from first to last packet.

    ``last``: of CLOCK_MONOTONIC in nanoseconds, the last packet's time where that is told; 0: now is told.
    ``redirected`` and ``total_redirected`` None: it is not, and was not, accelerated.
    """

    key: PolicyFlowKey
    flow: PolicyFlow
    type: Type
    traffic: Traffic
    total: Traffic
    age: float
    redirected: Redirected | None = None
    total_redirected: Redirected | None = None
    ended: str = ""
    last: int = 0


class Namer:
    """Makes records. Call :meth:`begin` before each batch."""

    def __init__(self, stamp: Stamp, words: Words, directory: Directory, names: Names) -> None:
        self._stamp = stamp
        self._words = words
        self._directory = directory
        self._names = names
        self.way: Way = _unknown
        """May be set later."""
        self._offset = wall_offset()

    def begin(self) -> None:
        """Look at clocks and names anew."""
        self._offset = wall_offset()
        self._names.begin()

    def of_event(self, event: FlowEvent) -> FlowRecord:
        """A sample's record. DatapathError where a name can't be read."""
        words, directory, names = self._words, self._directory, self._names
        kind = words.type(event.type)
        is_icmp = event.proto in _ICMP
        return FlowRecord(
            self._stamp.node,
            self._stamp.boot,
            self._stamp.next(),
            event.time + self._offset,
            event.time,
            kind,
            words.verdict(event.verdict),
            words.direction(event.direction),
            protocol(event.proto),
            directory.end(event.src),
            directory.end(event.dst),
            event.sport,
            event.dport,
            words.reason(event.reason, kind),
            names.service(event.service) or directory.service_at(event.dst, event.dport, event.proto),
            names.rule(event.rule),
            names.rule(event.shadow_rule),
            words.path(event.path),
            event.length,
            tcp_flags(event.tcp_flags) if event.proto == _TCP else "",
            event.icmp_type if is_icmp else None,
            event.icmp_code if is_icmp else None,
            event.identity,
            event.ifindex,
            f"{event.location:#x}" if event.location else "",
        )

    def of_flow(self, judged: Judged) -> FlowRecord:
        """The record of what a flow carried: one that goes on now, one that ended at its last packet."""
        words, directory, names = self._words, self._directory, self._names
        key, flow = judged.key, judged.flow
        moment = judged.last or time.monotonic_ns()
        direction = words.direction(flow.direction)
        pod, peer = (key.pod, key.pod_port), (key.peer, key.peer_port)
        source, destination = (peer, pod) if direction == "ingress" else (pod, peer)
        return FlowRecord(
            node=self._stamp.node,
            boot=self._stamp.boot,
            sequence=self._stamp.next(),
            time=moment + self._offset,
            monotonic=moment,
            type=judged.type,
            verdict=words.verdict(flow.verdict),
            direction=direction,
            protocol=protocol(key.proto),
            source=directory.end(source[0]),
            destination=directory.end(destination[0]),
            source_port=source[1],
            destination_port=destination[1],
            service=names.service(flow.service),
            rule=names.rule(flow.rule),
            shadow_rule=names.rule(flow.shadow_rule),
            path=ACCELERATED if judged.total_redirected else self.way(source[0], destination[0]),
            identity=flow.identity,
            device=key.ifindex,
            traffic=judged.traffic,
            total=judged.total,
            age=judged.age,
            redirected=judged.redirected,
            total_redirected=judged.total_redirected,
            ended=judged.ended,
        )
