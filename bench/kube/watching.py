# SPDX-License-Identifier: Apache-2.0
"""A process of several agents without a datapath: their sources, and on request what they write.

``python -m bench.kube.watching KUBECONFIG SERVER FIRST COUNT``

They are nodes node-FIRST and so on, each with a connection of its own. Tells ``["synced", seconds]`` when the
last has listed all, ``[SLICE, seconds]`` when the last has seen a change of that slice (time.monotonic()).
A line ``write N`` has each write its NodeState so often; then ``["written", seconds]``. ``ask N``: each looks
so often who is elected, as all but the elected do; then ``["asked", seconds]``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from dataclasses import replace

from netaccel.apiserver.connection import Connection
from netaccel.config import Settings
from netaccel.model.endpoint import EndpointSlice
from netaccel.model.event import Synced, Upsert
from netaccel.sources.kubernetes import KubernetesSource
from netaccel.writers.nodestate import NodeStateWriter, Rhythm
from netaccel.writers.state import Mode, NodeSnapshot

LEASE = "/apis/coordination.k8s.io/v1/namespaces/netaccel/leases/netaccel"
AT_ONCE = Rhythm(gap=0.0, figures=0.0, spread=0.0)


class Agents:
    """Those of this process."""

    def __init__(self, kubeconfig: str, server: str, first: int, count: int) -> None:
        self.settings = [
            Settings.model_validate(
                {"node_name": f"node-{first + i}", "kubeconfig": kubeconfig, "api_servers": server}
            )
            for i in range(count)
        ]
        self.synced = 0
        self.seen: Counter[str] = Counter()

    async def run(self) -> None:
        """Watch and listen for ever."""
        connections = [await Connection.open(one) for one in self.settings]
        async with asyncio.TaskGroup() as group:
            for settings, connection in zip(self.settings, connections, strict=True):
                group.create_task(self.watch(settings, connection))
            while line := await asyncio.to_thread(sys.stdin.readline):
                word, times = line.split()[0], int(line.split()[1])
                pairs = zip(self.settings, connections, strict=True)
                action, done = {"write": (write, "written"), "ask": (ask, "asked")}[word]
                await asyncio.gather(*(action(s.node_name, c, times) for s, c in pairs))
                tell(done)

    async def watch(self, settings: Settings, connection: Connection) -> None:
        """One agent's source."""
        source = KubernetesSource(connection, node_name=settings.node_name, proxy_name="")
        synced = False
        async for batch in source.events():
            for event in batch:
                if isinstance(event, Synced):
                    synced = True
                    self.synced += 1
                    if self.synced == len(self.settings):
                        tell("synced")
                elif synced and isinstance(event, Upsert) and isinstance(event.object, EndpointSlice):
                    self.see(event.key.name)

    def see(self, name: str) -> None:
        """One of them saw a change."""
        self.seen[name] += 1
        if self.seen[name] == len(self.settings):
            tell(name)


async def write(node_name: str, connection: Connection, times: int) -> None:
    """What an agent says of its node, so often, something new each time."""
    snapshot = NodeSnapshot(version="bench", kernel=os.uname().release, mode=Mode.INSTEAD)

    async def look() -> NodeSnapshot:
        return snapshot

    writer = NodeStateWriter(connection, node_name, look, rhythm=AT_ONCE)
    for number in range(times):
        snapshot = replace(snapshot, services=number + 1)
        await writer.step()


async def ask(node_name: str, connection: Connection, times: int) -> None:
    """Look at the Lease, as node ``node_name`` does."""
    del node_name
    for _ in range(times):
        await connection.request("GET", LEASE)


def tell(what: str) -> None:
    """A line for whoever started this."""
    print(json.dumps([what, time.monotonic()]), flush=True)


if __name__ == "__main__":
    asyncio.run(Agents(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])).run())
