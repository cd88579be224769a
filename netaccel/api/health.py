# SPDX-License-Identifier: Apache-2.0
"""What load balancers and the kubelet ask a service proxy, answered as kube-proxy answers.

- a Service's healthCheckNodePort, any path: 200 where it has ready endpoints on this node and the proxy is
  healthy, else 503; how many in the body and in a header (kubernetes/kubernetes
  pkg/proxy/healthcheck/service_health.go).
- ``healthz``: ``/healthz`` is 503 where the proxy is unhealthy or its node leaves the cluster (KEP-3836);
  ``/livez`` doesn't ask for the node (proxy_health.go).

The proxy is healthy as long as it keeps up: unhealthy once something that it heard has not reached the
maps for LATE seconds. An API server that is away tells nothing new, so it makes nobody unhealthy.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from aiohttp import web

from netaccel.api.ports import RETRY, Answer, Ports
from netaccel.compile.health import Counts, HealthCheck, health_checks
from netaccel.compile.services import NodeFacts
from netaccel.config import HostPort, Settings
from netaccel.model.address import text
from netaccel.model.snapshot import World

LATE = 60.0
"""Seconds: kube-proxy's, which are twice its sync period of 30 s."""

PORT = 10256
"""Where cloud controllers have load balancers ask, unless told otherwise."""

_NEVER = "0001-01-01T00:00:00Z"
_JSON = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}
_WEIGHT = "X-Load-Balancing-Endpoint-Weight"
_NO_SUCH_PATH = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which ports are this agent's, and what is asked behind them.

    ``everywhere``: on all addresses, else where node ports answer. ``in_cluster``: the API server tells of
    this node's Node, so that one that isn't there was deleted; files need have none.
    """

    services: bool
    healthz: HostPort | None
    everywhere: bool = True
    in_cluster: bool = False

    @property
    def any(self) -> bool:
        """Whether there is anything to listen at."""
        return self.services or self.healthz is not None


def wanted(settings: Settings) -> Wanted:
    """Which of the ports are kube-proxy's own where there is one, or takes over.

    Services that name another proxy are never kube-proxy's, so their ports are not either.
    """
    if settings.drain:
        return Wanted(services=False, healthz=None)
    instead = settings.kube_proxy == "instead"
    healthz = settings.healthz
    if instead and "healthz" not in settings.model_fields_set:
        healthz = HostPort("", PORT)
    services = instead or healthz is not None or bool(settings.service_proxy_name)
    everywhere = not settings.node_port_addresses
    return Wanted(services, healthz, everywhere, in_cluster=settings.manifests is None)


class Health:
    """How the proxy is. ``behind_since``: since when, by ``clock``, something heard is not in the maps."""

    def __init__(
        self,
        world: World,
        behind_since: Callable[[], float | None],
        clock: Callable[[], float],
        *,
        in_cluster: bool,
    ) -> None:
        self.last_updated: int | None = None
        """Nanoseconds since the epoch at which the maps were last known to be as heard."""
        self._world = world
        self._behind_since = behind_since
        self._clock = clock
        self._in_cluster = in_cluster

    def healthy(self) -> bool:
        """Whether it keeps up. One that has nothing to do, or starts, does."""
        since = self._behind_since()
        return since is None or self._clock() - since < LATE

    def eligible(self) -> bool:
        """Whether load balancers may choose this node. One that has not heard of it yet goes on."""
        world = self._world
        if self._in_cluster and world.synced and world.node(world.node_name) is None:
            return False
        return not world.node_leaving

    def body(self, *, ok: bool, eligible: bool | None) -> str:
        """What /healthz and /livez (``eligible`` None) say. ``ok``: their verdict."""
        now = rfc3339(time.time_ns())
        updated = _NEVER if self.last_updated is None else rfc3339(self.last_updated)
        healthy = self.healthy()
        found: dict[str, object] = {"lastUpdated": now if ok else updated, "currentTime": now}
        if eligible is not None:
            found["nodeEligible"] = eligible
        found["healthy"] = healthy
        if self.last_updated is not None:
            family = {"lastUpdated": updated, "healthy": healthy}
            found["status"] = {"IPv4": family, "IPv6": family}
        return json.dumps(found, separators=(",", ":"))


class HealthServers:
    """Listens where it is asked for health. Create, :meth:`run` in a task, tell it of every pass."""

    def __init__(
        self,
        ports: Wanted,
        world: World,
        behind_since: Callable[[], float | None],
        *,
        clock: Callable[[], float] = time.monotonic,
        retry: float = RETRY,
    ) -> None:
        """``world``, ``behind_since``: the reconciler's, whose times are ``clock``'s."""
        self._wanted = ports
        self._world = world
        self._health = Health(world, behind_since, clock, in_cluster=ports.in_cluster)
        self._counts = Counts()
        self._checks: dict[int, HealthCheck] = {}
        self._hosts: tuple[str, ...] = ()
        self._ports = Ports(retry=retry)
        self._listen()

    async def run(self) -> None:
        """Answer until cancelled; every socket is closed then."""
        await self._ports.run()

    async def settled(self) -> None:
        """Wait until every port wanted was tried."""
        await self._ports.settled()

    def passed(self, node: NodeFacts) -> None:
        """The maps are as heard: answer for that. Looks only at Services with a healthCheckNodePort."""
        self._health.last_updated = time.time_ns()
        if not self._wanted.services:
            return
        checks = health_checks(self._world, node, self._counts)
        hosts = ("",) if self._wanted.everywhere else tuple(map(text, node.node_port_addresses))
        if checks != self._checks or hosts != self._hosts:
            self._checks, self._hosts = checks, hosts
            self._listen()

    def problems(self) -> list[str]:
        """What is not answered, a line each."""
        lines = self._ports.problems()
        for port, check in self._checks.items():
            holder = f"{check.namespace}/{check.name}"
            lines += [
                f"healthCheckNodePort {port} of Service {key}: it is {holder}'s already: give another"
                for key in check.others
            ]
        return lines

    def _listen(self) -> None:
        places: dict[HostPort, str] = {}
        answers: dict[int, Answer] = {}
        for port, check in self._checks.items():
            what = f"healthCheckNodePort of Service {check.namespace}/{check.name}"
            places.update({HostPort(host, port): what for host in self._hosts})
            answers[port] = partial(self._of_service, check)
        if self._wanted.healthz:
            places[self._wanted.healthz] = "healthz"
            answers[self._wanted.healthz.port] = self._of_proxy
        self._ports.want(places, answers)

    def _of_service(self, check: HealthCheck, _: web.Request) -> web.Response:
        healthy = self._health.healthy()
        return web.Response(
            status=200 if check.local_endpoints and healthy else 503,
            body=service_body(check, healthy).encode(),
            headers={**_JSON, _WEIGHT: str(check.local_endpoints)},
        )

    def _of_proxy(self, request: web.Request) -> web.Response:
        healthy = self._health.healthy()
        match request.path:
            case "/healthz":
                eligible = self._health.eligible()
                ok = healthy and eligible
                body = self._health.body(ok=ok, eligible=eligible)
            case "/livez":
                ok, body = healthy, self._health.body(ok=healthy, eligible=None)
            case _:
                return web.Response(status=404, body=b"404 page not found\n", headers=_NO_SUCH_PATH)
        return web.Response(status=200 if ok else 503, body=body.encode(), headers=_JSON)


def service_body(check: HealthCheck, healthy: bool) -> str:
    """What a healthCheckNodePort says, to the byte: indented with tabs, no newline at the end."""
    return (
        "{\n"
        '\t"service": {\n'
        f'\t\t"namespace": "{check.namespace}",\n'
        f'\t\t"name": "{check.name}"\n'
        "\t},\n"
        f'\t"localEndpoints": {check.local_endpoints},\n'
        f'\t"serviceProxyHealthy": {"true" if healthy else "false"}\n'
        "}"
    )


def rfc3339(nanoseconds: int) -> str:
    """A time since the epoch in UTC, with as many decimals as it has."""
    seconds, rest = divmod(nanoseconds, 10**9)
    decimals = f".{rest:09}".rstrip("0") if rest else ""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{decimals}Z"
