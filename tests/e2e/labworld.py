# SPDX-License-Identifier: Apache-2.0
"""A lab for one test module: manifests in, answers out."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
from collections import Counter
from pathlib import Path
from typing import Any

from netaccel.datapath.cgroup import processes
from netaccel.lab import lifecycle
from netaccel.lab.figures import total
from netaccel.lab.handle import Lab, wait_for
from netaccel.lab.plan import paths
from netaccel.lab.raw import Object
from netaccel.lab.state import State

_numbers = itertools.count(1)
BOTH = [socket.AF_INET, socket.AF_INET6]
PROBE_TIMEOUT = 5  # seconds: a server that is kept from its processor is no server that is not ready


def unique_name() -> str:
    return f"t{os.getpid()}x{next(_numbers)}"


def pod(
    name: str,
    node: str,
    *,
    app: str = "web",
    namespace: str = "default",
    labels: dict[str, str] | None = None,
    udp: bool = False,
    drain: float = 1.0,
    ready: bool = True,
    command: list[str] | None = None,
    **spec: Any,
) -> Object:
    """A Pod that runs the lab's server at TCP 8080, and at UDP 8007 if asked to."""
    ports = ["--http", "8080", *(["--udp", "8007"] if udp else [])]
    server = ["python", "-m", "netaccel.lab.server", *ports, "--drain", str(drain)]
    path = "/healthz" if ready else "/never"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": app, **(labels or {})}},
        "spec": {
            "nodeName": node,
            "containers": [
                {
                    "name": "server",
                    "command": command or server,
                    "env": [{"name": "NODE_NAME", "value": node}],
                    "ports": [
                        {"name": "http", "containerPort": 8080},
                        {"name": "echo", "containerPort": 8007, "protocol": "UDP"},
                    ],
                    "readinessProbe": {
                        "httpGet": {"path": path, "port": "http"},
                        "periodSeconds": 1,
                        "timeoutSeconds": PROBE_TIMEOUT,
                        "failureThreshold": 1,
                    },
                }
            ],
            **spec,
        },
    }


def service(name: str = "web", *, app: str = "web", ports: list[Object] | None = None, **spec: Any) -> Object:
    """A Service over both families that selects the pods of ``app``."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "ipFamilyPolicy": "RequireDualStack",
            "ipFamilies": ["IPv4", "IPv6"],
            "selector": {"app": app},
            "ports": ports or [{"name": "http", "port": 80, "targetPort": "http"}],
            **spec,
        },
    }


class World:
    """A lab and its folder of manifests."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.options = {"nodes": 3, **options}
        self.name = unique_name()

    def up(self) -> None:
        state = State(self.name, manifests=str(self.folder), **self.options)
        lifecycle.up(state, lambda _: None, timeout=180)
        self.lab = Lab(self.name)

    def down(self) -> None:
        lifecycle.down(self.name, lambda _: None)

    def logs(self) -> str:
        """Ends of all logs, for a test that failed."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted(paths(self.name).logs.glob("*.log"))
        )

    # ------------------------------------------------------------ manifests

    def write(self, name: str, *objects: Object) -> None:
        """Write a manifest file by rename, as editors do."""
        fresh = self.folder / f".{name}.new"
        fresh.write_text("".join(f"---\n{json.dumps(item)}\n" for item in objects))
        fresh.replace(self.folder / f"{name}.yaml")

    def remove(self, name: str) -> None:
        (self.folder / f"{name}.yaml").unlink()

    # -------------------------------------------------------------- queries

    def pod(self, name: str) -> dict[str, Any] | None:
        pods = self.lab.status()["pods"]
        return next((p for p in pods if p["name"] == name), None)

    def service(self, name: str = "web") -> dict[str, Any] | None:
        services = self.lab.status()["services"]
        return next((s for s in services if s["name"] == name), None)

    def wait_pod(self, name: str, **facts: Any) -> dict[str, Any]:
        """Wait until a pod is there with these facts (ready=True, …)."""

        def found() -> dict[str, Any] | None:
            item = self.pod(name)
            return item if item and all(item[k] == v for k, v in facts.items()) else None

        return wait_for(found, f"pod {name} {facts}", 60) or {}

    def wait_gone(self, name: str) -> None:
        wait_for(lambda: self.pod(name) is None, f"pod {name} gone", 60)

    def kill(self, name: str) -> None:
        """End a pod's processes at once."""
        for pid in processes(self.lab.target(f"pod:{name}").place.cgroup):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def agent_pid(self, node: str) -> int:
        """Process id of a node's agent, once one runs."""
        return wait_for(lambda: self.lab.agent_pid(node), f"an agent on {node}", 30)

    def is_ready_again(self, node: str, killed: int) -> bool:
        """Whether another agent than ``killed`` is ready on a node."""
        agents = {item["name"]: item["agent"] for item in self.lab.status()["nodes"]}
        return bool(agents[node]["ready"] and agents[node]["pid"] != killed)

    def rendered(self, kind: str, name: str = "") -> list[Object]:
        """Objects that the agents read."""
        found: list[Object] = []
        texts: list[str] = []
        for path in paths(self.name).rendered.rglob("*.yaml"):
            with contextlib.suppress(FileNotFoundError):  # its manifest was removed just now
                texts += path.read_text().split("---\n")
        for text in texts:
            item = json.loads(text)
            if item and item["kind"] == kind and item["metadata"]["name"].startswith(name):
                found.append(item)
        return found

    def cluster_ip(self, family: socket.AddressFamily, name: str = "web") -> str:
        item = self.service(name)
        assert item
        return str(item["clusterIPs"][BOTH.index(family)])

    def outside_ip(self, family: socket.AddressFamily, name: str = "web") -> str:
        item = self.service(name)
        assert item
        return str(item["outside"][BOTH.index(family)])

    def node_port(self, name: str = "web") -> int:
        item = self.service(name)
        assert item
        return int(item["ports"][0]["nodePort"])

    def node_ip(self, node: str, family: socket.AddressFamily) -> str:
        plan = self.lab.plan.node(node)
        return plan.address4 if family == socket.AF_INET else plan.address6

    def pod_ip(self, name: str, family: socket.AddressFamily) -> str:
        item = self.pod(name)
        assert item
        return str(item["addresses"][BOTH.index(family)])

    def curl_status(self, target: str, address: str) -> int:
        """Exit status of curl: 0, CURL_REFUSED, CURL_TIMEOUT, …

        Who gets no connection within two seconds gets none; an answer on one may take its time.
        """
        limits = ("--connect-timeout", "2", "-m", "20")
        done = self.lab.run(target, "curl", "-s", "-o", "/dev/null", *limits, address)
        return done.returncode

    def python(self, target: str, code: str, *arguments: object, timeout: float = 30.0) -> Any:
        """Run Python in a target (and in its cgroup); what it prints is JSON."""
        prelude = "import errno, json, socket, sys, time\n"
        command = ("python3", "-c", prelude + code, *map(str, arguments))
        done = self.lab.run(target, *command, timeout=timeout)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refused(self, node: str) -> dict[str, str]:
        """Objects that a node's agent refuses, with the reason."""
        return {r["object"]: r["reason"] for r in self.lab.api(node, "/status")["refused"]}

    def drops(self, node: str, reason: str) -> float:
        """Packets and calls of a node that were not carried for this reason."""
        return total(self.lab.metrics(node), "netaccel_dropped_packets_total", reason=reason)

    def in_force(self, name: str, count: int) -> None:
        """Wait until every node's maps hold ``count`` active backends for each port of a Service."""

        def settled() -> bool:
            return all(
                {sum(b["state"] == "active" for b in port["backends"]) for port in self.ports(node, name)}
                == {count}
                for node in (item.name for item in self.lab.plan.nodes)
            )

        wait_for(settled, f"{count} backends of {name} in force", 30)

    def ports(self, node: str, name: str) -> list[Any]:
        """Ports of a Service as a node's maps hold them."""
        found: list[Any] = self.lab.api(node, f"/api/v1/services/default/{name}").get("ports", [])
        return found

    def spread(self, target: str, url: str, count: int = 30) -> Counter[str]:
        """Which pods answer ``count`` new connections; one curl, one connection each."""
        config = "".join(f'url = "{url}/json"\n' for _ in range(count))
        done = self.lab.run(
            target, "curl", "-sS", "-m", "10", "-H", "Connection: close", "-K", "-", stdin=config, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return Counter(json.loads(line)["pod"] for line in done.stdout.splitlines())


def url(address: str, port: int = 80) -> str:
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{port}"


CURL_REFUSED, CURL_TIMEOUT = 7, 28
