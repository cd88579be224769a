# SPDX-License-Identifier: Apache-2.0
"""What 50 agents cost one API server: their lists, their watches, what they write.

Sources and writers of real agents, without datapaths, ten to a process, in node-1's namespace; etcd and the
API server in the router's, so that all that is sent crosses one wire, whose bytes are counted (TLS, TCP and
IP included). docs/scale.md makes of these figures what 1,000 and 5,000 nodes cost. Clients and server share
this machine's CPUs: times until all have it are upper bounds, CPU seconds are the server's own.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from bench.kube import asking, crowd, meter, proxies
from bench.kube.asking import Teller
from bench.kube.ground import API_PORT, Ground, ground, loading
from bench.kube.loader import Loader
from bench.kube.watching import LEASE
from bench.results import Result
from netaccel.datapath import netlink
from netaccel.lab import cgroups
from netaccel.lab.plan import ROUTER4

AGENTS, A_PROCESS = 50, 10
SERVICES = 1_000
CHANGES, CHANGES_A_SECOND = 200, 10
WRITES, ASKS = 10, 20
IDLE = 60.0
PATIENCE = 300.0
NODE_STATES = "/apis/netaccel.io/v1alpha1/nodestates"
SETTLE = 5.0


class Spent(NamedTuple):
    """What the server has used so far: seconds of CPU, bytes on the wire; and etcd's CPU."""

    cpu: float
    sent: float
    etcd: float

    def since(self, before: Spent) -> Spent:
        """The difference."""
        return Spent(*(a - b for a, b in zip(self, before, strict=True)))


class Server:
    """The API server's process."""

    def __init__(self, where: Ground) -> None:
        pids = meter.by_name(cgroups.lab_root(where.plan.name) / "control")
        self._pid, self._etcd = pids["kube-apiserver"], pids["etcd"]
        self._namespace = where.plan.router

    def spent(self) -> Spent:
        """What it has used so far."""
        return Spent(meter.process_cpu(self._pid), self._sent(), meter.process_cpu(self._etcd))

    def memory(self) -> float:
        """Resident MB."""
        return meter.process_resident(self._pid)

    def _sent(self) -> float:
        """Bytes that left by the wire to the nodes (proc_net(5))."""
        with netlink.inside_namespace(self._namespace):
            lines = Path("/proc/thread-self/net/dev").read_text(encoding="ascii").splitlines()
        return next(
            float(line.split(":")[1].split()[8]) for line in lines if line.strip().startswith("eth0:")
        )


def run() -> list[Result]:
    """Every row of the part."""
    with ground() as where, loading(where.control, where.plan.nodes) as loader, ExitStack() as stack:
        loader.send(
            crowd.nodes((f"node-{i}", f"172.31.0.{i}", f"10.245.{i}.0/24") for i in range(3, AGENTS + 1))
        )
        loader.send(crowd.services(range(SERVICES)))
        server = Server(where)
        crowded = crowd.unreal(SERVICES)
        alone = change_cost(loader, server, crowded[:CHANGES])
        beside = list(peer(where, loader, server, crowded[2 * CHANGES : 3 * CHANGES]))
        quiet = idle_cost(server)
        agents: list[Teller] = []
        return [
            *lists(where, server, stack, agents),
            *idle(server, quiet),
            *changes(loader, server, agents, crowded[CHANGES : 2 * CHANGES], alone),
            *writes(loader, server, agents),
            *asks(loader, server, agents),
            *beside,
        ]


def lists(where: Ground, server: Server, stack: ExitStack, agents: list[Teller]) -> Iterator[Result]:
    """All of them start at once."""
    kubeconfig = where.control.kubeconfig_of_account("netaccel", "netaccel", proxies.ACCOUNT_SECONDS)
    words = (str(kubeconfig), f"{ROUTER4}:{API_PORT}")
    place = where.proxy
    memory, before, begin = server.memory(), server.spent(), time.monotonic()
    for first in range(1, AGENTS, A_PROCESS):
        numbers = (str(first), str(A_PROCESS))
        agents.append(
            stack.enter_context(asking.client(place, *words, *numbers, module="bench.kube.watching"))
        )
    last = max(told(agent, "synced") for agent in agents)
    spent = server.spent().since(before)
    title = f"{AGENTS} agents list {SERVICES:,} Services × {crowd.ENDPOINTS} endpoints"
    yield Result(f"{title}: until the last has all", last - begin, "s")
    yield Result(f"{title}: sent to each", spent.sent / AGENTS / 1e6, "MB")
    yield Result(f"{title}: API server's CPU for each", 1000 * spent.cpu / AGENTS, "ms")
    time.sleep(SETTLE)
    yield Result(f"{title}: API server's memory before", memory, "MB RSS")
    yield Result(f"{title}: API server's memory after", server.memory(), "MB RSS")


def idle(server: Server, quiet: Spent) -> Iterator[Result]:
    """Nothing changes."""
    spent = idle_cost(server)
    more = 100 * (spent.cpu - quiet.cpu) / IDLE
    yield Result(f"{AGENTS} agents, nothing changes: API server's CPU more", more, "% of a core")
    yield Result(f"{AGENTS} agents, nothing changes: sent to each", spent.sent / AGENTS / IDLE, "bytes/s")


def changes(
    loader: Loader, server: Server, agents: list[Teller], numbers: list[int], alone: Spent
) -> Iterator[Result]:
    """One endpoint of a slice of 50 each time."""
    answered: dict[str, float] = {}
    before = server.spent()
    for number, at in paced(loader, numbers):
        answered[f"service-{number}-abcde"] = at
    seen: dict[str, float] = {}
    for agent in agents:
        for _ in answered:
            line = agent.next(PATIENCE)
            if line is None:
                raise RuntimeError("a change was not seen by all")
            seen[line[0]] = max(line[1], seen.get(line[0], 0.0))
    spent = server.spent().since(before)
    times = sorted(1000 * (seen[name] - at) for name, at in answered.items())
    title = f"a change of one slice of {crowd.ENDPOINTS}, {AGENTS} agents"
    yield Result(f"{title}: sent to each", spent.sent / CHANGES / AGENTS / 1e3, "kB")
    yield Result(f"{title}: API server's CPU, the write alone", 1000 * alone.cpu / CHANGES, "ms")
    yield Result(f"{title}: API server's CPU, all of it", 1000 * spent.cpu / CHANGES, "ms")
    each = 1e6 * (spent.cpu - alone.cpu) / CHANGES / AGENTS
    yield Result(f"{title}: API server's CPU for each agent", each, "µs")
    yield Result(f"{title}: until all have it, median", statistics.median(times), "ms")
    yield Result(f"{title}: until all have it, p99", times[len(times) * 99 // 100], "ms")


def writes(loader: Loader, server: Server, agents: list[Teller]) -> Iterator[Result]:
    """Each writes its NodeState some times, each time something new."""
    before, begin = server.spent(), time.monotonic()
    for agent in agents:
        agent.say(f"write {WRITES}")
    last = max(told(agent, "written") for agent in agents)
    spent = server.spent().since(before)
    found = json.loads(loader.get(NODE_STATES))["items"]
    if [item["status"]["services"] for item in found] != [WRITES] * AGENTS:
        raise RuntimeError(f"NodeStates as written last: {[item.get('status') for item in found][:3]} …")
    count = AGENTS * WRITES
    yield Result("a NodeState written: API server's CPU", 1000 * spent.cpu / count, "ms")
    yield Result("a NodeState written: etcd's CPU", 1000 * spent.etcd / count, "ms")
    yield Result("NodeStates written, all agents at once", count / (last - begin), "a second")


def asks(loader: Loader, server: Server, agents: list[Teller]) -> Iterator[Result]:
    """Who is elected; and the list that the elected one asks for."""
    collection, _, name = LEASE.rpartition("/")
    lease = {"metadata": {"name": name}, "spec": {"holderIdentity": "bench", "leaseDurationSeconds": 45}}
    loader.send([crowd.Post("POST", collection, json.dumps(lease).encode())])
    before = server.spent()
    for agent in agents:
        agent.say(f"ask {ASKS}")
    for agent in agents:
        told(agent, "asked")
    spent = server.spent().since(before)
    yield Result("the Lease looked at: API server's CPU", 1000 * spent.cpu / AGENTS / ASKS, "ms")
    size = len(loader.get(NODE_STATES))
    yield Result("NodeStates listed, for each: sent", size / AGENTS / 1e3, "kB")


def peer(where: Ground, loader: Loader, server: Server, numbers: list[int]) -> Iterator[Result]:
    """The same of one kube-proxy, which takes protobuf."""
    before = server.spent()
    with proxies.running(where, proxies.NFTABLES) as child:
        child.wait_until(lambda: child.said().count("SyncProxyRules complete") >= 2, PATIENCE)
        spent = server.spent().since(before)
        yield Result("one kube-proxy's lists: sent", spent.sent / 1e6, "MB")
        yield Result("one kube-proxy's lists: API server's CPU", 1000 * spent.cpu, "ms")
        before = server.spent()
        for _ in paced(loader, numbers):
            pass
        time.sleep(SETTLE)
        spent = server.spent().since(before)
        yield Result("a change, sent to one kube-proxy", spent.sent / len(numbers) / 1e3, "kB")


def change_cost(loader: Loader, server: Server, numbers: list[int]) -> Spent:
    """What changes cost that nobody watches."""
    before = server.spent()
    for _ in paced(loader, numbers):
        pass
    return server.spent().since(before)


def idle_cost(server: Server) -> Spent:
    """What a quiet minute costs."""
    time.sleep(SETTLE)
    before = server.spent()
    time.sleep(IDLE)
    return server.spent().since(before)


def paced(loader: Loader, numbers: list[int]) -> Iterator[tuple[int, float]]:
    """Change these slices, some a second; each number with the time of the answer."""
    begin = time.monotonic()
    for sent, number in enumerate(numbers):
        time.sleep(max(0.0, begin + sent / CHANGES_A_SECOND - time.monotonic()))
        yield number, loader.change(crowd.shifted(number, 1))


def told(agent: Teller, what: str) -> float:
    """When a process told this."""
    line = agent.next(PATIENCE)
    if line is None or line[0] != what:
        raise RuntimeError(f"no word of {what}: {line}")
    return float(line[1])
