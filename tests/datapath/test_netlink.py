# SPDX-License-Identifier: Apache-2.0
"""Devices, addresses, routes and namespaces as the kernel has them."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from netaccel.config import load
from netaccel.datapath import netlink, rtnetlink
from netaccel.datapath.node import Eye
from netaccel.errors import DatapathError

pytestmark = pytest.mark.root

V4 = bytes(10) + b"\xff\xff"


def test_a_thread_goes_into_a_namespace_and_comes_back(netns: str) -> None:
    def here() -> str:
        return str(Path("/proc/thread-self/ns/net").readlink())

    home, seen = here(), []
    with netlink.inside_namespace(netns):
        assert here() != home
        thread = threading.Thread(target=lambda: seen.append(here()))
        thread.start()
        thread.join()
        inside = here()
    assert here() == home
    assert seen == [inside]

    with pytest.raises(RuntimeError, match="stop"), netlink.inside_namespace(netns):
        raise RuntimeError("stop")
    assert here() == home, "an error inside brings the thread back too"


def test_a_namespace_that_is_not_there_is_named() -> None:
    nowhere = netlink.inside_namespace("nowhere")
    with pytest.raises(DatapathError, match="network namespace nowhere: there is none"), nowhere:
        pass


def test_namespaces_come_and_go() -> None:
    name = f"nat{os.getpid()}-{uuid.uuid4().hex[:6]}"
    netlink.create_namespace(name)
    try:
        with pytest.raises(DatapathError, match="there is one already"):
            netlink.create_namespace(name)
    finally:
        netlink.delete_namespace(name)
    netlink.delete_namespace(name)
    assert not netlink.namespace_path(name).exists()


def test_each_namespace_has_a_cookie(netns: str) -> None:
    home = netlink.netns_cookie()
    with netlink.inside_namespace(netns):
        there = netlink.netns_cookie()
        assert there == netlink.netns_cookie()
    assert 0 not in (home, there)
    assert home != there


def test_devices_know_their_kind_and_their_other_end(inside: str) -> None:
    netlink.add_veth("eth0", "far", mtu=9000)
    netlink.add_bridge("br0")
    netlink.set_master("far", "br0")
    netlink.set_up("eth0")

    near, far, bridge = (netlink.device(name) for name in ("eth0", "far", "br0"))

    assert (near.kind, far.kind, bridge.kind) == ("veth", "veth", "bridge")
    assert (near.peer, far.peer) == (far.ifindex, near.ifindex)
    assert near.peer_namespace is None
    assert (near.master, far.master) == (0, bridge.ifindex)
    assert near.mtu == 9000
    assert (near.up, far.up) == (True, False)
    assert len(near.mac) == 6
    assert netlink.device("lo").loopback


def test_the_other_end_may_be_in_another_namespace(inside: str, cross: str) -> None:
    netlink.add_veth("eth0", "eth0", cross, mtu=1400)

    near = netlink.device("eth0")
    assert near.peer_namespace is not None
    with netlink.inside_namespace(cross):
        assert (netlink.device("eth0").ifindex, netlink.device("eth0").mtu) == (near.peer, 1400)


@pytest.fixture
def cross() -> Iterator[str]:
    name = f"nat{os.getpid()}-{uuid.uuid4().hex[:6]}"
    netlink.create_namespace(name)
    yield name
    netlink.delete_namespace(name)


def test_addresses_in_the_kernel_s_order(inside: str) -> None:
    netlink.add_veth("eth0", "far")
    netlink.set_up("eth0")
    netlink.set_up("far")
    for address in ("10.0.0.1/24", "10.0.0.2/24", "fd00::1/64"):
        netlink.add_address("eth0", address)
    index = netlink.device("eth0").ifindex

    found = [a for a in rtnetlink.addresses() if a.device == index and a.global_scope]

    assert [(a.address, a.prefix_length, a.primary, a.usable) for a in found] == [
        (V4 + bytes([10, 0, 0, 1]), 24, True, True),
        (V4 + bytes([10, 0, 0, 2]), 24, False, True),
        (socket.inet_pton(socket.AF_INET6, "fd00::1"), 64, True, True),
    ]


def test_default_routes_by_metric(inside: str) -> None:
    netlink.add_veth("eth0", "far")
    netlink.set_up("eth0")
    netlink.set_up("far")
    netlink.add_address("eth0", "10.0.0.1/24")
    netlink.add_address("eth0", "fd00::1/64")
    netlink.add_route("default4", "10.0.0.254")
    netlink.add_route("default6", "fd00::254")
    netlink.add_route("192.0.2.0/24", name="eth0")

    index = netlink.device("eth0").ifindex
    assert [(r.family, r.device) for r in rtnetlink.default_routes()] == [
        (socket.AF_INET, index),
        (socket.AF_INET6, index),
    ]


def test_what_can_not_be_done_is_said(inside: str) -> None:
    with pytest.raises(DatapathError, match="device eth9: there is none"):
        netlink.set_up("eth9")
    with pytest.raises(DatapathError, match=r"route 192\.0\.2\.0/24: "):
        netlink.add_route("192.0.2.0/24", "10.9.9.9")
    with pytest.raises(DatapathError, match=r"sysctl net\.ipv4\.nonsense: "):
        netlink.sysctl("net.ipv4.nonsense")


def test_sysctls_are_the_namespace_s(inside: str) -> None:
    netlink.set_sysctl("net.ipv4.ip_forward", 1)
    assert netlink.sysctl("net.ipv4.ip_forward") == "1"
    netlink.set_sysctl("net/ipv4/ip_forward", 0)
    assert netlink.sysctl("net/ipv4/ip_forward") == "0"


def test_offloads_are_switched(inside: str) -> None:
    netlink.add_veth("eth0", "far")
    assert netlink.offload("eth0", "tx")
    netlink.set_offload("eth0", "tx", on=False)
    assert not netlink.offload("eth0", "tx")
    netlink.set_offload("eth0", "gro", on=True)
    assert netlink.offload("eth0", "gro")


def test_filters_on_a_device_are_seen(inside: str) -> None:
    netlink.add_veth("eth0", "far")
    index = netlink.device("eth0").ifindex
    assert not netlink.has_filters(index)
    assert not netlink.has_filters(index + 1000)


async def test_changes_name_what_changed_and_all_functions_work_under_asyncio(inside: str) -> None:
    feed = netlink.changes()
    assert await anext(feed) == netlink.ANYTHING

    netlink.add_veth("eth0", "far")
    told = netlink.NOTHING
    ends = {netlink.device(name).ifindex for name in ("eth0", "far")}
    while not (told.devices is None or ends <= told.devices):
        told = told.and_then(await asyncio.wait_for(anext(feed), 10))
    assert "device" in told.kinds

    netlink.add_address("eth0", "10.0.0.1/24")
    seen: set[str] = set()
    while "address" not in seen:
        seen |= (await asyncio.wait_for(anext(feed), 10)).kinds

    await feed.aclose()


def test_one_device_alone_is_looked_at(inside: str) -> None:
    netlink.add_veth("eth0", "far")
    found = netlink.device("eth0")
    assert rtnetlink.device(found.ifindex) == found
    netlink.delete_device("eth0")
    assert rtnetlink.device(found.ifindex) is None


def test_a_look_at_what_changed_sees_what_a_look_at_everything_sees(inside: str) -> None:
    settings = load({"uplinks": "eth0", "node_name": "n"}, {})
    eye = Eye(settings)
    eye.look()
    netlink.add_veth("eth0", "far")
    netlink.add_veth("veth7", "peer")
    netlink.set_up("eth0")
    netlink.add_address("eth0", "10.0.0.1/24")
    devices = frozenset(netlink.device(name).ifindex for name in ("eth0", "far", "veth7", "peer"))
    assert eye.look(netlink.Change(netlink.ALL_KINDS, devices)) == Eye(settings).look()
    netlink.delete_device("veth7")
    assert eye.look(netlink.Change(frozenset(("device",)), devices)) == Eye(settings).look()
