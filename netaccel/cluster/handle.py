# SPDX-License-Identifier: Apache-2.0
"""A cluster that is up: kubectl, commands in its nodes, and what befalls them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from netaccel.cluster import groups, install, lifecycle, node, proxies
from netaccel.cluster.control import Control
from netaccel.cluster.node import Programs
from netaccel.cluster.plan import CLIENT, CONTROL_PLANE, Plan
from netaccel.cluster.process import environment
from netaccel.cluster.settings import CONTAINERD_SOCKET
from netaccel.cluster.state import State, read_state
from netaccel.errors import LabError
from netaccel.lab.plan import check_name
from netaccel.lab.process import Place

_POLL = 0.1
_KUBECONFIG = {"KUBERC": "off"}


@dataclass(frozen=True)
class Target:
    """A place of a cluster: how a command gets there, and what it finds in its environment."""

    command: list[str]
    environment: dict[str, str]


class Cluster:
    """A cluster that is up."""

    def __init__(self, name: str) -> None:
        """Find it. Raises LabError where there is none."""
        state = read_state(check_name(name))
        if state is None:
            raise LabError(f"there is no cluster {name}: `netaccel cluster up` makes it")
        self.name = name
        self.state: State = state
        self.plan: Plan = state.plan()
        self.programs: Programs = lifecycle.find_programs()
        self.control = Control(self.plan, self.programs.binaries)

    def kubectl(self, *words: str, stdin: str = "", timeout: float = 60) -> str:
        """Return what kubectl prints, as admin. Raises LabError with its complaint."""
        return self.control.kubectl(*words, stdin=stdin, timeout=timeout)

    def target(self, text: str, words: Sequence[str]) -> Target:
        """Return how ``words`` run in a node by its name, the ``client`` or the ``control-plane``.

        Raises LabError, which names what there is.
        """
        outside = {CLIENT: self.plan.client, CONTROL_PLANE: self.plan.control_plane}
        if text in outside:
            # Both run in the client's group: what a person starts is no part of the control plane.
            place = Place(groups.outside(self.name, CLIENT), outside[text])
            path = f"{self.programs.path}"
            own = {**environment(_KUBECONFIG), "PATH": path, "KUBECONFIG": str(self.control.admin)}
            return Target(place.command(words), own)
        which = self.plan.node(text)
        return Target(node.command(self.plan, which, words), node.environment(which, self.programs))

    def run(self, target: str, *words: str, timeout: float = 30, stdin: str = "") -> str:
        """Return what a command printed in a node, the client or the control plane's namespace.

        Raises LabError with its complaint.
        """
        found = self.target(target, words)
        try:
            done = subprocess.run(
                found.command,
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                env=found.environment,
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{target}: {' '.join(words)}: no end after {timeout:g} s") from error
        if done.returncode:
            complaint = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
            raise LabError(f"{target}: {' '.join(words)}: {complaint}")
        return done.stdout

    def load(self, image: Path) -> None:
        """Import an image's file (docker or OCI archive) into every node. Raises LabError."""
        install.check_image(image)
        client = [str(self.programs.runtime.ctr), f"--address={CONTAINERD_SOCKET}", *node.IMPORT, "-"]
        for which in self.plan.nodes:
            env = node.environment(which, self.programs)
            with image.open("rb") as file:  # its path may be another one in the node
                node.run(self.plan, which, client, env=env, timeout=300, stdin=file)

    def set_proxy(self, target: str, proxy: str, *, keep_rules: bool = False) -> None:
        """Have a node served by a kube-proxy, or by none. Raises LabError."""
        which = self.plan.node(target)
        if proxy == proxies.NONE:
            proxies.stop(self.plan, which, self.programs, keep_rules=keep_rules)
        else:
            proxies.start(self.plan, which, self.programs, proxy, keep_rules=keep_rules)

    def reboot(self, target: str, *, timeout: float = lifecycle.READY_SECONDS) -> bool:
        """Switch a node off and on, with the same disk; its kube-proxy starts again. Raises LabError.

        Waits for it to be Ready and returns True; False where the API server is away and can't tell.
        """
        which = self.plan.node(target)
        proxy = proxies.running(self.plan, which)
        node.stop(self.plan, which)
        started = datetime.now(UTC)
        files = [*lifecycle.standard_files(self.programs), *map(Path, self.state.images)]
        node.start(self.plan, which, self.programs, files)
        if proxy != proxies.NONE:
            node.await_on(self.plan, which, timeout)
            proxies.start(self.plan, which, self.programs, proxy)
        if not self.control.is_ready():
            return False
        self._await(lambda: self._renewed(target) > started, f"{target} Ready", timeout)
        limit = f"--timeout={timeout:g}s"
        self.kubectl("wait", "--for=condition=Ready", limit, f"node/{target}", timeout=timeout + 10)
        return True

    def status(self) -> dict[str, Any]:
        """Say how nodes and control plane are, without asking the API server for more than it must."""
        running = self.control.running()
        ready = self.control.is_ready()
        conditions = self._conditions() if ready else {}
        return {
            "name": self.name,
            "apiServer": {
                "address": self.control.server,
                "ready": ready,
                "kubeconfig": str(self.control.admin),
            },
            "controlPlane": [{"name": name, "pid": pid} for name, pid in running.items()],
            "nodes": [
                {
                    "name": which.name,
                    "addresses": [which.address4, which.address6],
                    "podNetworks": [which.pod_cidr4, which.pod_cidr6],
                    "zone": which.zone,
                    "pid": groups.init_pid(self.name, which.name),
                    "ready": conditions.get(which.name, "Unknown"),
                    "kubeProxy": proxies.running(self.plan, which),
                    "logs": str(self.plan.node_disk(which) / "var/log"),
                }
                for which in self.plan.nodes
            ],
            "proxy": self.state.proxy,
            "missing": lifecycle.missing(self.state),
        }

    def _conditions(self) -> dict[str, str]:
        form = '{range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
        lines = self.kubectl("get", "nodes", "-o", f"jsonpath={form}").splitlines()
        return {name: status for name, _, status in (line.partition(" ") for line in lines)}

    def _renewed(self, name: str) -> datetime:
        """When a kubelet last said that it lives (its Lease)."""
        words = ("-n", "kube-node-lease", "get", "lease", name, "-o", "jsonpath={.spec.renewTime}")
        return datetime.fromisoformat(self.kubectl(*words))

    def _await(self, question: Callable[[], bool], what: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not question():
            if time.monotonic() > deadline:
                raise LabError(f"{what}: not within {timeout:g} s; see `netaccel cluster status`")
            time.sleep(_POLL)
