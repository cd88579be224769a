# SPDX-License-Identifier: Apache-2.0
"""The evaluator on policies made by hand. What the APIs promise is in tests/cases/policy/."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from netaccel.model.address import parse_address, parse_cidr
from netaccel.model.endpoint import ContainerPort, Namespace, Node, Pod, PodKey
from netaccel.model.event import Object, Upsert, object_key
from netaccel.model.policy import (
    ICMPV6,
    NO_RULE,
    Action,
    CidrPeer,
    Direction,
    Entity,
    EntityPeer,
    Kind,
    Mode,
    NamedPort,
    Operator,
    PodPeer,
    Policy,
    PolicyKey,
    PortRange,
    Requirement,
    Rule,
    RuleRef,
    Subject,
    Tier,
    UnknownPeer,
)
from netaccel.model.service import Protocol
from netaccel.model.snapshot import World
from netaccel.oracle import Exempt, Judgement, Match, Question, judge, locate, steps
from netaccel.oracle.match import contains, selects

TCP = 6
INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
WEB = Pod(
    PodKey("shop", "web"),
    "node-1",
    (parse_address("10.1.0.1"), parse_address("fd00::1")),
    (("app", "web"),),
    (ContainerPort("http", Protocol.TCP, 80), ContainerPort("http", Protocol.TCP, 8080)),
)
CLIENT = Pod(PodKey("shop", "client"), "node-2", (parse_address("10.1.0.2"),), (("app", "client"),))
PROXY = Pod(PodKey("shop", "proxy"), "node-1", (parse_address("172.18.0.1"),), host_network=True)
NODE = Node("node-1", (parse_address("172.18.0.1"),))
EVERYONE = Subject((), None)


def world(*objects: Object) -> World:
    found = World()
    found.apply_all(
        Upsert(object_key(obj), obj, 0.0)
        for obj in (Namespace("shop"), WEB, CLIENT, PROXY, NODE, Node("node-2"), *objects)
    )
    return found


def policy(
    name: str, *ingress: Rule, kind: Kind = Kind.TRAFFIC, isolates: Iterable[Direction] = ()
) -> Policy:
    tier = Tier.NAMESPACED if kind in (Kind.NETWORK, Kind.TRAFFIC) else Tier.ADMIN
    key = PolicyKey(kind, "shop" if tier is Tier.NAMESPACED else "", name)
    subject = EVERYONE if tier is Tier.NAMESPACED else Subject((), ())
    return Policy(key, tier, subject, ingress, isolates=frozenset(isolates))


def rule(action: Action, *ports: PortRange | NamedPort) -> Rule:
    return Rule(action, None, ports or None)


def ask(found: World, source: str = "10.1.0.2", to: str = "10.1.0.1", port: int = 80) -> Judgement:
    ends = (locate(found, parse_address(address)) for address in (source, to))
    return judge(found, INGRESS, Question(*ends, TCP, port))


def ref(one: Policy, number: int) -> RuleRef:
    return RuleRef(one.key, INGRESS, number)


@pytest.mark.parametrize(
    ("operator", "values", "labels", "holds"),
    [
        (Operator.IN, ("a", "b"), {"k": "b"}, True),
        (Operator.IN, ("a",), {}, False),
        (Operator.NOT_IN, ("a",), {"k": "a"}, False),
        (Operator.NOT_IN, ("a",), {}, True),
        (Operator.EXISTS, (), {"k": ""}, True),
        (Operator.DOES_NOT_EXIST, (), {}, True),
        (Operator.DOES_NOT_EXIST, (), {"k": ""}, False),
    ],
)
def test_a_requirement_on_a_label(
    operator: Operator, values: tuple[str, ...], labels: dict[str, str], holds: bool
) -> None:
    assert selects((Requirement("k", operator, values),), labels) is holds


@pytest.mark.parametrize(
    ("cidr", "address", "inside"),
    [
        ("0.0.0.0/0", "255.255.255.255", True),
        ("0.0.0.0/0", "fd00::1", False),
        ("::/0", "fd00::1", True),
        ("::/0", "10.0.0.1", False),
        ("10.0.0.0/31", "10.0.0.1", True),
        ("10.0.0.0/31", "10.0.0.2", False),
        ("fd00::1/128", "fd00::1", True),
    ],
)
def test_a_block_has_addresses_of_its_own_family_only(cidr: str, address: str, inside: bool) -> None:
    assert contains(parse_cidr(cidr), parse_address(address)) is inside


def test_no_policy_allows_by_no_rule() -> None:
    assert ask(world()).enforced == (True, Action.ALLOW, None, False)


def test_drop_beats_reject_beats_allow_whatever_the_order() -> None:
    all_three = policy("all", rule(Action.ALLOW), rule(Action.REJECT), rule(Action.DROP))
    two = replace(all_three, ingress=all_three.ingress[:2])
    assert ask(world(all_three)).enforced == (False, Action.DROP, ref(all_three, 2), False)
    assert ask(world(two)).enforced == (False, Action.REJECT, ref(two, 1), False)


def test_isolation_names_its_first_policy_and_no_rule() -> None:
    first = policy("b", kind=Kind.NETWORK, isolates=[INGRESS])
    later = policy("a", isolates=[INGRESS])
    assert ask(world(later, first)).enforced == (False, Action.DROP, ref(first, NO_RULE), True)


def test_pass_skips_the_rest_of_the_admin_tier() -> None:
    passes = replace(policy("a", rule(Action.PASS), kind=Kind.CLUSTER_NETWORK), priority=1)
    drops = replace(policy("b", rule(Action.DROP), kind=Kind.CLUSTER_TRAFFIC), priority=2)
    assert ask(world(passes, drops)).enforced.rule is None


def test_ties_of_the_admin_tier_go_by_kind_then_age_then_name() -> None:
    ours = replace(policy("a", rule(Action.DROP), kind=Kind.CLUSTER_TRAFFIC), created=1.0)
    young = replace(policy("b", rule(Action.DROP), kind=Kind.CLUSTER_NETWORK), created=3.0)
    old = replace(policy("c", rule(Action.DROP), kind=Kind.CLUSTER_NETWORK), created=2.0)
    same = replace(policy("d", rule(Action.DROP), kind=Kind.CLUSTER_NETWORK), created=2.0)
    assert ask(world(ours, young, old, same)).rule == ref(old, 0)
    assert ask(world(ours, young, same)).rule == ref(same, 0)
    assert ask(world(ours)).rule == ref(ours, 0)


def test_baseline_is_not_reached_where_a_policy_isolates() -> None:
    baseline = replace(policy("last", rule(Action.DROP), kind=Kind.CLUSTER_NETWORK), tier=Tier.BASELINE)
    allows = policy("some", rule(Action.ALLOW, PortRange(TCP, 443, 443)), isolates=[INGRESS])
    elsewhere = replace(allows, isolates=frozenset((EGRESS,)))
    assert ask(world(baseline)).rule == ref(baseline, 0)
    assert ask(world(baseline, allows)).rule == ref(allows, NO_RULE)
    assert ask(world(baseline, elsewhere)).rule == ref(baseline, 0)


def test_a_monitor_policy_decides_in_the_shadow_only() -> None:
    drops = replace(policy("drops", rule(Action.DROP)), mode=Mode.MONITOR)
    found = ask(world(drops))
    assert (found.allowed, found.audited, found.rule) == (True, True, ref(drops, 0))
    assert found.enforced.rule is None


def test_a_monitor_rule_is_a_drop_in_the_shadow() -> None:
    both = policy("both", rule(Action.MONITOR), rule(Action.ALLOW))
    found = ask(world(both))
    assert (found.audited, found.enforced.rule, found.rule) == (True, ref(both, 1), ref(both, 0))


@pytest.mark.parametrize(
    ("action", "outcome"),
    [
        (Action.ALLOW, (True, Action.ALLOW, None, False)),
        (Action.DROP, (False, Action.DROP, 0, False)),
        (Action.PASS, (False, Action.DROP, 0, False)),
        (Action.REJECT, (False, Action.REJECT, 0, False)),
    ],
)
def test_a_rule_with_an_unknown_peer_fails_closed(action: Action, outcome: tuple[object, ...]) -> None:
    unknown = Rule(action, (UnknownPeer("from[0]", "new"),), (PortRange(17, 53, 53),))
    found = policy("a", unknown, kind=Kind.CLUSTER_TRAFFIC)
    allowed, what, number, isolated = outcome
    expected = None if number is None else ref(found, 0)
    assert ask(world(found)).enforced == (allowed, what, expected, isolated)


def test_a_named_port_may_be_several_numbers() -> None:
    named = policy("named", rule(Action.ALLOW, NamedPort("http", TCP)), isolates=[INGRESS])
    assert [ask(world(named), port=port).allowed for port in (80, 8080, 81)] == [True, True, False]


def test_own_node_self_and_neighbours_are_outside_policy() -> None:
    closed = world(policy("closed", rule(Action.DROP), isolates=[INGRESS, EGRESS]))
    assert ask(closed, source="172.18.0.1").exempt is Exempt.OWN_NODE
    assert ask(closed, source="10.1.0.1").exempt is Exempt.SELF
    web, other = locate(closed, parse_address("fd00::1")), locate(closed, parse_address("fd00::2"))
    solicitation = Question(web, other, ICMPV6, 135 << 8)
    assert judge(closed, EGRESS, solicitation).exempt is Exempt.NEIGHBOURS
    assert not judge(closed, EGRESS, solicitation._replace(port=128 << 8)).allowed
    assert judge(closed, INGRESS, solicitation).exempt is Exempt.NO_POD


def test_pods_on_the_hosts_network_are_their_node() -> None:
    everyone = policy("pods", Rule(Action.DROP, (PodPeer((), ()),), None))
    host = policy("host", Rule(Action.DROP, (EntityPeer(Entity.NODE),), None))
    elsewhere = replace(WEB, key=PodKey("shop", "far"), node_name="node-2", addresses=(CLIENT.addresses[0],))
    for found, allowed in ((everyone, True), (host, False)):
        there = world(found, elsewhere)
        there.apply(Upsert(object_key(CLIENT), replace(CLIENT, addresses=()), 0.0))
        assert ask(there, source="172.18.0.1", to="10.1.0.2").allowed is allowed


def test_excepts_cut_their_own_block_only() -> None:
    def block(cidr: str, *excepts: str) -> CidrPeer:
        return CidrPeer(parse_cidr(cidr), tuple(map(parse_cidr, excepts)))

    cut = Rule(Action.DROP, (block("10.0.0.0/8", "10.1.0.0/16"),), None)
    both = Rule(Action.DROP, (block("10.0.0.0/8", "10.1.0.0/16"), block("10.1.0.2/32")), None)
    assert ask(world(policy("cut", cut))).allowed
    assert not ask(world(policy("both", both))).allowed


def test_steps_tell_what_became_of_each_rule() -> None:
    one = policy(
        "one",
        rule(Action.ALLOW, PortRange(TCP, 443, 443)),
        Rule(Action.ALLOW, (EntityPeer(Entity.WORLD),), None),
        Rule(Action.ALLOW, (UnknownPeer("from[0]", "new"),), None),
        rule(Action.ALLOW),
        rule(Action.ALLOW),
        rule(Action.MONITOR),
        isolates=[INGRESS],
    )
    found = world(one)
    ends = (locate(found, parse_address(address)) for address in ("10.1.0.2", "10.1.0.1"))
    told = steps(found, INGRESS, Question(*ends, TCP, 80))
    assert [step.match for step in told] == [
        Match.OTHER_PORT,
        Match.OTHER_PEER,
        Match.UNKNOWN_PEER,
        Match.DECIDES,
        Match.MATCHES,
        Match.WOULD_DECIDE,
    ]
