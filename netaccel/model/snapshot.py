# SPDX-License-Identifier: Apache-2.0
"""The world as last heard: every valid object, indexed for the compiler and the agent.

``World.apply`` takes a source's event and answers which Services a compiler has to look at again. Pure:
no I/O, no clock. Events are idempotent: one that changes nothing affects nothing, and deleting what is
absent is fine, so a source may repeat itself after a lost watch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, KeysView, Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeVar, assert_never

from netaccel.model.endpoint import EndpointSlice, Namespace, Node, Pod, PodKey, SliceKey
from netaccel.model.event import Delete, Event, Forgive, Object, ObjectKey, Reject, Synced, Upsert
from netaccel.model.policy import Kind, Policy, PolicyKey
from netaccel.model.service import Service, ServiceKey

_K = TypeVar("_K")
_I = TypeVar("_I")
_V = TypeVar("_V")

_NOTHING: frozenset[ServiceKey] = frozenset()
_POLICIES = frozenset(kind.value for kind in Kind)


class WaitingSlice(NamedTuple):
    """An EndpointSlice and the Service that it waits for; None where it names none."""

    namespace: str
    name: str
    service: ServiceKey | None

    def __str__(self) -> str:
        waits = f"waits for Service {self.service}" if self.service else "names no Service"
        return f"EndpointSlice {self.namespace}/{self.name} {waits}"


class World:
    """What is there now.

    ``node_name`` is the node that is compiled for: a change of another node's Node object affects no
    Service here. Empty: every Node's change affects every Service.

    ``synced`` turns True with the source's first Synced.
    """

    def __init__(self, node_name: str = "") -> None:
        self.node_name = node_name
        self.synced = False
        self._services: dict[ServiceKey, Service] = {}
        self._health_checked: dict[ServiceKey, Service] = {}
        self._slices: dict[SliceKey, EndpointSlice] = {}
        self._slices_of: dict[ServiceKey, dict[SliceKey, EndpointSlice]] = {}
        self._sorted_slices: dict[ServiceKey, tuple[EndpointSlice, ...]] = {}
        self._pods: dict[PodKey, Pod] = {}
        self._pods_on: dict[str, dict[PodKey, Pod]] = {}
        self._nodes: dict[str, Node] = {}
        self._node_deleted = False  # this node's own object was there and is not any more
        self._namespaces: dict[str, Namespace] = {}
        self._policies: dict[PolicyKey, Policy] = {}
        self._rejections: dict[ObjectKey | None, dict[str, Reject]] = {}
        self._changed: set[ObjectKey] = set()

    # ------------------------------------------------------------- events in

    def apply(self, event: Event) -> frozenset[ServiceKey]:
        """Take one event; the keys of the Services whose compiled form may differ now (existing or not)."""
        match event:
            case Upsert():
                self._rejections.pop(event.key, None)
                self._changed.add(event.key)
                return self._put(event.object)
            case Delete():
                self._changed.add(event.key)
                return self._remove(event.key)
            case Reject():
                self._rejections.setdefault(event.key, {})[event.origin] = event
                self._stand_in(event)
            case Forgive():
                self._forgive(event)
            case Synced():
                self.synced = True
            case _:
                assert_never(event)
        return _NOTHING

    def apply_all(self, events: Iterable[Event]) -> set[ServiceKey]:
        """Take a batch; the union of what :meth:`apply` answers."""
        affected: set[ServiceKey] = set()
        for event in events:
            affected |= self.apply(event)
        return affected

    def _put(self, obj: Object) -> frozenset[ServiceKey]:
        match obj:
            case Service():
                return self._put_service(obj)
            case EndpointSlice():
                return self._put_slice(obj.key, obj)
            case Pod():
                return self._put_pod(obj.key, obj)
            case Node():
                return self._put_node(obj.name, obj)
            case Namespace():
                self._namespaces[obj.name] = obj
                return _NOTHING
            case Policy():
                self._policies[obj.key] = obj
                return _NOTHING
            case _:
                assert_never(obj)

    def _remove(self, key: ObjectKey) -> frozenset[ServiceKey]:
        match key.kind:
            case "Service":
                service_key = ServiceKey(key.namespace, key.name)
                gone = self._services.pop(service_key, None)
                self._health_checked.pop(service_key, None)
                return _NOTHING if gone is None else frozenset((service_key,))
            case "EndpointSlice":
                return self._put_slice(SliceKey(key.namespace, key.name), None)
            case "Pod":
                return self._put_pod(PodKey(key.namespace, key.name), None)
            case "Node":
                return self._put_node(key.name, None)
            case "Namespace":
                self._namespaces.pop(key.name, None)
                return _NOTHING
            case kind if kind in _POLICIES:
                self._policies.pop(PolicyKey(Kind(kind), key.namespace, key.name), None)
                return _NOTHING
            case _:
                return _NOTHING

    def _put_service(self, service: Service) -> frozenset[ServiceKey]:
        if self._services.get(service.key) == service:
            return _NOTHING
        self._services[service.key] = service
        if service.health_check_node_port:
            self._health_checked[service.key] = service
        else:
            self._health_checked.pop(service.key, None)
        return frozenset((service.key,))

    def _put_slice(self, key: SliceKey, new: EndpointSlice | None) -> frozenset[ServiceKey]:
        old = self._slices.pop(key, None)
        if new is not None:
            self._slices[key] = new
        if old == new:
            return _NOTHING
        affected = set()
        if old is not None and old.service is not None:
            _drop(self._slices_of, old.service, key)
            affected.add(old.service)
        if new is not None and new.service is not None:
            self._slices_of.setdefault(new.service, {})[key] = new
            affected.add(new.service)
        for service_key in affected:
            self._sorted_slices.pop(service_key, None)
        return frozenset(affected)

    def _put_pod(self, key: PodKey, new: Pod | None) -> frozenset[ServiceKey]:
        old = self._pods.pop(key, None)
        if old is not None:
            _drop(self._pods_on, old.node_name, key)
        if new is not None:
            self._pods[key] = new
            self._pods_on.setdefault(new.node_name, {})[key] = new
        return _NOTHING

    def _put_node(self, name: str, new: Node | None) -> frozenset[ServiceKey]:
        old = self._nodes.pop(name, None)
        if new is not None:
            self._nodes[name] = new
        if name == self.node_name:
            self._node_deleted = new is None and (old is not None or self._node_deleted)
        if old == new or (self.node_name and name != self.node_name):
            return _NOTHING
        return frozenset(self._services)

    def _stand_in(self, event: Reject) -> None:
        """A policy that can't be decoded: the last good version stays, or what denies its subject comes."""
        fallback = event.fallback
        if fallback is None or event.key is None:
            return
        now = self._policies.get(fallback.key)
        if now is None or (now.denies and now != fallback):
            self._policies[fallback.key] = fallback
            self._changed.add(event.key)

    def _forgive(self, event: Forgive) -> None:
        _drop(self._rejections, event.key, event.origin)
        if event.key is None or event.key.kind not in _POLICIES or event.key in self._rejections:
            return
        key = PolicyKey(Kind(event.key.kind), event.key.namespace, event.key.name)
        if key in self._policies and self._policies[key].denies:
            del self._policies[key]
            self._changed.add(event.key)

    # ----------------------------------------------------------- questions

    def service(self, key: ServiceKey) -> Service | None:
        """The Service, or None."""
        return self._services.get(key)

    def services(self) -> KeysView[ServiceKey]:
        """Keys of all Services, in no order."""
        return self._services.keys()

    def health_checked(self) -> tuple[Service, ...]:
        """Services that have a healthCheckNodePort, in no order: few, whatever the number of all."""
        return tuple(self._health_checked.values())

    def slices(self, key: ServiceKey) -> tuple[EndpointSlice, ...]:
        """The slices of a Service, sorted by key; of a Service that isn't there too.

        One endpoint may stand in several slices: whoever reads them counts it once.
        """
        found = self._sorted_slices.get(key)
        if found is None:
            by_key = self._slices_of.get(key)
            if by_key is None:
                return ()
            found = tuple(by_key[slice_key] for slice_key in sorted(by_key))
            self._sorted_slices[key] = found
        return found

    def slice(self, key: SliceKey) -> EndpointSlice | None:
        """One slice by its own name, or None."""
        return self._slices.get(key)

    def waiting_slices(self) -> tuple[WaitingSlice, ...]:
        """Slices whose Service isn't there (or isn't named), sorted: they have no effect yet."""
        found = (
            WaitingSlice(*key, one.service)
            for key, one in self._slices.items()
            if one.service not in self._services
        )
        return tuple(sorted(found))

    def pod(self, key: PodKey) -> Pod | None:
        """The Pod, or None."""
        return self._pods.get(key)

    def pods(self, node_name: str | None = None) -> tuple[Pod, ...]:
        """Pods of one node (None: of all), sorted by key. Node "" holds those not yet scheduled."""
        pods = self._pods if node_name is None else self._pods_on.get(node_name, {})
        return tuple(pods[key] for key in sorted(pods))

    def node(self, name: str) -> Node | None:
        """The Node, or None."""
        return self._nodes.get(name)

    @property
    def node_leaving(self) -> bool:
        """Whether this node's own object says that it leaves the cluster, or was deleted.

        One that was never there (files need have none) says nothing.
        """
        node = self._nodes.get(self.node_name)
        return node.leaving if node else self._node_deleted

    def nodes(self) -> tuple[Node, ...]:
        """All Nodes, sorted by name."""
        return tuple(self._nodes[name] for name in sorted(self._nodes))

    def namespace(self, name: str) -> Namespace | None:
        """The Namespace, or None."""
        return self._namespaces.get(name)

    def namespaces(self) -> tuple[Namespace, ...]:
        """All Namespaces, sorted by name."""
        return tuple(self._namespaces[name] for name in sorted(self._namespaces))

    def policy(self, key: PolicyKey) -> Policy | None:
        """The policy, or None."""
        return self._policies.get(key)

    def policies(self) -> Mapping[PolicyKey, Policy]:
        """Policies of every kind, those that stand in for refused ones too; read-only."""
        return MappingProxyType(self._policies)

    def drain_changes(self) -> set[ObjectKey]:
        """Keys of all objects put or removed since the last call; for the one who compiles policies.

        An object that was told again without a difference may be among them.
        """
        changed, self._changed = self._changed, set()
        return changed

    def rejections(self) -> tuple[Reject, ...]:
        """Objects that can't be used, as last told, sorted by origin and then by key."""
        found = [reject for by_origin in self._rejections.values() for reject in by_origin.values()]
        return tuple(sorted(found, key=lambda reject: (reject.origin, str(reject.key or ""))))

    def counts(self) -> Mapping[str, int]:
        """How many objects there are, by kind."""
        return {
            "Service": len(self._services),
            "EndpointSlice": len(self._slices),
            "Pod": len(self._pods),
            "Node": len(self._nodes),
            "Namespace": len(self._namespaces),
            **Counter(key.kind.value for key in self._policies),
        }


def _drop(index: dict[_K, dict[_I, _V]], key: _K, item: _I) -> None:
    """Remove one item of a two-level index, and its group with the last one. Absent is fine."""
    group = index.get(key)
    if group is None:
        return
    group.pop(item, None)
    if not group:
        del index[key]
