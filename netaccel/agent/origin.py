# SPDX-License-Identifier: Apache-2.0
"""Where this agent's objects come from: a folder of manifests, or the API server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from netaccel.apiserver import credentials, servers
from netaccel.apiserver.api import Api
from netaccel.config import Settings
from netaccel.errors import ConfigError
from netaccel.model.event import Source
from netaccel.sources.kubernetes import KubernetesSource
from netaccel.sources.manifests import ManifestSource


@dataclass(frozen=True, slots=True)
class Origin:
    """A source, and the API server behind it where there is one."""

    source: Source
    api: Api | None = None


Opening = Callable[[], AbstractAsyncContextManager[Origin]]
"""Opens an origin in the event loop that will read it."""


def choose(settings: Settings, environment: Mapping[str, str]) -> Opening:
    """Check early what would only be found once the datapath stands. Raises ConfigError."""
    if settings.manifests is not None:
        return _manifests(settings.manifests)
    if not settings.kubeconfig and not environment.get("KUBERNETES_SERVICE_HOST"):
        raise ConfigError(
            "nothing to serve from: give --manifests DIR or a kubeconfig (KUBECONFIG), or run in a pod"
        )
    return _kubernetes(settings, environment)


def _kubernetes(settings: Settings, environment: Mapping[str, str]) -> Opening:
    servers.check(settings, in_pod=credentials.find(settings.kubeconfig, environment).in_pod)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Origin]:
        from netaccel.apiserver.connection import Connection  # imports aiohttp: see start.run()

        async with await Connection.open(settings, environment) as api:
            source = KubernetesSource(
                api,
                node_name=settings.node_name,
                proxy_name=settings.service_proxy_name,
                policy=settings.policy == "on",
            )
            yield Origin(source, api)

    return opened


def _manifests(folder: Path) -> Opening:
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        raise ConfigError(
            f"manifests {folder}: {error.strerror}: give a directory that can be read"
        ) from error

    @asynccontextmanager
    async def opened() -> AsyncIterator[Origin]:
        yield Origin(ManifestSource(folder))

    return opened
