# SPDX-License-Identifier: Apache-2.0
"""What is asked of the maps in force: answered as the model answers, and nothing is left there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import SMALL

from netaccel.compile.diff import Write
from netaccel.compile.policy.changes import everything
from netaccel.compile.policy.compiler import Compiler
from netaccel.datapath.bpfmap import KernelMap
from netaccel.datapath.instance import Instance
from netaccel.datapath.loader import Loaded, load
from netaccel.errors import DatapathError
from netaccel.explain.ends import parse_end
from netaccel.explain.live import PinnedKernel
from netaccel.explain.manifests import read_world
from netaccel.explain.model import Model
from netaccel.explain.packet import first_packet
from netaccel.explain.walk import How, Walker
from netaccel.model.snapshot import World
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
