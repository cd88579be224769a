# SPDX-License-Identifier: Apache-2.0
"""Objects that the tests apply. Pods run the lab's server (`netaccel.lab.server`) in netaccel's own image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import netaccel
from netaccel.lab import server as lab_server

Object = dict[str, Any]
IMAGE = f"netaccel:{netaccel.__version__}"
HTTP, UDP = 8080, 8081
DRAIN = 6
"""Seconds that a server serves on after SIGTERM: longer than its endpoint takes to go everywhere."""
_SERVER = Path(lab_server.__file__).read_text(encoding="utf-8")
# Pods on nodes without a service proxy or a Ready kubelet are started as well.
_TOLERATIONS = [{"operator": "Exists"}]


def container(name: str, program: str, *words: str, **fields: Any) -> Object:
    """A container of a Python program, given as text."""
    return {
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["python3", "-I", "-c", program, *words],
        "env": [
            {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        **fields,
    }


def _template(app: str, **spec: Any) -> Object:
    server = container(
        "server",
        _SERVER,
        *("--http", str(HTTP), "--udp", str(UDP), "--drain", str(DRAIN)),
        ports=[{"containerPort": HTTP}, {"containerPort": UDP, "protocol": "UDP"}],
        readinessProbe={
            "httpGet": {"path": "/healthz", "port": HTTP},
            "periodSeconds": 1,
            "timeoutSeconds": 5,
        },
    )
    return {
        "metadata": {"labels": {"app": app}},
        "spec": {"terminationGracePeriodSeconds": 4 * DRAIN, "containers": [server], **spec},
    }


def deployment(app: str, replicas: int) -> Object:
    """Servers that are replaced one by one, and never fewer than asked for; spread over the nodes."""
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": app}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": app},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": app}},
            "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": _template(app, topologySpreadConstraints=[spread]),
        },
    }


def daemon_set(app: str) -> Object:
    """A server on every node."""
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": app},
        "spec": {
            "selector": {"matchLabels": {"app": app}},
            "template": _template(app, tolerations=_TOLERATIONS),
        },
    }


def service(name: str, app: str = "", **spec: Any) -> Object:
    """A dual-stack NodePort Service of an app; HTTP at port 80, UDP at 81."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "type": "NodePort",
            "selector": {"app": app or name},
            "ipFamilyPolicy": "PreferDualStack",
            "ports": [
                {"name": "http", "port": 80, "targetPort": HTTP},
                {"name": "echo", "port": 81, "targetPort": UDP, "protocol": "UDP"},
            ],
            **spec,
        },
    }


def pod(name: str, node: str, program: str, *words: str) -> Object:
    """A pod on one node that runs a program once."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "tolerations": _TOLERATIONS,
            "containers": [container(name, program, *words)],
        },
    }
