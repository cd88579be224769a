# SPDX-License-Identifier: Apache-2.0
"""What is to be told of which object: from the reconciler's conditions to Events and warnings. Pure.

A refusal because of what the object says is the same on every node, so one agent tells it for all: the
elected one. What only this node lacks (room in a map), this node tells.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote

from netaccel.model.event import ObjectKey
from netaccel.model.policy import Kind, PolicyKey
from netaccel.model.service import ServiceKey
from netaccel.model.snapshot import World
from netaccel.reconcile import Condition, State
from netaccel.writers.state import Warned


class Served(NamedTuple):
    """How the API serves a kind."""

    version: str
    plural: str

    def path(self, key: ObjectKey) -> str:
        """Of one object."""
        root = f"/apis/{self.version}" if "/" in self.version else f"/api/{self.version}"
        space = f"/namespaces/{quote(key.namespace, safe='')}" if key.namespace else ""
        return f"{root}{space}/{self.plural}/{quote(key.name, safe='')}"


KINDS = {
    "Service": Served("v1", "services"),
    "EndpointSlice": Served("discovery.k8s.io/v1", "endpointslices"),
    "NetworkPolicy": Served("networking.k8s.io/v1", "networkpolicies"),
    "ClusterNetworkPolicy": Served("policy.networking.k8s.io/v1alpha2", "clusternetworkpolicies"),
    "TrafficPolicy": Served("netaccel.io/v1alpha1", "trafficpolicies"),
    "ClusterTrafficPolicy": Served("netaccel.io/v1alpha1", "clustertrafficpolicies"),
}
"""Kinds that get Events where they are refused, by name."""
ANNOTATED = {"Pod": Served("v1", "pods"), "Namespace": Served("v1", "namespaces")}
"""Kinds that get Events for their annotations alone, as Services do too."""
POLICIES = frozenset(kind.value for kind in Kind)


class Scope(enum.Enum):
    """Whose matter a notice is."""

    CLUSTER = "cluster"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class Notice:
    """One line about one object, true now. ``uid`` "": to be looked up; an object that is gone has none.

    ``reason``: one word in CamelCase; ``message``: a sentence.
    """

    key: ObjectKey
    reason: str
    message: str
    scope: Scope
    uid: str = ""


def notices(world: World, conditions: Mapping[ObjectKey, Condition]) -> tuple[Notice, ...]:
    """Everything that is refused or limited now, of kinds that get Events.

    ``conditions``: of netaccel.reconcile.Reconciler; those of Services that the source refused are in it too.
    """
    found: dict[Notice, None] = {}
    rejected: set[ObjectKey] = set()
    for reject in world.rejections():
        if reject.key is None or reject.key.kind not in KINDS:
            continue
        rejected.add(reject.key)
        why = f"{reject.path}: {reject.reason}" if reject.path else reject.reason
        message = f"{why}; {_instead(world, reject.key)}"
        found[Notice(reject.key, State.REJECTED.value, message, Scope.CLUSTER, _uid(world, reject.key))] = (
            None
        )
    for key, condition in conditions.items():
        if key in rejected or key.kind not in KINDS:
            continue
        scope = _scope(condition.state)
        if scope:
            for reason in condition.reasons:
                found[Notice(key, condition.state.value, reason, scope, _uid(world, key))] = None
    return tuple(found)


def warnings(
    world: World, conditions: Mapping[ObjectKey, Condition], own: Iterable[str] = ()
) -> tuple[Warned, ...]:
    """What NodeState lists: the node's ``own``, then each object that is not in force as written, by name.

    The order is the same whatever happened in between: NodeState is written when this changes.
    """
    found: list[Warned] = []
    rejected: set[ObjectKey | None] = set()
    for reject in world.rejections():
        rejected.add(reject.key)
        where = f"{reject.origin}: {reject.path}: " if reject.path else f"{reject.origin}: "
        found.append(Warned(str(reject.key or ""), State.REJECTED.value, where + reject.reason))
    for key, condition in conditions.items():
        if key not in rejected and condition.reasons and _scope(condition.state):
            found.append(Warned(str(key), condition.state.value, "; ".join(condition.reasons)))
    found.sort(key=lambda warned: (warned.object, warned.message))
    return (*(Warned("", "Node", line) for line in own), *found)


def _instead(world: World, key: ObjectKey) -> str:
    """What is in force in the place of an object that was refused."""
    policy = (
        world.policy(PolicyKey(Kind(key.kind), key.namespace, key.name)) if key.kind in POLICIES else None
    )
    return "what it selects is denied" if policy and policy.denies else "what was in force before stays"


def _scope(state: State) -> Scope | None:
    """Where a condition comes from that the source did not set: None where nothing is to be told."""
    match state:
        case State.REJECTED:
            return Scope.NODE  # no room here; another node's maps may have it
        case State.DEGRADED:
            return Scope.CLUSTER  # by what it and the other Services say
        case _:
            return None


def _uid(world: World, key: ObjectKey) -> str:
    if key.kind in POLICIES:
        policy = world.policy(PolicyKey(Kind(key.kind), key.namespace, key.name))
        return policy.uid if policy else ""
    service = world.service(ServiceKey(key.namespace, key.name)) if key.kind == "Service" else None
    return service.uid if service else ""
