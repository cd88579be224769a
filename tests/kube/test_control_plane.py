# SPDX-License-Identifier: Apache-2.0
"""The ground that this folder's tests stand on does what they rely on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from netaccel.cluster import audit
from netaccel.cluster.arguments import ALL_CONTROLLERS, Options
from netaccel.cluster.controlplane import ControlPlane
from netaccel.errors import LabError
from netaccel.lab.handle import wait_for


def test_it_is_the_version_that_was_built(kubectl: Callable[..., str]) -> None:
    version = json.loads(kubectl("version", "-o", "json"))
    assert version["serverVersion"]["gitVersion"] == "v1.34.4"


def test_a_service_gets_addresses_of_both_families(
    kubectl: Callable[..., str], apply: Callable[..., str], namespace: str
) -> None:
    spec = {"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]}
    apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}, namespace)
    addresses = json.loads(kubectl("-n", namespace, "get", "service", "web", "-o", "json"))["spec"][
        "clusterIPs"
    ]
    assert addresses[0].startswith("10.96.")
    assert addresses[1].startswith("fd00:10:96::")


def test_a_user_has_no_rights_until_bound(
    control_plane: ControlPlane,
    kubectl: Callable[..., str],
    kubeconfig_for: Callable[..., Path],
    namespace: str,
) -> None:
    nobody, group = kubeconfig_for(f"user-{namespace}", [f"group-{namespace}"]), f"group-{namespace}"
    with pytest.raises(LabError, match=f'User "user-{namespace}" cannot list'):
        kubectl("-n", namespace, "get", "pods", user=nobody)
    kubectl("-n", namespace, "create", "rolebinding", "may-see", "--clusterrole=view", f"--group={group}")
    # The authorizer hears of a binding a moment after it was written.
    asked = ("-n", namespace, "get", "pods")
    wait_for(lambda: control_plane.run_kubectl(*asked, user=nobody).returncode == 0, "the right", 60)


def test_the_audit_log_says_who_was_refused_what(
    control_plane: ControlPlane, kubeconfig_for: Callable[..., Path], namespace: str
) -> None:
    user = f"user-{namespace}"
    control_plane.run_kubectl("-n", namespace, "get", "pods", user=kubeconfig_for(user))
    asked = [request for request in audit.read(control_plane.audit_log) if request.user == user]
    assert ("list", "", "pods", namespace, 403) in [
        (request.verb, request.group, request.resource, request.namespace, request.code) for request in asked
    ]


def test_a_killed_server_comes_back_with_what_it_had(own_control_plane: ControlPlane) -> None:
    own_control_plane.kubectl("create", "configmap", "kept", "-n", "default")
    port = own_control_plane.port
    own_control_plane.kill_api_server()
    assert not own_control_plane.is_ready()
    own_control_plane.start_api_server()
    assert own_control_plane.port == port
    assert "kept" in own_control_plane.kubectl("get", "configmaps", "-o", "name")


def test_a_feature_can_be_switched_off(start_control_plane: Callable[[Options], ControlPlane]) -> None:
    path = (
        "/api/v1/configmaps?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&timeoutSeconds=1"
        "&resourceVersionMatch=NotOlderThan&resourceVersion="
    )
    plane = start_control_plane(Options(feature_gates={"WatchList": False}))
    with pytest.raises(LabError, match="sendInitialEvents is forbidden"):
        plane.kubectl("get", f"--raw={path}")


def test_with_managers_a_deployment_gets_pods_and_the_scheduler_looks_for_nodes(
    start_control_plane: Callable[[Options], ControlPlane],
) -> None:
    plane = start_control_plane(Options(controllers=ALL_CONTROLLERS, scheduler=True))
    plane.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=60s", timeout=90)
    plane.kubectl("create", "deployment", "web", "--image=none", "--replicas=2")
    condition = '{.items[*].status.conditions[?(@.type=="PodScheduled")].message}'
    asked = ("get", "pods", "-o", f"jsonpath={condition}")
    wait_for(lambda: plane.kubectl(*asked).count("no nodes available") == 2, "both looked at", 60)
