# SPDX-License-Identifier: Apache-2.0
"""One HTTP request to a program of the cluster, in whatever network namespace it listens."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from netaccel.datapath.netlink import inside_namespace


class Where(NamedTuple):
    """A listener. ``namespace`` "": the machine's own. ``ca``: whom to trust; None: no TLS."""

    address: str
    port: int
    namespace: str = ""
    ca: Path | None = None


def get(where: Where, path: str, timeout: float = 2.0) -> tuple[int, str]:
    """Return status and body. Raises OSError or http.client.HTTPException where there is no answer."""
    return _ask(where, "GET", path, None, timeout)


def post_json(where: Where, path: str, body: dict[str, Any], timeout: float = 30.0) -> dict[str, Any]:
    """Post an object and return the one that comes back. Raises OSError for anything but 200."""
    status, text = _ask(where, "POST", path, json.dumps(body).encode(), timeout)
    if status != http.client.OK:
        raise OSError(f"{path}: status {status}: {' '.join(text.split())[:200]}")
    found: dict[str, Any] = json.loads(text)
    return found


def _ask(where: Where, method: str, path: str, body: bytes | None, timeout: float) -> tuple[int, str]:
    client = http.client.HTTPConnection(where.address, where.port, timeout=timeout)
    with closing(client):
        client.sock = _connect(where, timeout)
        client.request(method, path, body)
        answer = client.getresponse()
        return answer.status, answer.read().decode(errors="replace")


def _connect(where: Where, timeout: float) -> socket.socket:
    family = socket.AF_INET6 if ":" in where.address else socket.AF_INET
    with inside_namespace(where.namespace) if where.namespace else nullcontext():
        found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.settimeout(timeout)
        found.connect((where.address, where.port))
        if where.ca:
            trusted = ssl.create_default_context(cafile=str(where.ca))
            return trusted.wrap_socket(found, server_hostname=where.address)
    except BaseException:
        found.close()
        raise
    return found
