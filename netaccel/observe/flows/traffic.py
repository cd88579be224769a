# SPDX-License-Identifier: Apache-2.0
"""What flows carried, from policy_flows4 and 6: at their end, and now and then of those that last. Pure.

Every record's ``traffic`` is what came since the flow's last one, so that the sum over records is what was
carried. A flow that the kernel's LRU evicts takes what came since its last record with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from netaccel.observe.flows.naming import Judged
from netaccel.observe.flows.record import Traffic, Type
from netaccel.records import PolicyFlow, PolicyFlowKey

SUMMARIES = 4096
"""Summaries at a time: the busiest flows; the others' traffic is told later."""
_WRAP = 1 << 32

Entry = tuple[PolicyFlowKey, PolicyFlow]


class _Told(NamedTuple):
    opened: int
    total: Traffic


class FlowTraffic:
    """Remembers what was told of flows. ``hz``: jiffies a second; ``constants``: enumerators of abi.h by
    name; ``lasting``: seconds between a flow's first and last packet from which on it gets summaries.
    """

    def __init__(self, hz: int, constants: Mapping[str, int], lasting: float = 60.0) -> None:
        self._hz = hz
        self._rejected = constants["POLICY_FLOW_REJECTED"]
        self._closed = constants["POLICY_FLOW_CLOSED"]
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
            lasting = ((key, flow) for key, flow in entries if self._lasts(flow))
            self._told = {key: _Told(flow.opened, self._total(flow)) for key, flow in lasting}
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
        """Of entries that are not there any more: what they carried since their last record."""
        found = [self._judge(key, flow, "closed") for key, flow in entries if not flow.flags & self._rejected]
        for judged in found:
            (self._told or {}).pop(judged.key, None)
        return found

    def _judge(self, key: PolicyFlowKey, flow: PolicyFlow, kind: Type) -> Judged:
        total = self._total(flow)
        before = (self._told or {}).get(key)
        same = before is not None and before.opened == flow.opened
        traffic = total.since(before.total) if same and before else total
        return Judged(key, flow, kind, traffic, total, self._age(flow))

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
