# SPDX-License-Identifier: Apache-2.0
"""Which API servers there are, which one is asked, and by which name its certificate may go.

Addresses in the settings replace the kubeconfig's (or the pod's) one, and nothing else of it. A server at
such an address proves itself with a certificate of the cluster's CA for

1. the kubeconfig's ``tls-server-name``, where there is one, and then for nothing else; or
2. the address as it is in the settings; or
3. the host that the kubeconfig or the pod names: the certificate must have it, since all other clients
   check it, and who speaks for it may speak for the API server.

Each is a name that whoever set the agent up has given. That any certificate of the CA would do (a kubelet's
is one often) or that no name is checked never happens.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from netaccel.config import HostPort, Settings
from netaccel.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Server:
    """One API server. ``names``: what its certificate may be for, tried in this order."""

    url: str
    names: tuple[str, ...]


def servers(url: str, server_name: str, addresses: Sequence[HostPort]) -> tuple[Server, ...]:
    """The servers to ask. ``url``: the kubeconfig's or the pod's; ``addresses`` replace its host and port."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not addresses:
        return (Server(url, (server_name or host,)),)
    return tuple(
        Server(
            urlunsplit(parts._replace(netloc=str(address))).rstrip("/"),
            (server_name,) if server_name else tuple(dict.fromkeys((address.host, host))),
        )
        for address in addresses
    )


class Rota:
    """Whose turn it is. The one that works is kept; the first depends on the node, to spread the load."""

    def __init__(self, servers: Sequence[Server], node_name: str = "") -> None:
        start = zlib.crc32(node_name.encode()) % len(servers)
        self._servers = (*servers[start:], *servers[:start])
        self._turn = 0
        self._names: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._servers)

    @property
    def current(self) -> Server:
        """The one to ask."""
        return self._servers[self._turn]

    def move_on(self, failed: Server) -> None:
        """This one failed: the next one's turn, unless somebody said so already."""
        if self.current == failed:
            self._turn = (self._turn + 1) % len(self._servers)

    def name(self, server: Server) -> str:
        """The name to check its certificate for."""
        return server.names[self._names.get(server.url, 0)]

    def next_name(self, server: Server) -> bool:
        """Its certificate is not for that name: go on to the next one. False: these were all."""
        tried = self._names.get(server.url, 0) + 1
        self._names[server.url] = tried % len(server.names)
        return tried < len(server.names)


def check(settings: Settings, *, in_pod: bool) -> None:
    """Refuse to depend on ourselves. Raises ConfigError."""
    if in_pod and settings.kube_proxy == "instead" and not settings.api_servers:
        raise ConfigError(
            "kubeProxy: instead needs apiServers: [HOST:PORT, ...], the API servers' own addresses:"
            " the Service that a pod reaches them by would be carried by this agent alone"
        )
