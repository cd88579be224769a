# SPDX-License-Identifier: Apache-2.0
"""What policies of every kind do to real traffic, in both families: each case is a policy and its effect.

On node-1: web, near and shop's db. On node-2: far and shop's other. All of them serve TCP 8080 and UDP 8007.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from labworld import World, pod, service
from reach import OPEN, REFUSED, SILENT, Try, expect

from netaccel.lab.raw import Object
from policies import (
    cluster_network_policy,
    cluster_traffic_policy,
    destinations,
    labels,
    namespaces,
    network_policy,
    pods,
    sources,
    traffic_policy,
)

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
OPTIONS = {"nodes": 2}

WEB, NEAR, FAR = "pod:default/web", "pod:default/near", "pod:default/far"
DB, OTHER = "pod:shop/db", "pod:shop/other"
HTTP, ECHO, PING, SCTP = "tcp/8080", "udp/8007", "icmp", "sctp/9000"
CLOSED = "udp/8009"  # nobody listens: an ICMP error says so
ROUTER = "172.30.0.1,fd00:30::1"
ISOLATED = {"policyTypes": ["Ingress"]}


def prepare(world: World) -> None:
    world.write(
        "pods",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "b"}}},
        pod("web", "node-1", udp=True),
        pod("near", "node-1", app="client", udp=True),
        pod("far", "node-2", app="client", labels={"tier": "far"}, udp=True),
        pod("db", "node-1", app="db", namespace="shop", udp=True),
        pod("other", "node-2", app="client", namespace="shop", udp=True),
        service("web", type="NodePort", externalTrafficPolicy="Local"),
    )


class Case(NamedTuple):
    """A policy, or several; what it lets through and what not."""

    about: str
    policies: tuple[Object, ...]
    tries: tuple[Try, ...]


def reaches(*ways: tuple[str, str, str]) -> tuple[Try, ...]:
    return tuple(Try(*way, OPEN) for way in ways)


def drops(*ways: tuple[str, str, str]) -> tuple[Try, ...]:
    return tuple(Try(*way, SILENT) for way in ways)


def refuses(*ways: tuple[str, str, str]) -> tuple[Try, ...]:
    return tuple(Try(*way, REFUSED) for way in ways)


def block(four: str, six: str) -> list[Object]:
    """Peers of a NetworkPolicy: a CIDR of each family."""
    return [{"ipBlock": {"cidr": cidr}} for cidr in (four, six)]


NETWORK = (
    Case(
        "no rule at all: nothing gets in but from the own node, and answers",
        (network_policy("deny", **ISOLATED),),
        (
            *drops((NEAR, WEB, HTTP), (FAR, WEB, HTTP), (OTHER, WEB, ECHO), (FAR, WEB, PING)),
            *drops((FAR, WEB, SCTP), ("node-2", WEB, HTTP)),
            *reaches(("node-1", WEB, HTTP), ("node-1", WEB, PING), (WEB, OTHER, HTTP), (WEB, WEB, HTTP)),
        ),
    ),
    Case(
        "an empty rule lets everything in",
        (network_policy("deny", **ISOLATED), network_policy("allow", labels(app="web"), ingress=[{}])),
        (
            *reaches((FAR, WEB, HTTP), (FAR, WEB, PING), (FAR, WEB, SCTP)),
            *refuses((FAR, WEB, CLOSED)),
            *drops((WEB, FAR, HTTP)),
        ),
    ),
    Case(
        "pods of the own namespace, by label",
        (network_policy("in", labels(app="web"), ingress=[sources(pods(tier="far"))]),),
        (*reaches((FAR, WEB, HTTP), (FAR, WEB, ECHO)), *drops((NEAR, WEB, HTTP), (OTHER, WEB, HTTP))),
    ),
    Case(
        "pods of other namespaces, by these' labels",
        (network_policy("in", labels(app="web"), ingress=[sources(namespaces(team="b"))]),),
        (*reaches((OTHER, WEB, HTTP), (DB, WEB, HTTP)), *drops((NEAR, WEB, HTTP), (FAR, WEB, HTTP))),
    ),
    Case(
        "both in one peer have to hold",
        (
            network_policy(
                "in", labels(app="web"), ingress=[sources({**pods(app="db"), **namespaces(team="b")})]
            ),
        ),
        (*reaches((DB, WEB, HTTP)), *drops((OTHER, WEB, HTTP), (NEAR, WEB, HTTP))),
    ),
    Case(
        "a protocol and a port, and no other",
        (network_policy("in", labels(app="web"), ingress=[{"ports": [{"port": 8080}]}]),),
        (*reaches((FAR, WEB, HTTP)), *drops((FAR, WEB, ECHO), (FAR, WEB, PING), (FAR, WEB, SCTP))),
    ),
    Case(
        "UDP by the name that its pod gives a port",
        (
            network_policy(
                "in", labels(app="web"), ingress=[{"ports": [{"port": "echo", "protocol": "UDP"}]}]
            ),
        ),
        (*reaches((FAR, WEB, ECHO)), *drops((FAR, WEB, HTTP))),
    ),
    Case(
        "a range of ports",
        (network_policy("in", labels(app="web"), ingress=[{"ports": [{"port": 8000, "endPort": 8080}]}]),),
        (*reaches((FAR, WEB, HTTP)), *drops((FAR, WEB, ECHO))),
    ),
    Case(
        "SCTP",
        (network_policy("in", labels(app="web"), ingress=[{"ports": [{"port": 9000, "protocol": "SCTP"}]}]),),
        (*reaches((FAR, WEB, SCTP)), *drops((FAR, WEB, HTTP), (FAR, WEB, "sctp/9001"))),
    ),
    Case(
        "a block of addresses holds pods too",
        (
            network_policy(
                "in", labels(app="web"), ingress=[sources(*block("10.244.2.0/24", "fd00:10:244:2::/64"))]
            ),
        ),
        (*reaches((FAR, WEB, HTTP), (OTHER, WEB, HTTP)), *drops((NEAR, WEB, HTTP), (DB, WEB, HTTP))),
    ),
    Case(
        "but for its exceptions",
        (
            network_policy(
                "in",
                labels(app="web"),
                ingress=[
                    sources(
                        {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.244.2.0/24"]}},
                        {"ipBlock": {"cidr": "::/0", "except": ["fd00:10:244:2::/64"]}},
                    )
                ],
            ),
        ),
        (*reaches((NEAR, WEB, HTTP)), *drops((FAR, WEB, HTTP), (OTHER, WEB, PING))),
    ),
    Case(
        "nothing gets out; what comes in is answered, by ICMP's errors too",
        (network_policy("out", labels(app="client"), policyTypes=["Egress"]),),
        (
            *drops((NEAR, WEB, HTTP), (FAR, WEB, ECHO), (NEAR, WEB, PING)),
            *reaches((WEB, NEAR, HTTP), (WEB, NEAR, ECHO)),
            *refuses((WEB, NEAR, CLOSED), (DB, FAR, CLOSED)),
        ),
    ),
    Case(
        "out to pods, by the name of a port of theirs",
        (
            network_policy(
                "out",
                labels(app="client"),
                policyTypes=["Egress"],
                egress=[destinations(pods(app="web"), ports=[{"port": "http"}])],
            ),
        ),
        (*reaches((NEAR, WEB, HTTP), (FAR, WEB, HTTP)), *drops((FAR, WEB, ECHO), (NEAR, DB, HTTP))),
    ),
    Case(
        "out to a block outside",
        (
            network_policy(
                "out",
                labels(app="web"),
                policyTypes=["Egress"],
                egress=[destinations(*block("172.30.0.1/32", "fd00:30::1/128"))],
            ),
        ),
        (*reaches((WEB, ROUTER, PING)), *drops((WEB, FAR, HTTP), (WEB, "node-2", PING))),
    ),
    Case(
        "a pod always reaches itself",
        (network_policy("deny", policyTypes=["Ingress", "Egress"]),),
        (
            *reaches((WEB, WEB, HTTP), (WEB, "svc:web", "tcp/80")),
            *drops((NEAR, WEB, HTTP), (OTHER, WEB, HTTP)),
        ),
    ),
)

TRAFFIC = (
    Case(
        "Drop is silent",
        (traffic_policy("p", labels(app="web"), ingress=[sources(pods(tier="far"), action="Drop")]),),
        (*drops((FAR, WEB, HTTP), (FAR, WEB, ECHO), (FAR, WEB, PING)), *reaches((NEAR, WEB, HTTP))),
    ),
    Case(
        "Reject answers at once",
        (traffic_policy("p", labels(app="web"), ingress=[sources(pods(tier="far"), action="Reject")]),),
        (*refuses((FAR, WEB, HTTP), (FAR, WEB, ECHO)), *reaches((NEAR, WEB, HTTP), (OTHER, WEB, ECHO))),
    ),
    Case(
        "Reject of what a pod sends",
        (traffic_policy("p", labels(app="client"), egress=[destinations(pods(app="web"), action="Reject")]),),
        (*refuses((FAR, WEB, HTTP), (NEAR, WEB, ECHO)), *reaches((NEAR, DB, HTTP), (OTHER, WEB, HTTP))),
    ),
    Case(
        "Allow isolates, and Drop beats it",
        (
            traffic_policy(
                "p",
                labels(app="web"),
                ingress=[
                    sources(pods(app="client"), action="Allow"),
                    sources(pods(tier="far"), action="Drop"),
                ],
            ),
        ),
        (*reaches((NEAR, WEB, HTTP)), *drops((FAR, WEB, HTTP), (DB, WEB, HTTP))),
    ),
    Case(
        "an empty direction isolates",
        (traffic_policy("p", labels(app="web"), ingress=[]),),
        (*drops((FAR, WEB, HTTP)), *reaches((WEB, FAR, HTTP), ("node-1", WEB, HTTP))),
    ),
    Case(
        "one type of ICMP",
        (
            traffic_policy(
                "p",
                labels(app="web"),
                ingress=[
                    {"action": "Drop", "ports": [{"protocol": "ICMP", "type": t} for t in (8, 128)]},
                ],
            ),
        ),
        (*drops((FAR, WEB, PING)), *reaches((FAR, WEB, HTTP), (FAR, WEB, ECHO), (WEB, FAR, PING))),
    ),
    Case(
        "ports by number, range and name",
        (
            traffic_policy(
                "p",
                labels(app="web"),
                ingress=[
                    {"action": "Drop", "ports": [{"name": "echo", "protocol": "UDP"}]},
                    {
                        "action": "Reject",
                        "ports": [{"port": 9000, "endPort": 9010, "protocol": "SCTP"}, {"port": 8080}],
                    },
                ],
            ),
        ),
        (*drops((FAR, WEB, ECHO), (FAR, WEB, SCTP)), *refuses((FAR, WEB, HTTP)), *reaches((FAR, WEB, PING))),
    ),
    Case(
        "a Service's pods",
        (
            traffic_policy(
                "p",
                labels(app="client"),
                egress=[destinations({"service": {"name": "web"}}, action="Allow")],
            ),
        ),
        (
            *reaches((NEAR, WEB, HTTP), (FAR, "svc:web", "tcp/80"), (FAR, WEB, PING)),
            *drops((NEAR, DB, HTTP), (FAR, NEAR, HTTP)),
        ),
    ),
    Case(
        "any node, and the own one",
        (
            traffic_policy("p", labels(app="web"), ingress=[sources({"entity": "node"}, action="Drop")]),
            traffic_policy(
                "q",
                labels(app="db"),
                namespace="shop",
                egress=[destinations({"entity": "host"}, action="Drop")],
            ),
        ),
        (
            *drops(("node-2", WEB, HTTP), (DB, "node-1", PING)),
            *reaches(("node-1", WEB, HTTP), (FAR, WEB, HTTP), (DB, "node-2", PING)),
        ),
    ),
    Case(
        "the world is what is no pod and no node",
        (traffic_policy("p", labels(app="web"), egress=[destinations({"entity": "world"}, action="Drop")]),),
        (*drops((WEB, ROUTER, PING)), *reaches((WEB, FAR, HTTP), (WEB, "node-2", PING))),
    ),
    Case(
        "a CIDR with an exception",
        (
            traffic_policy(
                "p",
                labels(app="web"),
                ingress=[
                    sources(
                        {"cidr": "10.244.0.0/16", "except": ["10.244.2.0/24"]},
                        {"cidr": "fd00:10:244::/48", "except": ["fd00:10:244:2::/64"]},
                        action="Drop",
                    )
                ],
            ),
        ),
        (*drops((NEAR, WEB, HTTP)), *reaches((FAR, WEB, HTTP))),
    ),
)

CLUSTER = (
    Case(
        "an admin's word goes before a namespace's, and the lowest number first",
        (
            cluster_traffic_policy("late", 20, labels(app="web"), ingress=[{"action": "Reject"}]),
            cluster_traffic_policy(
                "early", 10, labels(app="web"), ingress=[sources(namespaces(team="b"), action="Drop")]
            ),
            network_policy("allow", labels(app="web"), ingress=[{}]),
        ),
        (*drops((OTHER, WEB, HTTP)), *refuses((FAR, WEB, HTTP)), *reaches((FAR, DB, HTTP))),
    ),
    Case(
        "Pass leaves it to the namespace",
        (
            cluster_traffic_policy(
                "early",
                10,
                labels(app="web"),
                ingress=[sources({"namespaceSelector": {}, **pods(app="client")}, action="Pass")],
            ),
            cluster_traffic_policy("late", 20, labels(app="web"), ingress=[{"action": "Reject"}]),
            traffic_policy("p", labels(app="web"), ingress=[sources(pods(tier="far"), action="Allow")]),
        ),
        (*reaches((FAR, WEB, HTTP)), *drops((NEAR, WEB, HTTP)), *refuses((DB, WEB, HTTP))),
    ),
    Case(
        "ClusterNetworkPolicy's Deny and Accept, before NetworkPolicies",
        (
            cluster_network_policy(
                "admin",
                5,
                labels(app="web"),
                ingress=[
                    {
                        "action": "Accept",
                        "from": [{"namespaces": labels(team="b")}],
                        "protocols": [{"tcp": {"destinationPort": {"number": 8080}}}],
                    },
                    {
                        "action": "Deny",
                        "from": [{"pods": {"podSelector": labels(tier="far")}}],
                        "protocols": [{"destinationNamedPort": "http"}],
                    },
                ],
            ),
            network_policy("in", labels(app="web"), ingress=[sources(pods(app="client"))]),
        ),
        (
            *reaches((OTHER, WEB, HTTP), (NEAR, WEB, HTTP), (FAR, WEB, ECHO)),
            *drops((FAR, WEB, HTTP), (OTHER, WEB, ECHO)),
        ),
    ),
    Case(
        "its networks, nodes and ranges",
        (
            cluster_network_policy(
                "admin",
                5,
                labels(app="web"),
                egress=[
                    {
                        "action": "Deny",
                        "to": [{"networks": ["10.244.2.0/24", "fd00:10:244:2::/64"]}],
                        "protocols": [{"udp": {"destinationPort": {"range": {"start": 8000, "end": 8010}}}}],
                    },
                    {
                        "action": "Deny",
                        "to": [{"nodes": {"matchLabels": {"kubernetes.io/hostname": "node-2"}}}],
                    },
                ],
            ),
        ),
        (
            *drops((WEB, FAR, ECHO), (WEB, "node-2", PING)),
            *reaches((WEB, FAR, HTTP), (WEB, NEAR, ECHO), (WEB, "node-1", PING)),
        ),
    ),
    Case(
        "the Baseline is for pods that nothing else isolates",
        (
            cluster_network_policy(
                "base",
                5,
                tier="Baseline",
                ingress=[{"action": "Deny", "from": [{"namespaces": {}}]}],
            ),
            network_policy("in", labels(app="web"), ingress=[sources(pods(tier="far"))]),
        ),
        (*drops((FAR, NEAR, HTTP), (NEAR, WEB, HTTP)), *reaches((FAR, WEB, HTTP), ("node-2", NEAR, HTTP))),
    ),
)


@pytest.fixture(autouse=True)
def _no_policy_left(world: World) -> Iterator[None]:
    """Each test begins where everything gets through, and leaves it so."""
    _routes_from_outside(world)
    yield
    if (world.folder / "policies.yaml").exists():
        world.remove("policies")
    everywhere = (WEB, NEAR, FAR, DB, OTHER)
    expect(world, *reaches(*((a, b, HTTP) for a in everywhere for b in (WEB, NEAR, DB, FAR) if a != b)))


def _routes_from_outside(world: World) -> None:
    """Let the router answer pods."""
    for node in world.lab.plan.nodes:
        for cidr, gateway in ((node.pod_cidr4, node.address4), (node.pod_cidr6, node.address6)):
            done = world.lab.run("router", "ip", "route", "replace", cidr, "via", gateway)
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", [*NETWORK, *TRAFFIC, *CLUSTER], ids=lambda case: case.about)
def test_a_policy_s_effect(world: World, case: Case) -> None:
    world.write("policies", *case.policies)
    expect(world, *case.tries)
