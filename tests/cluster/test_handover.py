# SPDX-License-Identifier: Apache-2.0
"""From a real kube-proxy to netaccel and back, step by step as docs/operations.md has it, under load.

Nobody notices: neither who opens a connection for each request, nor those that hold one through every step
that the page says it lives through.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import a_world, say
from load import inside, kept, load, long_answers, outside, url
from objects import Object, deployment, service
from world import NODES, World, wait_for

from netaccel.cluster import install, lifecycle
from netaccel.cluster.handle import Cluster
from netaccel.cluster.state import State
from netaccel.errors import LabError

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBE_PROXY = "kube-proxy-nftables"
NODEVIEW = Path(__file__).with_name("nodeview.py")
# What has ended is forgotten soon, so that the test needn't wait for it.
SHORT = {"sweepInterval": 2, "timeouts": {"closing": 5, "closed": 5, "syn": 5, "udp": 10}}
BESIDE = {"kubeProxy": "beside", **SHORT}
INSTEAD = {"kubeProxy": "instead", "apiServers": ["172.30.0.1:6443"], **SHORT}


@pytest.fixture(scope="module")
def kube_proxys() -> Iterator[Cluster]:
    """A cluster that a kube-proxy serves, whose nodes have netaccel's image."""
    name = f"test{os.getpid()}kp"
    try:
        lifecycle.up(State(name, 2, KUBE_PROXY, (str(install.IMAGE),)), say)
        yield Cluster(name)
    finally:
        lifecycle.down(name, say)


@pytest.fixture
def world(kube_proxys: Cluster) -> Iterator[World]:
    yield from a_world(kube_proxys)


@pytest.fixture
def web(world: World) -> World:
    world.apply(deployment("web", 2), service("web"))
    world.rolled_out("deployment/web")
    world.served(outside(world, "web"))
    world.served(inside(world, "web"), "node-1")
    return world


class Site:
    """A user's kustomization on top of one of ``deploy/``."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder

    def apply(self, base: Path, settings: Object) -> None:
        """Apply ``base`` with these settings; agents that run are restarted. Returns when all serve."""
        (self.folder / "config.yaml").write_text(yaml.safe_dump(settings))
        own = install.kustomization(os.path.relpath(base, self.folder))
        (self.folder / "kustomization.yaml").write_text(yaml.safe_dump(own))
        first = "daemonset.apps/netaccel" not in self.world.netaccel("get", "daemonsets", "-o", "name")
        self.world.kubectl("apply", "-k", str(self.folder))
        if not first:
            self.world.netaccel("rollout", "restart", "daemonset", "netaccel")
        self.rolled_out()

    def rolled_out(self) -> None:
        self.world.rolled_out("daemonset", "netaccel", "-n", "netaccel")


@pytest.fixture
def site(world: World, tmp_path: Path) -> Site:
    return Site(world, tmp_path)


def test_there_and_back(web: World, site: Site) -> None:
    from_outside, from_pod = outside(web, "web"), inside(web, "web")
    for node in NODES:  # the kernel remembers what has ended for two minutes
        web.run(node, "sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_timeout_time_wait=5")
    untouched = {node: seen(web, node) for node in NODES}

    def held(name: str) -> Any:
        """Connections of all kinds, opened now."""
        urls = [*kept(from_outside), *long_answers(from_outside)]
        return load(web, urls, {"node-1": [*kept(from_pod), *long_answers(from_pod)]}, name)

    with ExitStack() as always, ExitStack() as before, ExitStack() as after:
        new = always.enter_context(
            load(web, from_outside, {"node-1": [*from_pod, "http://web/json"]}, name="new")
        )
        kube_proxys_own = before.enter_context(held("before"))

        web.note("1: install beside it")
        site.apply(DEPLOY, BESIDE)
        assert states(web) == dict.fromkeys(NODES, ("True", "beside", 0))
        for node in NODES:
            wait_for(lambda node=node: opens(web, node), f"new connections are netaccel's on {node}")
        assert stack_flows(web, "node-1") >= len(from_outside) / 2 + len(from_pod)

        web.note("2: switch to instead")
        site.apply(DEPLOY / "overlays/instead-of-kube-proxy", INSTEAD)
        assert {mode for _, mode, _ in states(web).values()} == {"instead"}
        ours = after.enter_context(held("after"))

        web.note("3: stop kube-proxy, leave its rules")
        for node in NODES:
            web.cluster.set_proxy(node, "none", keep_rules=True)
        for node in web.cluster.plan.nodes:
            health = url(node.address4, 10256, "/healthz")
            wait_for(lambda health=health: "currentTime" in fetched(web, health), f"{health} answers")
            wait_for(lambda node=node: not web.status(node.name)["warnings"], "no port is taken any more")

        web.note("4: remove the rules once nothing uses them")
        assert stack_flows(web, "node-1") > 0
        before.close()
        kube_proxys_own.check()
        for node in NODES:
            wait_for(lambda node=node: stack_flows(web, node) == 0, f"{node} has none left")
            web.cluster.set_proxy(node, "none")
            assert "kube-proxy" not in web.run(node, "nft", "list", "tables")

        web.note("back, 1: start kube-proxy")
        for node in NODES:
            web.cluster.set_proxy(node, KUBE_PROXY)
            wait_for(lambda node=node: "kube-proxy" in web.run(node, "nft", "list", "tables"), "its rules")

        web.note("back, 2: drain")
        drained = time.time()
        site.apply(DEPLOY / "overlays/instead-of-kube-proxy", {**INSTEAD, "drain": True})
        for node in NODES:
            wait_for(lambda node=node: "flows left" in web.told(node), f"{node} says what is left")
            assert not opens(web, node), "new connections are kube-proxy's"
        after.close()
        ours.check()
        for node in NODES:
            wait_for(lambda node=node: "no flow left" in web.told(node), f"{node} has none left")

        web.note("back, 3: uninstall")
        forgotten = time.time()
        web.kubectl("apply", "-k", str(DEPLOY / "uninstall"))
        site.rolled_out()
        web.kubectl("delete", "-k", str(DEPLOY))
        always.close()
    # kube-proxy may masquerade one of some thousand connections to a port of a flow of ours that lasts: 0012
    lost = [f for f in new.failures if drained < f.at < forgotten and f.road.startswith("client")]
    if len(lost) == 1 and "timed out" in lost[0].reason:
        new.failures.remove(lost[0])
    new.check()
    assert {node: seen(web, node) for node in NODES} == untouched


def states(world: World) -> dict[str, tuple[str, str, int]]:
    """READY, MODE and how many WARNINGS ``kubectl get nodestates`` shows, once the agents have said so."""

    def read() -> dict[str, tuple[str, str, int]]:
        items = world.get("nodestates")["items"]
        return {
            one["metadata"]["name"]: (
                next(c["status"] for c in one["status"]["conditions"] if c["type"] == "Ready"),
                one["status"]["mode"],
                len(one["status"].get("warnings", [])),
            )
            for one in items
        }

    modes = {node: world.status(node)["mode"] for node in NODES}
    wait_for(
        lambda: (
            {node: state[:2] for node, state in read().items()}
            == {node: ("True", mode) for node, mode in modes.items()}
        ),
        "NodeStates as the agents are",
    )
    return read()


def fetched(world: World, address: str) -> str:
    try:
        return world.run("client", "curl", "-sf", "-m", "10", address)
    except LabError:
        return ""


def flows(world: World, node: str) -> list[dict[str, Any]]:
    said = world.run(node, "netaccel", "map", "dump", "flows", "-o", "json")
    return [row for row in json.loads(said) if row["direction"] == "forward"]


def stack_flows(world: World, node: str) -> int:
    """Flows that a node leaves to kube-proxy's rules: what the page has people look at."""
    found = Counter(
        f"{row['proto']} {row['dport']} {row['state']}"
        for row in flows(world, node)
        if "stack" in row["flags"]
    )
    world.note(f"{node}: {found.total()} flows are kube-proxy's: {dict(found)}")
    return found.total()


def opens(world: World, node: str) -> bool:
    """Whether, under load, connections of this test's Service are opened by netaccel."""
    port = world.node_port("web")

    def ours() -> set[tuple[Any, ...]]:
        return {
            (row["src"], row["sport"], row["dst"])
            for row in flows(world, node)
            if "stack" not in row["flags"] and row["dport"] == port
        }

    known = ours()
    url_ = outside(world, "web", [node])[0]
    world.answering(url_, 20)
    return bool(ours() - known)


def seen(world: World, node: str) -> Any:
    """What netaccel could have left on a node."""
    return json.loads(world.run(node, sys.executable, str(NODEVIEW)))
