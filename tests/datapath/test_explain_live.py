# SPDX-License-Identifier: Apache-2.0
"""What is asked of the maps in force: answered as the model answers, and nothing is left there."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from programs import SMALL

from netaccel.api.explain import ExplainRoutes
from netaccel.api.server import serving
from netaccel.compile.diff import Write
from netaccel.compile.policy.changes import everything
from netaccel.compile.policy.compiler import Compiler
from netaccel.datapath.bpfmap import KernelMap
from netaccel.datapath.instance import Instance
from netaccel.datapath.loader import Loaded, load
from netaccel.errors import DatapathError
from netaccel.explain import far
from netaccel.explain.ends import parse_end
from netaccel.explain.far import Everywhere
from netaccel.explain.live import PinnedKernel
from netaccel.explain.manifests import read_world
from netaccel.explain.model import Model
from netaccel.explain.packet import first_packet
from netaccel.explain.walk import How, Walker
from netaccel.model.address import parse_address
from netaccel.model.endpoint import Pod, PodKey
from netaccel.model.event import Upsert, object_key
from netaccel.model.plain import told
from netaccel.model.policy import Direction
from netaccel.model.snapshot import World
from netaccel.oracle import Question
from netaccel.records import PolicyRevision

pytestmark = pytest.mark.root
CLUSTER = Path(__file__).parents[1] / "cases" / "cluster.yaml"
NODE = "node-1"
POLICIES = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: http}]}]
---
apiVersion: netaccel.io/v1alpha1
kind: TrafficPolicy
metadata: {name: out, namespace: shop}
spec:
  subject: {}
  egress:
    - {action: Reject, to: [{cidr: 192.0.2.0/24}]}
    - {action: Monitor, to: [{entity: node}]}
"""
QUESTIONS = (
    ("pod:shop/client", "pod:shop/web:80", 6),
    ("pod:shop/client", "pod:shop/web:81", 6),
    ("pod:bank/teller", "pod:shop/web:53", 17),
    ("pod:shop/web", "world:443", 6),
    ("pod:shop/web", "node:node-2:443", 6),
    ("pod:shop/web", "pod:bank/teller", 1),
    ("node:node-1", "pod:shop/web:80", 6),
    ("pod:shop/web", "pod:shop/neighbour:80", 132),
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "cluster.yaml").write_text(CLUSTER.read_text())
    (tmp_path / "policies.yaml").write_text(POLICIES)
    offline = read_world(tmp_path)
    assert not offline.refused
    return offline.world


@pytest.fixture
def served(instance: Instance, world: World) -> Iterator[Loaded]:
    """This node's maps as an agent would have filled and pinned them."""
    with load(instance, ["tc_pod"], constants={"policy": 1}, sizes=SMALL) as loaded:
        pods = [pod for pod in world.pods(NODE) if not pod.host_network]
        devices = {pod.key: 1000 + number for number, pod in enumerate(pods)}
        for step in Compiler(loaded.abi.constants, NODE).update(world, everything(world), devices):
            if isinstance(step, Write):
                loaded.maps.write(step.map, list(step.entries))
        loaded.maps.write("policy_revision", [(0, PolicyRevision(7, 1))])
        loaded.commit()
        yield loaded


def dumps(folder: Path) -> dict[str, list[tuple[int, bytes, bytes]]]:
    """Every entry of every pinned map, but for ring buffers, which have none."""
    found = {}
    for path in sorted(folder.iterdir()):
        with KernelMap.open_pinned(path) as opened:
            if opened.info.key_size:
                found[path.name] = list(opened.read())
    return found


def test_the_kernel_answers_as_the_model_and_no_map_is_written(
    instance: Instance, served: Loaded, world: World
) -> None:
    before = dumps(instance.maps)
    model = Model(world)
    with PinnedKernel(instance.maps, NODE) as kernel:
        walker = Walker(model, {"model": model, "kernel": kernel})
        for source, destination, protocol in QUESTIONS:
            answer = walker.walk(parse_end(source), parse_end(destination), How(protocol))
            assert not answer.disagreements, answer
            here = [half for one in answer.courses for half in one.halves if half.node == NODE]
            assert here
            assert all(half.answers["kernel"] is not None for half in here), answer
            frame = first_packet(answer.courses[0].halves[0].question)
    assert dumps(instance.maps) == before
    served.program("tc_pod_ingress").test_run(frame)
    assert dumps(instance.maps) != before, "what is no dry run leaves its trace"


def test_other_nodes_pods_are_not_known(instance: Instance, served: Loaded, world: World) -> None:
    with PinnedKernel(instance.maps, NODE) as kernel:
        walker = Walker(Model(world), {"kernel": kernel})
        answer = walker.walk(parse_end("pod:shop/web"), parse_end("pod:shop/client:80"))
    assert [half.judgement is None for half in answer.courses[0].halves] == [False, True]
    assert answer.allowed is None


def test_a_pod_without_a_device_is_not_known(instance: Instance, served: Loaded, world: World) -> None:
    served.maps.delete("policy_endpoints", list(served.maps.dump("policy_endpoints")))
    with PinnedKernel(instance.maps, NODE) as kernel:
        walker = Walker(Model(world), {"kernel": kernel})
        assert walker.walk(parse_end("world"), parse_end("pod:shop/web:80")).allowed is None


def test_a_node_without_these_maps_says_so(instance: Instance) -> None:
    with pytest.raises(DatapathError, match="is policy on"):
        PinnedKernel(instance.maps, NODE)


def serve(routes: ExplainRoutes, listener: socket.socket, stop: threading.Event) -> None:
    async def run() -> None:
        app = web.Application()
        app.router.add_get("/api/v1/verdict", routes.verdict)
        async with serving(app, listener):
            await asyncio.to_thread(stop.wait)

    asyncio.run(run())


@pytest.fixture
def agent(instance: Instance, served: Loaded, world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port at which an agent of node-1 tells what its kernel says, on loopback."""
    monkeypatch.setattr(far, "_PATIENCE", 60.0)  # a busy machine loads a program more slowly
    routes = ExplainRoutes(lambda: told(of_node(world, NODE)), instance.maps)
    listener, stop = socket.create_server(("127.0.0.1", 0)), threading.Event()
    thread = threading.Thread(target=serve, args=(routes, listener, stop))
    thread.start()
    yield listener.getsockname()[1]
    stop.set()
    thread.join()


def of_node(world: World, name: str) -> World:
    """The same world, as the agent of this node has it; node-1 is on loopback."""
    found = World(name)
    here = replace(world.node(NODE), addresses=(parse_address("127.0.0.1"),))
    for objects in told(world).objects.values():
        found.apply_all(
            Upsert(object_key(one), here if one == world.node(NODE) else one, 0.0) for one in objects
        )
    return found


class Blind:
    """The kernel of a node that has no pods."""

    def ask(self, direction: Direction, question: Question) -> None:
        return None

    def why_unknown(self, direction: Direction, question: Question) -> str:
        return ""


def test_another_nodes_half_is_asked_of_its_agent(agent: int, world: World) -> None:
    asking = of_node(world, "node-2")
    model = Model(asking)
    walker = Walker(model, {"model": model, "kernel": Everywhere(Blind(), asking, agent)})
    ingress = walker.walk(parse_end("pod:shop/client"), parse_end("pod:shop/web:81")).courses[0].halves[1]
    assert ingress.answers["kernel"] == ingress.answers["model"]
    assert not ingress.answers["kernel"].allowed


def test_an_agent_that_cannot_be_reached_leaves_its_half_unknown(world: World) -> None:
    asking = of_node(world, "node-2")
    with socket.socket() as nobody:  # does not listen, so that nobody else does there
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        walker = Walker(Model(asking), {"kernel": Everywhere(Blind(), asking, port)})
        answer = walker.walk(parse_end("world"), parse_end("pod:shop/web:80"))
    assert answer.allowed is None
    assert answer.courses[0].halves[1].reason == (
        f"no agent answers at 127.0.0.1:{port} (Connection refused): run it on node-1,"
        " or see the setting `http` there"
    )


def test_a_pod_whose_device_has_no_policy_is_unknown_and_its_node_says_more(agent: int, world: World) -> None:
    new = Pod(PodKey("shop", "new"), NODE, (parse_address("10.1.0.77"),))
    world.apply_all([Upsert(object_key(new), new, 0.0)])
    asking = of_node(world, "node-2")
    walker = Walker(Model(asking), {"kernel": Everywhere(Blind(), asking, agent)})
    ingress = walker.walk(parse_end("pod:shop/client"), parse_end("pod:shop/new:80")).courses[0].halves[1]
    assert ingress.judgement is None
    assert ingress.reason.startswith(
        "the Pod's device has no policy yet, or can't have one: `netaccel status`"
    )


def test_what_the_agent_cannot_be_asked(agent: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", agent)
    connection.request("GET", "/api/v1/verdict?direction=up&source=10.0.0.1")
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())) == (
        400,
        {"error": "direction 'up': give ingress or egress"},
    )
    connection.close()
