# SPDX-License-Identifier: Apache-2.0
"""Service (core/v1): raw form to model.

Rejects what the API rejects and what would be unsafe to guess. Fields that the API would have wiped
(a traffic policy on a Service that isn't reachable from outside) are ignored.
"""

from __future__ import annotations

from dataclasses import replace

from netaccel.errors import ObjectError
from netaccel.model.acceleration import ANNOTATION
from netaccel.model.address import Address, Cidr, is_ipv4
from netaccel.model.service import PROXY_NAME_LABEL, Service, ServiceKey, ServicePort, TrafficPolicy
from netaccel.sources import checks, raw

HEADLESS_LABEL = "service.kubernetes.io/headless"
SOURCE_RANGES_ANNOTATION = "service.beta.kubernetes.io/load-balancer-source-ranges"

DEFAULT_AFFINITY_TIMEOUT = 10800
MAX_AFFINITY_TIMEOUT = 86400

_TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")


NO_ADDRESS = "it has no address: give spec.clusterIP, which nothing here allocates"
"""Why a Service of files may not be served."""


def convert(obj: raw.Service, meta: raw.Metadata, key: ServiceKey) -> Service:
    """Validate and convert. Raises ObjectError with the first thing that is wrong."""
    spec = obj.spec or raw.ServiceSpec()
    kind = spec.type or "ClusterIP"
    if kind not in _TYPES:
        raise ObjectError("spec.type", f"{kind!r} is no type of a Service: give {', '.join(_TYPES)}")
    headless, cluster_ips = _cluster_ips(spec)
    by_name = kind == "ExternalName"
    ports = _ports(spec, kind, required=not (headless or by_name))
    external_ips = _external_ips(spec)
    ingress = _ingress(obj.status) if kind == "LoadBalancer" else ()
    from_outside = kind in ("NodePort", "LoadBalancer")
    external = checks.choice(
        spec.external_traffic_policy, TrafficPolicy, TrafficPolicy.CLUSTER, "spec.externalTrafficPolicy"
    )
    health_port = checks.optional_port(spec.health_check_node_port, "spec.healthCheckNodePort")
    if not (from_outside or external_ips):
        external = TrafficPolicy.CLUSTER
    service = Service(
        key=key,
        type=kind,
        ports=ports,
        cluster_ips=() if by_name else cluster_ips,
        external_ips=external_ips,
        ingress=ingress,
        source_ranges=_source_ranges(spec, meta) if kind == "LoadBalancer" else (),
        external_policy=external,
        internal_policy=checks.choice(
            spec.internal_traffic_policy,
            TrafficPolicy,
            TrafficPolicy.CLUSTER,
            "spec.internalTrafficPolicy",
        ),
        affinity_timeout=_affinity_timeout(spec),
        health_check_node_port=(
            health_port if kind == "LoadBalancer" and external is TrafficPolicy.LOCAL else 0
        ),
        created=checks.timestamp(meta.creation_timestamp, "metadata.creationTimestamp"),
        uid=meta.uid or "",
        selector=checks.labels(spec.selector),
        unserved_reason=_unserved_reason(meta, by_name, headless),
        proxy_name=_label(meta, PROXY_NAME_LABEL),
        accelerate=checks.annotation(meta, ANNOTATION),
    )
    if not service.unserved_reason and not _has_frontend(service):
        return replace(service, unserved_reason=NO_ADDRESS)
    return service


def _unserved_reason(meta: raw.Metadata, by_name: bool, headless: bool) -> str:
    """Why every service proxy leaves the Service alone, or ""."""
    if by_name:
        return "type ExternalName: DNS alone serves it"
    if headless:
        return "headless (clusterIP: None): DNS alone serves it"
    if _label(meta, HEADLESS_LABEL) is not None:
        return f"label {HEADLESS_LABEL} asks service proxies to leave it alone"
    return ""


def _label(meta: raw.Metadata, name: str) -> str | None:
    """The label's value, "" where it is null; None where there is no such label."""
    labels = meta.labels
    return labels[name] or "" if labels and name in labels else None


def _has_frontend(service: Service) -> bool:
    """Whether anything can reach it."""
    if service.cluster_ips or service.external_ips or service.ingress:
        return True
    return any(port.node_port for port in service.ports)


def _cluster_ips(spec: raw.ServiceSpec) -> tuple[bool, tuple[Address, ...]]:
    """(headless, addresses): one address, or one of each family."""
    texts = list(spec.cluster_ips or ())
    path = "spec.clusterIPs"
    if not texts and spec.cluster_ip:
        texts, path = [spec.cluster_ip], "spec.clusterIP"
    elif texts and spec.cluster_ip and spec.cluster_ip != texts[0]:
        raise ObjectError("spec.clusterIPs[0]", f"{texts[0]!r} must be the same as clusterIP: correct one")
    if "None" in texts:
        if len(texts) > 1:
            raise ObjectError(path, "None stands beside an address: give one or the other")
        return True, ()
    if not any(texts):
        return False, ()
    if len(texts) > 2:
        raise ObjectError(path, f"{len(texts)} addresses: give at most one of each family")
    if path == "spec.clusterIP":
        return False, (checks.unicast(texts[0], path),)
    found = tuple(checks.unicast(text, f"{path}[{index}]") for index, text in enumerate(texts))
    if len(found) == 2 and is_ipv4(found[0]) == is_ipv4(found[1]):
        raise ObjectError(f"{path}[1]", "is of the same family as the first: give one of each family")
    return False, found


def _ports(spec: raw.ServiceSpec, kind: str, *, required: bool) -> tuple[ServicePort, ...]:
    """The ports, after the API's rules: unique names, unique (port, protocol), names where several."""
    entries = spec.ports or []
    if required and not entries:
        raise ObjectError("spec.ports", "is missing: give at least one port")
    ports: list[ServicePort] = []
    names: set[str] = set()
    numbers: set[tuple[int, int]] = set()
    node_ports: set[tuple[int, int]] = set()
    for index, entry in enumerate(entries):
        path = f"spec.ports[{index}]"
        port = _port(entry, path, named=len(entries) > 1)
        if port.name in names:
            raise ObjectError(f"{path}.name", f"{port.name!r} is there twice: give each port its own name")
        if (port.port, port.protocol) in numbers:
            raise ObjectError(
                f"{path}.port", f"{port.port}/{port.protocol.name} is there twice: remove one of them"
            )
        if port.node_port and kind == "ClusterIP":
            raise ObjectError(f"{path}.nodePort", "type is ClusterIP: remove this, or give type: NodePort")
        if port.node_port and (port.node_port, port.protocol) in node_ports:
            raise ObjectError(
                f"{path}.nodePort",
                f"{port.node_port}/{port.protocol.name} is there twice: change one of them",
            )
        names.add(port.name)
        numbers.add((port.port, port.protocol))
        node_ports.add((port.node_port, port.protocol))
        ports.append(port)
    return tuple(ports)


def _port(entry: raw.ServicePort, path: str, *, named: bool) -> ServicePort:
    """One port."""
    if named and not entry.name:
        raise ObjectError(f"{path}.name", "is missing: name each port where there are several")
    number = checks.port_number(entry.port, f"{path}.port")
    target: int | str = entry.target_port if entry.target_port is not None else number
    if isinstance(target, int) and target:
        checks.port_number(target, f"{path}.targetPort")
    return ServicePort(
        name=checks.dns_label(entry.name, f"{path}.name") if entry.name else "",
        protocol=checks.protocol(entry.protocol, f"{path}.protocol"),
        port=number,
        node_port=checks.optional_port(entry.node_port, f"{path}.nodePort"),
        target_port=target or number,
    )


def _external_ips(spec: raw.ServiceSpec) -> tuple[Address, ...]:
    """Each once, in order."""
    texts = spec.external_ips or ()
    found = (checks.unicast(text, f"spec.externalIPs[{index}]") for index, text in enumerate(texts))
    return tuple(dict.fromkeys(found))


def _ingress(status: raw.ServiceStatus | None) -> tuple[Address, ...]:
    """Addresses that this node answers: ipMode VIP or absent (KEP-1860); host names have none.

    Unspecified, loopback and link-local ones, which some local clusters report, are nobody's to answer.
    """
    entries = status.load_balancer.ingress if status and status.load_balancer else None
    found: dict[Address, None] = {}
    for index, entry in enumerate(entries or ()):
        path = f"status.loadBalancer.ingress[{index}]"
        if entry.ip_mode not in (None, "", "VIP", "Proxy"):
            raise ObjectError(f"{path}.ipMode", f"{entry.ip_mode!r} is no mode: give VIP or Proxy")
        if not entry.ip:
            continue
        addr = checks.address(entry.ip, f"{path}.ip")
        if entry.ip_mode != "Proxy" and not checks.is_special(addr):
            found[addr] = None
    return tuple(found)


def _source_ranges(spec: raw.ServiceSpec, meta: raw.Metadata) -> tuple[Cidr, ...]:
    """Client ranges; empty: everyone. An entry that can't be read rejects the Service, never opens it.

    Where they name one family only, clients of the other one are outside of them.
    """
    ranges = spec.load_balancer_source_ranges
    if ranges:
        return checks.cidrs(ranges, "spec.loadBalancerSourceRanges")
    text = ((meta.annotations or {}).get(SOURCE_RANGES_ANNOTATION) or "").strip()
    if not text:
        return ()
    path = f"metadata.annotations[{SOURCE_RANGES_ANNOTATION}]"
    return tuple(dict.fromkeys(checks.cidr(part, path) for part in text.split(",")))


def _affinity_timeout(spec: raw.ServiceSpec) -> int:
    """Seconds, 0 without affinity."""
    if spec.session_affinity in (None, "", "None"):
        return 0
    if spec.session_affinity != "ClientIP":
        raise ObjectError(
            "spec.sessionAffinity", f"{spec.session_affinity!r} is no affinity: give ClientIP or None"
        )
    config = spec.session_affinity_config
    timeout = config.client_ip.timeout_seconds if config and config.client_ip else None
    if timeout is None:
        return DEFAULT_AFFINITY_TIMEOUT
    if not 1 <= timeout <= MAX_AFFINITY_TIMEOUT:
        raise ObjectError(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            f"{timeout} is out of range: give 1 to {MAX_AFFINITY_TIMEOUT} seconds",
        )
    return timeout
