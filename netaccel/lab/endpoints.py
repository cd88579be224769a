# SPDX-License-Identifier: Apache-2.0
"""What the endpoint controller does: Services with a selector and pods in, EndpointSlices out. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from netaccel.lab.allocate import families, family_of
from netaccel.lab.raw import Name, Object, labels, mappings, metadata, number, spec, string

_MAX_ENDPOINTS = 100  # of one slice, as Kubernetes' controller has it


class Port(NamedTuple):
    """A resolved port of a slice."""

    name: str
    protocol: str
    port: int


@dataclass(frozen=True)
class PodView:
    """What of a pod matters to Services. ``ready``: it answers its probe, terminating or not."""

    name: Name
    uid: str
    labels: dict[str, str]
    addresses: tuple[str, ...]
    ports: tuple[Port, ...]
    node: str
    zone: str
    ready: bool
    terminating: bool


def slices(services: Mapping[Name, Object], pods: Iterable[PodView]) -> list[Object]:
    """Return EndpointSlices of all Services that have a selector; one or more a family."""
    pods = list(pods)
    found: list[Object] = []
    for name, service in services.items():
        if selector := labels(spec(service).get("selector")):
            chosen = [
                p for p in pods if p.name.namespace == name.namespace and selector.items() <= p.labels.items()
            ]
            for family in families(service):
                found += _slices(name, service, family, chosen)
    return found


def nodes_with_endpoints(service: Object, pods: Iterable[PodView]) -> set[str]:
    """Return the nodes that a load balancer sends to under externalTrafficPolicy: Local."""
    selector = labels(spec(service).get("selector"))
    return {
        p.node
        for p in pods
        if selector
        and p.name.namespace == metadata(service).get("namespace")
        and selector.items() <= p.labels.items()
        and p.ready
        and not p.terminating
    }


def _slices(name: Name, service: Object, family: str, pods: Iterable[PodView]) -> list[Object]:
    """Pods that resolve a named port differently need slices of their own."""
    unready = spec(service).get("publishNotReadyAddresses") is True
    groups: dict[tuple[Port, ...], list[Object]] = defaultdict(list)
    for pod in pods:
        address = next((a for a in pod.addresses if family_of(a) == family), "")
        ports = tuple(_resolved(service, pod))
        if address and ports:
            groups[ports].append(_endpoint(pod, address, unready=unready))
    found: list[Object] = []
    for ports, endpoints in groups.items() or {(): []}.items():
        for start in range(0, max(len(endpoints), 1), _MAX_ENDPOINTS):
            number_of = len(found)
            chunk = endpoints[start : start + _MAX_ENDPOINTS]
            found.append(_slice(name, service, family, number_of, ports, chunk))
    return found


def _resolved(service: Object, pod: PodView) -> Iterable[Port]:
    for port in mappings(spec(service).get("ports")):
        protocol = string(port.get("protocol")) or "TCP"
        target = port.get("targetPort") or port.get("port")
        if isinstance(target, str):
            named = [p.port for p in pod.ports if p.name == target and p.protocol == protocol]
            target = named[0] if named else 0
        if number(target):
            yield Port(string(port.get("name")), protocol, number(target))


def _endpoint(pod: PodView, address: str, *, unready: bool) -> Object:
    return {
        "addresses": [address],
        "conditions": {
            "ready": unready or (pod.ready and not pod.terminating),
            "serving": unready or pod.ready,
            "terminating": pod.terminating,
        },
        "nodeName": pod.node,
        "zone": pod.zone,
        "targetRef": {
            "kind": "Pod",
            "namespace": pod.name.namespace,
            "name": pod.name.name,
            "uid": pod.uid,
        },
    }


def _slice(
    name: Name, service: Object, family: str, index: int, ports: Iterable[Port], endpoints: list[Object]
) -> Object:
    suffix = family.lower() + (f"-{index}" if index else "")
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": name.namespace,
            "name": f"{name.name}-{suffix}",
            "labels": {
                "kubernetes.io/service-name": name.name,
                "endpointslice.kubernetes.io/managed-by": "lab.netaccel.io",
            },
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "name": name.name,
                    "uid": string(metadata(service).get("uid")),
                    "controller": True,
                }
            ],
        },
        "addressType": family,
        "ports": [p._asdict() for p in ports],
        "endpoints": endpoints,
    }
