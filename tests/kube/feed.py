# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes source that is being read, and objects to read."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from netaccel.apiserver.api import APPLY
from netaccel.apiserver.connection import Connection
from netaccel.config import load
from netaccel.errors import ApiError, ApiUnreachableError
from netaccel.model.event import Delete, Event, ObjectKey, Reject, SourceStatus, Upsert
from netaccel.model.snapshot import World
from netaccel.sources.kubernetes import KubernetesSource
from netaccel.sources.kubernetes.standing import Timings

PATIENCE = 60.0
"""Seconds that a test waits for what must come; only a failure uses them up."""

NODE = "n1"
BRISK = Timings(healthy=0.2, retry=(0.05, 0.5), refused=(0.05, 0.5), absent=(0.05, 0.5))
"""Tries again soon, and is as patient as ever with a server that is slow."""

PATHS = {
    "Service": "/api/v1/namespaces/{namespace}/services/{name}",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/{name}",
    "Pod": "/api/v1/namespaces/{namespace}/pods/{name}",
    "Node": "/api/v1/nodes/{name}",
    "Namespace": "/api/v1/namespaces/{name}",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies/{name}",
    "ClusterNetworkPolicy": "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies/{name}",
    "TrafficPolicy": "/apis/netaccel.io/v1alpha1/namespaces/{namespace}/trafficpolicies/{name}",
    "ClusterTrafficPolicy": "/apis/netaccel.io/v1alpha1/clustertrafficpolicies/{name}",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts/{name}",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/{name}",
}


class Feed:
    """A source's events so far, and the world that they make."""

    def __init__(self, source: KubernetesSource) -> None:
        self.source = source
        self.events: list[Event] = []
        self.world = World(NODE)
        self._changed = asyncio.Event()

    async def read(self) -> None:
        async for batch in self.source.events():
            self.events += batch
            self.world.apply_all(batch)
            self._changed.set()

    async def until(self, done: Callable[[], object], seconds: float = PATIENCE) -> None:
        """Read on until something holds."""
        async with asyncio.timeout(seconds):
            while not done():
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.1):  # a status may change without an event
                        await self._changed.wait()

    async def synced(self) -> None:
        await self.until(lambda: self.world.synced)

    async def has(self, key: ObjectKey) -> None:
        await self.until(lambda: self.last(key) is Upsert)

    async def lost(self, key: ObjectKey) -> None:
        await self.until(lambda: self.last(key) is Delete)

    def of(self, key: ObjectKey) -> list[Event]:
        """Upserts, Deletes and Rejects of one object."""
        return [one for one in self.events if isinstance(one, Upsert | Delete | Reject) and one.key == key]

    def last(self, key: ObjectKey) -> type[Event] | None:
        found = self.of(key)
        return type(found[-1]) if found else None

    def deletes(self, made: Hand) -> list[ObjectKey]:
        """What went of the test's own objects; those of others may go meanwhile."""
        gone = [one.key for one in self.events if isinstance(one, Delete)]
        return [key for key in gone if key.namespace == made.namespace]

    @property
    def status(self) -> SourceStatus:
        return self.source.status()


@contextlib.asynccontextmanager
async def feeding(
    kubeconfig: Path, *, timings: Timings | None = None, proxy_name: str = "", **settings: Any
) -> AsyncIterator[Feed]:
    """Read a source at this kubeconfig in the background."""
    loaded = load({"kubeconfig": str(kubeconfig), "node_name": NODE, **settings}, {})
    async with await Connection.open(loaded, {}) as api:
        source = KubernetesSource(
            api, node_name=NODE, proxy_name=proxy_name, policy=loaded.policy == "on", timings=timings
        )
        feed = Feed(source)
        task = asyncio.create_task(feed.read())
        try:
            yield feed
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


class Hand:
    """Makes and removes objects, as an admin would."""

    def __init__(self, api: Connection, namespace: str) -> None:
        self._api = api
        self.namespace = namespace

    async def put(self, content: dict[str, Any]) -> ObjectKey:
        """Server-side apply."""
        key = self.key(content["kind"], content["metadata"]["name"])
        query = {"fieldManager": "test", "force": "true"}
        body = json.dumps(content).encode()
        for tries in range(
            3
        ):  # apply may be repeated; a server that was started again cut what was kept open
            try:
                await self._api.request("PATCH", self._path(key), query=query, body=body, content_type=APPLY)
                break
            except ApiUnreachableError:
                if tries == 2:
                    raise
        if "status" in content:
            path = f"{self._path(key)}/status"
            await self._api.request("PATCH", path, query=query, body=body, content_type=APPLY)
        return key

    async def remove(self, *keys: ObjectKey) -> None:
        for key in keys:
            with contextlib.suppress(ApiError):
                await self._api.request(
                    "DELETE",
                    self._path(key),
                    query={"gracePeriodSeconds": "0", "propagationPolicy": "Background"},
                )

    async def get(self, key: ObjectKey) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self._api.request("GET", self._path(key)))
        return found

    def key(self, kind: str, name: str) -> ObjectKey:
        return ObjectKey(kind, self.namespace if "{namespace}" in PATHS[kind] else "", name)

    def _path(self, key: ObjectKey) -> str:
        return PATHS[key.kind].format(namespace=key.namespace, name=key.name)


@contextlib.asynccontextmanager
async def hand(kubeconfig: Path, namespace: str) -> AsyncIterator[Hand]:
    loaded = load({"kubeconfig": str(kubeconfig), "node_name": NODE}, {})
    async with await Connection.open(loaded, {}) as api:
        yield Hand(api, namespace)


def service(name: str = "web", port: int = 80, **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": {k.replace("__", "/"): v for k, v in labels.items()}},
        "spec": {"ports": [{"name": "http", "port": port, "protocol": "TCP"}], "selector": {"app": name}},
    }


def endpoint_slice(name: str, service: str, addresses: list[str], **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/service-name": service,
                **{k.replace("__", "/"): v for k, v in labels.items()},
            },
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "nodeName": NODE} for address in addresses],
    }


def pod(name: str, node: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
    }
