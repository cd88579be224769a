# SPDX-License-Identifier: Apache-2.0
"""The engine that keeps the policy maps: starts, restarts, drift, failures, full maps, conditions."""

from __future__ import annotations

from pathlib import Path

import pytest

from netaccel.datapath.abi import Abi
from netaccel.datapath.fake import FakeMaps
from netaccel.errors import DatapathError, MapFullError
from netaccel.model.address import Cidr, parse_address, parse_cidr
from netaccel.model.endpoint import Pod, PodKey
from netaccel.model.event import Delete, Event, Object, ObjectKey, Synced, Upsert
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
from netaccel.reconcile import PolicyEngine, State
from netaccel.records import IdentityKey, PolicyPeerKey, PolicyRevision

OBJECTS = Path(__file__).parents[2] / "netaccel" / "objects"
CONSTANTS = dict(Abi.from_elf((OBJECTS / "sock_cgroup.o").read_bytes()).constants)
WEB, DB, FAR = PodKey("default", "web"), PodKey("default", "db"), PodKey("default", "far")
DEVICES = {WEB: 11, DB: 12}


def app(name: str) -> Selector:
    return (Requirement("app", Operator.IN, (name,)),)


def pod(key: PodKey, address: str, node: str = "node-1") -> Pod:
    return Pod(key, node, (parse_address(address),), (("app", key.name),))


def policy(name: str, *rules: Rule, subject: str = "db") -> Policy:
    return Policy(
        PolicyKey(Kind.NETWORK, "default", name),
        Tier.NAMESPACED,
        Subject(app(subject), None),
        rules,
        isolates=frozenset((Direction.INGRESS,)),
    )


def allow(*peers: PodPeer | CidrPeer) -> Rule:
    return Rule(Action.ALLOW, peers, (PortRange(6, 5432, 5432),))


FROM_WEB = allow(PodPeer(app("web"), None))


def upsert(obj: Object) -> Upsert:
    match obj:
        case Policy():
            key = ObjectKey(obj.key.kind.value, obj.key.namespace, obj.key.name)
        case _:
            assert isinstance(obj, Pod)
            key = ObjectKey("Pod", *obj.key)
    return Upsert(key, obj, 0.0)


PODS = tuple(
    upsert(one) for one in (pod(WEB, "10.0.0.1"), pod(DB, "10.0.0.2"), pod(FAR, "10.0.1.1", "node-2"))
)


class Node:
    """An engine with its world and maps."""

    def __init__(self, maps: FakeMaps | None = None) -> None:
        self.maps = maps or FakeMaps()
        self.world = World("node-1")
        self.engine = PolicyEngine(self.maps, CONSTANTS, "node-1")
        self.engine.set_devices(DEVICES)

    def hear(self, *events: Event) -> None:
        self.world.apply_all(events)
        self.engine.take(self.world)

    def run(self) -> int:
        return self.engine.run(self.world).written

    def row(self, subject: PodKey, peer: str) -> int:
        """Of ingress."""
        tables = self.maps.tables
        endpoint = tables["policy_endpoints"][DEVICES[subject]]
        identity = tables["identities"][IdentityKey(128, parse_address(peer))].identity
        key = PolicyPeerKey(endpoint.subject, identity, Direction.INGRESS)
        return int(tables["policy_peers"].get(key, endpoint.ingress_row))


def started(*events: Event, maps: FakeMaps | None = None) -> Node:
    node = Node(maps)
    node.hear(*PODS, *events, Synced())
    node.run()
    return node


def test_nothing_is_written_before_the_source_has_told_all() -> None:
    node = Node()
    node.hear(*PODS)
    assert not node.engine.due(node.world)


def test_nothing_is_written_before_the_node_s_devices_are_known() -> None:
    world, engine = World("node-1"), PolicyEngine(FakeMaps(), CONSTANTS, "node-1")
    world.apply_all([*PODS, Synced()])
    engine.take(world)
    assert not engine.due(world), "a pass would take every endpoint away that a restart found"
    engine.set_devices({})
    assert engine.due(world)


def test_flows_are_judged_again_when_that_is_asked_for() -> None:
    node = started()
    node.engine.judge_again()
    assert node.run() == 1
    assert node.maps.tables["policy_revision"] == {0: PolicyRevision(2, 0)}


def test_a_policy_makes_peers_differ_and_is_accepted() -> None:
    node = started(upsert(policy("only-web", FROM_WEB)))
    assert node.row(DB, "10.0.0.1") != node.row(DB, "10.0.1.1")
    assert node.row(WEB, "10.0.0.2") == 1, "no policy selects it"
    assert node.engine.placed == DEVICES
    (condition,) = node.engine.conditions(node.world).values()
    assert condition.state is State.ACCEPTED
    assert node.engine.selected == {PolicyKey(Kind.NETWORK, "default", "only-web"): 1}


def test_each_pass_that_writes_ends_with_another_revision() -> None:
    node = started()
    assert node.maps.tables["policy_revision"] == {0: PolicyRevision(1, 0)}
    node.hear(upsert(policy("only-web", FROM_WEB)))
    node.run()
    assert node.maps.log[-1] == ("write", "policy_revision", 1)
    assert node.maps.tables["policy_revision"] == {0: PolicyRevision(2, 0)}
    node.hear(upsert(policy("only-web", FROM_WEB)))
    assert node.run() == 0, "nothing is new"


def test_the_revision_wraps_and_is_never_0() -> None:
    maps = FakeMaps()
    maps.tables["policy_revision"][0] = PolicyRevision((1 << 32) - 1, 0)
    node = started(maps=maps)
    assert node.maps.tables["policy_revision"] == {0: PolicyRevision(1, 0)}


def test_a_restart_keeps_every_number_and_writes_the_revision_alone() -> None:
    events = (upsert(policy("only-web", FROM_WEB)), upsert(policy("far", allow(block("10.0.1.0/24")))))
    maps = started(*events).maps
    before = {name: dict(table) for name, table in maps.tables.items()}
    again = Node(maps)
    again.hear(*reversed(events), *reversed(PODS), Synced())
    assert again.run() == 1, "flows are judged again: the last agent may have died before it said so"
    del before["policy_revision"]
    assert {name: maps.tables[name] for name in before} == before


def block(text: str) -> CidrPeer:
    cidr: Cidr = parse_cidr(text)
    return CidrPeer(cidr)


def test_a_pod_that_nobody_names_is_one_entry() -> None:
    node = started(upsert(policy("only-web", FROM_WEB)))
    node.maps.log.clear()
    node.hear(upsert(pod(PodKey("default", "other"), "10.0.1.9", "node-2")))
    node.run()
    assert node.maps.log == [("write", "identities", 1), ("write", "policy_revision", 1)]


def test_what_somebody_else_wrote_is_repaired_and_counted() -> None:
    node = started(upsert(policy("only-web", FROM_WEB)))
    tables = {name: dict(table) for name, table in node.maps.tables.items()}
    node.maps.tables["policy_peers"].clear()
    del node.maps.tables["policy_endpoints"][11]
    node.engine.request_compare()
    report = node.engine.run(node.world)
    assert report.drift == {"policy_peers": 1, "policy_endpoints": 1}
    del tables["policy_revision"]
    assert {name: node.maps.tables[name] for name in tables} == tables
    node.engine.request_compare()
    assert not node.engine.run(node.world).drift


@pytest.mark.parametrize("fail_after", range(0, 14, 2))
def test_a_write_that_fails_is_done_again(fail_after: int) -> None:
    node = started()
    node.hear(upsert(policy("only-web", FROM_WEB)))
    node.maps.fail_after = fail_after
    for _ in range(2):
        try:
            node.run()
        except DatapathError:
            continue
        break
    node.maps.fail_after = None
    whole = started(upsert(policy("only-web", FROM_WEB))).maps
    assert {name: len(table) for name, table in node.maps.tables.items()} == {
        name: len(table) for name, table in whole.tables.items()
    }


def test_a_policy_that_does_not_fit_denies_its_subject_and_comes_in_when_there_is_room() -> None:
    node = started(upsert(policy("only-web", FROM_WEB)), maps=FakeMaps(policy_rows=9))
    many = Rule(Action.ALLOW, None, tuple(PortRange(6, n, n) for n in range(1, 100, 2)))
    node.hear(upsert(policy("many", many, subject="web")))
    node.run()
    conditions = node.engine.conditions(node.world)
    refused = conditions[PolicyKey(Kind.NETWORK, "default", "many")]
    assert refused.state is State.REJECTED
    assert "map policy_rows has room for 9 entries" in refused.reasons[0]
    assert conditions[PolicyKey(Kind.NETWORK, "default", "only-web")].state is State.ACCEPTED
    rows, endpoint = node.maps.tables["policy_rows"], node.maps.tables["policy_endpoints"][11]
    assert [v.action for k, v in rows.items() if k.row == endpoint.ingress_row] == [CONSTANTS["POLICY_DROP"]]
    node.hear(upsert(policy("many", FROM_WEB, subject="web")))
    node.run()
    conditions = node.engine.conditions(node.world)
    assert {condition.state for condition in conditions.values()} == {State.ACCEPTED}


def test_without_any_room_what_policies_select_is_denied() -> None:
    node = started(upsert(policy("only-web", FROM_WEB)), maps=FakeMaps(identities=1))
    assert node.maps.tables["policy_endpoints"][12].ingress_row == 2
    assert node.maps.tables["policy_endpoints"][11].ingress_row == 1
    (condition,) = node.engine.conditions(node.world).values()
    assert condition.state is State.REJECTED
    node.hear(Delete(ObjectKey("Pod", *WEB), 0.0), Delete(ObjectKey("Pod", *FAR), 0.0))
    node.run()
    (condition,) = node.engine.conditions(node.world).values()
    assert condition.state is State.ACCEPTED


def test_a_map_that_only_the_old_and_the_new_together_fill_has_room_made_first() -> None:
    first = Rule(Action.ALLOW, None, tuple(PortRange(6, n, n) for n in range(1, 20, 2)))
    then = Rule(Action.ALLOW, None, tuple(PortRange(17, n, n) for n in range(1, 20, 2)))
    node = started(upsert(policy("p", first)), maps=FakeMaps(policy_rows=14))
    node.hear(upsert(policy("p", then)))
    with pytest.raises(MapFullError):
        node.run()
    node.run()
    (condition,) = node.engine.conditions(node.world).values()
    assert condition.state is State.ACCEPTED
    assert {key.proto for key in node.maps.tables["policy_rows"]} == {0, 17}
