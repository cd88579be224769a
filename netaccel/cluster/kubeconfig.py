# SPDX-License-Identifier: Apache-2.0
"""Kubeconfig files: one server, one user, everything inside the file."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from netaccel.cluster.pki import Pair


@dataclass(frozen=True)
class Access:
    """How to ask a server: its address (``https://127.0.0.1:6443``), its authority, and who asks.

    ``pair``: a client certificate. ``token``: a bearer token. Neither: nobody.
    """

    server: str
    ca: Path
    pair: Pair | None = None
    token: str = ""


def document(access: Access, *, namespace: str = "default") -> dict[str, Any]:
    """Return the kubeconfig (kubernetes.io, client-go ``clientcmd/api/v1``) as an object."""
    user: dict[str, Any] = {"token": access.token} if access.token else {}
    if access.pair:
        user["client-certificate-data"] = _data(access.pair.certificate)
        user["client-key-data"] = _data(access.pair.key)
    cluster = {"server": access.server, "certificate-authority-data": _data(access.ca)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "netaccel", "cluster": cluster}],
        "users": [{"name": "user", "user": user}],
        "contexts": [
            {
                "name": "netaccel",
                "context": {"cluster": "netaccel", "user": "user", "namespace": namespace},
            }
        ],
        "current-context": "netaccel",
    }


def write(path: Path, access: Access, *, namespace: str = "default") -> Path:
    """Write a kubeconfig that its owner alone can read; whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        yaml.safe_dump(document(access, namespace=namespace), file, sort_keys=False)
    temporary.replace(path)
    return path


def _data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
