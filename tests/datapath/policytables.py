# SPDX-License-Identifier: Apache-2.0
"""Policy as tests write it, put into the maps of a loaded object.

::

    policy:
      pod: pod                          # whose device it is; {} of endpoint: no entry
      strict: true
      reached: true                     # the pod is in pod_peers
      identities: {client: 300, node: 1 HOST NODE, remote: 301 POD, 198.51.100.0/24: 302}
      ingress: {any: drop 9 isolated, tcp/80: allow 3}     # the endpoint's row; absent: allowed, and no flag
      egress: {any: allow}
      peers: {egress 301: {any: drop 4}, ingress 300: {tcp/1024-2047: allow 5 / drop 6}}

A verdict is ``ACTION [RULE] [isolated] [/ SHADOW [RULE] [isolated]]``; a port of ICMP is ``type.code``.
Names of machine.ADDRESSES stand for addresses. Revisions count from 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from programs import Loaded

from netaccel.model.address import is_ipv4, parse_address, parse_cidr
from netaccel.records import (
    Identity,
    IdentityKey,
    PodPeer,
    PodPeerKey,
    PolicyEndpoint,
    PolicyPeerKey,
    PolicyRevision,
    PolicyRowKey,
    PolicyVerdict,
)  # fmt: skip

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "gre": 47, "icmp6": 58, "sctp": 132}
SUBJECT = 7
TABLES = ("identities", "policy_endpoints", "policy_peers", "policy_rows", "pod_peers")


class PolicyTables:
    """Writes a description; ``device`` is the pod's, ``names`` gives addresses.

    ``subject``: another for each pod, where there are several.
    """

    def __init__(
        self, loaded: Loaded, device: int, names: Mapping[str, str], *, subject: int = SUBJECT
    ) -> None:
        self._loaded = loaded
        self._device = device
        self._names = names
        self._subject = subject
        self._constants = loaded.abi.constants
        self._row = 1000 * (subject - SUBJECT)

    def write(self, described: Mapping[str, Any]) -> None:
        """All tables anew, under the next revision, whoever wrote the one before."""
        for place, words in described.get("identities", {}).items():
            self._write_identity(place, str(words).split())
        rows = {d: self._write_row(described.get(d, {"any": "allow"})) for d in ("ingress", "egress")}
        for peer, row in described.get("peers", {}).items():
            direction, number = peer.split()
            key = PolicyPeerKey(self._subject, int(number), self._constants[f"POLICY_{direction.upper()}"])
            self._loaded.write("policy_peers", key, self._write_row(row))
        if pod := described.get("pod", "pod"):
            flags = sum(self._constants[f"ENDPOINT_{d.upper()}"] for d in rows if d in described)
            address = parse_address(self._names[pod])
            pair = (address, bytes(16)) if is_ipv4(address) else (bytes(16), address)
            value = PolicyEndpoint(self._subject, 500, rows["ingress"], rows["egress"], flags, *pair)
            self._loaded.write("policy_endpoints", self._device, value)
        if described.get("reached"):
            peer = PodPeer(self._device, 0, bytes(6), bytes(6))
            self._loaded.write("pod_peers", PodPeerKey(parse_address(self._names["pod"])), peer)
        before: Any = self._loaded.read("policy_revision", 0)
        revision = PolicyRevision(before.revision + 1, int(described.get("strict", False)))
        self._loaded.write("policy_revision", 0, revision)

    def _write_identity(self, place: str, words: list[str]) -> None:
        number, *flags = words
        if "/" in place:
            addr, length = parse_cidr(place)[:2]
        else:
            addr, length = parse_address(self._names[place]), 128
        value = Identity(int(number), sum(self._constants[f"IDENTITY_{f}"] for f in flags))
        self._loaded.write("identities", IdentityKey(length, addr), value)

    def _write_row(self, row: Mapping[str, str] | str) -> int:
        self._row += 1
        for where, text in ({"any": row} if isinstance(row, str) else row).items():
            for key in self._row_keys(where):
                self._loaded.write("policy_rows", key, self._verdict(text))
        return self._row

    def _row_keys(self, where: str) -> list[PolicyRowKey]:
        if where == "any":
            return [PolicyRowKey(32, self._row, 0, 0)]
        name, _, ports = where.partition("/")
        number = PROTOCOLS[name] if name in PROTOCOLS else int(name)
        if not ports:
            return [PolicyRowKey(48, self._row, number, 0)]
        if "." in ports:
            kind, code = map(int, ports.split("."))
            return [PolicyRowKey(64, self._row, number, 256 * kind + code)]
        first, _, last = ports.partition("-")
        span = int(last or first) - int(first) + 1  # a power of two, at a multiple of it
        return [PolicyRowKey(64 - (span.bit_length() - 1), self._row, number, int(first))]

    def _verdict(self, text: str) -> PolicyVerdict:
        enforced, _, shadow = text.partition("/")
        (action, rule, isolated), other = self._half(enforced), self._half(shadow or enforced)
        return PolicyVerdict(rule, other[1], action, other[0], isolated, other[2])

    def _half(self, text: str) -> tuple[int, int, int]:
        action, *rest = text.split()
        rule = next((int(w) for w in rest if w.isdigit()), 0)
        return self._constants[f"POLICY_{action.upper()}"], rule, int("isolated" in rest)


def describe_event(event: Any, enums: Mapping[str, Mapping[str, int]]) -> str:
    """``DIRECTION VERDICT RULE[/SHADOW] [REASON]``."""

    def name(enum: str, value: int) -> str:
        return next(k.partition("_")[2] for k, v in enums[enum].items() if v == value)

    rule = f"{event.rule}/{event.shadow_rule}" if event.rule != event.shadow_rule else f"{event.rule}"
    words = [name("policy_direction", event.direction).lower(), name("verdict", event.verdict), rule]
    if event.reason:
        words.append(name("drop_reason", event.reason))
    return " ".join(words)
