# SPDX-License-Identifier: Apache-2.0
"""What is odd about a policy: what selects nothing, rules that never match. Nothing else is called odd."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netaccel.model.address import parse_cidr
from netaccel.model.endpoint import ContainerPort, Namespace, Node, Pod, PodKey
from netaccel.model.event import Upsert, object_key
from netaccel.model.policy import (
    Action,
    CidrPeer,
    Direction,
    Entity,
    EntityPeer,
    Kind,
    Mode,
    NamedPort,
    NodePeer,
    Operator,
    Peer,
    PodPeer,
    Policy,
    PolicyKey,
    Port,
    PortRange,
    Requirement,
    Rule,
    RuleRef,
    Selector,
    ServicePeer,
    Subject,
    Tier,
)
from netaccel.model.service import Protocol, Service, ServiceKey
from netaccel.model.snapshot import World
from netaccel.oracle.findings import Selection, findings, shadowed

WEB = Pod(PodKey("shop", "web"), "node-1", (), (("app", "web"),), (ContainerPort("http", Protocol.TCP, 80),))
DB = Pod(PodKey("shop", "db"), "node-2", (), (("app", "db"),), (ContainerPort("pg", Protocol.TCP, 5432),))
HOST = Pod(PodKey("shop", "agent"), "node-1", (), (("app", "agent"),), host_network=True)
ANY = CidrPeer(parse_cidr("0.0.0.0/0"))
TEN, TEN_ONE = CidrPeer(parse_cidr("10.0.0.0/8")), CidrPeer(parse_cidr("10.1.0.0/16"))


def app(name: str) -> Selector:
    return (Requirement("app", Operator.IN, (name,)),)


def pods(name: str, namespaces: Selector | None = None) -> PodPeer:
    return PodPeer(app(name), namespaces)


def rule(action: Action, *peers: Peer, ports: tuple[Port, ...] | None = None) -> Rule:
    return Rule(action, peers or None, ports)


def traffic(*ingress: Rule, name: str = "one", subject: Selector = (), namespace: str = "shop") -> Policy:
    key = PolicyKey(Kind.TRAFFIC, namespace, name)
    return Policy(key, Tier.NAMESPACED, Subject(subject, None), ingress)


def admin(*ingress: Rule, name: str = "one", priority: int = 10, subject: Selector = ()) -> Policy:
    key = PolicyKey(Kind.CLUSTER_TRAFFIC, "", name)
    return Policy(key, Tier.ADMIN, Subject(subject, ()), ingress, priority=priority)


def world(*policies: Policy) -> World:
    found = World("node-1")
    service = Service(ServiceKey("shop", "db"), "ClusterIP", ())
    spaces = Namespace("shop", (("team", "red"),)), Namespace("bank")
    for obj in (WEB, DB, HOST, service, *spaces, Node("node-1", labels=(("zone", "a"),)), *policies):
        found.apply(Upsert(object_key(obj), obj, 0.0))
    return found


def odd(policy: Policy) -> list[str]:
    return [str(one) for one in findings(Selection(world(policy)), policy)]


def hidden(*policies: Policy) -> dict[RuleRef, RuleRef]:
    return shadowed(world(*policies))


def ref(policy: Policy, number: int) -> RuleRef:
    return RuleRef(policy.key, Direction.INGRESS, number)


# -------------------------------------------------------------- nothing there


@pytest.mark.parametrize(
    "policy",
    [
        traffic(rule(Action.ALLOW)),
        traffic(rule(Action.ALLOW, pods("db"), ANY, ports=(NamedPort("http", 6), PortRange(6, 1, 2)))),
        traffic(rule(Action.DROP, ServicePeer(ServiceKey("shop", "db")))),
        traffic(rule(Action.DROP, pods("web", (Requirement("team", Operator.EXISTS),)))),
        traffic(rule(Action.DROP, EntityPeer(Entity.WORLD))),
        traffic(rule(Action.DROP, NodePeer((Requirement("zone", Operator.EXISTS),)))),
        traffic(),
    ],
)
def test_a_policy_of_this_world_is_not_odd(policy: Policy) -> None:
    assert odd(policy) == []


@pytest.mark.parametrize("subject", [app("nobody"), app("agent")])
def test_one_that_selects_no_pod_is_told(subject: Selector) -> None:
    assert odd(traffic(subject=subject)) == ["spec: selects no pod: nothing is decided by it"]


@pytest.mark.parametrize(
    ("peer", "said"),
    [
        (pods("nobody"), "a peer's selectors select no pod"),
        (pods("web", (Requirement("team", Operator.IN, ("blue",)),)), "a peer's selectors select no pod"),
        (ServicePeer(ServiceKey("shop", "gone")), "there is no Service shop/gone"),
        (NodePeer((Requirement("zone", Operator.IN, ("b",)),)), "a peer's selector selects no node"),
    ],
)
def test_a_peer_that_is_not_there_is_told_and_whether_any_is(peer: Peer, said: str) -> None:
    told = f"spec.ingress[1]: {said}"
    never = f"{told}: it never matches"
    assert odd(traffic(rule(Action.ALLOW, pods("db")), rule(Action.ALLOW, peer))) == [never]
    assert odd(traffic(rule(Action.ALLOW), rule(Action.ALLOW, peer, ANY))) == [told]


def test_a_port_name_is_that_of_the_pods_that_receive() -> None:
    ingress = traffic(rule(Action.ALLOW, ports=(NamedPort("pg", 6),)), subject=app("web"))
    never = "no pod that this is about has a port named 'pg': it never matches"
    assert odd(ingress) == [f"spec.ingress[0]: {never}"]
    egress = replace(ingress, ingress=(), egress=ingress.ingress)
    assert odd(egress) == [], "there the receiver may be any pod"
    to_web = replace(egress, egress=(rule(Action.ALLOW, pods("web"), ports=(NamedPort("pg", 6),)),))
    assert odd(to_web) == [f"spec.egress[0]: {never}"]


def test_a_port_name_of_another_protocol_is_another_port() -> None:
    assert odd(traffic(rule(Action.ALLOW, ports=(NamedPort("http", 17),))))
    assert not odd(traffic(rule(Action.ALLOW, ports=(NamedPort("http", None),))))


def test_what_the_source_warned_of_is_told_too() -> None:
    assert odd(replace(traffic(), warnings=(("spec.x", "is odd"),))) == ["spec.x: is odd"]


# ------------------------------------------------------------------- shadowed


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        (rule(Action.DROP), rule(Action.ALLOW, pods("db"))),
        (rule(Action.DROP, TEN), rule(Action.ALLOW, TEN_ONE)),
        (rule(Action.DROP, pods("db"), TEN), rule(Action.ALLOW, pods("db"))),
        (rule(Action.REJECT, PodPeer((), ())), rule(Action.ALLOW, pods("db", app("x")))),
        (rule(Action.DROP, ports=(PortRange(6, 80, 90),)), rule(Action.ALLOW, ports=(PortRange(6, 85, 90),))),
        (rule(Action.DROP, EntityPeer(Entity.NODE)), rule(Action.ALLOW, EntityPeer(Entity.HOST))),
        (rule(Action.DROP), rule(Action.REJECT, TEN)),
    ],
)
def test_a_rule_under_a_wider_one_that_beats_it_never_decides(wide: Rule, narrow: Rule) -> None:
    for rules in ((wide, narrow), (narrow, wide)):  # Drop beats whatever their order
        policy = traffic(*rules)
        assert hidden(policy) == {ref(policy, rules.index(narrow)): ref(policy, rules.index(wide))}
    ordered = admin(wide, narrow)
    assert hidden(ordered) == {ref(ordered, 1): ref(ordered, 0)}
    assert hidden(admin(narrow, wide)) == {}, "first match decides there"


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        (rule(Action.ALLOW), rule(Action.ALLOW, TEN)),
        (rule(Action.DROP, TEN_ONE), rule(Action.ALLOW, TEN)),
        (rule(Action.DROP, CidrPeer(TEN.cidr, (TEN_ONE.cidr,))), rule(Action.ALLOW, TEN_ONE)),
        (rule(Action.DROP, CidrPeer(parse_cidr("::/0"))), rule(Action.ALLOW, TEN)),
        (rule(Action.DROP, pods("db")), rule(Action.ALLOW)),
        (
            rule(Action.DROP, ports=(PortRange(17, 0, 65535),)),
            rule(Action.ALLOW, ports=(PortRange(6, 1, 1),)),
        ),
        (rule(Action.DROP, ports=(NamedPort("http", 6),)), rule(Action.ALLOW, ports=(PortRange(6, 80, 80),))),
        (rule(Action.MONITOR), rule(Action.ALLOW, TEN)),
        (rule(Action.DROP), Rule(Action.MONITOR, (TEN,), None)),
    ],
)
def test_a_rule_that_may_decide_is_not_called_hidden(wide: Rule, narrow: Rule) -> None:
    assert hidden(traffic(wide, narrow)) == {}


def test_other_policies_hide_rules_where_they_are_about_the_same_pods() -> None:
    drop, allow = traffic(rule(Action.DROP), name="a"), traffic(rule(Action.ALLOW, TEN), name="b")
    assert hidden(drop, allow) == {ref(allow, 0): ref(drop, 0)}
    assert hidden(replace(drop, subject=Subject(app("web"), None)), allow) == {}
    assert hidden(replace(drop, mode=Mode.MONITOR), allow) == {}
    assert hidden(traffic(rule(Action.DROP), name="a", namespace="bank"), allow) == {}
    first, later = admin(rule(Action.PASS), name="z", priority=1), admin(rule(Action.DROP, TEN), name="a")
    assert hidden(first, later) == {ref(later, 0): ref(first, 0)}
    assert hidden(replace(first, priority=99), later) == {}
