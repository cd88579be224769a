# SPDX-License-Identifier: Apache-2.0
"""All policies as they are compiled now, with what they name: prefixes, peers, Services."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from netaccel.compile.policy.cidrs import Prefixes
from netaccel.compile.policy.rules import CompiledPolicy
from netaccel.compile.policy.selectors import Peers, Spec
from netaccel.model.address import Cidr
from netaccel.model.policy import Direction, PolicyKey
from netaccel.model.service import ServiceKey

_K = TypeVar("_K")
_V = TypeVar("_V")


class Catalog:
    """Policies by key; who names a peer or a Service."""

    def __init__(self, prefixes: Prefixes, peers: Peers) -> None:
        self.policies: dict[PolicyKey, CompiledPolicy] = {}
        self.naming_service: dict[ServiceKey, set[PolicyKey]] = {}
        self.naming: dict[Spec, set[tuple[PolicyKey, Direction]]] = {}
        self._prefixes = prefixes
        self._peers = peers

    def replace(self, changed: Mapping[PolicyKey, CompiledPolicy | None]) -> set[Cidr]:
        """Put and remove policies; the prefixes that have a name now, or have none any more.

        What is new is named before anything is given up: an identity's prefix has a name until the
        identities are looked at again.
        """
        touched: set[Cidr] = set()
        old = {key: self.policies[key] for key in changed if key in self.policies}
        new = {key: one for key, one in changed.items() if one is not None}
        for one in new.values():
            for cidr in one.prefixes():
                touched.update(self._prefixes.add(cidr))
        for key, one in old.items():
            self._forget(key, one)
        for key, one in new.items():
            self._enter(key, one)
        for one in old.values():
            for direction in Direction:
                for spec in one.specs(direction):
                    self._peers.release(spec)
        for one in old.values():
            for cidr in one.prefixes():
                touched.update(self._prefixes.remove(cidr))
        return touched

    def _enter(self, key: PolicyKey, one: CompiledPolicy) -> None:
        self.policies[key] = one
        for service in one.services:
            self.naming_service.setdefault(service, set()).add(key)
        for direction in Direction:
            for spec in one.specs(direction):
                self._peers.acquire(spec)
                self.naming.setdefault(spec, set()).add((key, direction))

    def _forget(self, key: PolicyKey, one: CompiledPolicy) -> None:
        """All but the references to peers and prefixes."""
        del self.policies[key]
        for service in one.services:
            _drop(self.naming_service, service, key)
        for direction in Direction:
            for spec in set(one.specs(direction)):
                _drop(self.naming, spec, (key, direction))


def _drop(index: dict[_K, set[_V]], key: _K, item: _V) -> None:
    group = index[key]
    group.discard(item)
    if not group:
        del index[key]
