# SPDX-License-Identifier: Apache-2.0
"""A lab for programs: where its targets are, commands in them, sockets in them."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from netaccel.datapath.netlink import inside_namespace
from netaccel.errors import LabError
from netaccel.lab import cgroups, process
from netaccel.lab.agents import API, settings
from netaccel.lab.plan import Paths, Plan, check_name, paths, pod_namespace
from netaccel.lab.process import Place
from netaccel.lab.state import State, read_state, read_status

T = TypeVar("T")
_API_TIMEOUT = 20.0  # seconds: an agent answers when it gets a processor


@dataclass(frozen=True)
class Target:
    """A place of a lab by its name on the command line."""

    place: Place
    environment: dict[str, str]


class Lab:
    """A lab that is up."""

    def __init__(self, name: str) -> None:
        self.name = check_name(name)
        self.paths: Paths = paths(name)
        state = read_state(self.paths)
        if state is None:
            raise LabError(f"there is no lab {name}: `netaccel lab up{_name_flag(name)}` makes it")
        self.state: State = state
        self.plan: Plan = state.plan()

    def status(self) -> dict[str, Any]:
        """How its controller last saw it."""
        return read_status(self.paths)

    def target(self, text: str) -> Target:
        """Find ``node-1``, ``pod:NAMESPACE/NAME`` (or ``pod:NAME``), ``client``, ``router`` or ``switch``.

        Raises LabError, which names what there is.
        """
        if text.startswith("pod:"):
            return self._pod(text[4:])
        outside = {"client": self.plan.client, "router": self.plan.router, "switch": self.plan.switch}
        if text in outside:
            return Target(Place(cgroups.client(self.name), outside[text]), {})
        for node in self.plan.nodes:
            if node.name == text:
                place = Place(cgroups.host(self.name, node.name), node.namespace)
                return Target(place, settings(self.state, self.paths, node))
        nodes = ", ".join(node.name for node in self.plan.nodes)
        raise LabError(f"{text!r} is no target: give {nodes}, client, router, switch or pod:NAMESPACE/NAME")

    def _pod(self, text: str) -> Target:
        namespace, _, name = text.rpartition("/")
        namespace = namespace or "default"
        pods = self.status().get("pods", [])
        for pod in pods:
            if (pod["namespace"], pod["name"]) == (namespace, name):
                group = cgroups.pod(self.name, pod["node"], namespace, name)
                where = pod_namespace(self.name, namespace, name)
                if pod["hostNetwork"]:
                    where = self.plan.node(pod["node"]).namespace
                return Target(Place(group, where), {"HOSTNAME": name, "NODE_NAME": pod["node"]})
        known = ", ".join(f"{p['namespace']}/{p['name']}" for p in pods) or "none"
        raise LabError(f"lab {self.name} has no pod {namespace}/{name}; its pods: {known}")

    def run(
        self, target: str, *command: str, timeout: float = 30.0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a target to its end."""
        found = self.target(target)
        return process.run(found.place, command, timeout=timeout, stdin=stdin, extra=found.environment)

    def popen(self, target: str, *command: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        """Start a command in a target; what it prints comes by pipes."""
        found = self.target(target)
        found.place.cgroup.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            found.place.command(command),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=process.environment(found.environment),
        )

    def socket(
        self, target: str, family: socket.AddressFamily, kind: socket.SocketKind = socket.SOCK_STREAM
    ) -> socket.socket:
        """Return a socket of this process in a target's namespace.

        This process is in no cgroup of the lab: its sockets meet no socket programs, only packets'.
        """
        with inside_namespace(self.target(target).place.namespace):
            return socket.socket(family, kind)

    def curl(self, target: str, url: str, *options: str, timeout: float = 5.0) -> str:
        """GET an URL from a target. Raises LabError with curl's complaint."""
        done = self.run(target, "curl", "-sS", "-m", f"{timeout:g}", *options, url, timeout=timeout + 5)
        if done.returncode:
            raise LabError(done.stderr.strip() or f"curl: exit status {done.returncode}")
        return done.stdout

    def answer(self, target: str, url: str, *options: str, timeout: float = 10.0) -> dict[str, Any]:
        """Return what the lab's server says of itself and its client (``/json``)."""
        found: dict[str, Any] = json.loads(self.curl(target, f"{url}/json", *options, timeout=timeout))
        return found

    def api(self, node: str, path: str) -> Any:
        """Return what a node's agent answers to a GET, as JSON."""
        return json.loads(self.curl(node, f"http://{API[0]}:{API[1]}{path}", timeout=_API_TIMEOUT))

    def metrics(self, node: str) -> str:
        """Return the text of a node's /metrics."""
        return self.curl(node, f"http://{API[0]}:{API[1]}/metrics", timeout=_API_TIMEOUT)

    def agent_pid(self, node: str) -> int:
        """Return the process id of a node's agent, 0 where none runs."""
        for item in self.status().get("nodes", []):
            if item["name"] == node and item["agent"]:
                return int(item["agent"]["pid"])
        return 0


def wait_for(question: Callable[[], T], what: str, timeout: float = 15.0) -> T:
    """Ask until the answer is true and return it; a LabError counts as no. Raises LabError in the end."""
    deadline = time.monotonic() + timeout
    reason = ""
    while True:
        try:
            if answer := question():
                return answer
        except LabError as error:
            reason = f": {error}"
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {timeout:g} s{reason}")
        time.sleep(0.05)


def _name_flag(name: str) -> str:
    return "" if name == "lab" else f" --name {name}"
