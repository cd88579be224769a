# SPDX-License-Identifier: Apache-2.0
"""What flows carried, from policy_flows4 and 6: at their end, and now and then of those that last. Pure.

Every record's ``traffic`` is what came since the flow's last one, so that the sum over records is what was
carried. A flow that the kernel's LRU evicts takes what came since its last record with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from netaccel.observe.flows.naming import Judged
from netaccel.observe.flows.record import Traffic
from netaccel.records import PolicyFlow, PolicyFlowKey

SUMMARIES = 4096
"""Summaries at a time: the busiest flows; the others' traffic is told later."""
_WRAP = 1 << 32

Entry = tuple[PolicyFlowKey, PolicyFlow]


class _Told(NamedTuple):
    opened: int
    total: Traffic


class FlowTraffic:
    """Remembers what was told of flows. ``hz``: jiffies a second; ``rejected``: POLICY_FLOW_REJECTED of
    abi.h; ``ingress``: POLICY_INGRESS; ``lasting``: seconds after which a flow gets summaries.
    """

    def __init__(self, hz: int, constants: Mapping[str, int], lasting: float = 60.0) -> None:
        self._hz = hz
        self._rejected = constants["POLICY_FLOW_REJECTED"]
        self._ingress = constants["POLICY_INGRESS"]
        self._lasting = lasting
        self._told: dict[PolicyFlowKey, _Told] = {}
        self.left_out = 0
        """Summaries that were too many at their time."""

    def summaries(self, entries: Iterable[Entry], now: int) -> list[Judged]:
        """Of all entries that there are: what lasting flows carried since. ``now``: jiffies."""
        told: dict[PolicyFlowKey, _Told] = {}
        found: list[Judged] = []
        for key, flow in entries:
            before = self._told.get(key)
            if before and before.opened == flow.opened:
                told[key] = before
            if self._age(flow, now) < self._lasting or flow.flags & self._rejected:
                continue
            judged = self._judge(key, flow, now)
            if judged.traffic.packets or judged.traffic.reply_packets:
                found.append(judged)
        self._told = told
        if len(found) > SUMMARIES:
            self.left_out += len(found) - SUMMARIES
            found.sort(key=lambda one: one.traffic.bytes + one.traffic.reply_bytes, reverse=True)
            del found[SUMMARIES:]
        for judged in found:
            told[judged.key] = _Told(judged.flow.opened, judged.total)
        return found

    def ended(self, entries: Iterable[Entry]) -> list[Judged]:
        """Of entries that are not there any more: what they carried since their last summary.

        Their age is what it was with their last packet.
        """
        found = [
            self._judge(key, flow, flow.seen)._replace(type="closed")
            for key, flow in entries
            if not flow.flags & self._rejected
        ]
        for judged in found:
            self._told.pop(judged.key, None)
        return found

    def _judge(self, key: PolicyFlowKey, flow: PolicyFlow, now: int) -> Judged:
        sent, got = (
            (flow.sent_packets, flow.sent_bytes),
            (flow.received_packets, flow.received_bytes),
        )
        total = Traffic(*got, *sent) if flow.direction == self._ingress else Traffic(*sent, *got)
        before = self._told.get(key)
        same = before is not None and before.opened == flow.opened
        traffic = total.since(before.total) if same and before else total
        return Judged(key, flow, "summary", traffic, total, self._age(flow, now))

    def _age(self, flow: PolicyFlow, now: int) -> float:
        """Seconds since it began; 0 for one that began after ``now`` was read."""
        age = (now - flow.opened) % _WRAP
        return 0.0 if age >= _WRAP // 2 else round(age / self._hz, 3)
