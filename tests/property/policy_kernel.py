# SPDX-License-Identifier: Apache-2.0
"""The kernel's decision on a new flow, in Python: four look-ups in the tables that the compiler writes.

What bpf/ does before any look-up (a pod to itself, this node to its pods, neighbour discovery) is not here;
the test leaves those flows out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from netaccel.compile.diff import Step, Write
from netaccel.model.policy import NO_RULE, Direction, Kind, PolicyKey, RuleRef
from netaccel.records import IdentityKey, PolicyPeerKey, PolicyRowKey, PolicyVerdict

KINDS = {1: Kind.NETWORK, 2: Kind.CLUSTER_NETWORK, 3: Kind.TRAFFIC, 4: Kind.CLUSTER_TRAFFIC}
ACTIONS = ("Allow", "Drop", "Reject")
ISOLATION = 5


class Half(NamedTuple):
    """One verdict, enforced or shadow. ``rule`` None: none."""

    action: str
    rule: RuleRef | None
    isolated: bool


class Answer(NamedTuple):
    enforced: Half
    shadow: Half


OPEN = Half("Allow", None, False)
UNMANAGED = Answer(OPEN, OPEN)
"""The device has no endpoint: not in strict mode, everything goes."""


class Kernel:
    """The maps, and what a program of a pod device answers from them."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[Any, Any]] = {
            name: {}
            for name in ("identities", "policy_endpoints", "policy_peers", "policy_rows", "policy_rules")
        }
        self.tables["rule_counters"] = {}

    def write(self, step: Step) -> Iterator[None]:
        """Do one step, entry by entry."""
        table = self.tables[step.map]
        if isinstance(step, Write):
            for key, value in step.entries:
                table[key] = value
                yield
            return
        for key in step.keys:
            table.pop(key, None)
            yield

    def write_all(self, steps: Iterable[Step]) -> None:
        """Do all of them."""
        for step in steps:
            for _ in self.write(step):
                pass

    def copy(self) -> Kernel:
        """Another one with the same maps."""
        other = Kernel()
        other.tables = {name: dict(table) for name, table in self.tables.items()}
        return other

    def dump(self) -> dict[str, dict[Any, Any]]:
        """All that the compiler writes."""
        return {name: dict(table) for name, table in self.tables.items() if name != "rule_counters"}

    def identity(self, address: bytes) -> int:
        number = int.from_bytes(address)
        table = self.tables["identities"]
        for length in sorted({key.prefix_length for key in table}, reverse=True):
            shift = 128 - length
            found = table.get(IdentityKey(length, (number >> shift << shift).to_bytes(16)))
            if found is not None:
                return int(found.identity)
        return 0

    def verdict(self, row: int, protocol: int, port: int) -> PolicyVerdict | None:
        table: Mapping[PolicyRowKey, PolicyVerdict] = self.tables["policy_rows"]
        for bits in range(16, -1, -1):
            shift = 16 - bits
            found = table.get(PolicyRowKey(48 + bits, row, protocol, port >> shift << shift))
            if found is not None:
                return found
        return table.get(PolicyRowKey(32, row, 0, 0))

    def judge(self, ifindex: int, direction: int, peer: bytes, protocol: int, port: int) -> Answer:
        endpoint = self.tables["policy_endpoints"].get(ifindex)
        if endpoint is None:
            return UNMANAGED
        identity = self.identity(peer)
        default = endpoint.egress_row if direction else endpoint.ingress_row
        key = PolicyPeerKey(endpoint.subject, identity, direction)
        found = self.verdict(self.tables["policy_peers"].get(key, default), protocol, port)
        assert found is not None, "a row without its entry"
        return Answer(
            Half(ACTIONS[found.action], self._rule(found.rule), bool(found.isolated)),
            Half(ACTIONS[found.shadow], self._rule(found.shadow_rule), bool(found.shadow_isolated)),
        )

    def _rule(self, number: int) -> RuleRef | None:
        if not number:
            return None
        found = self.tables["policy_rules"][number]
        key = PolicyKey(KINDS[found.kind], found.namespace, found.name)
        return RuleRef(
            key, Direction(found.direction), NO_RULE if found.action == ISOLATION else found.number
        )
