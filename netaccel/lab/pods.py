# SPDX-License-Identifier: Apache-2.0
"""One pod of the lab: a namespace, a process, its probe, its end.

The command and arguments of the first container run as a process of this machine; images are not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netaccel.errors import LabError
from netaccel.lab import cgroups, topology
from netaccel.lab.endpoints import PodView, Port
from netaccel.lab.plan import NodePlan, Plan, pod_namespace
from netaccel.lab.probes import Answer, Target, named_ports, probe
from netaccel.lab.process import Place, interpreter, start
from netaccel.lab.raw import Name, Object, labels, mapping, mappings, metadata, number, spec, string, strings

_FIRST_PROBES = 0.1  # seconds between probes until the first success: a lab shall be up soon
_BACK_OFF_MAX = 10.0


@dataclass
class Pod:
    """A pod and what became of it. ``run`` is its life; ``end`` begins its termination."""

    plan: Plan
    node: NodePlan
    name: Name
    manifest: Object
    uid: str
    created: str
    log: Path
    own_addresses: tuple[str, str]
    changed: Callable[[], None]
    started: str = ""
    deleted: str = ""
    running: bool = False
    ready: bool = False
    restarts: int = 0
    ended: str = ""
    message: str = ""
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def host_network(self) -> bool:
        """Whether it lives in its node's own namespace."""
        return spec(self.manifest).get("hostNetwork") is True

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its addresses, IPv4 first."""
        return (self.node.address4, self.node.address6) if self.host_network else self.own_addresses

    @property
    def namespace(self) -> str:
        """Its network namespace."""
        return self.node.namespace if self.host_network else pod_namespace(self.plan.name, *self.name)

    @property
    def place(self) -> Place:
        """Where its processes run."""
        return Place(cgroups.pod(self.plan.name, self.node.name, *self.name), self.namespace)

    @property
    def container(self) -> Object:
        """The container that runs."""
        return next(iter(mappings(spec(self.manifest).get("containers"))), {})

    @property
    def environment(self) -> dict[str, str]:
        """Variables of its container, those from fields resolved."""
        found = {"HOSTNAME": self.name.name}
        for item in mappings(self.container.get("env")):
            path = mapping(mapping(item.get("valueFrom")).get("fieldRef")).get("fieldPath")
            value = self._fields().get(path, "") if isinstance(path, str) else str(item.get("value") or "")
            found[string(item.get("name"))] = _expand(value, found)
        return found

    def _fields(self) -> dict[str, str]:
        return {
            "metadata.name": self.name.name,
            "metadata.namespace": self.name.namespace,
            "metadata.uid": self.uid,
            "spec.nodeName": self.node.name,
            "status.podIP": self.addresses[0],
            "status.podIPs": ",".join(self.addresses),
            "status.hostIP": self.node.address4,
            "status.hostIPs": f"{self.node.address4},{self.node.address6}",
        }

    def view(self) -> PodView:
        """What Services need to know."""
        ports = tuple(
            Port(string(p.get("name")), string(p.get("protocol")) or "TCP", number(p.get("containerPort")))
            for p in mappings(self.container.get("ports"))
        )
        return PodView(
            name=self.name,
            uid=self.uid,
            labels=labels(metadata(self.manifest).get("labels")),
            addresses=self.addresses,
            ports=ports,
            node=self.node.name,
            zone=self.node.zone,
            ready=self.ready,
            terminating=bool(self.deleted),
        )

    def end(self, now: str) -> None:
        """Begin termination: SIGTERM, the grace period, then its end whatever runs."""
        if not self.deleted:
            self.deleted = now
            self._stop.set()
            self.changed()

    async def run(self, now: Callable[[], str]) -> None:
        """Make the pod, keep its process running, take the pod away after :meth:`end`."""
        try:
            if not self.host_network:
                where = (self.plan, self.node, self.namespace, self.name, self.own_addresses)
                await asyncio.to_thread(topology.add_pod, *where)
            self.started = now()
            await self._keep_running()
        except (
            LabError,
            OSError,
            ValueError,
        ) as error:  # ValueError: a NUL in an argument, "=" in a variable's name
            self._say(f"can't run: {error}", running=False)
            await self._stop.wait()
        finally:
            await asyncio.to_thread(self._remove)

    def _remove(self) -> None:
        cgroups.kill(self.place.cgroup)
        cgroups.remove(self.place.cgroup)
        if not self.host_network:
            topology.remove_pod(self.node, self.namespace, self.name)

    async def _keep_running(self) -> None:
        command = [*strings(self.container.get("command")), *strings(self.container.get("args"))]
        if not command:
            self._say(
                "no command: the lab uses no images, so the container needs command or args", running=False
            )
            await self._stop.wait()
            return
        delay = 0.2
        while not self._stop.is_set():
            status = await self._run_once(interpreter([_expand(c, self.environment) for c in command]))
            if self._stop.is_set():
                break
            if not self._restarts(status):
                self.ended = "Succeeded" if status == 0 else "Failed"
                self.changed()
                break
            self.restarts += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay)
            delay = min(delay * 2, _BACK_OFF_MAX)
        await self._stop.wait()

    def _restarts(self, status: int) -> bool:
        policy = string(spec(self.manifest).get("restartPolicy")) or "Always"
        return policy == "Always" or (policy == "OnFailure" and status != 0)

    async def _run_once(self, command: list[str]) -> int:
        process = await start(self.place, command, self.log, self.environment)
        self._say("", running=True)
        prober = asyncio.create_task(self._probe())
        stopper = asyncio.create_task(self._terminate(process))
        try:
            status = await process.wait()
        finally:
            for task in (prober, stopper):
                task.cancel()
            await asyncio.gather(prober, stopper, return_exceptions=True)
        self.ready = False
        self._say(f"exited with status {status}, see {self.log}", running=False)
        return status

    async def _terminate(self, process: asyncio.subprocess.Process) -> None:
        await self._stop.wait()
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        grace = number(spec(self.manifest).get("terminationGracePeriodSeconds"), 30)
        await asyncio.sleep(grace)
        await asyncio.to_thread(cgroups.kill, self.place.cgroup)

    async def _probe(self) -> None:
        check = mapping(self.container.get("readinessProbe"))
        if not check:
            self._judge(Answer(True))
            return
        target = Target(
            self.node.namespace,
            self.addresses[0],
            self.place,
            named_ports(self.container),
            self.environment,
        )
        failures, ever = 0, False
        await asyncio.sleep(number(check.get("initialDelaySeconds")))
        while True:
            answer = await probe(check, target)
            ever = ever or answer.ready
            failures = 0 if answer.ready else failures + 1
            if answer.ready or failures >= number(check.get("failureThreshold"), 3) or not ever:
                self._judge(answer)
            await asyncio.sleep(number(check.get("periodSeconds"), 10) if ever else _FIRST_PROBES)

    def _judge(self, answer: Answer) -> None:
        message = f"not ready: {answer.reason}" if answer.reason else ""
        if (self.ready, self.message) != (answer.ready, message):
            self.ready, self.message = answer.ready, message
            self.changed()

    def _say(self, message: str, *, running: bool) -> None:
        self.message, self.running = message, running
        self.changed()

    def rendered(self, item: Object) -> Object:
        """Return the pod's object with what an API server and a kubelet fill in."""
        meta: Object = {"uid": self.uid, "creationTimestamp": self.created, **metadata(item)}
        meta["namespace"] = self.name.namespace
        if self.deleted:
            meta["deletionTimestamp"] = self.deleted
        return {
            **item,
            "metadata": meta,
            "spec": {**spec(item), "nodeName": self.node.name},
            "status": self._status(),
        }

    def _status(self) -> dict[str, Any]:
        ready = "True" if self.ready else "False"
        reason = {"message": self.message} if self.message else {}
        return {
            "phase": self.ended or ("Running" if self.started else "Pending"),
            "hostIP": self.node.address4,
            "hostIPs": [{"ip": self.node.address4}, {"ip": self.node.address6}],
            "podIP": self.addresses[0],
            "podIPs": [{"ip": address} for address in self.addresses],
            "startTime": self.started or None,
            "conditions": [
                {"type": "Ready", "status": ready, **reason},
                {"type": "ContainersReady", "status": ready, **reason},
            ],
        }


def _expand(text: str, variables: dict[str, str]) -> str:
    """``$(NAME)`` as Kubernetes expands it: unknown names stay, ``$$(NAME)`` is literal."""

    def value(match: re.Match[str]) -> str:
        if match[0].startswith("$$"):
            return match[0][1:]
        return variables.get(match[1], match[0])

    return re.sub(r"\$?\$\(([^)]+)\)", value, text)
