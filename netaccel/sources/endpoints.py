# SPDX-License-Identifier: Apache-2.0
"""EndpointSlice, Pod, Node and Namespace: raw form to model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from sys import intern
from typing import Any

from netaccel.errors import ObjectError
from netaccel.model.acceleration import ANNOTATION
from netaccel.model.address import Address, is_ipv4, parse_address
from netaccel.model.endpoint import (
    ContainerPort,
    Endpoint,
    EndpointSlice,
    Namespace,
    Node,
    Pod,
    PodKey,
    SliceKey,
    SlicePort,
)
from netaccel.model.service import ServiceKey
from netaccel.sources import checks, raw

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
ZONE_LABEL = "topology.kubernetes.io/zone"
LEAVING_TAINT = "ToBeDeletedByClusterAutoscaler"
BANDWIDTH = ("kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth")

# A quarter of a million of these are made at start: skip NamedTuple's Python-level constructor.
_endpoint: Callable[[tuple[Any, ...]], Endpoint] = partial(tuple.__new__, Endpoint)
_DEFAULT_CONDITIONS = (True, True, False)


def convert_slice(obj: raw.EndpointSlice, meta: raw.Metadata, key: SliceKey) -> EndpointSlice:
    """Validate and convert an EndpointSlice."""
    kind = obj.address_type
    if kind not in ("IPv4", "IPv6"):
        if not kind:
            raise ObjectError("addressType", "is missing: give IPv4 or IPv6")
        if kind == "FQDN":
            raise ObjectError(
                "addressType", "FQDN can't be served, only DNS knows its names: give IPv4 or IPv6"
            )
        raise ObjectError("addressType", f"{kind!r} can't be served: give IPv4 or IPv6")
    service = (meta.labels or {}).get(SERVICE_NAME_LABEL)
    return EndpointSlice(
        key=key,
        service=ServiceKey(key.namespace, service) if service else None,
        ports=_slice_ports(obj.ports or ()),
        endpoints=_endpoints(obj.endpoints or (), kind == "IPv4"),
    )


def _slice_ports(entries: list[raw.SlicePort] | tuple[()]) -> tuple[SlicePort, ...]:
    ports: list[SlicePort] = []
    names: set[str] = set()
    for index, entry in enumerate(entries):
        path = f"ports[{index}]"
        name = checks.dns_label(entry.name, f"{path}.name") if entry.name else ""
        if name in names:
            raise ObjectError(f"{path}.name", f"{name!r} is there twice: give each port its own name")
        names.add(name)
        number = 0 if entry.port is None else checks.port_number(entry.port, f"{path}.port")
        ports.append(SlicePort(name, checks.protocol(entry.protocol, f"{path}.protocol"), number))
    return tuple(ports)


def _endpoints(entries: list[raw.Endpoint] | tuple[()], ipv4: bool) -> tuple[Endpoint, ...]:
    """Each entry's first address: the API says that the others mean the same endpoint (KEP-752).

    The loop does the least for each; only an entry that is wrong is looked at again, for its path.
    """
    found: list[Endpoint] = []
    for index, entry in enumerate(entries):
        addresses = entry.addresses
        try:
            address = parse_address(addresses[0]) if addresses else None
        except ValueError:
            address = None
        if address is None or is_ipv4(address) != ipv4 or checks.is_special(address):
            raise _bad_address(addresses, index, ipv4)
        conditions = entry.conditions
        if conditions is None:
            ready, serving, terminating = _DEFAULT_CONDITIONS
        else:
            ready = conditions.ready is not False
            serving = conditions.serving is not False
            terminating = conditions.terminating is True
        ref = entry.target_ref
        node, zone = entry.node_name, entry.zone
        found.append(
            _endpoint(
                (
                    address,
                    ready,
                    serving,
                    terminating,
                    intern(node) if node else "",
                    intern(zone) if zone else "",
                    (ref.name or "") if ref is not None and ref.kind == "Pod" else "",
                )
            )
        )
    return tuple(found)


def _bad_address(addresses: list[str] | None, index: int, ipv4: bool) -> ObjectError:
    """Say what is wrong with an endpoint's first address."""
    path = f"endpoints[{index}].addresses"
    if not addresses:
        return ObjectError(path, "is missing: give one address")
    try:
        found = checks.unicast(addresses[0], f"{path}[0]")
    except ObjectError as err:
        return err
    wanted = "IPv4" if ipv4 else "IPv6"
    is_of = "IPv4" if is_ipv4(found) else "IPv6"
    return ObjectError(
        f"{path}[0]",
        f"{addresses[0]} is {is_of}, but addressType is {wanted}: put it into another slice",
    )


def convert_pod(obj: raw.Pod, meta: raw.Metadata, key: PodKey) -> Pod:
    """Validate and convert a Pod. One that ended has no addresses: they may be another Pod's by now."""
    spec = obj.spec or raw.PodSpec()
    status = obj.status or raw.PodStatus()
    ended = status.phase in ("Succeeded", "Failed")
    ready = any(one.type == "Ready" and one.status == "True" for one in status.conditions or ())
    return Pod(
        key=key,
        node_name=intern(spec.node_name) if spec.node_name else "",
        addresses=() if ended else _pod_addresses(status),
        labels=checks.labels(meta.labels),
        ports=_container_ports(spec),
        host_network=spec.host_network is True,
        ready=ready and not ended,
        terminating=bool(meta.deletion_timestamp),
        uid=meta.uid or "",
        accelerate=checks.annotation(meta, ANNOTATION),
        shaped=any(checks.annotation(meta, name) for name in BANDWIDTH),
    )


def _pod_addresses(status: raw.PodStatus) -> tuple[Address, ...]:
    if not status.pod_ips:
        return (checks.address(status.pod_ip, "status.podIP"),) if status.pod_ip else ()
    found = (
        checks.address(entry.ip, f"status.podIPs[{index}].ip") for index, entry in enumerate(status.pod_ips)
    )
    return tuple(dict.fromkeys(found))


def _container_ports(spec: raw.PodSpec) -> tuple[ContainerPort, ...]:
    """Named ports of the containers and of the sidecars (init containers that go on running)."""
    found: list[ContainerPort] = []
    for group, containers in (("containers", spec.containers), ("initContainers", spec.init_containers)):
        for i, container in enumerate(containers or ()):
            if group == "initContainers" and container.restart_policy != "Always":
                continue
            for j, port in enumerate(container.ports or ()):
                path = f"spec.{group}[{i}].ports[{j}]"
                number = checks.port_number(port.container_port, f"{path}.containerPort")
                protocol = checks.protocol(port.protocol, f"{path}.protocol")
                if port.name:
                    name = checks.dns_label(port.name, f"{path}.name")
                    found.append(ContainerPort(name, protocol, number))
    return tuple(found)


def convert_node(obj: raw.Node, meta: raw.Metadata, name: str) -> Node:
    """Validate and convert a Node."""
    spec = obj.spec or raw.NodeSpec()
    cidrs = checks.cidrs(spec.pod_cidrs, "spec.podCIDRs")
    if not cidrs and spec.pod_cidr:
        cidrs = (checks.cidr(spec.pod_cidr, "spec.podCIDR"),)
    entries = obj.status.addresses if obj.status else None
    addresses = (
        checks.unicast(entry.address, f"status.addresses[{index}].address")
        for index, entry in enumerate(entries or ())
        if entry.type == "InternalIP"
    )
    internal = tuple(dict.fromkeys(addresses))
    return Node(
        name=name,
        addresses=internal,
        external=_external(entries or (), internal),
        pod_cidrs=cidrs,
        labels=checks.labels(meta.labels),
        zone=(meta.labels or {}).get(ZONE_LABEL) or "",
        leaving=bool(meta.deletion_timestamp)
        or any(taint.key == LEAVING_TAINT for taint in spec.taints or ()),
    )


def _external(entries: Sequence[raw.NodeAddress], internal: tuple[Address, ...]) -> tuple[Address, ...]:
    """The status' other addresses; names, and addresses that mean every node its own self, are none."""
    found: dict[Address, None] = {}
    for entry in entries:
        try:
            address = parse_address(entry.address or "")
        except ValueError:
            continue
        if not checks.is_special(address) and address not in internal:
            found[address] = None
    return tuple(found)


def convert_namespace(_: raw.Namespace, meta: raw.Metadata, name: str) -> Namespace:
    """Convert a Namespace."""
    return Namespace(
        name=name,
        labels=checks.labels(meta.labels),
        accelerate=checks.annotation(meta, ANNOTATION),
        uid=meta.uid or "",
    )
