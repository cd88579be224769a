# SPDX-License-Identifier: Apache-2.0
"""What an agent of a cluster writes to its API server, beside serving its node.

The node is served without any of it: what the server refuses becomes a note for people.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from uuid import uuid4

from netaccel import __version__
from netaccel.agent.facts import mode, tiers
from netaccel.agent.policies import PolicyBoard
from netaccel.agent.report import Answers
from netaccel.agent.standing import Standing
from netaccel.apiserver.api import Api
from netaccel.apiserver.credentials import SERVICE_ACCOUNT
from netaccel.apiserver.election import Election
from netaccel.observe.figures import Tally
from netaccel.writers.cluster import ClusterWriter
from netaccel.writers.events import EventWriter
from netaccel.writers.nodestate import NodeStateWriter
from netaccel.writers.notices import Notice, notices, warnings
from netaccel.writers.state import Mode, NodeSnapshot

NAMESPACE = "netaccel"
"""Of the Lease, where the agent runs outside a pod; in a pod the pod's own."""


class Publisher:
    """NodeState, this node's Events, and the cluster's where this agent is elected. Run it in a task."""

    def __init__(self, standing: Standing, answers: Answers, api: Api) -> None:
        node = standing.settings.node_name
        self._agent, self._answers = standing, answers
        self._counts = Tally(answers.counts, standing.written)
        self._election = Election(api, namespace=_namespace(), identity=f"{node}_{uuid4().hex[:8]}")
        self._state = NodeStateWriter(api, node, self._snapshot)
        self._events = EventWriter(api, node, self._notices)
        self._board = PolicyBoard(standing, answers) if standing.settings.policy == "on" else None
        standings = self._board.standings if self._board else None
        self._cluster = ClusterWriter(api, node, self._election, self._notices, standings)

    async def run(self) -> None:
        """Write for ever. Raises nothing for what the API does or says."""
        async with asyncio.TaskGroup() as group:
            for writer in (self._state, self._events, self._cluster):
                group.create_task(writer.run(), name=type(writer).__name__)

    def stir(self) -> None:
        """Something may have changed. Cheap."""
        for writer in (self._state, self._events, self._cluster):
            writer.stir()

    def problems(self) -> list[str]:
        """What a person must mend before all of it can be written."""
        found = (writer.problem for writer in (self._state, self._events, self._cluster))
        return [problem for problem in found if problem]

    def _notices(self) -> tuple[Notice, ...]:
        found = notices(self._agent.reconciler.world, self._agent.reconciler.troubled())
        return (*found, *(one for told in self._agent.notices for one in told()))

    async def _snapshot(self) -> NodeSnapshot:
        agent = self._agent
        counts = await asyncio.to_thread(self._counts.read)
        policies = await self._board.held() if self._board else ()
        reconciler = agent.reconciler
        return NodeSnapshot(
            version=__version__,
            kernel=os.uname().release,
            mode=Mode(mode(agent.settings)),
            not_ready=tuple(self._answers.readiness()),
            services=counts["services"],
            frontends=counts["frontends"],
            backends=counts["backends"],
            drift=reconciler.stats.drift.total(),
            last_sync=agent.source.status().heard if agent.source else None,
            warnings=warnings(reconciler.world, reconciler.troubled(), self._answers.warnings()),
            policies=policies,
            acceleration=tiers(await asyncio.to_thread(self._answers.accelerated)),
        )


def _namespace(account: Path = SERVICE_ACCOUNT) -> str:
    file = account / "namespace"
    return file.read_text(encoding="utf-8").strip() if file.is_file() else NAMESPACE
