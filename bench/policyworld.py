# SPDX-License-Identifier: Apache-2.0
"""A cluster with pods by the ten thousand and policies by the thousand, as an API server would list it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench import world
from netaccel.model.event import Event
from netaccel.model.snapshot import World

APPS, TEAMS, NODES = 1_000, 50, 100
Json = dict[str, Any]


def pod_name(number: int) -> tuple[str, str]:
    """Namespace and name."""
    return f"team-{number % TEAMS}", f"pod-{number}"


def node_of(number: int) -> str:
    """Pods of all apps are on every node in turn."""
    return f"node-{1 + number // 7 % NODES}"


def pod(number: int) -> Json:
    """A running Pod of one of the apps."""
    made = world.pod(number)
    made["spec"]["nodeName"] = node_of(number)
    made["metadata"]["labels"] |= {"tier": f"tier-{number % 5}", "pod-template-hash": f"{number % APPS:x}"}
    made["status"]["podIPs"].append({"ip": f"fd00:{number >> 8:x}::{number & 255:x}"})
    return made


def namespace(number: int) -> Json:
    """A Namespace of some environment."""
    name = f"team-{number}"
    labels = {"kubernetes.io/metadata.name": name, "env": ("prod", "test", "dev")[number % 3]}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def node(number: int) -> Json:
    """A Node."""
    status = {"addresses": [{"type": "InternalIP", "address": f"172.30.{number >> 8}.{10 + (number & 127)}"}]}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"node-{number}", "labels": {"role": "worker"}},
        "status": status,
    }


def policy(number: int, variant: int = 0) -> Json:
    """One for an app: of ten, eight NetworkPolicies, a TrafficPolicy, a ClusterNetworkPolicy."""
    match number % 10:
        case 8:
            return _traffic(number, variant)
        case 9:
            return _cluster(number, variant)
    return _network(number, variant)


def _metadata(number: int) -> Json:
    return {
        "name": f"policy-{number}",
        "namespace": f"team-{number % TEAMS}",
        "uid": f"00000000-0000-0000-0003-{number:012d}",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }


def _app(number: int) -> Json:
    return {"matchLabels": {"app": f"service-{number % APPS}"}}


def _network(number: int, variant: int) -> Json:
    other = {"podSelector": _app(number + TEAMS)}
    teams = {"namespaceSelector": {"matchLabels": {"env": ("prod", "test", "dev")[(number + variant) % 3]}}}
    block = {
        "ipBlock": {"cidr": f"10.{number & 127}.0.0/16", "except": [f"10.{number & 127}.{variant}.0/24"]}
    }
    spec = {
        "podSelector": _app(number) if number % 4 else {"matchLabels": {"tier": f"tier-{number % 5}"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [other], "ports": [{"port": 8080 + variant}, {"port": "http"}]},
            {"from": [teams | other], "ports": [{"port": 9000, "endPort": 9100 + variant}]},
        ],
        "egress": [
            {"to": [{"podSelector": {}}]},
            {"to": [block], "ports": [{"port": 443}]},
            {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]},
        ],
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(number),
        "spec": spec,
    }


def _traffic(number: int, variant: int) -> Json:
    spec = {
        "mode": "Monitor" if number % 20 < 10 else "Enforce",
        "subject": {"pods": _app(number)},
        "ingress": [
            {
                "action": "Drop",
                "from": [{"podSelector": _app(number + 2 * TEAMS)}],
                "ports": [{"port": 22 + variant}],
            },
            {"action": "Allow", "from": [{"podSelector": {}}]},
        ],
    }
    return {
        "apiVersion": "netaccel.io/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": _metadata(number),
        "spec": spec,
    }


def _cluster(number: int, variant: int) -> Json:
    env = {"matchLabels": {"env": ("prod", "test", "dev")[number % 3]}}
    spec = {
        "tier": "Admin" if number % 20 < 10 else "Baseline",
        "priority": number % 1000,
        "subject": {"pods": {"namespaceSelector": {}, "podSelector": _app(number)}},
        "ingress": [
            {
                "name": "tests",
                "action": "Deny",
                "from": [{"namespaces": env}],
                "protocols": [{"tcp": {"destinationPort": {"number": 2379 + variant}}}],
            }
        ],
    }
    metadata = _metadata(number)
    del metadata["namespace"]
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": metadata,
        "spec": spec,
    }


def large_policy(rules: int) -> bytes:
    """One policy for all pods of a namespace, whose every rule has an address and a port of its own."""
    ingress = [
        {
            "from": [{"ipBlock": {"cidr": f"192.{n >> 16}.{n >> 8 & 255}.{n & 255}/32"}}],
            "ports": [{"port": 1 + n % 60_000}],
        }
        for n in range(rules)
    ]
    spec = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": ingress}
    made = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(0),
        "spec": spec,
    }
    return world.listing("NetworkPolicy", [made])


def lists(pods: int, policies: int) -> list[bytes]:
    """Everything, a list for each kind."""
    made = [policy(n) for n in range(policies)]
    kinds = sorted({one["kind"] for one in made})
    return [
        world.listing("Namespace", [namespace(n) for n in range(TEAMS)]),
        world.listing("Node", [node(n + 1) for n in range(NODES)]),
        world.listing("Pod", [pod(n) for n in range(pods)]),
        *(world.listing(kind, [one for one in made if one["kind"] == kind]) for kind in kinds),
    ]


def changed_policy(number: int, policies: int) -> bytes:
    """One of the policies with other ports, peers and blocks."""
    made = policy(number * 7 % policies, 1 + number % 9)
    return world.listing(made["kind"], [made])


def new_pod(number: int, pods: int) -> bytes:
    """One more pod; every other one is alike to no pod that is there."""
    made = pod(pods + number)
    if number % 2:
        made["metadata"]["labels"]["pod-template-hash"] = f"new-{number}"
    return world.listing("Pod", [made])


def world_of(node_name: str, events: Iterable[Event]) -> World:
    """The world that these events tell."""
    found = World(node_name)
    found.apply_all(events)
    return found
