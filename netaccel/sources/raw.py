# SPDX-License-Identifier: Apache-2.0
"""Kubernetes objects as they arrive, narrowed to the fields that are read; all others are skipped unbuilt.

Each field may be absent or null, which mean the same in Kubernetes; what must be there is said by the
conversion, which knows the remedy. Names of fields are Kubernetes' own (docs: API reference, core/v1
and discovery.k8s.io/v1). Of policies only the outside is here; `policies` reads their specs.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

Labels = dict[str, str | None]


class Raw(Struct, gc=False, rename="camel"):
    """Base: camelCase on the outside; no cycles, so the garbage collector need not look."""


class Metadata(Raw):
    """metadata."""

    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    labels: Labels | None = None
    annotations: Labels | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class Head(Raw):
    """What every object begins with; decides how the rest is read."""

    api_version: str | None = None
    kind: str | None = None


class Named(Raw):
    """Any object with its metadata. Items of an API server's lists have no ``kind`` of their own."""

    kind: str | None = None
    metadata: Metadata | None = None


# ------------------------------------------------------------------ Service


class ServicePort(Raw):
    """spec.ports[]."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    node_port: int | None = None
    target_port: int | str | None = None


class ClientIP(Raw):
    """spec.sessionAffinityConfig.clientIP."""

    timeout_seconds: int | None = None


class AffinityConfig(Raw):
    """spec.sessionAffinityConfig."""

    client_ip: ClientIP | None = field(name="clientIP", default=None)


class ServiceSpec(Raw):
    """spec."""

    type: str | None = None
    ports: list[ServicePort] | None = None
    selector: Labels | None = None
    cluster_ip: str | None = field(name="clusterIP", default=None)
    cluster_ips: list[str] | None = field(name="clusterIPs", default=None)
    external_ips: list[str] | None = field(name="externalIPs", default=None)
    load_balancer_source_ranges: list[str] | None = None
    external_traffic_policy: str | None = None
    internal_traffic_policy: str | None = None
    session_affinity: str | None = None
    session_affinity_config: AffinityConfig | None = None
    health_check_node_port: int | None = None


class Ingress(Raw):
    """status.loadBalancer.ingress[]."""

    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancer(Raw):
    """status.loadBalancer."""

    ingress: list[Ingress] | None = None


class ServiceStatus(Raw):
    """status."""

    load_balancer: LoadBalancer | None = None


class Service(Named):
    """v1 Service."""

    spec: ServiceSpec | None = None
    status: ServiceStatus | None = None


# ------------------------------------------------------------ EndpointSlice


class Conditions(Raw):
    """endpoints[].conditions."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Reference(Raw):
    """endpoints[].targetRef."""

    kind: str | None = None
    name: str | None = None


class Endpoint(Raw):
    """endpoints[]."""

    addresses: list[str] | None = None
    conditions: Conditions | None = None
    node_name: str | None = None
    zone: str | None = None
    target_ref: Reference | None = None


class SlicePort(Raw):
    """ports[]."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class EndpointSlice(Named):
    """discovery.k8s.io/v1 EndpointSlice."""

    address_type: str | None = None
    ports: list[SlicePort] | None = None
    endpoints: list[Endpoint] | None = None


# --------------------------------------------------------------------- Pod


class ContainerPort(Raw):
    """spec.containers[].ports[]."""

    name: str | None = None
    protocol: str | None = None
    container_port: int | None = None


class Container(Raw):
    """spec.containers[] and spec.initContainers[]."""

    ports: list[ContainerPort] | None = None
    restart_policy: str | None = None


class PodSpec(Raw):
    """spec."""

    node_name: str | None = None
    host_network: bool | None = None
    containers: list[Container] | None = None
    init_containers: list[Container] | None = None


class PodIP(Raw):
    """status.podIPs[]."""

    ip: str | None = None


class Condition(Raw):
    """status.conditions[]."""

    type: str | None = None
    status: str | None = None


class PodStatus(Raw):
    """status."""

    phase: str | None = None
    pod_ip: str | None = field(name="podIP", default=None)
    pod_ips: list[PodIP] | None = field(name="podIPs", default=None)
    conditions: list[Condition] | None = None


class Pod(Named):
    """v1 Pod."""

    spec: PodSpec | None = None
    status: PodStatus | None = None


# --------------------------------------------------------- Node, Namespace


class Taint(Raw):
    """spec.taints[]."""

    key: str | None = None


class NodeSpec(Raw):
    """spec."""

    taints: list[Taint] | None = None
    pod_cidr: str | None = field(name="podCIDR", default=None)
    pod_cidrs: list[str] | None = field(name="podCIDRs", default=None)


class NodeAddress(Raw):
    """status.addresses[]."""

    type: str | None = None
    address: str | None = None


class NodeStatus(Raw):
    """status."""

    addresses: list[NodeAddress] | None = None


class Node(Named):
    """v1 Node."""

    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class Namespace(Named):
    """v1 Namespace."""


# ------------------------------------------------------------------ policies


class PolicyMetadata(Raw):
    """metadata of a policy: its labels and annotations say nothing of it."""

    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    creation_timestamp: str | None = None
    generation: int | None = None


class Policy(Raw, forbid_unknown_fields=True):
    """Any kind of policy: a field that isn't known may be a spec that is misspelt."""

    api_version: str | None = None
    kind: str | None = None
    metadata: PolicyMetadata | None = None
    spec: Any = None
    status: Any = None
