# SPDX-License-Identifier: Apache-2.0
"""Which devices get programs, and when, though others come and go meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netaccel.datapath import netlink, rtnetlink
from netaccel.datapath.attach import Attacher
from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.hooks import Hooks
from netaccel.datapath.instance import Instance
from netaccel.datapath.node import NodeView

pytestmark = pytest.mark.root

PROGRAMS = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("tc") int tc_pod_ingress(struct __sk_buff *skb) { return -1; }
SEC("tc") int tc_pod_egress(struct __sk_buff *skb) { return -1; }
char _license[] SEC("license") = "Dual BSD/GPL";
"""


class Node:
    """Devices ``veth*`` of a namespace are pods'."""

    def __init__(self, attacher: Attacher, programs: BpfObject) -> None:
        self.attacher = attacher
        found = {name: programs.program(name) for name in ("tc_pod_ingress", "tc_pod_egress")}
        self.hooks = Hooks(attacher, found, Path("/"), use_xdp=False)
        self.view = self.look()

    def look(self) -> NodeView:
        pods = tuple(device for device in rtnetlink.devices() if device.name.startswith("veth"))
        self.view = NodeView((), pods, (), (), frozenset())
        return self.view

    def follow(self) -> Iterator[None]:
        return self.hooks.follow(lambda: self.view, explicit=False)

    def attached(self) -> dict[str, int]:
        """Ifindexes by hook."""
        return {name: link.target for name, link in self.attacher.attached().items()}


def hooks_of(*names: str) -> dict[str, int]:
    return {
        f"tcx-{way}-{name}": netlink.device(name).ifindex for name in names for way in ("ingress", "egress")
    }


@pytest.fixture(params=[True, False], ids=["tcx", "clsact"])
def node(
    request: pytest.FixtureRequest, instance: Instance, inside: str, build: Callable[..., Path]
) -> Iterator[Node]:
    instance.links.mkdir(parents=True)
    attacher = Attacher(instance, links_for_tc=None if request.param else False)
    for number in (1, 2):
        netlink.add_veth(f"veth{number}", f"far{number}")
    with BpfObject(build(PROGRAMS, "pods")) as programs:
        programs.load()
        yield Node(attacher, programs)
        attacher.detach_all()


@pytest.mark.parametrize("done", [1, 4], ids=["at the first hook", "at the last"])
def test_a_device_that_comes_during_a_thorough_look_is_met_and_kept(node: Node, done: int) -> None:
    steps = node.follow()
    for _ in range(done):
        next(steps)
    netlink.add_veth("veth3", "far3")
    node.hooks.meet(node.look())
    assert node.attached() == hooks_of("veth1", "veth2", "veth3"), "before the look is over"
    assert len(list(steps)) == 4 - done
    assert node.attached() == hooks_of("veth1", "veth2", "veth3")
    assert node.hooks.pods_attached() == set(hooks_of("veth1", "veth2", "veth3").values())


def test_a_device_that_was_not_met_yet_is_left_to_that(node: Node) -> None:
    steps = node.follow()
    next(steps)
    netlink.add_veth("veth3", "far3")
    node.look()
    assert len(list(steps)) == 3
    node.hooks.meet(node.view)
    assert node.attached() == hooks_of("veth1", "veth2", "veth3")


def test_a_device_that_goes_during_a_thorough_look_is_no_failure(node: Node) -> None:
    steps = node.follow()
    next(steps)
    netlink.delete_device("veth2")
    node.hooks.meet(node.look())
    assert list(steps)
    assert node.hooks.failed() == []
    assert node.attached() == hooks_of("veth1")
    assert {status.where for status in node.hooks.status()} == {"veth1"}


def test_a_device_that_comes_again_under_its_name_gets_programs_anew(node: Node) -> None:
    steps = node.follow()
    next(steps)
    netlink.delete_device("veth2")
    netlink.add_veth("veth2", "far2")
    node.hooks.meet(node.look())
    assert list(steps)
    assert node.attached() == hooks_of("veth1", "veth2")


def test_what_others_took_off_is_back_after_a_thorough_look(node: Node) -> None:
    assert list(node.follow())
    node.attacher.detach("tcx-egress-veth1")
    assert list(node.follow())
    assert node.attached() == hooks_of("veth1", "veth2")
