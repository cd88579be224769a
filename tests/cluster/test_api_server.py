# SPDX-License-Identifier: Apache-2.0
"""The API server is away for a minute: traffic goes on, nobody forgets anything, afterwards all catch up."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from load import inside, kept, load, outside
from objects import deployment, service
from world import NODES, World, wait_for

from netaccel.cluster import groups

AWAY = 60  # seconds


@pytest.fixture
def web(world: World) -> Iterator[World]:
    world.apply(deployment("web", 2), service("web"))
    world.rolled_out("deployment/web")
    world.served([*outside(world, "web")])
    yield world
    if not world.cluster.control.is_ready():
        world.cluster.control.start_api_server()


def test_a_minute_without_the_api_server(web: World) -> None:
    control = web.cluster.control
    from_outside, from_pod = outside(web, "web"), inside(web, "web")
    restarted, left_alone = NODES
    with load(
        web,
        [*from_outside, *kept(from_outside)],
        {"node-2": [*from_pod, *kept(from_pod), "http://web/json"]},
    ) as found:
        web.note("the API server is killed")
        control.kill_api_server()
        back_at = time.monotonic() + AWAY
        wait_for(lambda: web.status(left_alone)["sources"][0]["problem"], "the agent notices")
        pid = web.status(restarted)["pid"]
        web.note(f"kill -9 of the agent on {restarted}")
        web.run(restarted, "kill", "-9", str(pid))
        status = wait_for(
            lambda: (now := web.status(restarted)).get("pid") not in (None, pid) and now, "another agent"
        )
        assert not status["ready"]
        assert status["counts"]["frontends"] > 0, "what is pinned is served"
        assert "what is pinned is served on" in web.told(restarted)
        assert web.answered(from_outside[0])
        time.sleep(max(0.0, back_at - time.monotonic()))
        for node in NODES:
            age = web.status(node)["sources"][0]["age"]
            assert age > AWAY / 2, f"{node} says how old its state is"
        assert "last current" in web.told(left_alone)
        control.start_api_server()
        web.note("the API server is back")
        for node in NODES:
            wait_for(
                lambda node=node: (now := web.status(node)).get("ready") and not now["sources"][0]["problem"],
                f"{node} is current again",
            )
        web.apply(service("late", "web"))
        web.served(outside(web, "late"))
        web.served(inside(web, "late"), restarted)
    found.check()

    start_kubelets_anew(web)
    web.kubectl("scale", "deployment/web", "--replicas=4")
    web.rolled_out("deployment/web")
    everybody = {one["metadata"]["name"] for one in web.pods("web")}
    for url in from_outside:
        wait_for(lambda url=url: web.answering(url) == everybody, f"all four answer at {url}")
    assert all(web.status(node)["drift_repaired"] == 0 for node in NODES)


def start_kubelets_anew(world: World) -> None:
    """After so long without an answer a kubelet waits for up to two minutes until it asks again.

    Not under load: a kubelet that starts takes its pods for unready until it has asked them.
    """
    for node in NODES:
        groups.end(groups.node(world.cluster.name, node), "kubelet", grace=0.0)
