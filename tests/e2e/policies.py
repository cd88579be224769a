# SPDX-License-Identifier: Apache-2.0
"""Policies of every kind, written short."""

from __future__ import annotations

from typing import Any

from netaccel.lab.raw import Object

_ANY: Object = {}


def labels(**wanted: str) -> Object:
    """A selector."""
    return {"matchLabels": wanted}


def network_policy(name: str, pods: Object = _ANY, *, namespace: str = "default", **spec: Any) -> Object:
    """``ingress``, ``egress`` and ``policyTypes`` as given; ``from_`` in a rule is ``from``."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": pods, **spec},
    }


def traffic_policy(name: str, pods: Object = _ANY, *, namespace: str = "default", **spec: Any) -> Object:
    return {
        "apiVersion": "netaccel.io/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"subject": {"pods": pods}, **spec},
    }


def cluster_traffic_policy(
    name: str, priority: int, pods: Object = _ANY, *, namespaces: Object = _ANY, **spec: Any
) -> Object:
    return {
        "apiVersion": "netaccel.io/v1alpha1",
        "kind": "ClusterTrafficPolicy",
        "metadata": {"name": name},
        "spec": {"priority": priority, "subject": {"namespaces": namespaces, "pods": pods}, **spec},
    }


def cluster_network_policy(
    name: str, priority: int, pods: Object = _ANY, *, tier: str = "Admin", **spec: Any
) -> Object:
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {
            "tier": tier,
            "priority": priority,
            "subject": {"pods": {"namespaceSelector": {}, "podSelector": pods}},
            **spec,
        },
    }


def sources(*peers: Object, **rest: Any) -> Object:
    """An ingress rule."""
    return {"from": list(peers), **rest}


def destinations(*peers: Object, **rest: Any) -> Object:
    """An egress rule."""
    return {"to": list(peers), **rest}


def pods(**wanted: str) -> Object:
    """A peer: pods of the policy's own namespace."""
    return {"podSelector": labels(**wanted)}


def namespaces(**wanted: str) -> Object:
    """A peer: all pods of these namespaces."""
    return {"namespaceSelector": labels(**wanted)}
