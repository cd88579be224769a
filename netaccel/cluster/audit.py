# SPDX-License-Identifier: Apache-2.0
"""The API server's audit log: which request was made by whom, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
"""


class Request(NamedTuple):
    """One request, as the authorizer saw it (audit.k8s.io/v1 Event).

    ``resource`` carries its subresource, as RBAC writes it: ``pods/status``. ``code``: HTTP's; a watch is
    told of twice, when its answer starts and when it ends. ``path``: the whole of it, with its query.
    """

    user: str
    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    code: int
    path: str


def read(log: Path) -> Iterator[Request]:
    """Yield the requests of a log so far; a line that is still being written is left for the next time."""
    if not log.exists():
        return
    for line in log.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield _request(json.loads(line))


def _request(event: dict[str, Any]) -> Request:
    concerned = event.get("objectRef") or {}
    resource, subresource = concerned.get("resource", ""), concerned.get("subresource", "")
    return Request(
        user=(event.get("impersonatedUser") or event.get("user") or {}).get("username", ""),
        verb=event.get("verb", ""),
        group=concerned.get("apiGroup", ""),
        resource=f"{resource}/{subresource}" if subresource else resource,
        namespace=concerned.get("namespace", ""),
        name=concerned.get("name", ""),
        code=(event.get("responseStatus") or {}).get("code", 0),
        path=event.get("requestURI", ""),
    )
