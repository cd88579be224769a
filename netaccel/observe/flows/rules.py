# SPDX-License-Identifier: Apache-2.0
"""Names of rules and Services by the ids that programs know, from the maps ``policy_rules`` and
``services``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from netaccel.model.policy import Direction, Kind, PolicyKey
from netaccel.observe.flows.decode import Words
from netaccel.observe.flows.directory import Directory
from netaccel.observe.flows.record import RuleName
from netaccel.records import PolicyRule

NO_NUMBER = 0xFFFF
"""``number`` of a rule that is none: the policy isolates (abi.h)."""


class Lookup(Protocol):
    """What is read here of netaccel.datapath.maps.KernelMaps."""

    def names(self) -> Collection[str]:
        """Logical names."""
        ...

    def get(self, name: str, key: Any) -> Any:
        """One value, None where it is absent."""
        ...


class Names:
    """Reads an id's name once a batch: ids are given to others later, so nothing is kept for longer."""

    def __init__(self, maps: Lookup, words: Words, directory: Directory) -> None:
        self._maps = maps
        self._words = words
        self._directory = directory
        self._has_rules = "policy_rules" in maps.names()
        self._rules: dict[int, RuleName] = {}
        self._services: dict[int, str] = {}

    def begin(self) -> None:
        """A new batch."""
        self._rules.clear()
        self._services.clear()

    def rule(self, number: int) -> RuleName | None:
        """None for 0: no rule. DatapathError where the kernel refuses."""
        if not number:
            return None
        if number not in self._rules:
            found = self._maps.get("policy_rules", number) if self._has_rules else None
            self._rules[number] = self.named(number, found)
        return self._rules[number]

    def named(self, number: int, found: PolicyRule | None) -> RuleName:
        """An entry of policy_rules in words."""
        if found is None:
            return RuleName(number)
        kind = self._words.kinds.get(found.kind, str(found.kind))
        position = -1 if found.number == NO_NUMBER else found.number
        author, refused = self._known(kind, found, position)
        return RuleName(
            id=number,
            kind=kind,
            namespace=found.namespace,
            name=found.name,
            direction=self._words.direction(found.direction),
            number=position,
            action=self._words.actions.get(found.action, str(found.action)),
            rule=author,
            monitor=bool(found.monitor),
            refused=refused,
        )

    def service(self, number: int) -> str:
        """``namespace/name`` of a service port's id; "" for none. DatapathError where the kernel refuses."""
        if not number:
            return ""
        if number not in self._services:
            found = self._maps.get("services", number)
            self._services[number] = f"{found.namespace}/{found.name}" if found else ""
        return self._services[number]

    def _known(self, kind: str, found: PolicyRule, position: int) -> tuple[str, str]:
        """The name that a rule's author gave it, and why its policy was refused."""
        try:
            key = PolicyKey(Kind(kind), found.namespace, found.name)
            name = self._directory.rule_name(key, Direction(found.direction), position)
        except ValueError:  # an enumerator that is newer than this package
            return "", ""
        return name, self._directory.refusal(key)
