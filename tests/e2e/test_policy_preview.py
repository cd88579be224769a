# SPDX-License-Identifier: Apache-2.0
"""Recorded edges, preview and the list of policies, of real traffic: what monitor tells, preview tells too,
and enforcement then does.

web and near are on node-1, far is on node-2; only near is let through by the policy of these tests.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from labworld import BOTH, World, pod
from reach import OPEN, SILENT, Try, expect

from netaccel.lab.handle import wait_for
from netaccel.lab.raw import Object
from policies import labels, pods, sources, traffic_policy

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
OPTIONS = {"nodes": 2}
WEB, NEAR, FAR = "pod:default/web", "pod:default/near", "pod:default/far"
HTTP = "tcp/8080"


def prepare(world: World) -> None:
    world.write(
        "pods",
        pod("web", "node-1"),
        pod("near", "node-1", app="friend"),
        pod("far", "node-2", app="stranger"),
    )


def only_friends(mode: str) -> Object:
    rule = {"action": "Allow", **sources(pods(app="friend")), "ports": [{"name": "http"}]}
    return traffic_policy("web", labels(app="web"), mode=mode, ingress=[rule])


def policy(world: World, *words: str, node: str = "node-1", stdin: str = "") -> tuple[int, Any]:
    """Exit status and answer of `netaccel policy` on a node."""
    done = world.lab.run(node, "netaccel", "policy", *words, "-o", "json", stdin=stdin, timeout=60)
    assert done.returncode in (0, 3), done.stderr
    return done.returncode, json.loads(done.stdout)


def preview(world: World, obj: Object, *words: str) -> tuple[int, Any]:
    return policy(world, "preview", "-f", "-", "--since", "1h", *words, stdin=json.dumps(obj))


def ends(changes: list[Any]) -> set[tuple[str, str]]:
    return {(change["source"].get("name", ""), change["destination"]["name"]) for change in changes}


def view(world: World) -> Any:
    found = policy(world, "list", "-n", "default")[1]
    return next((one for one in found if one["name"] == "web"), None)


@pytest.fixture(autouse=True)
def _no_policy_left(world: World) -> Iterator[None]:
    yield
    if (world.folder / "policies.yaml").exists():
        world.remove("policies")
        wait_for(lambda: view(world) is None, "no policy", 20)


def test_preview_monitor_and_enforcement_say_and_do_the_same(world: World) -> None:
    for _ in range(2):
        expect(world, Try(NEAR, WEB, HTTP, OPEN), Try(FAR, WEB, HTTP, OPEN))

    found = wait_for(lambda: shut_out(world, 2), "what far did", 30)
    assert ends(found["changes"]) == {("far", "web")}
    assert preview(world, only_friends("Monitor"))[0] == 0

    world.write("policies", only_friends("Monitor"))
    wait_for(lambda: (view(world) or {}).get("state") == "in force", "the policy in force", 20)
    expect(world, Try(NEAR, WEB, HTTP, OPEN), Try(FAR, WEB, HTTP, OPEN))
    told = wait_for(
        lambda: (view(world)["counts"]["audited"] and view(world)["first"]) and view(world), "audited", 20
    )
    assert told["mode"] == "Monitor"
    assert told["pods"] == {"here": 1, "known": 1, "nodes": 1}
    enforced = (only_friends("Monitor"), "--enforced")
    wait_for(lambda: verdicts(world, *enforced) == {"allowed", "audited"}, "before it and under it", 30)
    status, found = preview(world, *enforced)
    assert status == 3
    assert ends(found["changes"]) == {("far", "web")}

    world.write("policies", only_friends("Enforce"))
    expect(world, Try(NEAR, WEB, HTTP, OPEN), Try(FAR, WEB, HTTP, SILENT))
    wait_for(lambda: view(world)["counts"]["dropped"], "dropped", 20)
    deleted = (only_friends("Enforce"), "--delete")
    wait_for(lambda: preview(world, *deleted)[1]["changes"], "what it dropped", 30)
    status, found = preview(world, *deleted)
    assert status == 0
    assert ends(found["changes"]) == {("far", "web")}
    assert {change["then"]["verdict"] for change in found["changes"]} == {"allowed"}


def shut_out(world: World, times: int = 1) -> Any:
    """Preview, once far's tries are recorded in both families, so many: agents record what they met later."""
    status, found = preview(world, only_friends("Enforce"))
    families = {change["source"]["address"] for change in found["changes"] if change["breaks"]}
    if families != {world.pod_ip("far", family) for family in BOTH}:
        return None
    assert status == 3, "far would be shut out"
    return found if all(change["count"] >= times for change in found["changes"]) else None


def verdicts(world: World, *asked: Any) -> set[str]:
    """Of what preview says would change."""
    return {change["verdict"] for change in preview(world, *asked)[1]["changes"]}


def test_edges_outlive_an_agent_and_its_absence_is_said(world: World) -> None:
    expect(world, Try(FAR, WEB, HTTP, OPEN))
    before = wait_for(lambda: shut_out(world), "what far did", 30)
    assert ends(before["changes"]) == {("far", "web")}
    pid = world.agent_pid("node-1")
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: world.is_ready_again("node-1", pid), "another agent", 60)
    after = preview(world, only_friends("Enforce"))[1]
    assert ends(after["changes"]) >= ends(before["changes"])
    assert after["window"]["since"] == before["window"]["since"]


def test_a_pod_that_is_gone_is_still_judged(world: World) -> None:
    world.write("more", pod("passing", "node-2", app="stranger"))
    world.wait_pod("passing", ready=True)
    expect(world, Try("pod:default/passing", WEB, HTTP, OPEN))
    world.remove("more")
    world.wait_gone("passing")
    found, notes = wait_for(lambda: _of_passing(world), "the agent knows that it is gone", 30)
    assert "pod gone" in notes[0]
    assert any("pod gone" in line for line in found["unseen"])


def _of_passing(world: World) -> tuple[Any, list[str]] | None:
    """Preview, and its notes of the pod's traffic, once it has any."""
    found = preview(world, only_friends("Enforce"))[1]
    notes = (change["notes"] for change in found["changes"] if change["source"].get("name") == "passing")
    return next(((found, each) for each in notes if each), None)


def test_the_record_is_in_the_labs_folder_alone(world: World) -> None:
    assert not Path("/var/lib/netaccel/edges/node-1.db").exists()
    metrics = world.lab.metrics("node-1")
    assert 'netaccel_edge_flows_total{outcome="recorded"}' in metrics
