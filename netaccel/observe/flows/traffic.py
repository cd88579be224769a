# SPDX-License-Identifier: Apache-2.0
"""What flows carried, from policy_flows4 and 6: at their end, and now and then of those that last. Pure.

Every record's ``traffic`` is what came since the flow's last one, so that the sum over records is what was
carried. A flow that the kernel's LRU evicts takes what came since its last record with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from netaccel.observe.flows.naming import Judged
from netaccel.observe.flows.record import Redirected, Traffic, Type
from netaccel.records import PolicyFlow, PolicyFlowKey

SUMMARIES = 4096
"""Summaries at a time: the busiest flows; the others' traffic is told later."""
_WRAP = 1 << 32
FIN, RESET, IDLE, DEVICE_GONE = "fin", "reset", "idle", "device gone"
"""How flows end: by both sides' FIN, by a reset, without packets for too long, with their pod."""

Entry = tuple[PolicyFlowKey, PolicyFlow]


Redirections = Callable[[bytes, int, bytes, int], Redirected | None]
"""What went from socket to socket of a TCP flow, by source and destination; None: it was not accelerated."""
_TCP = 6
_NONE = Redirected()


class Moment(NamedTuple):
    """One moment by two clocks. ``jiffies``: low 32 bits; ``monotonic``: nanoseconds."""

    jiffies: int
    monotonic: int


class _Told(NamedTuple):
    opened: int
    total: Traffic
    redirected: Redirected


class FlowTraffic:
    """Remembers what was told of flows. ``hz``: jiffies a second; ``constants``: enumerators of abi.h by
    name; ``lasting``: seconds between a flow's first and last packet from which on it gets summaries.
    ``redirections`` may be set later.
    """

    def __init__(self, hz: int, constants: Mapping[str, int], lasting: float = 60.0) -> None:
        self.redirections: Redirections = _nothing
        self._hz = hz
        self._rejected = constants["POLICY_FLOW_REJECTED"]
        self._closed = constants["POLICY_FLOW_CLOSED"]
        self._fins = constants["POLICY_FLOW_FIN_POD"] | constants["POLICY_FLOW_FIN_PEER"]
        self._ingress = constants["POLICY_INGRESS"]
        self._lasting = lasting
        self._told: dict[PolicyFlowKey, _Told] | None = None
        self.left_out = 0
        """Summaries that were too many at their time."""

    def summaries(self, entries: Iterable[Entry]) -> list[Judged]:
        """Of all entries that there are: what lasting flows carried since.

        What those carried that lasted before the first call was told by an earlier agent: nothing is told
        twice.
        """
        if self._told is None:
            self._told = {key: self._now(key, flow) for key, flow in entries if self._lasts(flow)}
            return []
        told: dict[PolicyFlowKey, _Told] = {}
        found: list[Judged] = []
        for key, flow in entries:
            before = self._told.get(key)
            if before and before.opened == flow.opened:
                told[key] = before
            if not self._lasts(flow):
                continue
            judged = self._judge(key, flow, "summary")
            if _moved(judged):
                found.append(judged)
        self._told = told
        if len(found) > SUMMARIES:
            self.left_out += len(found) - SUMMARIES
            found.sort(key=_size, reverse=True)
            del found[SUMMARIES:]
        for judged in found:
            redirected = judged.total_redirected or _NONE
            told[judged.key] = _Told(judged.flow.opened, judged.total, redirected)
        return found

    def ended(
        self, entries: Iterable[Entry], now: Moment, devices: Collection[int] | None = None
    ) -> list[Judged]:
        """Of entries that are not there any more: what they carried since their last record.

        ``devices``: ifindexes that there were then; None: not known.
        """
        found = [
            self._judge(key, flow, "closed")._replace(
                ended=self._how(key, flow, devices), last=self._last(flow, now)
            )
            for key, flow in entries
            if not flow.flags & self._rejected
        ]
        for judged in found:
            (self._told or {}).pop(judged.key, None)
        return found

    def _judge(self, key: PolicyFlowKey, flow: PolicyFlow, kind: Type) -> Judged:
        now = self._now(key, flow)
        before = (self._told or {}).get(key)
        if before is None or before.opened != flow.opened:
            before = _Told(flow.opened, Traffic(), _NONE)
        traffic, redirected = now.total.since(before.total), now.redirected.since(before.redirected)
        if now.redirected == _NONE:
            return Judged(key, flow, kind, traffic, now.total, self._age(flow))
        return Judged(key, flow, kind, traffic, now.total, self._age(flow), redirected, now.redirected)

    def _now(self, key: PolicyFlowKey, flow: PolicyFlow) -> _Told:
        return _Told(flow.opened, self._total(flow), self._redirected(key, flow))

    def _redirected(self, key: PolicyFlowKey, flow: PolicyFlow) -> Redirected:
        if key.proto != _TCP:
            return _NONE
        pod, peer = (key.pod, key.pod_port), (key.peer, key.peer_port)
        ends = (*peer, *pod) if flow.direction == self._ingress else (*pod, *peer)
        return self.redirections(*ends) or _NONE

    def _how(self, key: PolicyFlowKey, flow: PolicyFlow, devices: Collection[int] | None) -> str:
        """How a flow ended, as far as its entry tells."""
        if key.proto == _TCP and flow.state == self._closed:
            return FIN if flow.flags & self._fins == self._fins else RESET
        return DEVICE_GONE if devices is not None and key.ifindex not in devices else IDLE

    def _last(self, flow: PolicyFlow, now: Moment) -> int:
        """When its last packet came, by CLOCK_MONOTONIC (nanoseconds), to a jiffy."""
        ago = (now.jiffies - flow.seen) % _WRAP
        if ago >= _WRAP // 2:  # another CPU's clock may be a jiffy ahead
            ago = 0
        return max(1, now.monotonic - ago * 1_000_000_000 // self._hz)

    def _lasts(self, flow: PolicyFlow) -> bool:
        if flow.flags & self._rejected or flow.state == self._closed:
            return False
        return self._age(flow) >= self._lasting

    def _total(self, flow: PolicyFlow) -> Traffic:
        """From whoever opened it, and back."""
        sent = (flow.sent_packets, flow.sent_bytes)
        got = (flow.received_packets, flow.received_bytes)
        return Traffic(*got, *sent) if flow.direction == self._ingress else Traffic(*sent, *got)

    def _age(self, flow: PolicyFlow) -> float:
        """Seconds from its first packet to its last one."""
        return round((flow.seen - flow.opened) % _WRAP / self._hz, 3)


def _nothing(_source: bytes, _sport: int, _destination: bytes, _dport: int) -> None:
    """Nobody accelerates."""


def _moved(judged: Judged) -> bool:
    """Whether anything came since."""
    traffic, redirected = judged.traffic, judged.redirected or _NONE
    return bool(traffic.packets or traffic.reply_packets or redirected.messages or redirected.reply_messages)


def _size(judged: Judged) -> int:
    """Bytes that came since."""
    traffic, redirected = judged.traffic, judged.redirected or _NONE
    return traffic.bytes + traffic.reply_bytes + redirected.bytes + redirected.reply_bytes
