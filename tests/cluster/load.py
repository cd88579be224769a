# SPDX-License-Identifier: Apache-2.0
"""Requests all the time, on every road to a Service; each failure with its time and its reason."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from objects import pod
from world import World, wait_for

ASKER = Path(__file__).with_name("asker.py")
PAUSE = 0.04
MUCH = 10**9  # bytes; at RATE the download outlives any test
RATE = 200_000  # bytes a second


class Failure(NamedTuple):
    """One request that failed: when it began (seconds since the epoch), how long it took."""

    at: float
    took: float
    road: str
    reason: str


@dataclass
class Load:
    """What came of it; filled in when the block ends."""

    world: World
    requests: dict[str, int] = field(default_factory=dict)
    servers: set[str] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)

    def take(self, where: str, line: str) -> None:
        """Add what an asker said."""
        said: dict[str, dict[str, Any]] = json.loads(line)
        for url, found in said.items():
            road = f"{where} → {url}"
            self.requests[road] = found["requests"]
            self.servers |= found["servers"].keys()
            self.failures += [Failure(at, took, road, why) for at, took, why in found["failures"]]
        self.failures.sort()

    def check(self, least: int = 20) -> None:
        """Fail unless all went well, on each road at least so many times."""
        few = {road: count for road, count in self.requests.items() if count < least}
        assert self.requests
        assert not few, few
        assert not self.failures, self.explain(self.failures)

    def explain(self, failures: Sequence[Failure]) -> str:
        """What failed, amid what was done."""
        lines = [(f.at, f"FAILED after {f.took:g} s: {f.road}: {f.reason}") for f in failures[:60]]
        told = sorted([*lines, *self.world.diary])
        total = sum(self.requests.values())
        head = f"{len(failures)} of {total} requests failed"
        return "\n".join([head, *(f"{at - self.world.born:8.2f} s  {text}" for at, text in told)])


def outside(world: World, name: str, nodes: Sequence[str] = ()) -> list[str]:
    """A Service's node ports on nodes, in both families."""
    port = world.node_port(name)
    chosen = [world.cluster.plan.node(node) for node in nodes] or world.cluster.plan.nodes
    return [url(address, port) for node in chosen for address in (node.address4, node.address6)]


def inside(world: World, name: str) -> list[str]:
    """A Service's cluster addresses."""
    return [url(address, 80) for address in world.get("service", name)["spec"]["clusterIPs"]]


def url(host: str, port: int, path: str = "/json") -> str:
    """A URL of the lab's server."""
    return f"http://[{host}]:{port}{path}" if ":" in host else f"http://{host}:{port}{path}"


def kept(urls: Sequence[str]) -> list[str]:
    """The same over one connection each."""
    return [f"kept+{one}" for one in urls]


def long_answers(urls: Sequence[str]) -> list[str]:
    """One download each, of which there is no end."""
    return [f"bytes+{one.removesuffix('/json')}/bytes?n={MUCH}&rate={RATE}" for one in urls]


@contextlib.contextmanager
def load(
    world: World, from_outside: Sequence[str], from_pods: dict[str, list[str]], name: str = "asker"
) -> Iterator[Load]:
    """Ask for as long as the block lasts: from the client, and from a pod on each node that is named."""
    found = Load(world)
    names = {node: f"{name}-{node}" for node, urls in from_pods.items() if urls}
    askers = [pod(names[node], node, ASKER.read_text(), str(PAUSE), *from_pods[node]) for node in names]
    target = world.cluster.target("client", ["python3", str(ASKER), str(PAUSE), *from_outside])
    if askers:
        world.apply(*askers)
    client = subprocess.Popen(target.command, env=target.environment, stdout=subprocess.PIPE, text=True)
    try:
        assert client.stdout
        assert client.stdout.readline() == "asking\n"
        for one in names.values():
            wait_for(lambda one=one: "asking" in world.logs(one), f"{one} at work", 120)
        world.note(f"{name}: load began")
        yield found
        world.note(f"{name}: load ends")
        client.terminate()
        found.take("client", client.communicate(timeout=60)[0])
        for node, one in names.items():
            world.kubectl("exec", one, "--", "sh", "-c", "kill 1")
            limit = ("--for=jsonpath={.status.phase}=Succeeded", "--timeout=90s")
            world.kubectl("wait", *limit, f"pod/{one}", timeout=100)
            found.take(f"pod on {node}", world.logs(one).splitlines()[-1])
    finally:
        client.kill()
        client.communicate()
        for one in names.values():
            world.kubectl("delete", "pod", one, "--now", "--wait=false", "--ignore-not-found")
