# SPDX-License-Identifier: Apache-2.0
"""Keys of changed objects, sorted by what the policy compiler does about each kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from netaccel.model.endpoint import PodKey
from netaccel.model.event import ObjectKey
from netaccel.model.policy import Kind, PolicyKey
from netaccel.model.service import ServiceKey
from netaccel.model.snapshot import World

_KINDS = {kind.value: kind for kind in Kind}


@dataclass(slots=True)
class Changes:
    """What an update has to look at. ``slices``: some EndpointSlice, of whatever Service."""

    pods: set[PodKey] = field(default_factory=set)
    namespaces: set[str] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)
    policies: set[PolicyKey] = field(default_factory=set)
    services: set[ServiceKey] = field(default_factory=set)
    slices: bool = False

    @classmethod
    def of(cls, keys: Iterable[ObjectKey]) -> Changes:
        """Of these objects."""
        found = cls()
        for kind, namespace, name in keys:
            match kind:
                case "Pod":
                    found.pods.add(PodKey(namespace, name))
                case "Namespace":
                    found.namespaces.add(name)
                case "Node":
                    found.nodes.add(name)
                case "Service":
                    found.services.add(ServiceKey(namespace, name))
                case "EndpointSlice":
                    found.slices = True
                case _ if kind in _KINDS:
                    found.policies.add(PolicyKey(_KINDS[kind], namespace, name))
        return found


def everything(world: World) -> set[ObjectKey]:
    """Keys of all objects that the policy compiler reads, but for Services: those are read when named."""
    found = {ObjectKey("Pod", *pod.key) for pod in world.pods()}
    found.update(ObjectKey("Node", "", node.name) for node in world.nodes())
    found.update(ObjectKey("Namespace", "", namespace.name) for namespace in world.namespaces())
    found.update(ObjectKey(key.kind.value, key.namespace, key.name) for key in world.policies())
    return found
