# SPDX-License-Identifier: Apache-2.0
"""Free TCP ports of loopback."""

from __future__ import annotations

import random
import socket

from netaccel.cluster.arguments import LOOPBACK, Ports

# Below ip_local_port_range: no client is given one while a server is away.
_RANGE = range(20000, 30000)


def free_ports(api: int = 0) -> Ports:
    """Choose ports that nobody listens on now; ``api``: the API server's, 0 for any.

    Somebody may take one before it is used: whoever starts a server tries again then.
    """
    found: list[int] = []
    for port in random.sample(_RANGE, len(_RANGE)):
        if _is_free(port):
            found.append(port)
        if len(found) == len(Ports._fields):
            break
    return Ports(*found)._replace(**({"api": api} if api else {}))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True
