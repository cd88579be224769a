# SPDX-License-Identifier: Apache-2.0
"""`netaccel explain` says on a node what real traffic meets: by the model, and by the kernels of both nodes.

web and near are on node-1, far on node-2; agents listen where other nodes reach them.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from labworld import World, pod, service
from reach import OPEN, REFUSED, SILENT, Try, expect

from policies import labels, network_policy, pods, sources, traffic_policy

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
OPTIONS = {"nodes": 2, "settings": {"http": "0.0.0.0:9962"}}
WEB, NEAR, FAR = "pod:default/web", "pod:default/near", "pod:default/far"
HTTP, ECHO = "tcp/8080", "udp/8007"
POLICIES = (
    network_policy("web", labels(app="web"), ingress=[sources(pods(tier="far"), ports=[{"port": "http"}])]),
    traffic_policy(
        "far",
        labels(tier="far"),
        egress=[{"action": "Reject", "ports": [{"protocol": "UDP", "port": 8007}]}],
        ingress=[{"action": "Monitor", "ports": [{"port": 8080}]}],
    ),
)
TRIES = (
    Try(FAR, WEB, HTTP, OPEN),
    Try(NEAR, WEB, HTTP, SILENT),
    Try(FAR, NEAR, ECHO, REFUSED),
    Try(NEAR, FAR, HTTP, OPEN),
    Try("node-1", WEB, HTTP, OPEN),
    Try("node-2", WEB, HTTP, SILENT),
    Try(WEB, NEAR, ECHO, OPEN),
)
ACTIONS = {OPEN: "Allow", SILENT: "Drop", REFUSED: "Reject"}


def prepare(world: World) -> None:
    world.write(
        "pods",
        pod("web", "node-1", udp=True),
        pod("near", "node-1", app="client", udp=True),
        pod("far", "node-2", app="client", labels={"tier": "far"}, udp=True),
        service("web"),
    )
    world.write("policies", *POLICIES)


def asked(one: Try) -> dict[str, Any]:
    kind, _, port = one.what.partition("/")
    source = one.source if one.source.startswith("pod:") else f"node:{one.source}"
    return {"from": source, "to": one.destination, "port": int(port), "protocol": kind.upper()}


def explain(world: World, node: str, *questions: dict[str, Any], by: str = "both") -> list[dict[str, Any]]:
    command = (sys.executable, "-m", "netaccel", "explain", "--batch", "--by", by)
    done = world.lab.run(node, *command, stdin="\n".join(map(json.dumps, questions)), timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def deciding(answer: dict[str, Any]) -> str:
    halves = answer["egress"], answer["ingress"]
    return next((half["action"] for half in halves if not half["allowed"]), "Allow")


@pytest.mark.parametrize("by", ["both", "kernel"])
def test_what_is_explained_is_what_happens(world: World, by: str) -> None:
    expect(world, *TRIES)
    for node in ("node-1", "node-2"):
        answers = explain(world, node, *map(asked, TRIES), by=by)
        assert [deciding(one) for one in answers] == [ACTIONS[one.expected] for one in TRIES], node


def test_the_rules_are_named_on_whichever_node_it_is_asked(world: World) -> None:
    expect(world, *TRIES)
    for node in ("node-1", "node-2"):
        allowed, isolated, rejected, audited = explain(world, node, *map(asked, TRIES[:4]))
        assert (allowed["ingress"]["object"], allowed["ingress"]["rule"]) == ("NetworkPolicy default/web", 0)
        assert (isolated["ingress"]["why"], isolated["ingress"]["rule"]) == ("isolated", None)
        assert (rejected["egress"]["object"], rejected["egress"]["rule"]) == ("TrafficPolicy default/far", 0)
        assert (audited["verdict"], audited["ingress"]["object"]) == ("audited", "TrafficPolicy default/far")
