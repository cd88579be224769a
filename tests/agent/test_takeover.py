# SPDX-License-Identifier: Apache-2.0
"""From a kube-proxy to netaccel and back: no connection is lost, new ones go where they should."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from ground import PATIENCE, Node
from handover import UDP_TIMEOUT, Client, Handover

pytestmark = [pytest.mark.root, pytest.mark.timeout(600), pytest.mark.xdist_group("load")]


@pytest.fixture(params=["local", "remote"])
def handover(node: Node, request: pytest.FixtureRequest) -> Iterator[Handover]:
    """Pods on this node, whose packets go up the stack, or on another, to which XDP and TC send them off."""
    made = Handover(node, remote=request.param == "remote")
    try:
        made.up()
        yield made
    finally:
        made.close()


def dump(node: Node, name: str) -> list[dict[str, Any]]:
    done = node.netaccel("map", "dump", name, "-o", "json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def modes(node: Node) -> set[str]:
    """Modes of frontends."""
    return {flag for row in dump(node, "frontends") for flag in row["flags"] if flag in ("drain", "takeover")}


def ours(node: Node) -> int:
    """Flows that netaccel translates and that have not ended."""
    return sum(
        row["direction"] == "forward"
        and "stack" not in row["flags"]
        and row["state"] not in ("closed", "reset")
        for row in dump(node, "flows")
    )


def serve(node: Node, **settings: str) -> subprocess.Popen[str]:
    """An agent that is ready and has taken over, or drains."""
    agent = node.serve(timeouts=f"udp={UDP_TIMEOUT},unreplied={UDP_TIMEOUT}", **settings)
    wanted = {"drain"} if settings.get("drain") else set()
    node.until(lambda: modes(node) == wanted, agent)
    return agent


def all_go_on(node: Node, clients: list[Client]) -> None:
    for client in clients:
        deadline = time.monotonic() + PATIENCE
        while not client.goes_on():
            assert time.monotonic() < deadline, (client.what, client.served, client.last)
            time.sleep(0.05)


@pytest.mark.parametrize("xdp", ["auto", "off"])
def test_there_and_back_without_losing_a_connection(node: Node, handover: Handover, xdp: str) -> None:
    handover.write_service()
    before, silent = handover.open("old"), handover.open("old", "quiet", "udp")

    agent = serve(node, xdp=xdp)
    all_go_on(node, before)
    with_us = handover.open("new")
    all_go_on(node, before + with_us)
    states = Counter(tuple(row["flags"]) for row in dump(node, "flows") if row["direction"] == "forward")
    assert states[("stack",)] == len(before) + len(silent)

    node.stop(agent)
    agent = serve(node, xdp=xdp, drain="true")
    all_go_on(node, before + with_us)
    drained = handover.open("old")
    all_go_on(node, before + with_us + drained)
    node.until(lambda: f"draining: {len(with_us)} flows left" in " ".join(node.status()["notes"]))

    node.stop(agent)
    agent = serve(node, xdp=xdp)
    all_go_on(node, before + with_us + drained)
    again = handover.open("new")

    node.stop(agent)
    agent = serve(node, xdp=xdp, drain="true")
    for client in with_us + again:
        client.end()
    lasting = sum(client.kind == "udp" for client in with_us + again)
    node.until(lambda: ours(node) == lasting, agent)  # UDP ends by its time-out
    node.stop(agent)
    done = node.netaccel("detach")
    assert done.returncode == 0, done.stderr
    for client in before + silent + drained:
        client.end()


def test_connections_that_are_opened_meanwhile_fare_no_worse(node: Node, handover: Handover) -> None:
    handover.write_service()
    before = handover.open("old")
    churns = handover.open("", "churn")
    course = [("serve", time.time())]
    agent = serve(node)
    handover.open("new")
    node.stop(agent)
    course.append(("drain", time.time()))
    agent = serve(node, drain="true")
    handover.open("old")
    node.stop(agent)
    course.append(("serve again", time.time()))
    serve(node)
    handover.open("new")
    course.append(("end", time.time()))
    for churn in churns:
        said = churn.stop()
        assert not said["errors"], (churn.what, said, course, dump(node, "drops"))
        assert said["counts"].keys() == {"old", "new"}
    all_go_on(node, before)
