# SPDX-License-Identifier: Apache-2.0
"""What the tests do in a cluster: objects, commands in places and pods, waiting; with a diary of it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

import yaml
from objects import Object

from netaccel.cluster.handle import Cluster
from netaccel.errors import LabError

T = TypeVar("T")
NODES = ("node-1", "node-2")
PATIENCE = 90.0
"""Seconds until what must happen has failed: this machine may be busy."""
_CHANGES = ("apply", "delete", "patch", "scale", "rollout", "create")


class World:
    """A cluster and one namespace of it."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.born = time.time()
        self.diary: list[tuple[float, str]] = []

    def note(self, text: str) -> None:
        """Remember when something was done: it explains what failed then. Once, where it is said again."""
        if not self.diary or self.diary[-1][1] != text:
            self.diary.append((time.time(), text))

    # ------------------------------------------------------------ objects

    def kubectl(self, *words: str, stdin: str = "", timeout: float = 120) -> str:
        """What kubectl printed; in this namespace, unless ``words`` say another. Raises LabError."""
        if words[0] in _CHANGES:
            self.note(f"kubectl {' '.join(words)}")
        where = () if {"-k", "-A"} & {*words} else ("-n", self.namespace)
        return self.cluster.kubectl(*where, *words, stdin=stdin, timeout=timeout)

    def netaccel(self, *words: str, timeout: float = 120) -> str:
        """What kubectl printed, in netaccel's own namespace."""
        return self.kubectl(*words, "-n", "netaccel", timeout=timeout)

    def get(self, *words: str) -> Any:
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def apply(self, *objects: Object) -> None:
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def rolled_out(self, *what: str, timeout: int = 180) -> None:
        """Wait for a Deployment or DaemonSet."""
        self.kubectl("rollout", "status", *what, f"--timeout={timeout}s", timeout=timeout + 10)

    def node_port(self, service: str, port: str = "http") -> int:
        ports = self.get("service", service)["spec"]["ports"]
        return next(int(one["nodePort"]) for one in ports if one["name"] == port)

    def pods(self, app: str) -> list[Object]:
        """Pods of an app that are not on their way out."""
        found = self.get("pods", "-l", f"app={app}")["items"]
        return [one for one in found if "deletionTimestamp" not in one["metadata"]]

    def logs(self, pod: str) -> str:
        """What a pod has said; "" while it has no container yet."""
        try:
            return self.kubectl("logs", pod)
        except LabError:
            return ""

    # ------------------------------------------------------------ commands

    def run(self, target: str, *words: str, timeout: float = 60) -> str:
        """What a command printed in a node, the ``client`` or the ``control-plane``. Raises LabError."""
        return self.cluster.run(target, *words, timeout=timeout)

    def exec(self, pod: str, *words: str, timeout: float = 60) -> str:
        """What a command in a pod printed. Raises LabError."""
        return self.kubectl("exec", pod, "--", *words, timeout=timeout)

    def ask(self, url: str, target: str = "client") -> dict[str, Any]:
        """The lab's server's answer to one request."""
        answer: dict[str, Any] = json.loads(self.run(target, "curl", "-sS", "-m", "10", url))
        return answer

    def answered(self, url: str, target: str = "client") -> dict[str, Any] | None:
        """The same; None where there is none yet."""
        try:
            return self.ask(url, target)
        except (LabError, ValueError):
            return None

    def served(self, urls: list[str], target: str = "client") -> None:
        """Wait until each is answered."""
        for url in urls:
            wait_for(lambda url=url: self.answered(url, target), f"{url} answers the {target}")

    def answering(self, url: str, count: int = 40) -> set[str]:
        """Names of the pods that answer the client's requests, a connection each."""
        words = ("curl", "-sS", "-m", "30", "-H", "Connection: close", *[url] * count)
        return {json.loads(line)["pod"] for line in self.run("client", *words, timeout=120).splitlines()}

    def in_force(self, node: str) -> dict[str, set[str]]:
        """What a node's maps hold of this namespace: endpoints by Service, port and family."""
        services = json.loads(self.run(node, "netaccel", "service", "list", "-o", "json"))
        return {
            f"{one['name']} {port['name']} {port['family']}": {
                f"{backend['address']} {backend['port']} {backend['state']}" for backend in port["backends"]
            }
            for one in services
            if one["namespace"] == self.namespace
            for port in one["ports"]
        }

    def status(self, node: str) -> dict[str, Any]:
        """``netaccel status`` on a node, whatever its exit status; {} where there is nothing."""
        target = self.cluster.target(node, ["netaccel", "status", "-o", "json"])
        done = subprocess.run(
            target.command, env=target.environment, capture_output=True, text=True, timeout=60, check=False
        )
        found: dict[str, Any] = json.loads(done.stdout or "{}")
        return found

    def told(self, node: str) -> str:
        """``netaccel status`` on a node as a person reads it."""
        target = self.cluster.target(node, ["netaccel", "status"])
        done = subprocess.run(
            target.command, env=target.environment, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout + done.stderr

    # ------------------------------------------------------------ for reports

    def course(self) -> str:
        """What was done and when."""
        return "\n".join(f"{at - self.born:8.2f} s  {text}" for at, text in self.diary)

    def story(self) -> str:
        """How things are now."""
        parts = []
        for words in (
            ("get", "pods", "-A", "-o", "wide"),
            ("get", "nodes,nodestates"),
            ("get", "endpointslices,events"),
            ("logs", "-n", "netaccel", "-l", "app.kubernetes.io/name=netaccel", "--prefix", "--tail=30"),
        ):
            try:
                parts.append(self.cluster.kubectl(*(() if "-A" in words else ("-n", self.namespace)), *words))
            except LabError as error:
                parts.append(str(error))
        return "\n\n".join(parts)


def wait_for(what: Callable[[], T | None], why: str, timeout: float = PATIENCE) -> T:
    """The first true answer. Fails saying ``why`` where there is none in time."""
    until = time.monotonic() + timeout
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < until, f"{why}: not within {timeout:g} s"
        time.sleep(0.2)
