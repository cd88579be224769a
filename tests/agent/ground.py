# SPDX-License-Identifier: Apache-2.0
"""A node for a test: network namespace, uplink, cgroup, bpf file system; and its agent."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from netaccel.commands.status import ask
from netaccel.config import HostPort
from netaccel.datapath import netlink
from netaccel.errors import DatapathError

API = HostPort("127.0.0.1", 9962)
PATIENCE = float(os.environ.get("NETACCEL_TEST_PATIENCE", "60"))  # seconds until what must happen has failed


class Node:
    """One node, with a neighbour at the far end of its uplink ``eth0`` (10.77.0.1, fd77::1)."""

    def __init__(self, name: str, bpffs: Path, cgroup: Path, manifests: Path) -> None:
        self.name = name
        self.outside = f"{name}o"
        self.bpffs = bpffs
        self.cgroup = cgroup
        self.manifests = manifests
        self.state = manifests.parent / "state"
        self.agents: list[subprocess.Popen[str]] = []

    @property
    def pins(self) -> Path:
        """The folder that the agent makes."""
        return self.bpffs / "netaccel"

    def command(self, *arguments: str) -> list[str]:
        """A command line inside the namespace (``ip netns exec`` would hide bpffs and cgroups)."""
        return ["nsenter", f"--net=/run/netns/{self.name}", *arguments]

    def environment(self, **settings: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("NETACCEL_")}
        facts = {
            "NETACCEL_NODE_NAME": "node-1",
            "NETACCEL_BPFFS": str(self.bpffs),
            "NETACCEL_CGROUP": str(self.cgroup),
            "NETACCEL_MANIFESTS": str(self.manifests),
            "NETACCEL_STATE": str(self.state),
        }
        return kept | facts | {f"NETACCEL_{name.upper()}": value for name, value in settings.items()}

    def netaccel(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a netaccel command to its end."""
        return subprocess.run(
            self.command(sys.executable, "-m", "netaccel", *arguments),
            env=self.environment(**settings),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def start(self, **settings: str) -> subprocess.Popen[str]:
        """Start an agent; see :meth:`until_ready`."""
        agent = subprocess.Popen(
            self.command(sys.executable, "-m", "netaccel", "agent"),
            env=self.environment(**settings),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.agents.append(agent)
        return agent

    def serve(self, **settings: str) -> subprocess.Popen[str]:
        """Start an agent and wait until it is ready."""
        agent = self.start(**settings)
        self.until(self._ready, agent)
        return agent

    def _ready(self) -> bool:
        try:
            return bool((self.status() or {}).get("ready"))
        except DatapathError:  # it listens, and is too busy with its start to answer
            return False

    def stop(self, agent: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit status."""
        agent.send_signal(number)
        agent.communicate(timeout=PATIENCE)
        return agent.returncode

    def status(self) -> dict[str, Any] | None:
        """What /status says, None where no agent listens."""
        with netlink.inside_namespace(self.name):
            return ask(API)

    def get(self, path: str) -> str:
        """What the agent answers to GET."""
        with netlink.inside_namespace(self.name):
            connection = http.client.HTTPConnection(API.host, API.port, timeout=PATIENCE)
            try:
                connection.request("GET", path)
                return connection.getresponse().read().decode()
            finally:
                connection.close()

    def hooks(self) -> dict[tuple[str, str], dict[str, str]]:
        """Hooks of /status by hook and place."""
        found = self.status()
        assert found is not None
        return {(hook["hook"], hook["where"]): hook for hook in found["hooks"]}

    def until(self, holds: Any, agent: subprocess.Popen[str] | None = None) -> None:
        """Wait for a condition; fail with the agent's words where it ended first."""
        deadline = time.monotonic() + PATIENCE
        while not holds():
            if agent is not None and agent.poll() is not None:
                assert agent.stderr is not None
                pytest.fail(f"the agent ended with {agent.returncode}: {agent.stderr.read()}")
            if time.monotonic() > deadline:
                pytest.fail(f"in vain after {PATIENCE:.0f} s: {self.status()}")
            time.sleep(PATIENCE / 750)

    def put(self, file: str, *objects: dict[str, Any]) -> None:
        """Write a manifest as an editor would: beside it, then renamed."""
        path = self.manifests / file
        fresh = path.with_suffix(".part")
        fresh.write_text("\n---\n".join(json.dumps(obj) for obj in objects))
        fresh.replace(path)

    def close(self) -> None:
        """End the agents, then remove what they pinned by the command that is made for it."""
        for agent in self.agents:
            if agent.poll() is None:
                agent.kill()
            agent.communicate(timeout=PATIENCE)
        if self.pins.exists():
            done = self.netaccel("detach")
            assert done.returncode == 0, done.stderr


def connect(node: Node) -> None:
    """Make both namespaces and the wire between them."""
    netlink.create_namespace(node.name)
    netlink.create_namespace(node.outside)
    with netlink.inside_namespace(node.name):
        netlink.add_veth("eth0", "eth0", node.outside)
        for address in ("10.77.0.1/24", "fd77::1/64"):
            netlink.add_address("eth0", address)
        netlink.set_up("eth0")
        netlink.add_route("default4", "10.77.0.2")
        netlink.add_route("default6", "fd77::2")
    with netlink.inside_namespace(node.outside):
        for address in ("10.77.0.2/24", "fd77::2/64"):
            netlink.add_address("eth0", address)
        netlink.set_up("eth0")
