# SPDX-License-Identifier: Apache-2.0
"""From flow records to edges. Pure, but for the recorder that it tells."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from netaccel.model.address import parse_address
from netaccel.model.endpoint import ContainerPort, Pod, PodKey
from netaccel.model.policy import ICMP, ICMPV6, Direction, Kind, PolicyKey, RuleRef
from netaccel.observe.edges.edge import EdgeKey, End, Verdict, Where
from netaccel.observe.edges.recorder import EdgeRecorder
from netaccel.observe.flows import record as flows
from netaccel.observe.flows.decode import PROTOCOLS
from netaccel.observe.flows.record import FlowRecord, RuleName

log = logging.getLogger(__name__)

_NUMBERS = {name: number for number, name in PROTOCOLS.items()}
_ALLOWED = {"forwarded": Verdict.ALLOWED, "redirected": Verdict.ALLOWED, "translated": Verdict.ALLOWED}
_VERDICTS = {**_ALLOWED, "audited": Verdict.AUDITED, "dropped": Verdict.DENIED}
_DENIED = frozenset(("policy_denied", "policy_rejected", "policy_isolated"))
"""Reasons (enum drop_reason) that are a policy's verdict; the others are nobody's decision."""
_REQUEST = {(ICMP, 0): 8, (ICMPV6, 129): 128}
"""Of an echo's reply: policies name the packet that opens a flow (RFC 792, RFC 4443)."""

_KEPT = 20_000
"""Ends that are remembered as they were made."""
_GOES_ON = frozenset(("summary", "closed"))

FindPod = Callable[[PodKey], Pod | None]


class EdgeListener:
    """Called with batches of the flow log; ``pod`` finds what a record does not carry: named ports."""

    def __init__(self, recorder: EdgeRecorder, pod: FindPod) -> None:
        self._recorder = recorder
        self._pod = pod
        self._kept: dict[tuple[str, str, str], tuple[flows.End, Pod | None, End]] = {}

    def __call__(self, records: Sequence[FlowRecord]) -> None:
        """Record what policies decided. Never raises for what a record holds."""
        for record in records:
            try:
                key = self._key(record)
            except (ValueError, KeyError) as error:  # words of a newer abi.h
                log.debug("not recorded: %s: %s", error, record)
                self._recorder.lose(1)
                continue
            if key is not None:
                self._recorder.add(key, record.time / 1e9, count=0 if record.type in _GOES_ON else 1)

    def _key(self, record: FlowRecord) -> EdgeKey | None:
        if not _is_told(record):
            return None
        source, destination, port = oriented(record)
        if "service" in (source.kind, destination.kind):
            return None  # before its translation: the pod behind it has an edge of its own
        protocol = _NUMBERS.get(record.protocol) or int(record.protocol)
        if record.icmp_type is not None:
            type_ = _REQUEST.get((protocol, record.icmp_type), record.icmp_type)
            port = type_ << 8 | (record.icmp_code or 0)
        verdict = _VERDICTS[record.verdict]
        return EdgeKey(
            self._end(source),
            self._end(destination),
            protocol,
            port,
            Direction[record.direction.upper()],
            verdict,
            _rule(record.shadow_rule if verdict is Verdict.AUDITED else record.rule),
        )

    def _end(self, end: flows.End) -> End:
        """The same object again for the same end: hashing and memory."""
        pod = self._pod(PodKey(end.namespace, end.name)) if end.kind == "pod" else None
        kept = self._kept.get((end.address, end.namespace, end.name))
        if kept is not None and kept[0] is end and kept[1] is pod:
            return kept[2]
        if len(self._kept) > _KEPT:
            self._kept.clear()
        made = _end(end, pod.ports if pod else ())
        self._kept[end.address, end.namespace, end.name] = (end, pod, made)
        return made


def _is_told(record: FlowRecord) -> bool:
    """Whether it says what policies decided. One that goes on was met now, too, and is no new one."""
    if record.type in _GOES_ON:
        return record.protocol not in ("ICMP", "ICMPv6")  # such a record does not tell the type
    return record.type == "new" or (record.type == "drop" and record.reason in _DENIED)


def oriented(record: FlowRecord) -> tuple[flows.End, flows.End, int]:
    """Who opened the flow, to whom, to which port.

    A verdict names the opener as its source. A drop shows the packet, which may be one of those that come
    back once a policy takes hold on an open flow; ``direction`` is the flow's in either case.
    """
    ends = record.source, record.destination, record.destination_port
    back = record.destination, record.source, record.source_port
    if record.type != "drop" or record.tcp_flags == "SYN":
        return ends
    here, there = (_is_local(end, record.node) for end in (record.pod_end, record.peer_end))
    if here and there:
        return back if record.source_port < record.destination_port and record.source_port else ends
    return ends if here or not there else back


def _is_local(end: flows.End, node: str) -> bool:
    return end.kind == "pod" and end.node in ("", node)


def _end(end: flows.End, ports: tuple[ContainerPort, ...]) -> End:
    return End(
        Where(end.kind),
        parse_address(end.address),
        end.namespace,
        end.name,
        end.node,
        tuple(sorted(end.labels.items())),
        ports,
    )


def _rule(name: RuleName | None) -> RuleRef | None:
    if name is None or not name.kind:
        return None
    return RuleRef(
        PolicyKey(Kind(name.kind), name.namespace, name.name), Direction[name.direction.upper()], name.number
    )
