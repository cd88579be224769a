# SPDX-License-Identifier: Apache-2.0
"""Which device is which pod's: routed CNIs, bridged ones, bridges that learn; and why one is not found."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from netaccel.datapath import netlink, rtnetlink
from netaccel.datapath.pods import NOWHERE, PodDevices, Sight, match
from netaccel.datapath.rtnetlink import Device, HostRoute, Neighbour
from netaccel.model.address import parse_address
from netaccel.model.endpoint import Pod, PodKey

WEB, DB = PodKey("default", "web"), PodKey("default", "db")


def pod(key: PodKey, *addresses: str, uid: str = "1", host_network: bool = False) -> Pod:
    return Pod(
        key, addresses=tuple(map(parse_address, addresses)), uid=uid, host_network=host_network, node_name="n"
    )


def device(index: int, *, kind: str = "veth", master: int = 0, peer_namespace: int | None = 1) -> Device:
    return Device(index, f"veth{index}", kind, 1500, True, False, "UP", b"", 2, peer_namespace, master)


def candidates(*devices: Device) -> dict[int, Device]:
    return {found.ifindex: found for found in devices}


class TestMatch:
    def test_a_route_to_the_pod_tells_before_what_its_own_namespace_says(self) -> None:
        sight = Sight(
            candidates(device(7), device(8)),
            routes=(HostRoute(parse_address("10.0.0.5"), 8),),
            inside={7: frozenset((parse_address("10.0.0.5"),))},
        )
        assert match([pod(WEB, "10.0.0.5")], sight) == {WEB: 8}

    def test_a_route_through_another_device_tells_nothing(self) -> None:
        sight = Sight(candidates(device(7)), routes=(HostRoute(parse_address("10.0.0.5"), 2),))
        assert match([pod(WEB, "10.0.0.5")], sight) == {}

    def test_either_family_s_address_will_do(self) -> None:
        sight = Sight(candidates(device(7)), inside={7: frozenset((parse_address("fd00::5"),))})
        assert match([pod(WEB, "10.0.0.5", "fd00::5")], sight) == {WEB: 7}

    def test_of_two_far_ends_with_one_address_the_older_device_has_it(self) -> None:
        both = frozenset((parse_address("10.0.0.5"),))
        sight = Sight(candidates(device(7), device(9)), inside={9: both, 7: both})
        assert match([pod(WEB, "10.0.0.5")], sight) == {WEB: 7}

    def test_a_bridge_tells_by_what_it_learnt(self) -> None:
        tap = device(7, kind="tun", master=3, peer_namespace=None)
        other = device(8, kind="tun", master=4, peer_namespace=None)
        sight = Sight(
            candidates(tap, other),
            neighbours=(Neighbour(3, b"macmac", parse_address("10.0.0.5")),),
            ports=(Neighbour(8, b"macmac"), Neighbour(7, b"macmac"), Neighbour(3, b"macmac")),
        )
        assert match([pod(WEB, "10.0.0.5")], sight) == {WEB: 7}, "bridge 4's port is another bridge's"


@pytest.fixture
def far() -> Iterator[list[str]]:
    """Names of namespaces for pods."""
    names = [f"nat{os.getpid()}-{uuid.uuid4().hex[:6]}" for _ in range(2)]
    for name in names:
        netlink.create_namespace(name)
    yield names
    for name in names:
        netlink.delete_namespace(name)


def wire(near: str, namespace: str, *addresses: str, kind: str = "") -> None:
    netlink.add_veth(near, "eth0", namespace)
    netlink.set_up(near)
    with netlink.inside_namespace(namespace):
        netlink.set_up("eth0")
        for address in addresses:
            netlink.add_address("eth0", address)


def veths() -> list[Device]:
    return [found for found in rtnetlink.devices() if found.name.startswith("veth")]


@pytest.mark.root
class TestLook:
    def test_a_bridged_pod_is_found_by_its_far_end(self, inside: str, far: list[str]) -> None:
        netlink.add_bridge("cni0")
        for near, namespace, number in (("veth0", far[0], 5), ("veth1", far[1], 6)):
            wire(near, namespace, f"10.0.0.{number}/24", f"fd00::{number}/64")
            netlink.set_master(near, "cni0")

        placed = PodDevices().look(
            [pod(WEB, "10.0.0.5"), pod(DB, "fd00::6"), pod(PodKey("kube-system", "dns"), "10.0.0.1")], veths()
        )

        assert placed.devices == {
            WEB: netlink.device("veth0").ifindex,
            DB: netlink.device("veth1").ifindex,
        }
        assert placed.missing == {PodKey("kube-system", "dns"): "no device leads to 10.0.0.1"}

    def test_a_routed_pod_is_found_by_the_node_s_route(self, inside: str, far: list[str]) -> None:
        wire("veth0", far[0])
        netlink.add_route("10.0.0.5/32", name="veth0")

        placed = PodDevices().look([pod(WEB, "10.0.0.5")], veths())

        assert placed.devices == {WEB: netlink.device("veth0").ifindex}

    def test_no_pod_takes_the_place_of_one_that_was_found(self, inside: str, far: list[str]) -> None:
        wire("veth0", far[0], "10.0.0.5/24")
        wire("veth1", far[1], "10.0.0.6/24")
        finder, pods = PodDevices(), [pod(WEB, "10.0.0.5"), pod(DB, "10.0.0.6")]
        before = finder.look(pods, veths())
        netlink.add_route("10.0.0.5/32", name="veth1")
        with netlink.inside_namespace(far[1]):
            netlink.add_address("eth0", "10.0.0.5/24")

        assert finder.look(pods, veths()) == before
        again = finder.look([pod(WEB, "10.0.0.5", uid="2"), pods[1]], veths())
        assert again.devices == {DB: before.devices[DB], WEB: before.devices[WEB]}

    def test_a_pod_whose_device_went_is_looked_for_anew(self, inside: str, far: list[str]) -> None:
        wire("veth0", far[0], "10.0.0.5/24")
        finder = PodDevices()
        first = finder.look([pod(WEB, "10.0.0.5")], veths())
        netlink.delete_device("veth0")
        assert finder.look([pod(WEB, "10.0.0.5")], veths()).devices == {}
        wire("veth1", far[0], "10.0.0.5/24")
        assert finder.look([pod(WEB, "10.0.0.5")], veths()).devices[WEB] != first.devices[WEB]

    def test_pods_on_the_host_s_network_or_without_address_are_not_looked_for(self, inside: str) -> None:
        placed = PodDevices().look([pod(WEB, "10.0.0.1", host_network=True), pod(DB)], veths())
        assert placed == ({}, {}, (WEB,))

    def test_a_pod_that_is_being_deleted_may_have_lost_its_device(self, inside: str) -> None:
        going = replace(pod(WEB, "10.0.0.1"), terminating=True)
        assert PodDevices().look([going], veths()) == NOWHERE

    def test_why_a_pod_is_not_found(self, inside: str, far: list[str]) -> None:
        # Every namespace of the machine is looked at, so the addresses are no other test's.
        wire("odd0", far[0], "10.93.0.5/24")
        netlink.add_veth("eth0", "far")
        macvlan = f"link add link eth0 name mac0 netns {far[1]} type macvlan"
        subprocess.run(["ip", *macvlan.split()], check=True)
        with netlink.inside_namespace(far[1]):
            netlink.add_address("mac0", "10.93.0.6/24")
        finder, pods = PodDevices(("veth*",)), [pod(WEB, "10.93.0.5"), pod(DB, "10.93.0.6")]
        placed = finder.look(pods, veths())

        assert finder.explain(pods, placed.missing)

        assert finder.look(pods, veths()).missing == {
            WEB: "its device odd0 is none of podDevices (veth*), or another pod's",
            DB: "no veth leads to it: it has a device of kind macvlan",
        }
        assert not finder.explain(pods, placed.missing), "the same is not looked for twice"

    def test_a_device_of_another_node_of_this_machine_is_not_taken_for_its(
        self, inside: str, far: list[str]
    ) -> None:
        with netlink.inside_namespace(far[0]):
            netlink.add_veth("there", "eth0", far[1])
            there = next(device.ifindex for device in rtnetlink.devices() if device.name == "there")
        with netlink.inside_namespace(far[1]):
            netlink.add_address("eth0", "10.93.0.7/24")
        for number in range(there):
            netlink.add_veth(f"odd{number}", f"odd{number}p")
        assert there in {device.ifindex for device in rtnetlink.devices()}
        finder, pods = PodDevices(("veth*",)), [pod(WEB, "10.93.0.7")]
        placed = finder.look(pods, veths())
        finder.explain(pods, placed.missing)
        assert finder.look(pods, veths()).missing == {WEB: "no device leads to 10.93.0.7"}
