# SPDX-License-Identifier: Apache-2.0
"""From a busy connection of two pods to one past TCP, and back: with a real agent."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from accelworld import Load, Pod, accel, connections, namespace
from ground import Node

pytestmark = pytest.mark.root

FAST = {"accelerate_interval": "0.2", "accelerate_rate": "50"}


@pytest.fixture
def pods(node: Node) -> Iterator[tuple[Pod, Pod]]:
    """A client's and a server's, whose owner vouches for their programs (Python may splice)."""
    made = [Pod(node, "a", 1), Pod(node, "b", 2)]
    made[1].serve()
    node.put("pods.yaml", namespace(), *(pod.manifest() for pod in made))
    try:
        yield made[0], made[1]
    finally:
        for pod in made:
            pod.close()


def live(node: Node) -> int:
    return int(accel(node)["totals"].get("live", 0))


def receipt(node: Node) -> dict[str, Any]:
    """The only one; without anything where there is none yet."""
    found: list[dict[str, Any]] = accel(node)["receipts"]
    assert len(found) <= 1
    return found[0] if found else {"bytes": 0}


def test_a_busy_connection_goes_past_tcp_and_receipts_add_up(node: Node, pods: tuple[Pod, Pod]) -> None:
    agent = node.serve(**FAST)
    load = Load(pods[0], pods[1].address)
    node.until(lambda: live(node) == 1, agent)
    node.until(load.grows)
    shown = connections(node, "a")
    assert [(one["carried"]["path"], one["peer"]) for one in shown] == [("socket", "shop/b")]
    load.say("rest")
    node.until(lambda: load.told.get("resting"))
    done = load.told["bytes"]
    node.until(lambda: receipt(node)["bytes"] + shown_tcp(node) == done)
    assert receipt(node)["client"] == "shop/a"
    assert receipt(node)["connections"] == 1
    load.end()
    node.until(lambda: live(node) == 0)
    assert node.stop(agent, signal.SIGTERM) == 0


def shown_tcp(node: Node) -> int:
    """Bytes that the client's connection carried by TCP, both ways."""
    carried = connections(node, "a")[0]["carried"]
    return int(carried["tcp_sent_bytes"] + carried["tcp_received_bytes"])
