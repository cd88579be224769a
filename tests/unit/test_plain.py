# SPDX-License-Identifier: Apache-2.0
"""The model as JSON and back: nothing is lost, and what is no model is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netaccel.model.address import Address, Cidr, parse_cidr
from netaccel.model.endpoint import EndpointSlice, Namespace, Node, Pod, PodKey
from netaccel.model.event import ObjectKey, Reject, Upsert, object_key
from netaccel.model.plain import plain, read, read_world, told, world_object
from netaccel.model.policy import Action, CidrPeer, Kind, NamedPort, Policy, PolicyKey, Rule, Subject, Tier
from netaccel.model.service import Service
from netaccel.model.snapshot import World

addresses = st.one_of(st.binary(min_size=16, max_size=16), st.binary(min_size=4, max_size=4)).map(
    lambda b: Address(b if len(b) == 16 else bytes(10) + b"\xff\xff" + b)
)
cidrs = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
    lambda one: parse_cidr(f"{one[0] >> 24}.{one[0] >> 16 & 255}.{one[0] >> 8 & 255}.{one[0] & 255}/{one[1]}")
)
st.register_type_strategy(Address, addresses)  # type: ignore[arg-type]
st.register_type_strategy(Cidr, cidrs)
st.register_type_strategy(float, st.floats(allow_nan=False, min_value=0))

ALLOW = Rule(Action.ALLOW, (CidrPeer(parse_cidr("10.0.0.0/8"), (parse_cidr("10.1.0.0/16"),)),), None)
POLICY = Policy(PolicyKey(Kind.TRAFFIC, "shop", "web"), Tier.NAMESPACED, Subject((), None), (ALLOW,))


@pytest.mark.parametrize("kind", [Service, EndpointSlice, Pod, Node, Namespace, Policy, Reject])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_every_object_comes_back_as_it_was(kind: type[Any], data: st.DataObject) -> None:
    one = data.draw(st.from_type(kind))
    assert read(json.loads(json.dumps(plain(one, kind), allow_nan=False)), kind) == one


def test_a_world_comes_back_with_what_was_refused() -> None:
    world = World("node-1")
    pod = Pod(PodKey("shop", "web-0"), "node-1", labels=(("app", "web"),))
    for obj in (pod, POLICY, Namespace("shop"), Node("node-1")):
        world.apply(Upsert(object_key(obj), obj, 0.0))
    reject = Reject(ObjectKey("TrafficPolicy", "shop", "bad"), "a.yaml", "spec", "no subject")
    world.apply(reject)
    again = read_world(json.loads(json.dumps(world_object(told(world)))))
    assert again.node_name == "node-1"
    assert again.pods() == (pod,)
    assert again.policies() == world.policies()
    assert again.namespaces() == (Namespace("shop"),)
    assert again.rejections() == (reject,)
    assert told(again) == told(world)


def test_people_can_read_it() -> None:
    found = plain(POLICY, Policy)
    assert found == {
        "key": {"kind": "TrafficPolicy", "namespace": "shop", "name": "web"},
        "tier": 1,
        "subject": {"pods": [], "namespaces": None},
        "ingress": [
            {
                "action": "Allow",
                "peers": [{"is": "CidrPeer", "cidr": "10.0.0.0/8", "excepts": ["10.1.0.0/16"]}],
                "ports": None,
            }
        ],
    }


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"key": {"namespace": "a", "name": "b"}, "colour": 1}, "Pod: no field colour: is it an agent"),
        ({"key": {"namespace": "a"}}, "name"),
        ({"key": {"namespace": "a", "name": 7}}, "key.name: is a int"),
        ({"key": 7}, "Pod"),
        ([], "Pod"),
    ],
)
def test_what_is_no_object_is_refused(found: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(found, Pod, "Pod")


def test_what_is_no_world_is_refused() -> None:
    for found in ({}, [], {"node": ""}):
        with pytest.raises(ValueError, match="no world"):
            read_world(found)  # type: ignore[arg-type]


def test_a_port_by_its_name_says_what_it_is() -> None:
    rule = Rule(Action.ALLOW, None, (NamedPort("http", None),))
    assert plain(rule, Rule)["ports"] == [{"is": "NamedPort", "name": "http", "protocol": None}]
