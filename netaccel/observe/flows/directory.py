# SPDX-License-Identifier: Apache-2.0
"""Whose an address is: pods, nodes and Services by their addresses, kept up to date event by event. Pure.

An object costs some references beside what the world holds of it. The answers for addresses that were asked
for lately are kept, so that a busy pod's name is made once.
"""

from __future__ import annotations

from collections.abc import Iterable

from netaccel.model.address import text
from netaccel.model.endpoint import Endpoint, EndpointSlice, Node, Pod, PodKey, SliceKey
from netaccel.model.event import Delete, Event, Forgive, ObjectKey, Reject, Upsert
from netaccel.model.policy import Direction, Kind, Policy, PolicyKey
from netaccel.model.service import Service, ServiceKey
from netaccel.observe.flows.record import End

_KNOWN = 16_384
"""Answers that are kept; a flood of strangers makes us forget all, which costs some microseconds each."""


class Directory:
    """What is known of addresses. ``node_name``: this node's."""

    def __init__(self, node_name: str) -> None:
        self.node_name = node_name
        self._local: frozenset[bytes] = frozenset()
        self._pods: dict[PodKey, Pod] = {}
        self._pod_at: dict[bytes, Pod] = {}
        self._nodes: dict[str, Node] = {}
        self._node_at: dict[bytes, str] = {}
        self._services: dict[ServiceKey, Service] = {}
        self._service_at: dict[bytes, ServiceKey] = {}
        self._node_ports: dict[tuple[int, int], ServiceKey] = {}
        self._slices: dict[SliceKey, EndpointSlice] = {}
        self._slices_at: dict[bytes, tuple[SliceKey, ...]] = {}
        self._policies: dict[PolicyKey, Policy] = {}
        self._rejected: dict[ObjectKey, set[str]] = {}  # policies, and where they can't be used
        self._ends: dict[bytes, End] = {}

    # ------------------------------------------------------------- events in

    def hear(self, event: Event) -> None:
        """Take one event of a source."""
        match event:
            case Upsert(object=Pod() as pod):
                self._put_pod(pod.key, pod)
            case Upsert(object=Node() as node):
                self._put_node(node.name, node)
            case Upsert(object=Service() as service):
                self._put_service(service.key, service)
            case Upsert(object=EndpointSlice() as one):
                self._put_slice(one.key, one)
            case Upsert(object=Policy() as policy):
                self._policies[policy.key] = policy
                self._rejected.pop(event.key, None)
            case Reject(key=ObjectKey() as key) if key.kind in _POLICIES:
                self._reject(key, event)
            case Forgive(key=ObjectKey() as key) if key in self._rejected:
                self._forgive(key, event.origin)
            case Delete():
                self._remove(event.key)

    def set_local(self, addresses: frozenset[bytes]) -> None:
        """Every address that this node has, those that its Node object doesn't name too."""
        self._forget(self._local ^ addresses)
        self._local = addresses

    def _remove(self, key: ObjectKey) -> None:
        match key.kind:
            case "Pod":
                self._put_pod(PodKey(key.namespace, key.name), None)
            case "Node":
                self._put_node(key.name, None)
            case "Service":
                self._put_service(ServiceKey(key.namespace, key.name), None)
            case "EndpointSlice":
                self._put_slice(SliceKey(key.namespace, key.name), None)
            case kind if kind in _POLICIES:
                self._policies.pop(PolicyKey(Kind(kind), key.namespace, key.name), None)

    def _reject(self, key: ObjectKey, event: Reject) -> None:
        """What denies in the place of a policy that can't be used is named too, as the world has it."""
        self._rejected.setdefault(key, set()).add(event.origin)
        standing = event.fallback
        if standing is not None:
            now = self._policies.get(standing.key)
            if now is None or now.denies:
                self._policies[standing.key] = standing

    def _forgive(self, key: ObjectKey, origin: str) -> None:
        self._rejected[key].discard(origin)
        if self._rejected[key]:
            return
        del self._rejected[key]
        name = PolicyKey(Kind(key.kind), key.namespace, key.name)
        if name in self._policies and self._policies[name].denies:
            del self._policies[name]

    def _put_pod(self, key: PodKey, new: Pod | None) -> None:
        old = self._pods.pop(key, None)
        if new is not None:
            self._pods[key] = new
        for address in old.addresses if old and not old.host_network else ():
            if self._pod_at.get(address) is old:
                del self._pod_at[address]
            self._ends.pop(address, None)
        if new is None or new.host_network:
            return
        for address in new.addresses:
            there = self._pod_at.get(address)
            if there is None or there.terminating or not new.terminating:  # its successor may have it already
                self._pod_at[address] = new
            self._ends.pop(address, None)

    def _put_node(self, name: str, new: Node | None) -> None:
        old = self._nodes.pop(name, None)
        if new is not None:
            self._nodes[name] = new
        for address in old.all_addresses if old else ():
            if self._node_at.get(address) == name:
                del self._node_at[address]
            self._ends.pop(address, None)
        for address in new.all_addresses if new else ():
            self._node_at[address] = name
            self._ends.pop(address, None)

    def _put_service(self, key: ServiceKey, new: Service | None) -> None:
        old = self._services.pop(key, None)
        if new is not None:
            self._services[key] = new
        for address in _frontends(old) if old else ():
            if self._service_at.get(address) == key:
                del self._service_at[address]
            self._ends.pop(address, None)
        for node_port in _node_ports(old) if old else ():
            if self._node_ports.get(node_port) == key:
                del self._node_ports[node_port]
        for address in _frontends(new) if new else ():
            self._service_at.setdefault(address, key)
            self._ends.pop(address, None)
        for node_port in _node_ports(new) if new else ():
            self._node_ports.setdefault(node_port, key)

    def _put_slice(self, key: SliceKey, new: EndpointSlice | None) -> None:
        old = self._slices.pop(key, None)
        if new is not None:
            self._slices[key] = new
        if old == new:
            return
        before = {endpoint.address for endpoint in old.endpoints} if old else set()
        after = {endpoint.address for endpoint in new.endpoints} if new else set()
        for address in before - after:
            left = tuple(other for other in self._slices_at.get(address, ()) if other != key)
            if left:
                self._slices_at[address] = left
            else:
                self._slices_at.pop(address, None)
        alone = (key,)  # one tuple for all addresses that no other slice has
        for address in after - before:
            others = self._slices_at.get(address)
            self._slices_at[address] = alone if others is None else (*others, key)
        self._forget(before | after)

    def _forget(self, addresses: Iterable[bytes]) -> None:
        for address in addresses:
            self._ends.pop(address, None)

    # ------------------------------------------------------------- questions

    def end(self, address: bytes) -> End:
        """Who has this address (16 bytes)."""
        found = self._ends.get(address)
        if found is None:
            if len(self._ends) >= _KNOWN:
                self._ends.clear()
            found = self._ends[address] = self._make(address)
        return found

    def service_at(self, address: bytes, port: int, protocol: int) -> str:
        """``namespace/name`` of the Service with this frontend; "" where it is none's."""
        key = self._service_at.get(address)
        if key is None and (address in self._local or address in self._node_at):
            key = self._node_ports.get((protocol, port))
        return str(key) if key else ""

    def rule_name(self, key: PolicyKey, direction: Direction, number: int) -> str:
        """As its author named it; "" where there is no such rule or it has no name."""
        policy = self._policies.get(key)
        rules = policy.rules(direction) if policy else ()
        return rules[number].name if 0 <= number < len(rules) else ""

    def refusal(self, key: PolicyKey) -> str:
        """Why the policy can't be used and denies for that; "" of a good one."""
        policy = self._policies.get(key)
        return policy.denies if policy else ""

    def _make(self, address: bytes) -> End:
        shown = text(address)
        if pod := self._pod_at.get(address):
            return End(
                shown, "pod", *pod.key, pod.node_name, dict(pod.labels), endpoint_of=self._backed(address)
            )
        if name := self._node_at.get(address) or (self.node_name if address in self._local else ""):
            return End(shown, "node", name=name, endpoint_of=self._backed(address))
        if key := self._service_at.get(address):
            return End(shown, "service", *key)
        backed = self._backed(address)
        if found := self._endpoint(address):  # another node's, of which only its slices tell
            namespace, endpoint = found
            return End(shown, "pod", namespace, endpoint.pod, endpoint.node_name, endpoint_of=backed)
        return End(shown, "world", endpoint_of=backed)

    def _endpoint(self, address: bytes) -> tuple[str, Endpoint] | None:
        """The namespace and endpoint of a slice that names a pod with this address."""
        for key in self._slices_at.get(address, ()):
            for endpoint in self._slices[key].endpoints if key in self._slices else ():
                if endpoint.address == address and endpoint.pod:
                    return key.namespace, endpoint
        return None

    def _backed(self, address: bytes) -> tuple[str, ...]:
        """Services that have this address among their endpoints."""
        slices = (self._slices[key] for key in self._slices_at.get(address, ()) if key in self._slices)
        return tuple(sorted({str(one.service) for one in slices if one.service}))


_POLICIES = frozenset(kind.value for kind in Kind)


def _frontends(service: Service) -> tuple[bytes, ...]:
    return (*service.cluster_ips, *service.external_ips, *service.ingress)


def _node_ports(service: Service) -> list[tuple[int, int]]:
    return [(int(port.protocol), port.node_port) for port in service.ports if port.node_port]
