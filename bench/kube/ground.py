# SPDX-License-Identifier: Apache-2.0
"""A small network with a real control plane: node-1 under test, node-2 with the pod that answers, a client.

The lab's topology; its router's namespace holds etcd and the API server. Nodes have no kubelet: proxies need
none. On node-1 a pod that asks, on node-2 one that serves at all of :data:`bench.kube.crowd.REAL`.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.kube import crowd
from bench.kube.loader import Loader
from netaccel.cluster import binaries
from netaccel.cluster.arguments import Options
from netaccel.cluster.binaries import Binaries
from netaccel.cluster.controlplane import ControlPlane
from netaccel.datapath import libbpf
from netaccel.lab import cgroups, topology
from netaccel.lab.plan import ROUTER4, SERVICE_CIDR4, NodePlan, Plan, make_plan, pod_device, pod_namespace
from netaccel.lab.process import Place
from netaccel.lab.shell import ip, write_sysctls

API_PORT = 6443
ASKER, SERVER = ("default", "asker"), ("default", "server")
DEPLOY = Path(__file__).parents[2] / "deploy/base"
PROGRAMS = ("etcd", "kube-apiserver", "kubectl", "kube-proxy")


@dataclass(frozen=True)
class Ground:
    """Where things run."""

    plan: Plan
    folder: Path
    bpffs: Path
    control: ControlPlane
    programs: Binaries

    @property
    def node(self) -> NodePlan:
        """The node under test."""
        return self.plan.nodes[0]

    @property
    def cgroup(self) -> Path:
        """The node's cgroup: its own processes and its pods'."""
        return cgroups.node(self.plan.name, self.node.name)

    @property
    def proxy(self) -> Place:
        """Where the proxy runs: nothing else is in its cgroup."""
        return Place(cgroups.host(self.plan.name, self.node.name) / "proxy", self.node.namespace)

    @property
    def asker(self) -> Place:
        """The pod on the node under test."""
        return Place(
            cgroups.pod(self.plan.name, self.node.name, *ASKER), pod_namespace(self.plan.name, *ASKER)
        )

    @property
    def server(self) -> Place:
        """The pod on the other node."""
        name = self.plan.nodes[1].name
        return Place(cgroups.pod(self.plan.name, name, *SERVER), pod_namespace(self.plan.name, *SERVER))

    @property
    def client(self) -> Place:
        """The client outside."""
        return Place(cgroups.client(self.plan.name), self.plan.client)


@contextmanager
def ground() -> Iterator[Ground]:
    """All of it; nothing is left afterwards."""
    programs = binaries.find_or_build(PROGRAMS, say=lambda line: print(line, file=sys.stderr))
    plan = make_plan(f"bench{os.getpid()}", 2)
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="netaccel-bench-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        bpffs = _bpffs(plan, stack)
        root = cgroups.lab_root(plan.name)
        stack.callback(cgroups.remove, root)
        stack.callback(topology.remove, plan.name)
        stack.callback(cgroups.kill, root)
        topology.build(plan, bpffs / "switch")
        _pods(plan)
        place = Place(root / "control", plan.router)
        options = Options(addresses=(ROUTER4,), port=API_PORT, place=place)
        control = stack.enter_context(ControlPlane(folder / "control", programs, options))
        yield Ground(plan, folder, bpffs, control, programs)


@contextmanager
def loading(control: ControlPlane, nodes: tuple[NodePlan, ...] = ()) -> Iterator[Loader]:
    """A loader, once netaccel's kinds and rights, namespaces and nodes are there."""
    loader = Loader(control)
    try:
        control.kubectl("apply", "--server-side", "-k", str(DEPLOY))
        loader.send(crowd.namespaces())
        loader.send(crowd.nodes((node.name, node.address4, node.pod_cidr4) for node in nodes))
        yield loader
    finally:
        loader.close()


def _bpffs(plan: Plan, stack: ExitStack) -> Path:
    found = Path("/run") / f"netaccel-{plan.name}"
    found.mkdir()
    stack.callback(found.rmdir)
    libbpf.mount("bpf", str(found), "bpf")
    stack.callback(libbpf.unmount, str(found))
    for name in ("switch", *(node.name for node in plan.nodes)):
        (found / name).mkdir()
    return found


def _pods(plan: Plan) -> None:
    for node, pod in zip(plan.nodes, (ASKER, SERVER), strict=True):
        cgroups.pod(plan.name, node.name, *pod).mkdir(parents=True)
        where = pod_namespace(plan.name, *pod)
        topology.add_pod(plan, node, where, pod, node.pod_addresses(2))
    other = plan.nodes[1]
    server = pod_namespace(plan.name, *SERVER)
    ip(
        [f"route add {crowd.REAL} via {other.pod_addresses(2)[0]} onlink dev {pod_device(*SERVER)}"],
        other.namespace,
    )
    ip((f"address add {crowd.real_address(i)}/32 dev lo" for i in range(126)), server)
    # A Service's address that nobody translates is refused at once: clients that try again lose no time.
    write_sysctls(plan.router, {"net/ipv4/icmp_ratelimit": 0, "net/ipv4/icmp_msgs_per_sec": 100_000})
    routes = (f"route add {crowd.REAL} via {other.address4}", f"route add unreachable {SERVICE_CIDR4}")
    ip(routes, plan.router)
