# SPDX-License-Identifier: Apache-2.0
"""What happens to accelerated connections while pods, policies and programs come, stop and go."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from accelworld import (
    FAST,
    PORT,
    Load,
    Pod,
    accel,
    connections,
    endpoints,
    live,
    namespace,
    service,
    stop_before_reading,
)
from ground import PATIENCE, Node

pytestmark = pytest.mark.root

MANY = 2000
SHORT = """
import json, socket, sys
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
right = 0
for number in range(int(sys.argv[4])):
    with socket.create_connection((sys.argv[2], int(sys.argv[3])), timeout=10) as way:
        message = b"%08d" % number
        way.sendall(message)
        right += way.recv(100) == message
print(json.dumps(right))
"""


def out(node: Node) -> dict[str, int]:
    """Evictions by reason."""
    found: dict[str, int] = accel(node)["totals"].get("out", {})
    return found


def enrolled(node: Node, pods: tuple[Pod, Pod]) -> Load:
    agent = node.serve(**FAST)
    load = Load(pods[0], pods[1].address)
    node.until(lambda: live(node) == 1, agent)
    return load


def test_a_policy_that_only_watches_stops_nothing(node: Node, pods: tuple[Pod, Pod]) -> None:
    load = enrolled(node, pods)
    node.put("watch.yaml", watching())
    node.until(lambda: json.loads(node.get("/api/v1/policies")))
    node.until(load.grows)
    node.until(lambda: connections(node, "a")[0]["carried"]["path"] == "socket")
    node.until(load.grows)
    assert out(node) == {}
    load.end()


def watching() -> dict[str, Any]:
    """Would deny all that comes to the server."""
    return {
        "apiVersion": "netaccel.io/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": {"name": "watch", "namespace": "shop"},
        "spec": {"mode": "Monitor", "subject": {"matchLabels": {"app": "b"}}, "ingress": []},
    }


def test_a_pod_that_is_deleted_takes_its_pairs_out(node: Node, pods: tuple[Pod, Pod]) -> None:
    load = enrolled(node, pods)
    node.put("pods.yaml", namespace(), pods[0].manifest())
    node.until(lambda: live(node) == 0)
    node.until(lambda: not accel(node)["totals"].get("leaving"))
    assert out(node) == {"its pod is gone": 1}
    node.until(load.grows)  # its process is still there
    load.end()


def test_a_program_that_dies_frees_its_slot(node: Node, pods: tuple[Pod, Pod]) -> None:
    load = enrolled(node, pods)
    load.process.kill()
    node.until(lambda: live(node) == 0 and not accel(node)["totals"].get("leaving"))
    assert sum(out(node).values()) == 1
    again = Load(pods[0], pods[1].address)
    node.until(lambda: live(node) == 1)
    again.end()


def test_a_reader_that_stops_defers_the_eviction_and_loses_nothing(node: Node, pods: tuple[Pod, Pod]) -> None:
    load = enrolled(node, pods)
    server = pods[1].processes[0]
    stop_before_reading(node, server, load)
    node.put("pods.yaml", namespace("disabled"), *(pod.manifest() for pod in pods))
    node.until(lambda: accel(node)["totals"].get("deferred", 0) == 1)
    assert accel(node)["totals"]["leaving"] == 1
    server.send_signal(signal.SIGCONT)
    node.until(lambda: not accel(node)["totals"].get("leaving"))
    node.until(load.grows)
    assert connections(node, "a")[0]["carried"]["path"] != "socket"
    load.end()


def test_short_connections_are_never_enrolled(node: Node, pods: tuple[Pod, Pod]) -> None:
    node.serve(**FAST)
    done = pods[0].run(SHORT, pods[1].address, str(PORT), str(MANY))
    said, complaint = done.communicate(timeout=PATIENCE)
    assert done.returncode == 0, complaint
    assert json.loads(said) == MANY
    assert accel(node)["totals"].get("promotions", 0) == 0


def test_a_backend_that_is_removed_resets_its_connections(node: Node, pods: tuple[Pod, Pod]) -> None:
    node.put("service.yaml", service(), endpoints(pods[1].address))
    agent = node.serve(**FAST)
    load = Load(pods[0], "10.96.0.10")
    node.until(lambda: live(node) == 1, agent)
    node.until(lambda: [one["service"] for one in accel(node)["receipts"]] == ["shop/web"])
    node.put("service.yaml", service(), endpoints())
    node.until(lambda: load.process.poll() is not None)
    assert load.process.returncode, "as by TCP alone: the connection is reset"
    node.until(lambda: live(node) == 0 and not accel(node)["totals"].get("leaving"))
