# SPDX-License-Identifier: Apache-2.0
"""One line for people, in the spirit of ``hubble observe``. Pure."""

from __future__ import annotations

from datetime import datetime, tzinfo

from netaccel.observe.flows.record import End, FlowRecord, Lost, Redirected, RuleName, Traffic

_ICMP = ("ICMP", "ICMPv6")


def line(record: FlowRecord | Lost, zone: tzinfo | None = None) -> str:
    """Time, ends, protocol, direction, verdict, and why. ``zone``: of the time; None: this machine's."""
    if isinstance(record, Lost):
        return f"({record.lost} flows lost here: this reader was too slow)"
    words = [
        f"{time_text(record.time, zone)} {_at(record.source, record.source_port, record)}",
        f"-> {_at(record.destination, record.destination_port, record)}{_service(record)}",
        f"{record.protocol.lower()}{_icmp(record)} {record.direction} {record.verdict.upper()}",
    ]
    words += _why(record)
    words += _carried(record)
    if record.path:
        words.append(f"path={record.path}")
    return " ".join(words)


def time_text(nanoseconds: int, zone: tzinfo | None) -> str:
    """``Nov 25 19:12:03.123``."""
    moment = datetime.fromtimestamp(nanoseconds // 10**6 / 1000, zone).astimezone(zone)
    return f"{moment:%b %e %H:%M:%S}.{nanoseconds // 10**6 % 1000:03}"


def end_text(end: End, port: int) -> str:
    """``shop/web-0:80``, ``[fd00::1]:80``; without a port where it is 0."""
    shown = str(end)
    if not port:
        return shown
    return f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"


def rule_text(rule: RuleName, *, reasons: bool = True) -> str:
    """``NetworkPolicy shop/allow-web ingress[0]``, with the name that its author gave.

    Of a policy that was refused: that it was, and (``reasons``) why.
    """
    if rule.refused:
        why = f": {rule.refused}" if reasons else ""
        return f"{rule.kind} {rule.policy} {rule.direction} (refused, so it denies{why})"
    return f"{rule} ({rule.rule})" if rule.rule else str(rule)


def _at(end: End, port: int, record: FlowRecord) -> str:
    shown = end_text(end, 0 if record.protocol in _ICMP else port)
    return f"{shown} (node)" if end.kind == "node" else shown


def _service(record: FlowRecord) -> str:
    if record.service and record.destination.kind != "service":
        return f" (service {record.service})"
    if record.destination.endpoint_of and not record.service:
        return f" (endpoint of {', '.join(record.destination.endpoint_of)})"
    return ""


def _icmp(record: FlowRecord) -> str:
    return f"({record.icmp_type},{record.icmp_code})" if record.icmp_type is not None else ""


def _why(record: FlowRecord) -> list[str]:
    """Reason and rule; the shadow's rule where policies in monitor mode would have decided otherwise."""
    words = []
    if record.type not in ("new", "drop"):
        words.append(record.type.replace("_", "-"))
    if record.reason:
        words.append(record.reason)
    if record.rule:
        words.append(f"rule {rule_text(record.rule)}")
    if record.verdict == "audited" and record.shadow_rule:
        words.append(f"would drop: {rule_text(record.shadow_rule)}")
    if record.tcp_flags and record.type != "new":
        words.append(f"flags={record.tcp_flags}")
    return words


def _carried(record: FlowRecord) -> list[str]:
    ended = record.type == "closed"
    carried = record.total if ended else record.traffic
    if carried is None:
        return []
    words = [traffic_text(carried)]
    if redirected := record.total_redirected if ended else record.redirected:
        words.append(redirected_text(redirected))
    if record.age:
        words.append(f"after {record.age:.0f}s")
    if record.ended:
        words.append(f"by {record.ended}")
    return words


def traffic_text(traffic: Traffic) -> str:
    """``sent 3/180B got 2/120B``: packets and bytes."""
    return f"sent {traffic.packets}/{traffic.bytes}B got {traffic.reply_packets}/{traffic.reply_bytes}B"


def redirected_text(redirected: Redirected) -> str:
    """``redirected 3/180B got 2/120B``: messages and bytes."""
    one = redirected
    return f"redirected {one.messages}/{one.bytes}B got {one.reply_messages}/{one.reply_bytes}B"
