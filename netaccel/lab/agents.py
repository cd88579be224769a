# SPDX-License-Identifier: Apache-2.0
"""Keeps one agent running on each node, as a DaemonSet would."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from netaccel.errors import DatapathError
from netaccel.lab import cgroups
from netaccel.lab.plan import NodePlan, Paths
from netaccel.lab.probes import http_get
from netaccel.lab.process import Place, start
from netaccel.lab.state import State

API = ("127.0.0.1", 9962)
METRICS_PORT = 9963
_SETTLED = 1.0  # an agent that lived so long (seconds) is restarted at once
_BACK_OFF = (0.1, 5.0)


def settings(state: State, paths: Paths, node: NodePlan) -> dict[str, str]:
    """The environment that makes any netaccel command speak of this node."""
    asked = {f"NETACCEL_{name.upper().replace('-', '_')}": value for name, value in state.settings.items()}
    return {
        "NETACCEL_NODE_NAME": node.name,
        "NETACCEL_MANIFESTS": str(paths.rendered),
        "NETACCEL_CGROUP": str(cgroups.node(state.name, node.name)),
        "NETACCEL_BPFFS": str(paths.bpffs / node.name),
        "NETACCEL_KUBE_PROXY": "instead",
        "NETACCEL_UPLINKS": "eth0",
        "NETACCEL_POD_DEVICES": "veth*",
        "NETACCEL_HTTP": f"{API[0]}:{API[1]}",
        "NETACCEL_METRICS": f"{node.address4}:{METRICS_PORT}",
        "NETACCEL_XDP": "off" if state.uplink_mode == "tc" else "auto",
        "NETACCEL_STATE": str(paths.state_of(node.name)),
        **asked,
    }


@dataclass
class Agent:
    """The agent of one node, and its restarts."""

    state: State
    node: NodePlan
    paths: Paths
    changed: Callable[[], None]
    pid: int = 0
    ready: bool = False
    restarts: int = 0
    message: str = ""

    @property
    def log(self) -> Path:
        """What it says."""
        return self.paths.logs / f"agent-{self.node.name}.log"

    async def run(self) -> None:
        """Keep it running until cancelled."""
        delay = _BACK_OFF[0]
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            status = await self._run_once()
            delay = _BACK_OFF[0] if loop.time() - started > _SETTLED else min(delay * 2, _BACK_OFF[1])
            self.restarts += 1
            self._say(f"ended with status {status}, see {self.log}", pid=0, ready=False)
            await asyncio.sleep(delay)

    async def _run_once(self) -> int:
        place = Place(cgroups.host(self.state.name, self.node.name), self.node.namespace)
        command = [sys.executable, "-m", "netaccel", "agent"]
        process = await start(place, command, self.log, settings(self.state, self.paths, self.node))
        self._say("starting", pid=process.pid, ready=False)
        watcher = asyncio.create_task(self._watch(process.pid))
        try:
            return await process.wait()
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    async def _watch(self, pid: int) -> None:
        """Ask /readyz: soon and often until it is ready, then now and then."""
        while True:
            try:
                async with asyncio.timeout(2):
                    status, body = await http_get(self.node.namespace, *API, "/readyz")
            except (OSError, TimeoutError, DatapathError):
                status, body = 0, "starting"
            ready = status == 200
            self._say("" if ready else " ".join(body.split())[:200], pid=pid, ready=ready)
            await asyncio.sleep(2.0 if ready else 0.1)

    def _say(self, message: str, *, pid: int, ready: bool) -> None:
        if (self.message, self.pid, self.ready) != (message, pid, ready):
            self.message, self.pid, self.ready = message, pid, ready
            self.changed()
