# SPDX-License-Identifier: Apache-2.0
"""Accelerated connections by the thousand, every byte checked, while agent and configuration come and go.

A lab of one node; a client pod and a server pod with the chaos load (bench/load/chaos) between them.
the agent dies by SIGKILL, policies come and go, pods want acceleration or don't. Exit status 1 if a byte was
wrong, a connection hung, or what was redirected and what TCP carried is not what the programs wrote.

``python -m bench.soakaccel [CONNECTIONS]``
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import chaos
from bench.accelground import CLIENT, SERVER, address_of, laboratory, status_of
from netaccel.accelerate.view import Status, Totals
from netaccel.errors import LabError
from netaccel.lab.handle import Lab, wait_for
from netaccel.lab.plan import paths
from netaccel.lab.state import read_state

CONNECTIONS = 100_000
AT_ONCE = 800
PACE = 3
PORT = 7100
SETTINGS = {"accelerate": "auto", "accelerate-interval": "0.1", "accelerate-rate": "4"}
PATIENCE = 120.0


class Turmoil:
    """What happens to a lab's node while its pods talk. ``counts``: how often, by what."""

    def __init__(self, lab: Lab, *, kills: bool = True) -> None:
        self._lab, self._kills = lab, kills
        state = read_state(paths(lab.name))
        assert state
        self._folder = Path(state.manifests)
        self._pods = (self._folder / "pods.yaml").read_text()
        self._last = 0
        self.counts: Counter[str] = Counter()
        self.totals: dict[int, Totals] = {}
        """What each agent told last, by process id."""

    def look(self) -> None:
        """Note what the agent tells."""
        pid = self._lab.agent_pid("node-1")
        with suppress(LabError, OSError, ValueError):
            self.totals[pid] = status_of(self._lab).totals

    def step(self) -> None:
        """One thing, by chance."""
        self.look()
        chance = random.random()
        if chance < 0.25 and self._kills:
            self._kill()
        elif chance < 0.8:
            self._policy()
        else:
            self._wish()

    def _kill(self) -> None:
        pid = self._lab.agent_pid("node-1")
        if pid and pid != self._last:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self._last = pid
            self.counts["kills"] += 1

    def _policy(self) -> None:
        self.counts["policies"] += 1
        kind = random.choice(("none", "allow", "monitor"))
        self._write("policy", [] if kind == "none" else [policy(kind)])

    def _wish(self) -> None:
        self.counts["wishes"] += 1
        self.wish(random.choice(("enabled", "enabled", "disabled")), "enabled")

    def wish(self, *wishes: str) -> None:
        """What the two pods want. Owners vouch for their programs: one holds an io_uring."""
        parts = self._pods.split("metadata:")
        for number, wish in enumerate(wishes, 1):
            parts[number] = f"\n  annotations: {{netaccel.io/accelerate: {wish}}}{parts[number]}"
        self._replace("pods", "metadata:".join(parts))

    def rest(self) -> None:
        """Everything as it was."""
        self._write("policy", [])
        self.wish("enabled", "enabled")

    def _write(self, name: str, objects: list[dict[str, Any]]) -> None:
        self._replace(name, "".join(f"---\n{json.dumps(one)}\n" for one in objects))

    def _replace(self, name: str, text: str) -> None:
        fresh = self._folder / f".{name}.new"
        fresh.write_text(text)
        fresh.replace(self._folder / f"{name}.yaml")


def policy(kind: str) -> dict[str, Any]:
    """A policy that lets the load through: its rules are never the same, so that all is judged again."""
    port = {"protocol": "TCP", "port": random.randint(PORT + 1, PORT + 1000)}
    rule = {"from": [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": PORT}, port]}
    metadata = {"name": "turmoil", "namespace": "default"}
    if kind == "allow":
        spec: dict[str, Any] = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [rule]}
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata,
            "spec": spec,
        }
    spec = {"subject": {}, "mode": "Monitor", "ingress": []}
    return {"apiVersion": "netaccel.io/v1alpha1", "kind": "TrafficPolicy", "metadata": metadata, "spec": spec}


@dataclass(frozen=True)
class Report:
    """Of one run. ``status``: in the end."""

    outcome: chaos.Outcome
    turmoil: Turmoil
    status: Status

    @property
    def told(self) -> int:
        """Bytes from socket to socket, as the agent's receipts say."""
        return sum(receipt.bytes for receipt in self.status.receipts)

    @property
    def messages(self) -> int:
        """As the receipts say."""
        return sum(receipt.messages for receipt in self.status.receipts)

    def line(self) -> str:
        """One line of counts."""
        found, totals = self.outcome, self.turmoil.totals.values()
        share = found.redirected / max(found.sent, 1)
        sides = (found.client, found.server)
        done = {
            "promotions": sum(one.promotions for one in totals),
            "evictions": sum(sum(one.out.values()) for one in totals),
            "deferred": sum(one.deferred for one in totals),
            **self.turmoil.counts,
            "bytes wrong": sum(side.wrong for side in sides),
            "hangs": sum(side.hangs for side in sides),
            "odd": sum(side.odd for side in sides),
            "longest standstill (ms)": max(side.stall for side in sides),
        }
        return (
            f"{found.client.connections:,} connections, {found.sent:,} bytes, of which past TCP"
            f" {found.redirected:,} ({share:.0%}), by receipts {self.told:,} in {self.messages:,} messages; "
            + ", ".join(f"{name} {count:,}" for name, count in done.items())
        )


def soak(connections: int, at_once: int = AT_ONCE, pace: int = PACE, *, kills: bool = True) -> Report:
    """Run it. LabError, RuntimeError where it can't."""
    with ExitStack() as stack:
        lab = stack.enter_context(laboratory("soakaccel", SETTINGS))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="netaccel-")))
        client, server = (lab.target(name).place.command for name in (CLIENT, SERVER))
        load = stack.enter_context(chaos.load(server, client, address_of(lab), PORT, folder, pace))
        turmoil = Turmoil(lab, kills=kills)
        turmoil.wish("enabled", "enabled")
        load.drive(connections, at_once)
        begin = told = time.monotonic()
        while load.running:
            time.sleep(random.uniform(0.1, 4))
            turmoil.step()
            if time.monotonic() > told + 60:
                told = time.monotonic()
                print(f"{load.done:,} connections, {told - begin:.0f} s", flush=True)
        turmoil.rest()
        outcome = load.outcome()
        wait_for(lambda: settled(lab), "no pair left", PATIENCE)
        turmoil.look()
        return Report(outcome, turmoil, status_of(lab))


def settled(lab: Lab) -> bool:
    """Whether the agent has begun, and nothing is enrolled any more."""
    with suppress(LabError, OSError, ValueError):
        status = status_of(lab)
        return status.socket.on and not status.totals.live and not status.totals.leaving
    return False


def main(connections: int) -> int:
    """Exit status."""
    report = soak(connections)
    print(report.line(), flush=True)
    if report.outcome.bad:
        print(report.outcome.complaints, file=sys.stderr)
    enough = report.outcome.redirected > report.outcome.sent / 20
    if not enough:
        print("hardly anything went past TCP", file=sys.stderr)
    return 1 if report.outcome.bad or not enough else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else CONNECTIONS))
