# SPDX-License-Identifier: Apache-2.0
"""Pods born on a node that has many: from the kernel's word to programs at the device and policy in force.

The agent's own clock begins when it hears of a change of devices (``netaccel_device_latency_seconds``); a
pod's birth is several of those, and the last one, its route, is what makes it found. It ends when both
attachments have returned, after each of which the kernel waits for every CPU; a program works before that.
"""

from __future__ import annotations

import http.client
import json
import time
from pathlib import Path

from bench.results import Result
from bench.start import Ground, agent, ground
from netaccel.datapath import netlink

BEFORE, BORN = 100, 100
PAUSE = 0.05  # seconds between births
BUDGET = 20.0  # milliseconds, p99 (issue: 20 ms after the netlink event)
FAR = "netaccel-bench-far"


def run() -> list[Result]:
    """Every row of the part."""
    with ground() as where:
        _write(where.manifests / "pods.json", BEFORE + BORN)
        netlink.create_namespace(FAR)
        try:
            for number in range(BEFORE):
                _bear(where, number)
            with agent(where):
                time.sleep(1)
                before = _buckets(where)
                for number in range(BEFORE, BEFORE + BORN):
                    _bear(where, number)
                    time.sleep(PAUSE)
                time.sleep(1)
                after = _buckets(where)
        finally:
            netlink.delete_namespace(FAR)
    counts = {bound: after[bound] - before.get(bound, 0) for bound in after}
    note = f"{BORN} pods born beside {BEFORE}, {counts[float('inf')]:.0f} changes heard"
    return [
        Result("birth to enforced, p50", 1000 * _quantile(counts, 0.5), "ms", note=note),
        Result("birth to enforced, p99", 1000 * _quantile(counts, 0.99), "ms", budget=BUDGET, note=note),
    ]


def _address(number: int) -> str:
    return f"10.244.{1 + number // 250}.{2 + number % 250}"


def _write(file: Path, count: int) -> None:
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"pod-{number}", "labels": {"app": f"app-{number % 10}"}},
            "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": _address(number)}]},
        }
        for number in range(count)
    ]
    policies = [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": f"policy-{number}"},
            "spec": {
                "podSelector": {"matchLabels": {"app": f"app-{number}"}},
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": f"app-{9 - number}"}}}]}],
            },
        }
        for number in range(10)
    ]
    file.write_text("\n---\n".join(json.dumps(item) for item in (*pods, *policies)))


def _bear(where: Ground, number: int) -> None:
    with netlink.inside_namespace(where.namespace):
        netlink.add_veth(f"veth{number}", f"p{number}", FAR)
        netlink.set_up(f"veth{number}")
        netlink.add_route(f"{_address(number)}/32", name=f"veth{number}")


def _buckets(where: Ground) -> dict[float, float]:
    """Changes heard that took at most so many seconds."""
    with netlink.inside_namespace(where.namespace):
        connection = http.client.HTTPConnection("127.0.0.1", 9962, timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
    prefix = 'netaccel_device_latency_seconds_bucket{le="'
    lines = (line.removeprefix(prefix) for line in text.splitlines() if line.startswith(prefix))
    return {float(bound): float(count) for bound, _, count in (line.partition('"} ') for line in lines)}


def _quantile(counts: dict[float, float], share: float) -> float:
    """The bound of the first bucket that holds so large a share."""
    total = counts[float("inf")]
    return min(bound for bound, count in counts.items() if count >= share * total)
