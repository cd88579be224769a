# SPDX-License-Identifier: Apache-2.0
"""Objects that a cluster has beside what people write: Nodes and Namespaces; and the scheduler. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from netaccel.lab.plan import NodePlan, Plan
from netaccel.lab.raw import Object, labels, mapping, metadata, name_of, spec, string

ZONE = "topology.kubernetes.io/zone"
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def fill_node(node: NodePlan, written: Object) -> Object:
    """Return a Node with what kubelet and cloud fill in; what people wrote of it stays."""
    meta, body, status = metadata(written), spec(written), mapping(written.get("status"))
    return {
        "apiVersion": "v1",
        "kind": "Node",
        **written,
        "metadata": {
            **meta,
            "name": node.name,
            "labels": {"kubernetes.io/hostname": node.name, ZONE: node.zone, **labels(meta.get("labels"))},
        },
        "spec": {
            "podCIDR": node.pod_cidr4,
            "podCIDRs": [node.pod_cidr4, node.pod_cidr6],
            **body,
        },
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": node.address4},
                {"type": "InternalIP", "address": node.address6},
                {"type": "Hostname", "address": node.name},
            ],
            "conditions": [{"type": "Ready", "status": "True"}],
            **status,
        },
    }


def missing_nodes(plan: Plan, written: Mapping[str, Object]) -> list[Object]:
    """Return Nodes that nobody wrote."""
    return [fill_node(node, {}) for node in plan.nodes if node.name not in written]


def zone_of(node: NodePlan, written: Mapping[str, Object]) -> str:
    """Return a node's zone, by its label where somebody wrote one."""
    return labels(metadata(written.get(node.name, {})).get("labels")).get(ZONE, node.zone)


def missing_namespaces(objects: Iterable[Object]) -> list[Object]:
    """Return Namespaces that objects are in and nobody wrote."""
    used, written = {"default"}, set()
    for item in objects:
        name = name_of(item)
        if item.get("kind") == "Namespace" and name:
            written.add(name.name)
        elif name and item.get("kind") != "Node":
            used.add(name.namespace)
    return [
        fill_namespace({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for name in sorted(used - written)
        if _DNS_LABEL.fullmatch(name)
    ]


def fill_namespace(written: Object) -> Object:
    """Return a Namespace with the label that every API server gives it."""
    meta = metadata(written)
    name = {"kubernetes.io/metadata.name": string(meta.get("name"))}
    return {**written, "metadata": {**meta, "labels": {**labels(meta.get("labels")), **name}}}


def pick_node(plan: Plan, pod: Object, taken: Iterable[NodePlan]) -> NodePlan | None:
    """Return the node that a pod asks for, or the one with fewest pods; None where there is no such node."""
    wanted = string(spec(pod).get("nodeName")) or labels(spec(pod).get("nodeSelector")).get(
        "kubernetes.io/hostname", ""
    )
    if wanted:
        return next((node for node in plan.nodes if node.name == wanted), None)
    load = Counter(node.name for node in taken)
    return min(plan.nodes, key=lambda node: (load[node.name], node.number))
