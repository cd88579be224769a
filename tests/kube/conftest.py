# SPDX-License-Identifier: Apache-2.0
"""A real API server for the tests of this folder.

``control_plane``
    `netaccel.cluster.controlplane.ControlPlane`, one for the session: etcd and kube-apiserver on 127.0.0.1
    (``.server``, ``.port``, ``.admin``: the kubeconfig, ``.audit_log``: read it by `netaccel.cluster.audit`)
    and the controllers that remove namespaces and orphans and make service accounts. None touches Services,
    EndpointSlices, Pods or Nodes: these are the tests' own. Leave it running as it is.
``kubectl``
    ``kubectl("get", "pods", user=KUBECONFIG, stdin=TEXT) -> str``: what it printed. Raises LabError with
    its complaint. Without ``user``: as admin.
``apply``
    ``apply(objects, namespace)``: server-side apply of one object, several, or text in YAML.
``kubeconfig_for``
    ``kubeconfig_for("alice", ["devs"]) -> Path``, by certificate: no rights until bound. With a service
    account's token: ``control_plane.kubeconfig_of_account(namespace, name, seconds)``; expired if below 0.
``namespace``
    The name of a namespace of this test's. Removal starts when the test ends and takes seconds: look only
    at what is in yours.
``own_control_plane``
    One of the test's own, to be broken: ``kill_api_server()``, ``stop_api_server()``, ``start_api_server()``,
    ``freeze_api_server()``, ``thaw_api_server()``, ``compact()``, ``save_state(name)``,
    ``restore_state(name)``. Starting one takes seconds: ask for it only to break it.
``start_control_plane``
    ``start_control_plane(Options(feature_gates={"WatchList": False})) -> ControlPlane``: one that differs.

All tests of the folder run in one worker of pytest-xdist, with one control plane. Nothing outlives the run:
the kernel ends each program with the worker that started it.
"""

from __future__ import annotations

import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml

from netaccel.cluster import binaries
from netaccel.cluster.arguments import Options
from netaccel.cluster.binaries import Binaries
from netaccel.cluster.controlplane import ControlPlane
from netaccel.cluster.pki import Identity

# Those that tests need and that leave Services, EndpointSlices, Pods and Nodes to the tests.
CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
)
HERE = Path(__file__).parent


class Kubectl(Protocol):
    def __call__(
        self, *words: str, stdin: str = "", user: Path | None = None, timeout: float = 60
    ) -> str: ...


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("kube"))


@pytest.fixture(scope="session")
def programs() -> Binaries:
    """Found, or built, which takes minutes the first time and says so."""
    return binaries.find_or_build(binaries.CONTROL_PLANE, say=lambda line: print(line, file=sys.__stderr__))


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory, programs: Binaries) -> Iterator[ControlPlane]:
    folder = tmp_path_factory.mktemp("control-plane")
    made = ControlPlane(folder, programs, Options(controllers=CONTROLLERS, audit=True))
    with made:
        yield made
    _remove_data(folder)


@pytest.fixture
def start_control_plane(tmp_path: Path, programs: Binaries) -> Iterator[Callable[[Options], ControlPlane]]:
    started: list[ControlPlane] = []

    def start(options: Options) -> ControlPlane:
        made = ControlPlane(tmp_path / f"control-plane-{len(started)}", programs, options)
        made.start()
        started.append(made)
        return made

    yield start
    for made in started:
        made.stop()
        _remove_data(made.folder)


@pytest.fixture
def own_control_plane(start_control_plane: Callable[[Options], ControlPlane]) -> ControlPlane:
    return start_control_plane(Options())


@pytest.fixture
def kubectl(control_plane: ControlPlane) -> Kubectl:
    return control_plane.kubectl


@pytest.fixture
def apply(kubectl: Kubectl) -> Callable[..., str]:
    def applied(content: str | dict[str, Any] | Sequence[dict[str, Any]], namespace: str = "") -> str:
        objects = [content] if isinstance(content, dict) else content
        text = objects if isinstance(objects, str) else yaml.safe_dump_all(objects)
        where = ["-n", namespace] if namespace else []
        return kubectl("apply", "--server-side", "--force-conflicts", *where, "-f", "-", stdin=text)

    return applied


@pytest.fixture
def kubeconfig_for(control_plane: ControlPlane) -> Callable[..., Path]:
    def made(user: str, groups: Sequence[str] = ()) -> Path:
        return control_plane.kubeconfig(Identity(user, tuple(groups)))

    return made


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    # Pods are refused until its account is there.
    kubectl("-n", name, "wait", "--for=create", "serviceaccount/default", "--timeout=60s", timeout=90)
    yield name
    kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")


def _remove_data(folder: Path) -> None:
    """Logs stay for whoever looks for a cause; etcd's files are 64 MB each time."""
    for data in (folder / "etcd", *folder.glob("saved-*")):
        shutil.rmtree(data, ignore_errors=True)
