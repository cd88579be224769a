# SPDX-License-Identifier: Apache-2.0
"""What the tests of the writers share."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from netaccel.apiserver.api import Api
from netaccel.apiserver.connection import Connection
from netaccel.config import Settings
from netaccel.writers.state import Mode, NodeSnapshot

REPOSITORY = Path(__file__).parents[2]
SNAPSHOT = NodeSnapshot(
    version="0.4.0", kernel="6.18.5", mode=Mode.BESIDE, services=2, frontends=7, backends=31, last_sync=1e9
)

PATIENCE = 300.0
"""Seconds for what runs in the background of a test, servers that start meanwhile included."""

Kubectl = Callable[..., str]


@asynccontextmanager
async def connected(kubeconfig: Path, node: str = "node-1") -> AsyncIterator[Connection]:
    settings = Settings(node_name=node, kubeconfig=str(kubeconfig))
    async with await Connection.open(settings, {}) as connection:
        yield connection


@asynccontextmanager
async def running(*tasks: Any) -> AsyncIterator[None]:
    """Coroutines in the background; what one of them raises is the test's failure."""
    started = [asyncio.create_task(task) for task in tasks]
    try:
        async with asyncio.timeout(PATIENCE):
            yield
        for task in started:
            if task.done():
                task.result()
    finally:
        for task in started:
            task.cancel()
        await asyncio.gather(*started, return_exceptions=True)


async def eventually(holds: Callable[[], Any], seconds: float = 60) -> Any:
    """What ``holds`` returns once that is true; it may block (kubectl), and runs in a thread."""
    deadline = time.monotonic() + seconds
    while not (found := await asyncio.to_thread(holds)):
        assert time.monotonic() < deadline, holds
        await asyncio.sleep(0.05)
    return found


async def remembered(api: Api, folder: str, name: str) -> None:
    """Wait until a list from the server's memory has an object as it is: that is a moment behind writes."""

    async def asked(path: str, **query: str) -> Any:
        return json.loads(await api.request("GET", path, query=query))

    written = (await asked(f"{folder}/{name}"))["metadata"]["resourceVersion"]
    async with asyncio.timeout(60):
        while True:
            found = (await asked(folder, resourceVersion="0"))["items"]
            if any(one["metadata"]["resourceVersion"] == written for one in found):
                return
            await asyncio.sleep(0.01)


def get(kubectl: Kubectl, *words: str) -> Any:
    return json.loads(kubectl("get", *words, "-o", "json"))


CLUSTER_NETWORK_POLICIES = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: clusternetworkpolicies.policy.networking.k8s.io
  annotations: {api-approved.kubernetes.io: "unapproved, for tests"}
spec:
  group: policy.networking.k8s.io
  scope: Cluster
  names: {kind: ClusterNetworkPolicy, plural: clusternetworkpolicies, singular: clusternetworkpolicy}
  versions:
    - name: v1alpha2
      served: true
      storage: true
      subresources: {status: {}}
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""
"""The least by which an API server has the kind; it takes any nonsense."""


def install_kinds(kubectl: Kubectl) -> None:
    kubectl("apply", "--server-side", "-k", str(REPOSITORY / "policies"))
    for kind in ("nodestates", "trafficpolicies", "clustertrafficpolicies"):
        kubectl("wait", "--for=condition=Established", f"crd/{kind}.netaccel.io", "--timeout=30s")


def install_cluster_network_policies(kubectl: Kubectl) -> None:
    kubectl("apply", "--server-side", "-f", "-", stdin=CLUSTER_NETWORK_POLICIES)
    name = "crd/clusternetworkpolicies.policy.networking.k8s.io"
    kubectl("wait", "--for=condition=Established", name, "--timeout=30s")
