# SPDX-License-Identifier: Apache-2.0
"""Services and EndpointSlices by the thousand, as an API server would list them."""

from __future__ import annotations

import json
from typing import Any


def service(number: int) -> dict[str, Any]:
    """A ClusterIP Service with one port."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": f"service-{number}",
            "namespace": f"team-{number % 50}",
            "uid": f"00000000-0000-0000-0000-{number:012d}",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": f"service-{number}"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}",
            "selector": {"app": f"service-{number}"},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
        },
    }


def endpoint_slice(number: int, endpoints: int, shift: int = 0) -> dict[str, Any]:
    """The slice of :func:`service`; ``shift`` moves its first endpoint to another address."""
    namespace = f"team-{number % 50}"
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"service-{number}-abcde",
            "namespace": namespace,
            "uid": f"00000000-0000-0001-0000-{number:012d}",
            "labels": {"kubernetes.io/service-name": f"service-{number}", "app": f"service-{number}"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [_address(number, endpoints, -shift if shift and not i else i)],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": f"node-{i % 100}",
                "zone": f"zone-{i % 3}",
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": f"service-{number}-{i}"},
            }
            for i in range(endpoints)
        ],
    }


def pod(number: int) -> dict[str, Any]:
    """A running Pod."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"pod-{number}",
            "namespace": f"team-{number % 50}",
            "uid": f"00000000-0000-0002-0000-{number:012d}",
            "labels": {"app": f"service-{number % 1000}", "version": "v1"},
        },
        "spec": {
            "nodeName": f"node-{number % 100}",
            "containers": [{"name": "app", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
        "status": {
            "phase": "Running",
            "podIPs": [{"ip": _address(0, 0, number)}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def listing(kind: str, items: list[dict[str, Any]]) -> bytes:
    """A list as bytes of JSON."""
    version = items[0]["apiVersion"]
    return json.dumps({"apiVersion": version, "kind": f"{kind}List", "items": items}).encode()


def _address(number: int, endpoints: int, index: int) -> str:
    at = number * endpoints + index if index >= 0 else (1 << 23) - 1 - number
    return f"10.{128 + (at >> 16)}.{at >> 8 & 255}.{at & 255}"
