# SPDX-License-Identifier: Apache-2.0
"""What an agent tells of flows that were met while there was none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from accelworld import Load, Pod
from ground import Node

pytestmark = pytest.mark.root


def flows(node: Node) -> list[dict[str, Any]]:
    """TCP connections; nodes also ask for each other's addresses."""
    found = (json.loads(line) for line in node.get("/api/v1/flows").splitlines())
    return [record for record in found if record["protocol"] == "TCP"]


def test_flows_that_waited_for_an_agent_are_told_by_name(node: Node, pods: tuple[Pod, Pod]) -> None:
    node.stop(node.serve())
    load = Load(pods[0], pods[1].address)
    node.until(load.grows)
    node.serve()
    node.until(lambda: flows(node))
    met = {(record["source"].get("name"), record["destination"].get("name")) for record in flows(node)}
    assert met <= {("a", "b"), ("b", "a")}
    load.end()
