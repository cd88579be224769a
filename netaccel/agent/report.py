# SPDX-License-Identifier: Apache-2.0
"""What one agent says of itself and of its node: status, metrics, Services, maps."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from dataclasses import asdict
from typing import Any

from netaccel import __version__
from netaccel.accelerate.metrics import AccelMetrics
from netaccel.accelerate.view import Status
from netaccel.agent.facts import acceleration, ignored, mode, pods, refused, unaccelerated
from netaccel.agent.standing import Standing
from netaccel.api.views import ServiceView, map_rows, read_tables, services
from netaccel.explain.policies import Decided, Facts, decided
from netaccel.observe.edges.metrics import families
from netaccel.observe.figures import FigureCache, in_force, read_figures, total
from netaccel.observe.flows.metrics import FlowMetrics
from netaccel.observe.metrics import AgentFacts, Metrics
from netaccel.reconcile import Report


class Answers:
    """Implements netaccel.api.server.Answers for one agent."""

    def __init__(self, standing: Standing) -> None:
        self._agent = standing
        self._maps, self._abi = standing.plane.loaded.maps, standing.plane.loaded.abi
        self._metrics = Metrics(
            FigureCache(lambda: read_figures(self._maps, self._abi)), lambda: standing.census, self._facts
        )
        if standing.flows:
            self._metrics.more.append(FlowMetrics(standing.flows).families)
        if edges := standing.edges:
            self._metrics.more.append(lambda: families(edges))
        self._metrics.more.append(AccelMetrics(lambda: standing.acceleration, self.unaccelerated).families)

    def account(self, report: Report) -> None:
        """Take note of one pass."""
        self._metrics.reconcile_duration.observe(report.duration)
        if report.latency is not None:
            self._metrics.event_latency.observe(report.latency)

    def account_devices(self, seconds: float) -> None:
        """Take note of how long a change of devices took."""
        self._metrics.device_latency.observe(seconds)

    def readiness(self) -> list[str]:
        """Reasons why this node is not served yet."""
        reasons = []
        if not self._agent.plane.hooks.attached():
            reasons.append("no program is attached")
        if not self._agent.reconciler.ready.is_set():
            reasons.append(f"the source's first state is not in the maps yet{self._age()}")
        elif self._agent.policies and not self._agent.policies.revision:
            reasons.append(f"policies are not in the maps yet{self._age()}")
        return reasons

    def _age(self) -> str:
        """How old the pinned state is that is served meanwhile."""
        if not self._agent.heard_before:
            return ""
        age = max(0.0, time.time() - self._agent.heard_before)
        return f"; what is pinned is served on, {_duration(age)} old"

    async def status(self) -> dict[str, Any]:
        """What /status and ``netaccel status`` show."""
        agent = self._agent
        counts = await asyncio.to_thread(self.counts)
        reasons = self.readiness()
        return {
            "node": agent.settings.node_name,
            "version": __version__,
            "kernel": os.uname().release,
            "pid": os.getpid(),
            "uptime": round(time.monotonic() - agent.started, 1),
            "ready": not reasons,
            "reasons": reasons,
            "mode": mode(agent.settings),
            "warnings": self.warnings(),
            "notes": self.notes(),
            "refused": refused(agent.reconciler),
            "ignored": ignored(agent.reconciler),
            "waiting": [str(one) for one in agent.reconciler.world.waiting_slices()],
            "pods": pods(agent.placement),
            "policy": agent.policies.status() if agent.policies else None,
            "counts": counts,
            "drift_repaired": agent.reconciler.stats.drift.total(),
            "hooks": [asdict(hook) for hook in agent.plane.hooks.status()],
            "sources": self._sources(),
            "maps": {name: fill._asdict() for name, fill in agent.census.fill.items()},
            "features": [feature._asdict() for feature in agent.features],
            "acceleration": acceleration(await asyncio.to_thread(self.accelerated)),
            "flows": await asyncio.to_thread(agent.flows.status) if agent.flows else None,
        }

    def warnings(self) -> list[str]:
        """What is served less well than asked, now."""
        agent = self._agent
        found = list(agent.plane.warnings())
        if error := agent.reconciler.stats.last_error:
            found.append(f"the last pass failed, it is tried again: {error}")
        if agent.source and (problem := agent.source.status().problem):
            found.append(problem)
        found += agent.take_over.warnings()
        return found + [line for lines in agent.warnings for line in lines()]

    def notes(self) -> list[str]:
        """What is under way, or left undone beside serving the node."""
        found = self._agent.take_over.notes(self._agent.census)
        return found + [line for lines in self._agent.notes for line in lines()]

    def _sources(self) -> list[dict[str, Any]]:
        agent = self._agent
        if not agent.source:
            return []
        told, world = agent.source.status(), agent.reconciler.world
        heard = told.heard or agent.heard_before or None
        return [
            {
                "kind": told.kind,
                "where": told.where,
                "synced": world.synced,
                "heard": heard,
                "age": None if heard is None else round(max(0.0, time.time() - heard), 1),
                "problem": told.problem,
                "objects": dict(world.counts()),
            }
        ]

    def counts(self) -> dict[str, int]:
        """Entries of the maps that people ask for; reads the maps."""
        return in_force(self._maps)

    def metrics(self) -> bytes:
        """What /metrics shows."""
        return self._metrics.text()

    def services(self) -> list[ServiceView]:
        """Services as the maps hold them."""
        return services(read_tables(self._maps), self._abi)

    def policy_facts(self) -> Facts:
        """What is known of policies beside the world; cheap."""
        agent = self._agent
        node, on = agent.settings.node_name, agent.settings.policy == "on"
        return Facts(node, agent.reconciler.troubled(), enforcing=on)

    def decided(self) -> list[Decided] | None:
        """What rules decided, from the maps; None where there are none of policy. DatapathError."""
        if "policy_rules" not in self._maps.names():
            return None
        rules = self._maps.dump("policy_rules")  # few, where rule_counters has room for the most
        counters = {id_: total(self._maps.get("rule_counters", id_)) for id_ in rules}
        return decided(rules, counters, self._abi)

    def map_names(self) -> list[str]:
        """Maps by logical name."""
        return list(self._maps.names())

    def map_rows(self, name: str) -> list[dict[str, object]]:
        """Entries of one map, readable."""
        return map_rows(name, self._maps.dump(name), self._abi)

    def accelerated(self) -> Status:
        """Of same-node acceleration; may read maps."""
        found = self._agent.acceleration
        return found.status() if found else self.unaccelerated()

    def unaccelerated(self) -> Status:
        """What is told where nothing of it runs."""
        return unaccelerated(self._agent.settings, self._agent.peer_tier())

    def pods(self) -> dict[str, str]:
        """This node's, by ``namespace/name``; why one's connections can't be told, "" where they can."""
        agent = self._agent
        here = agent.reconciler.world.pods(agent.settings.node_name)
        why = "it is on the node's own network, which is left alone"
        return {f"{pod.key.namespace}/{pod.key.name}": why if pod.host_network else "" for pod in here}

    def _facts(self) -> AgentFacts:
        reconciler = self._agent.reconciler
        kinds = Counter(entry["object"].partition(" ")[0] or "unknown" for entry in refused(reconciler))
        return AgentFacts(
            rejected=kinds,
            drift_repaired=reconciler.stats.drift.total(),
            attached=self._agent.plane.hooks.attached(),
            synced=reconciler.ready.is_set(),
        )


def _duration(seconds: float) -> str:
    """``42 s``, ``3 min``, ``5 h``, ``2 days``."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
