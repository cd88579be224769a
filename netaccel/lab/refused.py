# SPDX-License-Identifier: Apache-2.0
"""What the agents of a lab refuse, in one list: most of it is the same on every node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from netaccel.errors import LabError

COLUMNS = ("object", "state", "where", "reason")
"""Of an entry of an agent's /status."""


class Asked(Protocol):
    """What is asked here of netaccel.lab.handle.Lab."""

    def api(self, node: str, path: str) -> Any:
        """An agent's answer. LabError where there is none."""
        ...


def refused(lab: Asked, nodes: Iterable[str]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Objects that are not in force as written, each with its ``nodes``; and why an agent did not say."""
    found: dict[tuple[str, ...], list[str]] = {}
    silent: dict[str, str] = {}
    for node in nodes:
        try:
            entries = lab.api(node, "/status")["refused"]
        except (LabError, ValueError, KeyError) as error:
            silent[f"agent of {node}"] = f"does not say what it refuses: {error}"
            continue
        for entry in entries:
            found.setdefault(tuple(entry[name] for name in COLUMNS), []).append(node)
    entries = [{**dict(zip(COLUMNS, key, strict=True)), "nodes": names} for key, names in found.items()]
    return entries, silent
