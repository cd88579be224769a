# SPDX-License-Identifier: Apache-2.0
"""Which devices and addresses are a node's: chosen of what there is, as the settings ask."""

from __future__ import annotations

import socket

from netaccel.agent.facts import node_facts
from netaccel.config import load
from netaccel.datapath.node import NodeView, view
from netaccel.datapath.rtnetlink import Address, DefaultRoute, Device
from netaccel.model.address import parse_address, text
from netaccel.model.endpoint import Node


def device(index: int, name: str) -> Device:
    return Device(index, name, "veth", 1500, True, name == "lo", "UP", bytes(6), 0, None, 0)


def address(index: int, at: str, **changed: bool) -> Address:
    facts = {"global_scope": True, "primary": True, "usable": True} | changed
    return Address(index, parse_address(at), 24, **facts)


DEVICES = (device(1, "lo"), device(2, "eth0"), device(3, "eth1"), device(4, "veth1"), device(5, "cali2"))
ADDRESSES = (
    address(1, "127.0.0.1", global_scope=False),
    address(2, "10.0.0.5"),
    address(2, "10.0.0.6"),
    address(3, "172.16.0.5"),
    address(2, "fe80::1", global_scope=False),
    address(3, "fd00::5"),
)
ROUTES = (DefaultRoute(int(socket.AF_INET), 2, 0), DefaultRoute(int(socket.AF_INET6), 3, 1024))


def seen(
    addresses: tuple[Address, ...] = ADDRESSES, routes: tuple[DefaultRoute, ...] = ROUTES, **flags: object
) -> NodeView:
    return view(load(flags, {}), DEVICES, addresses, routes)


def names(found: tuple[Device, ...]) -> list[str]:
    return [device.name for device in found]


def test_uplinks_are_the_devices_of_default_routes_in_either_family() -> None:
    assert names(seen().uplinks) == ["eth0", "eth1"]


def test_uplinks_that_were_asked_for_are_taken_and_absent_ones_told() -> None:
    found = seen(uplinks="eth1,bond0")
    assert names(found.uplinks) == ["eth1"]
    assert "uplink bond0: no such device" in found.warnings[0]


def test_without_a_default_route_there_is_no_uplink_and_a_warning_says_so() -> None:
    found = seen(routes=())
    assert found.uplinks == ()
    assert "no default route" in found.warnings[0]


def test_pod_devices_are_found_by_pattern_and_are_no_uplinks() -> None:
    assert names(seen().pod_devices) == ["veth1", "cali2"]
    assert names(seen(pod_devices="off").pod_devices) == []
    assert names(seen(uplinks="veth1").pod_devices) == ["cali2"]


def test_the_primary_address_of_a_family_is_the_first_on_its_default_routes_device() -> None:
    assert [text(found) for found in seen().primary] == ["10.0.0.5", "fd00::5"]


def test_addresses_that_are_secondary_tentative_or_narrow_are_not_primary() -> None:
    found = seen(
        (
            address(2, "169.254.0.1", global_scope=False),
            address(2, "10.0.0.9", usable=False),
            address(2, "10.0.0.8", primary=False),
            address(2, "10.0.0.7"),
        )
    )
    assert [text(each) for each in found.primary] == ["10.0.0.7"]


def test_a_node_without_an_address_is_told() -> None:
    found = seen(())
    assert found.primary == ()
    assert "no address" in found.warnings[0]


def test_node_ports_answer_on_the_primary_addresses_unless_told_otherwise() -> None:
    assert seen().node_port_addresses == seen().primary
    found = seen(node_port_addresses="172.16.0.0/12,127.0.0.0/8")
    assert [text(each) for each in found.node_port_addresses] == ["127.0.0.1", "172.16.0.5"]


def test_node_ports_answer_nowhere_where_no_address_matches() -> None:
    found = seen(node_port_addresses="203.0.113.0/24")
    assert found.node_port_addresses == ()
    assert "203.0.113.0/24" in found.warnings[0]


# ------------------------------------------------------------ facts for the compiler


def told(*addresses: str, zone: str = "") -> Node:
    return Node("node-1", tuple(map(parse_address, addresses)), zone=zone)


def test_the_clusters_own_idea_of_the_node_wins_where_it_fits() -> None:
    settings = load({"node_name": "node-1"}, {})
    facts = node_facts(settings, seen(), told("172.16.0.5", zone="a"))
    assert [text(found) for found in facts.primary] == ["172.16.0.5", "fd00::5"]
    assert facts.node_port_addresses == facts.primary
    assert (facts.name, facts.zone) == ("node-1", "a")


def test_an_address_that_the_node_does_not_have_is_not_believed() -> None:
    facts = node_facts(load({}, {}), seen(), told("192.0.2.1"))
    assert [text(found) for found in facts.primary] == ["10.0.0.5", "fd00::5"]


def test_the_users_choice_of_node_port_addresses_is_kept() -> None:
    settings = load({"node_port_addresses": "10.0.0.0/8"}, {})
    view_of = seen(node_port_addresses="10.0.0.0/8")
    facts = node_facts(settings, view_of, told("172.16.0.5"))
    assert [text(found) for found in facts.node_port_addresses] == ["10.0.0.5", "10.0.0.6"]
