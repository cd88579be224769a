# SPDX-License-Identifier: Apache-2.0
"""Recorded edges: what recording costs at 30,000 flows a minute, of which few or all are new edges, and what
`netaccel policy preview` takes to judge a day of them.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from bench.results import Result
from netaccel.explain.preview import Changes, preview
from netaccel.model.address import parse_address, parse_cidr
from netaccel.model.endpoint import Pod, PodKey
from netaccel.model.event import Upsert, object_key
from netaccel.model.policy import (
    Action,
    CidrPeer,
    Direction,
    Kind,
    Operator,
    PodPeer,
    Policy,
    PolicyKey,
    PortRange,
    Requirement,
    Rule,
    Selector,
    Subject,
    Tier,
)
from netaccel.model.snapshot import World
from netaccel.observe.edges.edge import Edge
from netaccel.observe.edges.reader import Reader
from netaccel.observe.edges.recorder import EdgeRecorder
from netaccel.observe.edges.store import Limits
from netaccel.observe.edges.told import EdgeListener
from netaccel.observe.flows.record import End, FlowRecord

MINUTE = 30_000  # flows
PODS, STRANGERS = 110, 5000
PORTS = (80, 443, 8080)
NOW = 1.7e9


def run() -> list[Result]:
    """Every row of the part."""
    with tempfile.TemporaryDirectory() as folder:
        few, _ = _recorded(Path(folder) / "few.db", strangers=10)
        many, edges = _recorded(Path(folder) / "many.db", strangers=STRANGERS)
        size = (Path(folder) / "many.db").stat().st_size / len(edges)
    seconds = _previewed(edges)
    per_core = 100 / 60
    return [
        Result(
            "recording 30,000 flows a minute, few new edges, of a core", few * per_core, "%", budget=3,
            note=f"{few / MINUTE * 1e6:.0f} µs a flow",
        ),
        Result(
            "the same, every flow a new edge", many * per_core, "%",
            note=f"{many / MINUTE * 1e6:.0f} µs a flow, {size:.0f} B an edge",
        ),
        Result(
            "preview of a policy", seconds / len(edges) * 1e6, "µs/edge",
            note=f"{len(edges):,} edges, 200 policies: {seconds:.1f} s",
        ),
    ]  # fmt: skip


def _pods() -> list[End]:
    return [
        End(f"10.1.0.{n}", "pod", f"ns-{n % 10}", f"pod-{n}", "node-1", {"app": f"app-{n % 20}", "tier": "a"})
        for n in range(PODS)
    ]


def _recorded(path: Path, *, strangers: int) -> tuple[float, list[Edge]]:
    """Seconds of CPU from records to the file; the edges."""
    rng = random.Random(1)
    pods = _pods()
    world = [End(f"192.0.{n >> 8}.{n & 255}", "world") for n in range(strangers)]
    told = [
        FlowRecord(
            node="node-1",
            boot="b",
            sequence=number,
            time=int((NOW + number * 0.002) * 1e9),
            monotonic=0,
            type="new",
            verdict="forwarded",
            direction="ingress",
            protocol="TCP",
            source=rng.choice(world),
            destination=rng.choice(pods),
            destination_port=rng.choice(PORTS),
        )
        for number in range(MINUTE)
    ]
    recorder = EdgeRecorder(path, Limits(), wall=lambda: NOW)
    began = time.process_time()
    asyncio.run(_record(recorder, told))
    spent = time.process_time() - began
    with closing(Reader(path)) as reader:
        return spent, list(reader.edges())


async def _record(recorder: EdgeRecorder, told: Sequence[FlowRecord]) -> None:
    """As an agent does: batches of the log, a write each ten seconds."""
    listener = EdgeListener(recorder, lambda key: None)
    for at in range(0, len(told), 50):
        listener(told[at : at + 50])
        if at % (MINUTE // 6) == 0:
            await recorder.flush()
    await recorder.flush()
    recorder.close()


def _previewed(edges: Sequence[Edge]) -> float:
    world = World("node-1")
    for end in _pods():
        address = (parse_address(end.address),)
        pod = Pod(PodKey(end.namespace, end.name), "node-1", address, tuple(end.labels.items()))
        world.apply(Upsert(object_key(pod), pod, 0.0))
    for number in range(200):
        policy = _policy(f"ns-{number % 10}", f"policy-{number}", _app(number % 20))
        world.apply(Upsert(object_key(policy), policy, 0.0))
    new = tuple(_policy(f"ns-{number}", "new", ()) for number in range(10))
    began = time.process_time()
    found = preview(world, Changes(new), edges)
    assert found.touched == len(edges), found
    return time.process_time() - began


def _app(number: int) -> Selector:
    return (Requirement("app", Operator.IN, (f"app-{number}",)),)


def _policy(namespace: str, name: str, subject: Selector) -> Policy:
    blocks = CidrPeer(parse_cidr("192.0.2.0/24")), PodPeer(_app(1), None)
    rules = tuple(Rule(Action.ALLOW, blocks, (PortRange(6, port, port),)) for port in PORTS)
    key = PolicyKey(Kind.TRAFFIC, namespace, name)
    isolates = frozenset((Direction.INGRESS,))
    return Policy(key, Tier.NAMESPACED, Subject(subject, None), rules, isolates=isolates)
