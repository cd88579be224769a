# SPDX-License-Identifier: Apache-2.0
"""How a lab is, as ``lab status`` shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from netaccel.lab.agents import Agent
from netaccel.lab.allocate import ingress_addresses
from netaccel.lab.plan import Plan
from netaccel.lab.pods import Pod
from netaccel.lab.raw import Name, Object, mappings, number, spec, string, strings


def report(
    pid: int,
    plan: Plan,
    pods: Mapping[Name, Pod],
    agents: Iterable[Agent],
    services: Mapping[Name, Object],
    problems: Mapping[str, str],
) -> dict[str, Any]:
    """Return the status as JSON has it."""
    by_node = {agent.node.name: agent for agent in agents}
    return {
        "controller": pid,
        "nodes": [
            {
                "name": node.name,
                "addresses": [node.address4, node.address6],
                "zone": node.zone,
                "agent": _agent(by_node.get(node.name)),
            }
            for node in plan.nodes
        ],
        "pods": [_pod(pod) for _, pod in sorted(pods.items())],
        "services": [_service(name, service) for name, service in services.items()],
        "problems": dict(problems),
    }


def _agent(agent: Agent | None) -> dict[str, Any] | None:
    if agent is None:
        return None
    return {
        "pid": agent.pid,
        "ready": agent.ready,
        "restarts": agent.restarts,
        "message": agent.message,
        "log": str(agent.log),
    }


def _pod(pod: Pod) -> dict[str, Any]:
    return {
        "namespace": pod.name.namespace,
        "name": pod.name.name,
        "node": pod.node.name,
        "addresses": list(pod.addresses),
        "running": pod.running,
        "ended": pod.ended,
        "ready": pod.ready,
        "terminating": bool(pod.deleted),
        "restarts": pod.restarts,
        "message": pod.message,
        "log": str(pod.log),
        "hostNetwork": pod.host_network,
    }


def _service(name: Name, service: Object) -> dict[str, Any]:
    body = spec(service)
    return {
        "namespace": name.namespace,
        "name": name.name,
        "type": string(body.get("type")) or "ClusterIP",
        "clusterIPs": strings(body.get("clusterIPs")),
        "ports": [
            {
                "name": string(port.get("name")),
                "protocol": string(port.get("protocol")) or "TCP",
                "port": number(port.get("port")),
                "nodePort": number(port.get("nodePort")),
            }
            for port in mappings(body.get("ports"))
        ],
        "outside": ingress_addresses(service),
    }
