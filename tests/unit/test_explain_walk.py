# SPDX-License-Identifier: Apache-2.0
"""Ways of a flow: which are found, and what each end sees of the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from netaccel.errors import QuestionError
from netaccel.explain.ends import parse_end
from netaccel.explain.model import Model
from netaccel.explain.view import course_verdict, party_text
from netaccel.explain.walk import Answer, How, Walker
from netaccel.model.event import Upsert
from netaccel.model.policy import (
    Action,
    Direction,
    Entity,
    EntityPeer,
    Kind,
    Policy,
    PolicyKey,
    Rule,
    Subject,
    Tier,
)
from netaccel.model.snapshot import World
from netaccel.oracle import Judgement, Question
from netaccel.sources.parse import Parsed, read


def node(name: str, address: str) -> dict[str, Any]:
    addresses = [{"type": "InternalIP", "address": address}]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "status": {"addresses": addresses},
    }


def pod(name: str, node_name: str, *addresses: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
        "spec": {"nodeName": node_name, "containers": [{"name": "a"}]},
        "status": {"podIPs": [{"ip": address} for address in addresses]},
    }


def service(name: str, **spec: Any) -> dict[str, Any]:
    ports = [{"name": "pg", "port": 5432, "targetPort": 6432, **spec.pop("port", {})}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.1", "ports": ports, **spec},
    }


def endpoints(name: str, *at: tuple[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "pg", "port": 6432, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "nodeName": where} for address, where in at],
    }


BASE = (
    node("node-1", "172.18.0.1"),
    node("node-2", "172.18.0.2"),
    pod("web", "node-1", "10.1.0.1", "fd00::1"),
    pod("db-1", "node-1", "10.1.0.2", "fd00::2"),
    pod("db-2", "node-2", "10.1.1.2"),
)
BOTH = endpoints("db", ("10.1.0.2", "node-1"), ("10.1.1.2", "node-2"))


def world(*manifests: dict[str, Any], policies: Sequence[Policy] = ()) -> World:
    found = World()
    for manifest in (*BASE, *manifests):
        for outcome in read(manifest):
            assert isinstance(outcome, Parsed), outcome
            found.apply(Upsert(outcome.key, outcome.object, 0.0))
    for policy in policies:
        found._policies[policy.key] = policy
    return found


def walk(found: World, source: str, destination: str, how: How | None = None) -> Answer:
    model = Model(found)
    return Walker(model, {"model": model}).walk(parse_end(source), parse_end(destination), how)


def ends(answer: Answer) -> list[tuple[str, str]]:
    """What the destination's policy sees, way by way."""
    return [
        (party_text(q.source), party_text(q.destination, q.protocol, q.port))
        for q in (course.halves[1].question for course in answer.courses)
    ]


def denying(name: str, *rules: Rule) -> Policy:
    key = PolicyKey(Kind.TRAFFIC, "shop", name)
    return Policy(key, Tier.NAMESPACED, Subject((), None), ingress=rules)


def test_a_pod_to_a_pod_in_every_family_that_both_have() -> None:
    assert ends(walk(world(), "pod:shop/web", "pod:shop/db-1:80")) == [
        ("pod:shop/web (10.1.0.1)", "pod:shop/db-1 (10.1.0.2:80/TCP)"),
        ("pod:shop/web (fd00::1)", "pod:shop/db-1 ([fd00::2]:80/TCP)"),
    ]


def test_a_service_leads_to_each_of_its_backends_at_their_port() -> None:
    answer = walk(world(service("db"), BOTH), "pod:shop/web", "service:shop/db:5432")
    assert ends(answer) == [
        ("pod:shop/web (10.1.0.1)", "pod:shop/db-1 (10.1.0.2:6432/TCP)"),
        ("pod:shop/web (10.1.0.1)", "pod:shop/db-2 (10.1.1.2:6432/TCP)"),
    ]
    assert [half.node for course in answer.courses for half in course.halves] == [
        "node-1", "node-1", "node-1", "node-2",
    ]  # fmt: skip


@pytest.mark.parametrize("destination", ["service:shop/db", "service:shop/db:pg", "ip:10.96.0.1:5432"])
def test_a_service_by_other_names(destination: str) -> None:
    found = world(service("db"), BOTH)
    assert ends(walk(found, "pod:shop/web", destination)) == ends(
        walk(found, "pod:shop/web", "service:shop/db:5432")
    )


def test_a_service_without_endpoints_is_refused() -> None:
    answer = walk(world(service("db")), "pod:shop/web", "service:shop/db:5432")
    assert (answer.allowed, course_verdict(answer.deciding)) == (False, "refused")


def test_a_headless_service_stands_for_its_endpoints_at_the_clients_port() -> None:
    found = world(service("db", clusterIP="None"), BOTH)
    assert ends(walk(found, "pod:shop/web", "service:shop/db:80"))[0][1] == "pod:shop/db-1 (10.1.0.2:80/TCP)"


def test_internal_traffic_policy_local_chooses_on_the_clients_node() -> None:
    found = world(service("db", internalTrafficPolicy="Local"), BOTH)
    assert len(walk(found, "pod:shop/web", "service:shop/db:5432").courses) == 1


def test_a_client_from_outside_is_seen_as_itself_or_as_the_node_it_came_to() -> None:
    found = world(service("db", type="NodePort", port={"nodePort": 30432}), BOTH)
    assert ends(walk(found, "ip:203.0.113.9", "node:node-1:30432")) == [
        ("world (203.0.113.9)", "pod:shop/db-1 (10.1.0.2:6432/TCP)"),
        ("node:node-1 (172.18.0.1)", "pod:shop/db-2 (10.1.1.2:6432/TCP)"),
    ]


def test_external_traffic_policy_local_keeps_the_clients_address() -> None:
    spec = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    balanced = service("db", **spec) | {"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}}}
    answer = walk(world(balanced, BOTH), "ip:203.0.113.9", "ip:198.51.100.1:5432")
    assert {source for source, _ in ends(answer)} == {"world (203.0.113.9)"}
    assert len(answer.courses) == 2


def test_a_pod_that_asks_another_nodes_port_is_judged_there_and_at_the_backend() -> None:
    found = world(service("db", type="NodePort", port={"nodePort": 30432}), BOTH)
    course = walk(found, "pod:shop/web", "node:node-2:30432").courses[0]
    egress, ingress = (half.question for half in course.halves)
    assert party_text(egress.destination, 6, egress.port) == "node:node-2 (172.18.0.2:30432/TCP)"
    assert party_text(ingress.source) == "node:node-2 (172.18.0.2)"


def test_a_service_that_nothing_outside_reaches() -> None:
    answer = walk(world(service("db"), BOTH), "world", "service:shop/db:5432")
    assert answer.courses[0].refused == "no address of the Service is reached from outside"


def test_clients_outside_the_source_ranges_are_refused() -> None:
    spec = {"type": "LoadBalancer", "loadBalancerSourceRanges": ["203.0.113.0/24"]}
    balanced = service("db", **spec) | {"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}}}
    found = world(balanced, BOTH)
    inside, outside, pod = (
        walk(found, source, "ip:198.51.100.1:5432")
        for source in ("ip:203.0.113.9", "ip:192.0.2.9", "pod:shop/web")
    )
    assert inside.allowed is True
    assert {one.refused for one in (*outside.courses, *pod.courses)} == {
        "the client is outside loadBalancerSourceRanges"
    }


def test_a_services_address_refuses_ports_that_it_does_not_have() -> None:
    found = world(service("db"), BOTH)
    refused = walk(found, "pod:shop/web", "ip:10.96.0.1:80").courses[0].refused
    assert refused == "the address is a Service's, which has no such port"
    assert walk(found, "pod:shop/web", "ip:10.96.0.1", How(protocol=1)).allowed is True


def test_one_shut_way_shuts_the_whole_and_decides() -> None:
    drop = Rule(Action.DROP, (EntityPeer(Entity.NODE),), None)
    found = world(
        service("db", type="NodePort", port={"nodePort": 30432}), BOTH, policies=[denying("nodes", drop)]
    )
    answer = walk(found, "world", "node:node-1:30432")
    assert [course.allowed for course in answer.courses] == [True, False]
    assert answer.allowed is False
    assert answer.deciding is answer.courses[1]


def test_the_first_family_counts() -> None:
    found = world(policies=[denying("none")])
    model = Model(found)

    class Six:
        def ask(self, direction: Direction, question: Question) -> Judgement | None:
            return model.ask(direction, question) if question.destination.address[0] == 0 else None

        def why_unknown(self, direction: Direction, question: Question) -> str:
            return "it is of the other family"

    answer = Walker(model, {"six": Six()}).walk(parse_end("pod:shop/web"), parse_end("pod:shop/db-1:80"))
    assert [course.allowed for course in answer.courses] == [True, None]
    assert answer.courses[1].halves[1].reason == "it is of the other family"
    assert answer.allowed is True


def test_two_judges_that_differ_are_told() -> None:
    found = world(policies=[denying("all", Rule(Action.DROP, None, None))])
    other = Model(world())
    answer = Walker(Model(found), {"model": Model(found), "kernel": other}).walk(
        parse_end("pod:shop/web"), parse_end("pod:shop/db-2:80")
    )
    assert [half.direction for half in answer.disagreements] == [Direction.INGRESS]


def test_icmp_is_an_echo_request_of_the_family() -> None:
    courses = walk(world(), "pod:shop/web", "pod:shop/db-1", How(protocol=1)).courses
    assert [(half.question.protocol, half.question.port) for c in courses for half in c.halves[1:]] == [
        (1, 8 << 8),
        (58, 128 << 8),
    ]


@pytest.mark.parametrize(
    ("source", "destination", "why"),
    [
        ("pod:shop/none", "pod:shop/web:80", "no such Pod"),
        ("pod:shop/web", "service:shop/none:80", "no such Service"),
        ("pod:shop/web", "service:shop/db:80", "no port 80: it has 5432/TCP"),
        ("pod:shop/web", "pod:shop/db-1", "which TCP port"),
        ("service:shop/db", "pod:shop/web:80", "a Service opens no flows"),
        ("pod:shop/db-2", "ip:[fd00::1]:80", "no address family in common"),
        ("node:node-3", "pod:shop/web:80", "no such Node"),
        ("pod:shop/web", "service:shop/db:5432/ICMP", "Services translate no ICMP"),
    ],
)
def test_what_cannot_be_asked_says_why(source: str, destination: str, why: str) -> None:
    with pytest.raises(QuestionError, match=why):
        walk(world(service("db"), BOTH), source, destination)


def test_a_pod_that_has_not_started() -> None:
    found = world()
    started = found.pods()[0]
    found._pods[started.key] = replace(started, addresses=())
    with pytest.raises(QuestionError, match="has no address"):
        walk(found, f"pod:shop/{started.key.name}", "world:80")
