# SPDX-License-Identifier: Apache-2.0
"""Who holds an address and port that several Services ask for.

The Service with the older creationTimestamp holds it, then the one whose namespace and name sort first. Only
that frontend of the others is refused. When the holder leaves, the next one has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from netaccel.model.service import ServiceKey
from netaccel.records import FrontendKey


class Claimant(NamedTuple):
    """A Service in the order of precedence."""

    created: float
    key: ServiceKey


class Claims:
    """All claims. A change costs what the Service itself claims, whatever the number of others."""

    def __init__(self) -> None:
        self._claimants: dict[FrontendKey, list[Claimant]] = {}
        self._claims: dict[ServiceKey, tuple[Claimant, frozenset[FrontendKey]]] = {}

    def replace(self, key: ServiceKey, created: float, claims: Iterable[FrontendKey]) -> set[ServiceKey]:
        """Set what a Service claims (nothing: it leaves). The *other* Services whose holder changed."""
        new_claims = frozenset(claims)
        claimant = Claimant(created, key)
        before, old_claims = self._claims.get(key, (claimant, frozenset()))
        if before == claimant and old_claims == new_claims:
            return set()
        touched = old_claims | new_claims if before != claimant else old_claims ^ new_claims
        affected: set[ServiceKey] = set()
        for frontend in touched:
            affected |= self._change(frontend, before, claimant if frontend in new_claims else None)
        if new_claims:
            self._claims[key] = (claimant, new_claims)
        else:
            self._claims.pop(key, None)
        return affected - {key}

    def holder(self, frontend: FrontendKey) -> ServiceKey | None:
        """Who holds it."""
        claimants = self._claimants.get(frontend)
        return claimants[0].key if claimants else None

    def _change(self, frontend: FrontendKey, old: Claimant, new: Claimant | None) -> set[ServiceKey]:
        claimants = self._claimants.get(frontend, [])
        holder = claimants[0].key if claimants else None
        rest = [claimant for claimant in claimants if claimant.key != old.key]
        if new is not None:
            rest = sorted((*rest, new)) if rest else [new]
        if rest:
            self._claimants[frontend] = rest
        else:
            self._claimants.pop(frontend, None)
        if holder == (rest[0].key if rest else None):
            return set()
        return {claimant.key for claimant in (*claimants, *rest)}
