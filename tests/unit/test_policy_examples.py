# SPDX-License-Identifier: Apache-2.0
"""The examples of policies/examples: each is read without a warning, and does what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from netaccel.model.address import parse_address
from netaccel.model.endpoint import PodKey
from netaccel.model.event import Upsert
from netaccel.model.policy import Action, Direction, Policy
from netaccel.model.snapshot import World
from netaccel.oracle import Party, Question, judge, locate, party_of_pod
from netaccel.sources.parse import Parsed, read

FOLDER = Path(__file__).parents[2] / "policies" / "examples"
EXAMPLES = sorted(FOLDER.glob("*.yaml"))
CLUSTER = """
{apiVersion: v1, kind: Namespace, metadata: {name: default, labels: {kubernetes.io/metadata.name: default}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: other, labels: {kubernetes.io/metadata.name: other}}}
---
apiVersion: v1
kind: Namespace
metadata: {name: kube-system, labels: {kubernetes.io/metadata.name: kube-system}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {nodeName: n}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: client}, spec: {nodeName: n}, status: {podIP: 10.0.0.2}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: other}
spec: {nodeName: n}
status: {podIP: 10.0.0.3}
---
apiVersion: v1
kind: Pod
metadata: {name: dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec: {nodeName: n}
status: {podIP: 10.0.0.4}
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec: {clusterIP: 10.96.0.10, selector: {k8s-app: kube-dns}, ports: [{port: 53, protocol: UDP}]}
"""
TCP, UDP = 6, 17
QUESTIONS = {
    "default-deny": [
        ("world", "default/web", TCP, 80, "drop"),
        ("default/web", "default/client", TCP, 80, "drop"),
        ("other/web", "kube-system/dns", UDP, 53, "allow"),
    ],
    "default-deny-monitor": [
        ("world", "default/web", TCP, 80, "audited"),
        ("default/web", "default/client", TCP, 80, "audited"),
        ("other/web", "kube-system/dns", UDP, 53, "allow"),
    ],
    "namespace-isolation": [
        ("default/client", "default/web", TCP, 80, "allow"),
        ("other/web", "default/web", TCP, 80, "drop"),
        ("world", "default/web", TCP, 80, "drop"),
        ("default/web", "other/web", TCP, 80, "allow"),
    ],
    "allow-dns": [
        ("default/web", "kube-system/dns", UDP, 53, "allow"),
        ("default/web", "kube-system/dns", TCP, 53, "allow"),
        ("default/web", "kube-system/dns", TCP, 80, "drop"),
        ("default/web", "world", UDP, 53, "drop"),
        ("world", "default/web", TCP, 80, "allow"),
    ],
    "egress-except": [
        ("default/web", "198.51.100.9", TCP, 443, "allow"),
        ("default/web", "198.51.100.9", TCP, 80, "drop"),
        ("default/web", "10.9.9.9", TCP, 443, "drop"),
        ("default/web", "default/client", TCP, 443, "drop"),
    ],
    "monitor-namespace": [
        ("default/client", "default/web", TCP, 80, "allow"),
        ("other/web", "default/web", TCP, 80, "audited"),
        ("world", "default/web", TCP, 80, "audited"),
        ("world", "other/web", TCP, 80, "allow"),
    ],
    "block-client": [
        ("203.0.113.7", "default/web", TCP, 80, "drop"),
        ("203.0.113.7", "other/web", UDP, 53, "drop"),
        ("203.0.113.8", "default/web", TCP, 80, "allow"),
    ],
    "metadata-endpoint": [
        ("default/web", "169.254.169.254", TCP, 80, "reject"),
        ("kube-system/dns", "169.254.169.254", TCP, 80, "allow"),
        ("default/web", "169.254.169.253", TCP, 80, "allow"),
    ],
}


def cluster() -> World:
    world = World()
    for document in yaml.safe_load_all(CLUSTER):
        (outcome,) = read(document)
        assert isinstance(outcome, Parsed), outcome
        world.apply(Upsert(outcome.key, outcome.object, 0.0))
    return world


def policies(file: Path) -> list[Policy]:
    found = []
    for document in yaml.safe_load_all(file.read_text()):
        (outcome,) = read(document)
        assert isinstance(outcome, Parsed), outcome
        assert isinstance(outcome.object, Policy)
        found.append(outcome.object)
    return found


def party(world: World, name: str) -> Party:
    namespace, slash, pod_name = name.partition("/")
    if not slash:
        return locate(world, parse_address("192.0.2.200" if name == "world" else name))
    pod = world.pod(PodKey(namespace, pod_name))
    assert pod is not None
    return party_of_pod(pod, pod.addresses[0])


def verdict(world: World, question: Question) -> str:
    """What becomes of the first packet, by both ends' policies."""
    found = "allow"
    for direction in (Direction.EGRESS, Direction.INGRESS):
        end = question.source if direction is Direction.EGRESS else question.destination
        if end.pod is None:
            continue
        judgement = judge(world, direction, question)
        if not judgement.enforced.allowed:
            return "reject" if judgement.enforced.action is Action.REJECT else "drop"
        if not judgement.shadow.allowed:
            found = "audited"
    return found


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_is_read_without_a_warning_and_names_no_namespace_of_its_own(file: Path) -> None:
    for policy in policies(file):
        assert policy.warnings == ()
        assert policy.key.namespace in ("", "default")


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_does_what_it_says(file: Path) -> None:
    world = cluster()
    for policy in policies(file):
        (outcome,) = read(yaml.safe_load(file.read_text()))
        assert isinstance(outcome, Parsed)
        world.apply(Upsert(outcome.key, policy, 0.0))
    for source, destination, protocol, port, wanted in QUESTIONS[file.stem]:
        question = Question(party(world, source), party(world, destination), protocol, port)
        assert verdict(world, question) == wanted, (source, destination, port)


def test_monitor_and_enforcement_of_the_default_deny_are_one_object() -> None:
    (monitored,), (enforced,) = (
        policies(FOLDER / f"{name}.yaml") for name in ("default-deny-monitor", "default-deny")
    )
    assert monitored.key == enforced.key
    assert (monitored.ingress, monitored.isolates) == (enforced.ingress, enforced.isolates)
