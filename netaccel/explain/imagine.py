# SPDX-License-Identifier: Apache-2.0
"""What only a running cluster gives, so that questions can be asked about files that never ran: nodes and
addresses of Pods, cluster IPs, and the EndpointSlices of Services with a selector. Pure.

Addresses are of the blocks for benchmarking (RFC 2544, RFC 5180). A policy's blocks don't match them, unless
they are that wide.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from netaccel.model.address import Address, is_ipv4, parse_address
from netaccel.model.endpoint import Endpoint, EndpointSlice, Pod, SliceKey, SlicePort
from netaccel.model.event import Object, ObjectKey, Upsert
from netaccel.model.service import Service, ServicePort
from netaccel.model.snapshot import World
from netaccel.sources.services import NO_ADDRESS

NOWHERE = "(not scheduled)"
"""The node of Pods that have none: one for all of them, which has no address."""
_PODS4, _PODS6 = "198.18.0.0", "2001:2::"
_SERVICES4, _SERVICES6 = "198.19.0.0", "2001:2:0:1::"
_MOST = (1 << 16) - 1


def imagine(world: World, workloads: Iterable[Pod] = ()) -> list[str]:
    """Add what is missing; what was added, a line each for people.

    ``workloads``: Pods that stand for what would make them, where there is none of that name.
    """
    _put(world, "Pod", [pod for pod in workloads if world.pod(pod.key) is None])
    pods = list(_pods(world))
    _put(world, "Pod", pods)
    slices = list(_slices(world))
    _put(world, "EndpointSlice", slices)
    services = list(_services(world))
    _put(world, "Service", services)
    return list(_said(pods, services))


def _said(pods: list[Pod], services: list[Service]) -> Iterator[str]:
    if pods:
        yield (
            f"{_count(pods, 'Pod')} without a node or an address in the files: imaginary ones stand for them,"
            f" from {_PODS4}/16 and {_PODS6}/64"
        )
    if services:
        count = _count(services, "Service")
        yield f"{count} without a cluster IP in the files: imaginary ones stand for them"


def _count(found: list[Pod] | list[Service], kind: str) -> str:
    return f"{len(found)} {kind}{'s' if len(found) > 1 else ''}"


def _put(world: World, kind: str, objects: Iterable[Pod | EndpointSlice | Service]) -> None:
    for one in objects:
        obj: Object = one
        world.apply(Upsert(ObjectKey(kind, *one.key), obj, 0.0))


def _pods(world: World) -> Iterator[Pod]:
    """Pods that lack something, with it. More than the blocks have stay without."""
    number = 0
    for pod in world.pods():
        addresses, node = pod.addresses, pod.node_name or NOWHERE
        if not addresses and pod.host_network:
            found = world.node(pod.node_name)
            addresses = found.addresses if found else ()
        elif not addresses and number < _MOST:
            number += 1
            addresses = (_nth(_PODS4, number), _nth(_PODS6, number))
        if (addresses, node) != (pod.addresses, pod.node_name):
            yield replace(pod, addresses=addresses, node_name=node)


def _services(world: World) -> Iterator[Service]:
    """Services that wait for a cluster IP, with one of each family that their endpoints have."""
    waiting = [service for service in _all(world) if service.unserved_reason == NO_ADDRESS]
    for number, service in enumerate(waiting[:_MOST], 1):
        endpoints = [one.address for part in world.slices(service.key) for one in part.endpoints]
        both = [(_nth(_SERVICES4, number), True), (_nth(_SERVICES6, number), False)]
        has = {is_ipv4(address) for address in endpoints} or {True}
        mine = tuple(address for address, ipv4 in both if ipv4 in has)
        yield replace(service, cluster_ips=mine, unserved_reason="")


def _slices(world: World) -> Iterator[EndpointSlice]:
    """Slices of Services with a selector that have none, as the endpoint controller makes them."""
    for service in _all(world):
        if service.selector and not world.slices(service.key):
            chosen = [
                pod
                for pod in world.pods()
                if pod.key.namespace == service.key.namespace and set(service.selector) <= set(pod.labels)
            ]
            yield from _of_service(service, chosen)


def _of_service(service: Service, pods: list[Pod]) -> Iterator[EndpointSlice]:
    """Pods that resolve a named port differently have slices of their own."""
    groups: dict[tuple[bool, tuple[SlicePort, ...]], list[Endpoint]] = {}
    for pod in pods:
        ports = tuple(_resolved(service.ports, pod))
        for ipv4 in (True, False):
            address = next((one for one in pod.addresses if is_ipv4(one) is ipv4), None)
            if ports and address:
                groups.setdefault((ipv4, ports), []).append(_endpoint(pod, address))
    for number, ((_, ports), endpoints) in enumerate(groups.items()):
        key = SliceKey(service.key.namespace, f"{service.key.name}-imagined-{number}")
        yield EndpointSlice(key, service.key, ports, tuple(endpoints))


def _resolved(ports: Iterable[ServicePort], pod: Pod) -> Iterator[SlicePort]:
    for port in ports:
        target = port.target_port or port.port
        if isinstance(target, str):
            named = (one for one in pod.ports if (one.name, one.protocol) == (target, port.protocol))
            target = next((one.port for one in named), 0)
        if target:
            yield SlicePort(port.name, port.protocol, target)


def _endpoint(pod: Pod, address: Address) -> Endpoint:
    """Ready: files of what never ran say nothing else."""
    leaving = pod.terminating
    return Endpoint(address, not leaving, True, leaving, pod.node_name, pod=pod.key.name)


def _all(world: World) -> Iterator[Service]:
    for key in sorted(world.services()):
        service = world.service(key)
        assert service is not None
        yield service


def _nth(block: str, number: int) -> Address:
    return Address((int.from_bytes(parse_address(block)) + number).to_bytes(16))
