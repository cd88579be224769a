# SPDX-License-Identifier: Apache-2.0
"""The objects of a large cluster, and among them some Services whose endpoints answer. Pure.

Endpoints of the crowd are addresses that nobody has. Canaries are spread over the list: the first, the last
by creation, the last by name (``team-9/service-959``; kube-proxy writes in the order of names).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from bench import world

ENDPOINTS = 50
NAMESPACES = 50
PORT = 80
TARGET_PORT = 8080
CANARIES = (0, 9, 333, 777, 959, 999, 1999, 2999, 3999, 4999)
MOVER = "mover"
REAL = "10.244.2.128/25"
"""Addresses of one pod on node-2; it answers at all of them."""

REAL_NODE = "node-2"

_READY = {
    "type": "Ready",
    "status": "True",
    "reason": "KubeletReady",
    "message": "as a kubelet has it",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}
_FIRST_ADDRESS = 4096  # 10.96.16.0: clear of the Services kubernetes and DNS
_FIRST_NODE_PORT = 30100
_MOVER_ADDRESS, _MOVER_NODE_PORT = "10.96.1.1", 30099
SERVICES = "/api/v1/namespaces/{}/services"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices"


class Post(NamedTuple):
    """A request: method, path, body."""

    method: str
    path: str
    body: bytes


class Target(NamedTuple):
    """Where a Service is reached."""

    name: str
    address: str
    node_port: int


def real_address(number: int) -> str:
    """One of the addresses that answer, 0 to 125; its last octet is what the server says."""
    return f"10.244.2.{129 + number}"


def canaries(services: int) -> list[Target]:
    """Those among the first so many Services."""
    return [
        Target(f"service-{n}", _address(n), _FIRST_NODE_PORT + i)
        for i, n in enumerate(CANARIES)
        if n < services
    ]


def unreal(services: int) -> list[int]:
    """The numbers of all but the canaries."""
    return [number for number in range(services) if number not in CANARIES]


def mover() -> Target:
    """The Service whose one endpoint moves."""
    return Target(MOVER, _MOVER_ADDRESS, _MOVER_NODE_PORT)


def namespaces() -> Iterator[Post]:
    """Those of the crowd, and what a controller would put there: pods are refused without an account."""
    for number in range(NAMESPACES):
        name = f"team-{number}"
        yield _post("/api/v1/namespaces", {"metadata": {"name": name}})
        yield _post(f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "default"}})


def nodes(addresses: Iterable[tuple[str, str, str]]) -> Iterator[Post]:
    """Nodes by name, address and pod CIDR, ready."""
    for name, address, cidr in addresses:
        body = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        }
        yield _post("/api/v1/nodes", body)
        status = {
            "addresses": [{"type": "InternalIP", "address": address}],
            "conditions": [_READY],
        }
        yield Post("PUT", f"/api/v1/nodes/{name}/status", json.dumps(body | {"status": status}).encode())


def services(numbers: range, endpoints: int = ENDPOINTS) -> Iterator[Post]:
    """The Services with these numbers, each followed by its slice."""
    for number in numbers:
        yield _post(SERVICES.format(f"team-{number % NAMESPACES}"), _service(number))
        yield _post(SLICES.format(f"team-{number % NAMESPACES}"), _slice(number, endpoints))


def mover_objects() -> Iterator[Post]:
    """The Service whose endpoint moves, and its slice."""
    body = _without_origin(world.service(0))
    body["metadata"] |= {"name": MOVER, "namespace": "team-0"}
    body["spec"] |= {"clusterIP": _MOVER_ADDRESS, "type": "NodePort"}
    body["spec"]["ports"][0] |= {"nodePort": _MOVER_NODE_PORT}
    yield _post(SERVICES.format("team-0"), body)
    yield _post(SLICES.format("team-0"), _mover_slice(0))


def move(number: int) -> Post:
    """The change that has the mover's endpoint at :func:`real_address` ``number``."""
    body = _mover_slice(number)
    return Post("PUT", f"{SLICES.format('team-0')}/{body['metadata']['name']}", json.dumps(body).encode())


def pods(numbers: range) -> Iterator[Post]:
    """Pods, bound to nodes that need not exist."""
    for number in numbers:
        body = _without_origin(world.pod(number))
        body["spec"]["containers"][0]["image"] = "nobody/nothing"
        body["spec"]["automountServiceAccountToken"] = False
        status = body.pop("status")
        path = f"/api/v1/namespaces/{body['metadata']['namespace']}/pods"
        yield _post(path, body)
        full = json.dumps(body | {"status": status}).encode()
        yield Post("PUT", f"{path}/{body['metadata']['name']}/status", full)


def shifted(number: int, shift: int) -> Post:
    """A change of one endpoint among the crowd's: a pod was replaced. ``shift`` 0 takes it back."""
    body = _slice(number, ENDPOINTS, shift)
    where = body["metadata"]
    return Post("PUT", f"{SLICES.format(where['namespace'])}/{where['name']}", json.dumps(body).encode())


def _service(number: int) -> dict[str, Any]:
    body = _without_origin(world.service(number))
    body["spec"]["clusterIP"] = _address(number)
    if number in CANARIES:
        body["spec"]["type"] = "NodePort"
        body["spec"]["ports"][0]["nodePort"] = _FIRST_NODE_PORT + CANARIES.index(number)
    return body


def _slice(number: int, endpoints: int, shift: int = 0) -> dict[str, Any]:
    body = _without_origin(world.endpoint_slice(number, endpoints, shift))
    if number in CANARIES:
        for i, endpoint in enumerate(body["endpoints"]):
            endpoint.update(_real(i))
    return body


def _mover_slice(number: int) -> dict[str, Any]:
    body = _without_origin(world.endpoint_slice(0, 1))
    body["metadata"] |= {"name": f"{MOVER}-abcde", "namespace": "team-0"}
    body["metadata"]["labels"]["kubernetes.io/service-name"] = MOVER
    body["endpoints"][0] |= _real(number)
    return body


def _real(number: int) -> dict[str, Any]:
    """Where it says it is, it is: what is local isn't masqueraded."""
    return {"addresses": [real_address(number)], "nodeName": REAL_NODE}


def _address(number: int) -> str:
    number += _FIRST_ADDRESS
    return f"10.96.{number >> 8}.{number & 255}"


def _without_origin(body: dict[str, Any]) -> dict[str, Any]:
    """Leave to the API server what it fills in; without a selector nobody else makes slices."""
    for name in ("uid", "creationTimestamp"):
        body["metadata"].pop(name, None)
    if "selector" in body.get("spec", {}):
        del body["spec"]["selector"]
    return body


def _post(path: str, body: dict[str, Any]) -> Post:
    return Post("POST", path, json.dumps(body).encode())
