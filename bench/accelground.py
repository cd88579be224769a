# SPDX-License-Identifier: Apache-2.0
"""The ways that bytes go between two processes of one machine, all there at once so that they can take turns.

``plain``, ``peer`` and ``socket`` are a lab each: one node with its agent, two pods with a veth each.
``unix`` and ``loopback`` are both processes in one pod of the plain lab: floors.
"""

from __future__ import annotations

import http.client
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import yaml

from bench import pingpong
from bench.results import Result
from netaccel.accelerate.view import Status
from netaccel.datapath import netlink
from netaccel.lab import lifecycle
from netaccel.lab.agents import API
from netaccel.lab.handle import Lab
from netaccel.lab.state import State

INTERVAL = 0.25  # seconds between the agent's looks: the bench has less patience than the default
SETTINGS = {
    "plain": {"peer": "off", "accelerate": "disabled"},
    "peer": {"peer": "auto", "accelerate": "disabled"},
    "socket": {"peer": "auto", "accelerate": "auto", "accelerate-interval": str(INTERVAL)},
}
VOUCHED = {**SETTINGS["socket"], "accelerate": "enabled"}
WAYS = (*SETTINGS, "unix", "loopback")
SERVER, CLIENT = "pod:server", "pod:client"
_PORT, _ONCE_PORT = 7001, 7002


class Way(NamedTuple):
    """Where client and server run, and the servers' endpoints and process ids."""

    client: Callable[[Sequence[str]], list[str]]
    endpoint: str
    server: int
    once_endpoint: str
    once_server: int

    def drive(self, load: pingpong.Load, warmed: Callable[[], None] | None = None) -> list[pingpong.Window]:
        """Run a client; its warm-up ends when ``warmed`` returns."""
        once = load.mode == "connect"
        where = (self.once_endpoint, self.once_server) if once else (self.endpoint, self.server)
        return pingpong.drive(self.client, *where, load, warmed)


@contextmanager
def laboratory(name: str, settings: dict[str, str]) -> Iterator[Lab]:
    """A lab of one node with two pods, client and server."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="netaccel-")))
        (folder / "pods.yaml").write_text(yaml.safe_dump_all(map(_pod, ("client", "server"))))
        full = f"{name}{os.getpid()}"
        stack.callback(lifecycle.down, full, lambda _: None)
        lifecycle.up(State(full, 1, str(folder), settings=settings), lambda _: None, timeout=180)
        yield Lab(full)


def address_of(lab: Lab, family: int = 4) -> str:
    """The server's address."""
    pods = {pod["name"]: pod["addresses"] for pod in lab.status()["pods"]}
    return str(pods["server"][0 if family == 4 else 1])


@contextmanager
def ways() -> Iterator[tuple[dict[str, Way], dict[str, Lab]]]:
    """All of them, and the labs."""
    with ExitStack() as stack:
        labs = {name: stack.enter_context(laboratory(name, each)) for name, each in SETTINGS.items()}
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="netaccel-"))
        found = {}
        for name in WAYS:
            lab = labs.get(name, labs["plain"])
            client = lab.target(CLIENT).place.command
            if name == "unix":
                endpoints, server = (f"{folder}/kept", f"{folder}/once"), client
            else:
                address = "127.0.0.1" if name == "loopback" else address_of(lab)
                endpoints = (f"{address}/{_PORT}", f"{address}/{_ONCE_PORT}")
                server = client if name == "loopback" else lab.target(SERVER).place.command
            kept = stack.enter_context(pingpong.serving(server, endpoints[0]))
            once = stack.enter_context(pingpong.serving(server, endpoints[1], once=True))
            found[name] = Way(client, endpoints[0], kept, endpoints[1], once)
        yield found, labs


class Watcher:
    """Waits for the agent of a lab to accelerate connections."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def wait(self, connections: int, longest: float) -> None:
        """Until so many more than now are accelerated, or for so many seconds."""
        deadline = time.monotonic() + longest
        before = promoted(self._lab)
        while promoted(self._lab) < before + connections and time.monotonic() < deadline:
            time.sleep(0.05)


def promoted(lab: Lab) -> int:
    """Connections that the agent has accelerated so far."""
    return status_of(lab).totals.promotions


def status_of(lab: Lab) -> Status:
    """What the agent tells of acceleration. It is asked from here: a curl would cost the load CPU."""
    with netlink.inside_namespace(lab.plan.nodes[0].namespace):
        connection = http.client.HTTPConnection(*API, timeout=10)
        connection.connect()
    with closing(connection):
        connection.request("GET", "/api/v1/accel/status")
        return msgspec.json.decode(connection.getresponse().read(), type=Status)


def carried(lab: Lab) -> list[Result]:
    """What the agent of a lab says that it accelerated."""
    status = status_of(lab)
    messages = sum(receipt.messages for receipt in status.receipts)
    passed = sum(sum(receipt.passes.values()) for receipt in status.receipts)
    reasons = Counter[str]()
    for receipt in status.receipts:
        reasons.update(receipt.passes)
    said = ", ".join(f"{name} {count:,}" for name, count in reasons.most_common(4))
    return [
        Result(
            "connections accelerated",
            status.totals.promotions,
            "",
            budget=1,
            at_least=True,
            note=status.socket.reason,
        ),
        Result("messages of these that went by TCP", passed / max(messages + passed, 1), "", note=said),
    ]


def _pod(name: str) -> dict[str, object]:
    container = {"name": "main", "image": "none", "command": ["sleep", "infinity"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"nodeName": "node-1", "containers": [container], "terminationGracePeriodSeconds": 0},
    }
