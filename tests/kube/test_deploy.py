# SPDX-License-Identifier: Apache-2.0
"""``deploy/`` as a real API server takes it: every overlay without a warning, and settings that load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml

from netaccel import __version__
from netaccel.apiserver import servers
from netaccel.cluster.controlplane import ControlPlane
from netaccel.config import Settings, load
from netaccel.errors import ConfigError

DEPLOY = Path(__file__).parents[2] / "deploy"
OVERLAYS = sorted(path.parent for path in DEPLOY.glob("overlays/*/kustomization.yaml"))
ALL = [DEPLOY, *OVERLAYS, DEPLOY / "uninstall"]
AGENTS = [DEPLOY, *OVERLAYS]
# Enough of the Prometheus operator's kind for the API server to know its name.
SERVICE_MONITORS = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: servicemonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  names: {kind: ServiceMonitor, plural: servicemonitors}
  scope: Namespaced
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""


class Kubectl(Protocol):
    def __call__(self, *words: str, stdin: str = "") -> str: ...


@pytest.fixture
def rendered(kubectl: Kubectl) -> Callable[[Path], list[dict[str, Any]]]:
    def render(folder: Path) -> list[dict[str, Any]]:
        return list(yaml.safe_load_all(kubectl("kustomize", str(folder))))

    return render


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane) -> Iterator[Kubectl]:
    """A cluster with what a dry run can't make: the namespace, the kind of somebody else."""
    kubectl = control_plane.kubectl
    kubectl("apply", "--server-side", "-f", str(DEPLOY / "base/namespace.yaml"))
    kubectl("apply", "--server-side", "-f", "-", stdin=SERVICE_MONITORS)
    kubectl("wait", "--for=condition=Established", "crd/servicemonitors.monitoring.coreos.com")
    yield kubectl
    kubectl("delete", "crd", "servicemonitors.monitoring.coreos.com", "--wait=false")
    # The namespace stays with the control plane: others use it, and its end would take them seconds.


def name(folder: Path) -> str:
    return folder.name


def one(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (o for o in objects if o["kind"] == kind)
    return found


@pytest.mark.parametrize("folder", ALL, ids=name)
def test_the_api_server_accepts_every_object_without_a_warning(cluster: Kubectl, folder: Path) -> None:
    told = cluster("apply", "-k", str(folder), "--dry-run=server", "--warnings-as-errors")
    assert "daemonset.apps/netaccel" in told


@pytest.mark.parametrize("folder", ALL, ids=name)
def test_every_container_runs_this_version(rendered: Callable[..., Any], folder: Path) -> None:
    pod = one(rendered(folder), "DaemonSet")["spec"]["template"]["spec"]
    images = {container["image"] for container in (*pod["initContainers"], *pod["containers"])}
    assert images == {f"netaccel:{__version__}"}


def settings(objects: list[dict[str, Any]], folder: Path) -> Settings:
    """What the agent of these objects reads: the mounted file and its container's environment."""
    file = folder / "config.yaml"
    file.write_text(one(objects, "ConfigMap")["data"]["config.yaml"])
    (agent,) = one(objects, "DaemonSet")["spec"]["template"]["spec"]["containers"]
    environment = {e["name"]: e.get("value", "node-1") for e in agent["env"]}
    return load(environment=environment, file=file)


@pytest.mark.parametrize("folder", AGENTS, ids=name)
def test_settings_load_and_metrics_can_be_reached_from_outside(
    rendered: Callable[..., Any], tmp_path: Path, folder: Path
) -> None:
    found = settings(rendered(folder), tmp_path)
    assert found.node_name == "node-1"
    assert found.metrics is not None
    assert (found.metrics.port, found.http.host) == (9963, "127.0.0.1")
    assert found.kube_proxy == ("instead" if "instead" in folder.name else "beside")


def test_instead_of_kube_proxy_refuses_to_start_until_told_where_the_api_servers_are(
    rendered: Callable[..., Any], tmp_path: Path
) -> None:
    found = settings(rendered(DEPLOY / "overlays/instead-of-kube-proxy"), tmp_path)
    with pytest.raises(ConfigError, match="apiServers") as refused:
        servers.check(found, in_pod=True)
    assert "\n" not in str(refused.value)


def test_the_uninstaller_takes_the_place_of_the_agents(rendered: Callable[..., Any]) -> None:
    agents, uninstaller = (one(rendered(folder), "DaemonSet") for folder in (DEPLOY, DEPLOY / "uninstall"))
    assert uninstaller["metadata"] == agents["metadata"]
    assert uninstaller["spec"]["selector"] == agents["spec"]["selector"]
    assert "agent" not in [c["name"] for c in uninstaller["spec"]["template"]["spec"]["containers"]]


def test_no_pod_is_privileged_for_longer_than_its_init_container(rendered: Callable[..., Any]) -> None:
    for folder in ALL:
        for container in one(rendered(folder), "DaemonSet")["spec"]["template"]["spec"]["containers"]:
            context = container["securityContext"]
            assert not context.get("privileged"), folder
            assert context["capabilities"]["drop"] == ["ALL"], folder
