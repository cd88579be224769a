# SPDX-License-Identifier: Apache-2.0
"""What is recorded of who talked to whom, and its form in JSON. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from netaccel.model.address import Address, parse_address, text
from netaccel.model.endpoint import ContainerPort
from netaccel.model.policy import Direction, Kind, Labels, PolicyKey, RuleRef
from netaccel.model.service import Protocol


class Where(enum.Enum):
    """What an end was when it was recorded."""

    POD = "pod"
    NODE = "node"
    WORLD = "world"


class End(NamedTuple):
    """One end as it was then; ``name``: of the pod or node, ``node``: that a pod ran on, "" where not known.

    ``labels`` and ``ports`` (named ones) are the pod's: a policy is asked by them once the pod is gone.
    """

    where: Where
    address: Address
    namespace: str = ""
    name: str = ""
    node: str = ""
    labels: Labels = ()
    ports: tuple[ContainerPort, ...] = ()

    def __str__(self) -> str:
        match self.where:
            case Where.POD:
                return f"{self.namespace}/{self.name}"
            case Where.NODE:
                return f"node {self.name}"
            case Where.WORLD:
                return text(self.address)


class Verdict(enum.Enum):
    """What became of the flow: of ``audited`` only monitor mode would have denied it."""

    ALLOWED = "allowed"
    AUDITED = "audited"
    DENIED = "denied"


class EdgeKey(NamedTuple):
    """What tells one edge from another.

    ``protocol``: IP protocol number. ``port``: the destination's, after translation; of ICMP and ICMPv6
    256 × type + code. ``direction``: whose policy was asked, the destination's (INGRESS) or the source's.
    ``rule``: that gave the verdict, of ``audited`` the shadow's; None: allowed by default.
    """

    source: End
    destination: End
    protocol: int
    port: int
    direction: Direction
    verdict: Verdict
    rule: RuleRef | None = None

    @property
    def subject(self) -> End:
        """Whose policy was asked."""
        return self.destination if self.direction is Direction.INGRESS else self.source


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge and when it was met: seconds since the epoch.

    ``count``: new flows, or of a denied one drops that were told (one a second for each pair of addresses);
    0: a flow that is older than the record, and still open at ``last``.
    """

    key: EdgeKey
    first: float
    last: float
    count: int = 1

    def plus(self, other: Edge) -> Edge:
        """The same edge, met at both times."""
        return Edge(
            self.key, min(self.first, other.first), max(self.last, other.last), self.count + other.count
        )


@dataclass(frozen=True, slots=True)
class Window:
    """What the record can tell of, and what it can't. Times: seconds since the epoch.

    ``since``, ``until``: of the first and last sign of life of a recorder. ``gaps``: no agent recorded then.
    ``forgotten``: edges last met up to then were removed (age, room); None: none was. ``lost``: flows that
    could not be recorded.
    """

    since: float
    until: float
    gaps: tuple[tuple[float, float], ...] = ()
    forgotten: float | None = None
    lost: int = 0


# ---------------------------------------------------------------------- JSON


def end_object(end: End) -> dict[str, Any]:
    """What JSON can hold; empty fields are left out."""
    found: dict[str, Any] = {"where": end.where.value, "address": text(end.address)}
    found |= {
        name: value
        for name, value in (("namespace", end.namespace), ("name", end.name), ("node", end.node))
        if value
    }
    if end.labels:
        found["labels"] = dict(end.labels)
    if end.ports:
        found["ports"] = [[port.name, port.protocol.value, port.port] for port in end.ports]
    return found


def read_end(found: Mapping[str, Any]) -> End:
    """The reverse. Raises ValueError, KeyError or TypeError for anything else."""
    return End(
        Where(found["where"]),
        parse_address(found["address"]),
        found.get("namespace", ""),
        found.get("name", ""),
        found.get("node", ""),
        tuple(found.get("labels", {}).items()),
        tuple(ContainerPort(name, Protocol(proto), port) for name, proto, port in found.get("ports", ())),
    )


def rule_object(rule: RuleRef | None) -> dict[str, Any] | None:
    """What JSON can hold. ``number`` -1: the policy isolates, and no rule allowed."""
    if rule is None:
        return None
    kind, namespace, name = rule.policy
    return {
        "kind": kind.value,
        "namespace": namespace,
        "name": name,
        "direction": rule.direction.name.lower(),
        "number": rule.number,
    }


def read_rule(found: Mapping[str, Any] | None) -> RuleRef | None:
    """The reverse."""
    if found is None:
        return None
    key = PolicyKey(Kind(found["kind"]), found["namespace"], found["name"])
    return RuleRef(key, Direction[found["direction"].upper()], found["number"])


def edge_object(edge: Edge) -> dict[str, Any]:
    """What JSON can hold."""
    key = edge.key
    return {
        "source": end_object(key.source),
        "destination": end_object(key.destination),
        "protocol": key.protocol,
        "port": key.port,
        "direction": key.direction.name.lower(),
        "verdict": key.verdict.value,
        "rule": rule_object(key.rule),
        "first": edge.first,
        "last": edge.last,
        "count": edge.count,
    }


def read_edge(found: Mapping[str, Any]) -> Edge:
    """The reverse. Raises ValueError, KeyError or TypeError for anything else."""
    key = EdgeKey(
        read_end(found["source"]),
        read_end(found["destination"]),
        found["protocol"],
        found["port"],
        Direction[found["direction"].upper()],
        Verdict(found["verdict"]),
        read_rule(found["rule"]),
    )
    return Edge(key, found["first"], found["last"], found["count"])
