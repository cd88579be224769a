# SPDX-License-Identifier: Apache-2.0
"""Health as a load balancer outside the node hears it from a running agent."""

from __future__ import annotations

import http.client
import json
import re
import signal
from contextlib import closing
from typing import Any

import pytest
from ground import PATIENCE, Node

from netaccel.datapath import netlink

pytestmark = pytest.mark.root

CHECK, HEALTHZ = 30999, 10256
INSTEAD = {"kube_proxy": "instead"}
ADDRESSES = pytest.mark.parametrize("address", ["10.77.0.1", "fd77::1"])


def service(name: str = "web", ip: str = "10.96.0.10", check: int = CHECK, **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "labels": labels},
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": ip,
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": check,
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
        },
    }


def endpoints(*nodes: str, first: int = 2) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [
            {"addresses": [f"10.77.1.{first + index}"], "nodeName": name} for index, name in enumerate(nodes)
        ],
    }


def a_node(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}, "spec": spec}


def hear(node: Node, port: int, path: str = "/", address: str = "10.77.0.1") -> tuple[int, Any]:
    """Status and body of what the neighbour outside hears; (0, None) where nobody listens."""
    with netlink.inside_namespace(node.outside):
        connection = http.client.HTTPConnection(address, port, timeout=PATIENCE)
        with closing(connection):
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
            except ConnectionError:  # refused, or reset because the port was closing
                return 0, None
            return answer.status, json.loads(answer.read() or "null")


def heard(node: Node, port: int = CHECK) -> tuple[int, int]:
    """Status and local endpoints."""
    status, body = hear(node, port)
    return status, body["localEndpoints"] if body else -1


@ADDRESSES
def test_a_load_balancer_hears_how_many_endpoints_are_here(node: Node, address: str) -> None:
    node.put("web.yaml", service(), endpoints("node-1", "node-2"))
    agent = node.serve(**INSTEAD)
    node.until(lambda: heard(node) == (200, 1), agent)
    assert hear(node, CHECK, "/", address) == hear(node, CHECK)
    assert hear(node, CHECK)[1]["service"] == {"namespace": "shop", "name": "web"}
    node.put("web.yaml", service(), endpoints("node-1", "node-1", "node-2"))
    node.until(lambda: heard(node) == (200, 2), agent)
    node.put("web.yaml", service(), endpoints("node-2", first=3))
    node.until(lambda: heard(node) == (503, 0), agent)
    node.put("web.yaml")
    node.until(lambda: heard(node) == (0, -1), agent)


@ADDRESSES
def test_a_node_about_to_be_deleted_is_no_target_and_lives(node: Node, address: str) -> None:
    agent = node.serve(**INSTEAD)
    node.until(lambda: hear(node, HEALTHZ, "/healthz", address)[0] == 200, agent)
    node.put("node.yaml", a_node(taints=[{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]))
    node.until(lambda: hear(node, HEALTHZ, "/healthz", address)[0] == 503, agent)
    assert hear(node, HEALTHZ, "/healthz")[1]["nodeEligible"] is False
    assert hear(node, HEALTHZ, "/livez", address)[0] == 200
    node.put("node.yaml", a_node())
    node.until(lambda: hear(node, HEALTHZ, "/healthz", address)[0] == 200, agent)


def test_beside_a_kube_proxy_its_ports_stay_its_own(node: Node) -> None:
    node.put("web.yaml", service(), endpoints("node-1"))
    node.serve()
    assert heard(node) == (0, -1)
    assert hear(node, HEALTHZ, "/healthz") == (0, None)


def test_beside_a_kube_proxy_services_that_ask_for_this_proxy_are_its_own(node: Node) -> None:
    label = {"service.kubernetes.io/service-proxy-name": "netaccel"}
    node.put("web.yaml", service(**label), endpoints("node-1"), service("api", "10.96.0.11", CHECK + 1))
    agent = node.serve(service_proxy_name="netaccel")
    node.until(lambda: heard(node) == (200, 1), agent)
    assert heard(node, CHECK + 1) == (0, -1)
    found = json.loads(node.get("/api/v1/services"))
    assert [view["name"] for view in found] == ["web"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_its_ports_close_with_the_agent_and_are_back_with_the_next_one(node: Node, number: int) -> None:
    node.put("web.yaml", service(), endpoints("node-1"))
    for _ in range(2):
        agent = node.serve(**INSTEAD)
        node.until(lambda: heard(node) == (200, 1), agent)
        node.stop(agent, number)
        assert heard(node) == (0, -1)
        assert hear(node, HEALTHZ, "/healthz") == (0, None)


def test_a_health_check_port_that_is_a_node_port_is_told_and_the_rest_goes_on(node: Node) -> None:
    agent = node.serve(**INSTEAD)
    (node.cgroup / "cgroup.procs").write_text(str(agent.pid))  # as on a host, where all are in its tree
    node.put("web.yaml", service("api", "10.96.0.11", CHECK + 1))
    node.until(lambda: heard(node, CHECK + 1) == (503, 0), agent)
    node.put("more.yaml", service(), endpoints("node-1"), service("odd", "10.96.0.12", 30080))
    node.until(lambda: heard(node) == (200, 1), agent)
    node.until(lambda: warned(node), agent)
    (line,) = warned(node)
    assert re.match(r"healthCheckNodePort of Service shop/odd at \S*:30080: .*: free it", line)


def warned(node: Node) -> list[str]:
    return [line for line in (node.status() or {})["warnings"] if "healthCheckNodePort" in line]


def test_a_slice_says_which_service_it_waits_for(node: Node) -> None:
    node.put("web.yaml", endpoints("node-1"))
    node.serve()
    status = node.status()
    assert status is not None
    assert status["waiting"] == ["EndpointSlice shop/web-1 waits for Service shop/web"]
