# SPDX-License-Identifier: Apache-2.0
"""The process that plays kubelet, scheduler, endpoint controller and DaemonSet for one lab.

It watches the manifests, keeps a pod for each Pod, writes all objects with what a cluster would fill in to
the folder that the agents read, and keeps the agents running. ``lab up`` starts it, ``lab down`` kills it.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import sys
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import watchfiles

from netaccel.errors import LabError, ObjectError
from netaccel.lab import cluster, documents, topology
from netaccel.lab.agents import Agent
from netaccel.lab.allocate import Allocator, Given, ingress_addresses
from netaccel.lab.endpoints import PodView, nodes_with_endpoints, slices
from netaccel.lab.plan import NodePlan, paths, pod_label
from netaccel.lab.pods import Pod
from netaccel.lab.raw import Name, Object, name_of, of_kind, spec
from netaccel.lab.report import report
from netaccel.lab.state import State, read_allocations, read_state, write_allocations, write_status
from netaccel.sources.parse import decode

GENERATED = "lab.generated.yaml"
_COALESCE = 0.02  # seconds in which changes are gathered before anything is written
_RESCAN_MS = 5000


def now() -> str:
    """Return the time as Kubernetes writes it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Controller:
    """All state of one lab's controller. One task group; everything happens in its loop."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.plan = state.plan()
        self.paths = paths(state.name)
        self.folder = Path(state.manifests)
        self.changed = asyncio.Event()
        self.files: dict[str, documents.File] = {}
        self.good: dict[str, documents.File] = {}
        self.pods: dict[Name, Pod] = {}
        self.agents: list[Agent] = []
        self.allocator = Allocator(read_allocations(self.paths))
        self.problems: dict[str, str] = {}
        self._last: dict[str, dict[Name, Object]] = {}
        self._indices = {node.name: 1 for node in self.plan.nodes}
        self._routes: dict[str, frozenset[str]] = {}

    async def run(self) -> None:
        """Run until killed."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            if self.state.agents:
                for node in self.plan.nodes:
                    agent = Agent(self.state, node, self.paths, self.changed.set)
                    self.agents.append(agent)
                    tasks.create_task(agent.run())
            while True:
                self.changed.clear()
                self.reconcile(tasks)
                await self.changed.wait()
                await asyncio.sleep(_COALESCE)

    async def _watch(self) -> None:
        """Look at the manifests when they change, and now and then anyway."""
        async for _ in watchfiles.awatch(
            self.folder, debounce=50, step=20, yield_on_timeout=True, rust_timeout=_RESCAN_MS
        ):
            self.changed.set()

    def reconcile(self, tasks: asyncio.TaskGroup) -> None:
        """Bring pods, rendered objects, routes and status up to what is known now."""
        self.problems = {}
        self._read()
        objects = [item for file in self.good.values() for item in file.objects()]
        written = {name.name: item for name, item in of_kind("Node", objects).items()}
        self._keep_pods(tasks, self._valid("Pod", objects))
        services = self.allocator.fill(self._valid("Service", objects), self._new)
        self.problems.update({f"Service {name}": text for name, text in self.allocator.problems.items()})
        write_allocations(self.paths, self.allocator.given)
        views = [
            replace(pod.view(), zone=cluster.zone_of(pod.node, written))
            for pod in self.pods.values()
            if pod.started and not pod.ended
        ]
        self._write(objects, services, written, views)
        self._route(services, views)
        write_status(
            self.paths, report(os.getpid(), self.plan, self.pods, self.agents, services, self.problems)
        )

    def _read(self) -> None:
        if not self.folder.is_dir():
            self.problems[str(self.folder)] = "the folder of manifests is gone; what it held stays in force"
            return
        self.files = documents.read(self.folder, self.files)
        self.good = documents.last_good(self.files, self.good)
        for name, file in self.files.items():
            if file.documents is None:
                self.problems[name] = "not YAML; what it last held stays in force"

    def _valid(self, kind: str, objects: list[Object]) -> dict[Name, Object]:
        """Objects of a kind by name; of one that can't be used the last good version, if there was any."""
        found = of_kind(kind, objects)
        last, self._last[kind] = self._last.get(kind, {}), {}
        for name, item in found.items():
            try:
                decode(item)
            except ObjectError as error:
                self.problems[f"{kind} {name}"] = str(error)
                if name in last:
                    self._last[kind][name] = last[name]
            else:
                self._last[kind][name] = item
        return dict(self._last[kind])

    def _keep_pods(self, tasks: asyncio.TaskGroup, wanted: Mapping[Name, Object]) -> None:
        for name, pod in self.pods.items():
            manifest = wanted.get(name)
            if manifest is None or spec(manifest) != spec(pod.manifest):
                pod.end(now())
            else:
                pod.manifest = manifest
        for name, manifest in wanted.items():
            if name not in self.pods and (node := self._place(name, manifest)):
                if addresses := self._free_addresses(node):
                    self.pods[name] = pod = self._make_pod(name, manifest, node, addresses)
                    tasks.create_task(self._live(pod))
                else:
                    self.problems[f"Pod {name}"] = f"not run: no address of {node.name} is left"

    def _place(self, name: Name, manifest: Object) -> NodePlan | None:
        """Return the pod's node, or None and the problem noted."""
        node = cluster.pick_node(self.plan, manifest, (pod.node for pod in self.pods.values()))
        if node is None:
            self.problems[f"Pod {name}"] = "not run: the lab has no such node"
        return node

    def _make_pod(self, name: Name, manifest: Object, node: NodePlan, addresses: tuple[str, str]) -> Pod:
        new = self._new()
        log = self.paths.logs / f"pod-{pod_label(*name)}.log"
        return Pod(self.plan, node, name, manifest, new.uid, new.created, log, addresses, self.changed.set)

    async def _live(self, pod: Pod) -> None:
        """See a pod through its life; the next change may make another of its name."""
        try:
            await pod.run(now)
        finally:
            del self.pods[pod.name]
            self.changed.set()

    def _free_addresses(self, node: NodePlan) -> tuple[str, str] | None:
        """Return the next addresses that no pod has: an address rests before it is used again."""
        taken = {pod.own_addresses for pod in self.pods.values()}
        for _ in range(254):
            index = self._indices[node.name] = self._indices[node.name] % 254 + 1
            addresses = node.pod_addresses(index)
            if index >= 2 and addresses not in taken:
                return addresses
        return None

    def _new(self) -> Given:
        return Given(str(uuid.uuid4()), now())

    def _write(
        self,
        objects: list[Object],
        services: Mapping[Name, Object],
        written: Mapping[str, Object],
        views: list[PodView],
    ) -> None:
        """Write all objects for the agents."""
        seen: set[Name] = set()

        def change(item: Object) -> Object:
            name, kind = name_of(item), item.get("kind")
            if name is None:
                return item
            if f"{kind} {name}" in self.problems:
                return item  # the agents shall say what is wrong with it
            if kind == "Service" and name in services:
                return services[name]
            if kind == "Pod" and (pod := self.pods.get(name)):
                seen.add(name)
                return pod.rendered(item)
            if kind == "Node" and (node := self._node(name.name)):
                return cluster.fill_node(node, item)
            return cluster.fill_namespace(item) if kind == "Namespace" else item

        rendered = {name: documents.render(file, change) for name, file in self.files.items()}
        leaving = [pod.rendered(pod.manifest) for name, pod in self.pods.items() if name not in seen]
        made = [
            *cluster.missing_nodes(self.plan, written),
            *cluster.missing_namespaces(objects),
            *slices(services, views),
            *leaving,
        ]
        documents.write_folder(self.paths.rendered, {**rendered, GENERATED: documents.dump(made)})

    def _node(self, name: str) -> NodePlan | None:
        return next((node for node in self.plan.nodes if node.name == name), None)

    def _route(self, services: Mapping[Name, Object], views: list[PodView]) -> None:
        """Route outside addresses to all nodes; under a Local policy to those with endpoints."""
        wanted: dict[str, frozenset[str]] = {}
        for service in services.values():
            through = {node.name for node in self.plan.nodes}
            if spec(service).get("externalTrafficPolicy") == "Local":
                through = nodes_with_endpoints(service, views)
            for address in ingress_addresses(service):
                wanted.setdefault(address, frozenset(through))
        for address in {*wanted, *self._routes}:
            through_now = wanted.get(address, frozenset())
            if self._routes.get(address, frozenset()) != through_now:
                topology.route_ingress(self.plan, address, through_now)
        self._routes = wanted


def main() -> None:
    """Run the controller of the lab that the first argument names."""
    where = paths(sys.argv[1])
    state = read_state(where)
    if state is None:
        raise LabError(f"lab {sys.argv[1]} has no state: `netaccel lab up` makes it")
    asyncio.run(Controller(state).run())


if __name__ == "__main__":
    main()
