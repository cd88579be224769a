# SPDX-License-Identifier: Apache-2.0
"""What fits, and which policy goes when something does not.

A policy that does not fit is refused whole: at its place stands one that denies its subject in its
directions. Those that were changed last go first, then the ones that need most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from typing import NamedTuple

from netaccel.compile.policy.identities import FIRST, LAST
from netaccel.compile.policy.rules import CompiledPolicy
from netaccel.model.policy import PolicyKey


class Limits(NamedTuple):
    """Entries that the maps have room for."""

    identities: int = 131072
    policy_endpoints: int = 4096
    policy_peers: int = 1048576
    policy_rows: int = 262144
    policy_rules: int = 65536

    @classmethod
    def of(cls, capacity: Callable[[str], int]) -> Limits:
        """By the maps' names."""
        return cls(*(capacity(name) for name in cls._fields))

    def at_most(self, name: str, entries: int) -> Limits:
        """The same, but for a map that took no more."""
        if name not in self._fields:
            return self
        return Limits(**{**self._asdict(), name: min(entries, getattr(self, name))})


ROOM = Limits()
"""As bpf/include/policy_maps.h has it."""


class Use(NamedTuple):
    """Entries that are needed, of the same maps; numbers of identities."""

    identities: int
    policy_peers: int
    policy_rows: int
    policy_rules: int
    numbers: int

    def excess(self, limits: Limits) -> str:
        """What is too much, in words; "": nothing."""
        for name in ("identities", "policy_peers", "policy_rows", "policy_rules"):
            needed, room = getattr(self, name), getattr(limits, name)
            if needed > room:
                return f"map {name} has room for {room} entries, {needed} are needed; raise the map's size"
        if self.numbers > LAST - FIRST + 1:
            return f"there are {LAST - FIRST + 1} identities, {self.numbers} are needed"
        return ""


def victim(
    policies: Mapping[PolicyKey, CompiledPolicy],
    refused: Set[PolicyKey],
    latest: Iterable[PolicyKey],
    weight: Callable[[CompiledPolicy], int],
) -> PolicyKey | None:
    """The policy to refuse; None: none is left that would make room. ``weight``: entries that it needs."""
    left = {key: one for key, one in policies.items() if key not in refused and weight(one)}
    recent = [left[key] for key in latest if key in left]
    chosen = max(recent or left.values(), key=lambda one: (weight(one), str(one.key)), default=None)
    return chosen.key if chosen else None
