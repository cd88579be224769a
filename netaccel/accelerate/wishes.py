# SPDX-License-Identifier: Apache-2.0
"""What owners ask for: a Pod's annotation, else its Namespace's, else a Service's, else the setting. Pure.

Each end of a connection has a wish of its own. One that is disabled wins over the other's, whatever that is.
``enabled`` means what ``auto`` does, and that the owner vouches for the programs: they do not splice(2) from
sockets.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from netaccel.model.acceleration import ANNOTATION, VALUES
from netaccel.model.endpoint import Namespace, Pod, PodKey
from netaccel.model.event import ObjectKey
from netaccel.model.service import Protocol, Service, ServiceKey, ServicePort


class Wish(enum.Enum):
    """Of one end."""

    DISABLED = "disabled"
    AUTO = "auto"
    ENABLED = "enabled"


class Wrong(NamedTuple):
    """A value that means nothing. ``str()`` is the line for people."""

    key: ObjectKey
    value: str

    @property
    def reason(self) -> str:
        """Without the object."""
        allowed = " or ".join(VALUES)
        return f"annotation {ANNOTATION}: {self.value!r} is no wish, it is ignored: give {allowed}"

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


Port = tuple[bytes, int]
"""An address and a TCP port."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """Of one node's pods, now. Make it with :func:`wishes`.

    ``services``: by endpoint of this node's pods, the Services that it stands for.
    """

    setting: Wish
    pods: Mapping[PodKey, Wish] = field(default_factory=dict)
    services: Mapping[Port, tuple[ServiceKey, ...]] = field(default_factory=dict)
    of_services: Mapping[ServiceKey, Wish] = field(default_factory=dict)
    wrong: tuple[Wrong, ...] = ()

    def of(self, pod: PodKey, address: bytes, port: int) -> Wish:
        """The wish of the end of a connection that this pod has at this address."""
        if (found := self.pods.get(pod)) is not None:
            return found
        asked = {self.of_services.get(key) for key in self.services.get((address, port), ())}
        return next((wish for wish in (Wish.DISABLED, Wish.ENABLED) if wish in asked), self.setting)

    @property
    def any_enabled(self) -> bool:
        """Whether anybody asks for it, or nobody has to."""
        return self.setting is not Wish.DISABLED or Wish.ENABLED in {
            *self.pods.values(),
            *self.of_services.values(),
        }


def wishes(
    setting: str,
    pods: Iterable[Pod],
    namespaces: Iterable[Namespace],
    services: Iterable[Service] = (),
    endpoints: Mapping[Port, tuple[ServiceKey, ...]] | None = None,
) -> Wishes:
    """``pods``: this node's. ``namespaces``, ``services``: those whose annotation is not empty, or all."""
    wrong: dict[Wrong, None] = {}
    by_pod: dict[PodKey, Wish] = {}
    by_namespace = {
        one.name: _read(one.accelerate, ObjectKey("Namespace", "", one.name), wrong) for one in namespaces
    }
    for pod in pods:
        asked = _read(pod.accelerate, ObjectKey("Pod", *pod.key), wrong)
        wish = asked or by_namespace.get(pod.key.namespace)
        if wish is not None:
            by_pod[pod.key] = wish
    of_services = {
        service.key: wish
        for service in services
        if (wish := _read(service.accelerate, ObjectKey("Service", *service.key), wrong)) is not None
    }
    return Wishes(Wish(setting), by_pod, endpoints or {}, of_services, tuple(wrong))


def endpoints(
    pods: Iterable[Pod], services: Iterable[tuple[ServiceKey, Iterable[tuple[bytes, int]]]]
) -> dict[Port, tuple[ServiceKey, ...]]:
    """Services by endpoint, of those endpoints alone that are at these pods' addresses."""
    here = {address for pod in pods for address in pod.addresses}
    found: dict[Port, tuple[ServiceKey, ...]] = {}
    for key, port in _at(here, services):
        found[port] = (*found.get(port, ()), key)
    return found


def selected(
    pods: Iterable[Pod], services: Iterable[Service]
) -> Iterator[tuple[ServiceKey, list[tuple[bytes, int]]]]:
    """Endpoints of headless Services by their selectors, at these pods: their slices are not watched."""
    there = list(pods)
    for service in services:
        if service.selector and service.unserved_reason and service.type != "ExternalName":
            chosen = [
                pod
                for pod in there
                if pod.key.namespace == service.key.namespace and set(service.selector) <= set(pod.labels)
            ]
            yield service.key, [port for pod in chosen for port in _targets(service.ports, pod)]


def _targets(ports: Iterable[ServicePort], pod: Pod) -> Iterator[tuple[bytes, int]]:
    for port in ports:
        if port.protocol is Protocol.TCP:
            named = {one.name: one.port for one in pod.ports if one.protocol is Protocol.TCP}
            target = port.target_port or port.port
            number = named.get(target, 0) if isinstance(target, str) else target
            if number:
                yield from ((address, number) for address in pod.addresses)


def _at(
    here: Collection[bytes], services: Iterable[tuple[ServiceKey, Iterable[tuple[bytes, int]]]]
) -> Iterator[tuple[ServiceKey, Port]]:
    for key, ports in services:
        for port in dict.fromkeys(ports):
            if port[0] in here:
                yield key, port


def _read(value: str, key: ObjectKey, wrong: dict[Wrong, None]) -> Wish | None:
    if not value:
        return None
    if value in VALUES:
        return Wish(value)
    wrong[Wrong(key, value)] = None
    return None
