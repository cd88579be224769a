# SPDX-License-Identifier: Apache-2.0
"""Programs on hooks: idempotent, replaced in place, gone without a trace."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netaccel.datapath import attach, libbpf, netlink
from netaccel.datapath.attach import Attacher
from netaccel.datapath.bpfobject import BpfObject, Program
from netaccel.datapath.instance import Instance
from netaccel.datapath.rtnetlink import Device
from netaccel.errors import AttachError

pytestmark = pytest.mark.root

Build = Callable[..., Path]

PROGRAMS = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile __u32 verdict = 2;

SEC("xdp") int xdp_prog(struct xdp_md *ctx) { return verdict; }
SEC("tc") int tc_prog(struct __sk_buff *skb) { return verdict == 2 ? -1 : 2; }
SEC("cgroup/connect4") int connect_prog(struct bpf_sock_addr *ctx) { return verdict == 2; }
char _license[] SEC("license") = "Dual BSD/GPL";
"""
PASS, DROP = 2, 0


@pytest.fixture
def load(build: Build) -> Iterator[Callable[[str, int], Program]]:
    """Load PROGRAMS anew and give one program, its verdict set."""
    path = build(PROGRAMS, "hooks")
    loaded: list[BpfObject] = []

    def one(name: str, verdict: int = PASS) -> Program:
        obj = BpfObject(path)
        loaded.append(obj)
        obj.set_constant("verdict", verdict)
        obj.load()
        return obj.program(name)

    yield one
    for obj in loaded:
        obj.close()


@pytest.fixture
def eth0(inside: str) -> Device:
    """One end of a veth in a namespace of this test's own, up."""
    netlink.add_veth("eth0", "far")
    netlink.set_up("eth0")
    netlink.set_up("far")
    return netlink.device("eth0")


@pytest.fixture
def attacher(instance: Instance) -> Iterator[Attacher]:
    instance.links.mkdir(parents=True)
    found = Attacher(instance)
    yield found
    found.detach_all()


Load = Callable[..., Program]


def hooks_of(eth0: Device, cgroup: Path) -> dict[str, attach.Hook]:
    return {
        "xdp_prog": attach.xdp("eth0", eth0.ifindex),
        "tc_prog": attach.tc("eth0", eth0.ifindex),
        "connect_prog": attach.cgroup(cgroup, "connect_prog", attach.AttachType.CGROUP_INET4_CONNECT),
    }


@pytest.mark.parametrize("program", ["xdp_prog", "tc_prog", "connect_prog"])
def test_the_same_program_stays_and_another_takes_its_place_on_the_same_link(
    program: str, attacher: Attacher, load: Load, eth0: Device, cgroup: Path
) -> None:
    hook = hooks_of(eth0, cgroup)[program]

    assert attacher.attach(hook, load(program)) == "attached"
    first = attacher.attached()[hook.name]
    assert attacher.attach(hook, load(program)) == "kept", "the same text, another load"
    assert attacher.attached()[hook.name] == first
    assert attacher.attach(hook, load(program, DROP)) == "replaced", "the same text, another constant"
    second = attacher.attached()[hook.name]

    assert (second.id, second.target) == (first.id, first.target)
    assert second.program != first.program


def test_a_link_outlives_its_maker_and_is_found_by_the_next(
    instance: Instance, attacher: Attacher, load: Load, eth0: Device
) -> None:
    hook = attach.tc("eth0", eth0.ifindex, egress=True)
    attacher.attach(hook, load("tc_prog"))

    assert Attacher(instance).attached()["tcx-egress-eth0"].target == eth0.ifindex
    assert Attacher(instance).attach(hook, load("tc_prog")) == "kept"


def test_a_link_whose_device_is_gone_is_made_anew(attacher: Attacher, load: Load, eth0: Device) -> None:
    attacher.attach(attach.xdp("eth0", eth0.ifindex), load("xdp_prog"))
    netlink.delete_device("eth0")
    netlink.add_veth("eth0", "far")
    again = netlink.device("eth0")

    assert attacher.attach(attach.xdp("eth0", again.ifindex), load("xdp_prog")) == "attached"
    assert attacher.attached()["xdp-eth0"].target == again.ifindex


@pytest.mark.parametrize("mode", [0, 1 << 1], ids=["native", "generic"])  # XDP_FLAGS_SKB_MODE
def test_a_busy_hook_names_its_holder(attacher: Attacher, load: Load, eth0: Device, mode: int) -> None:
    other = libbpf.link_create(load("xdp_prog", DROP).fd, eth0.ifindex, attach.AttachType.XDP, mode)
    try:
        with pytest.raises(AttachError, match=r"held by program xdp_prog \(id \d+, link id \d+\)") as caught:
            attacher.attach(attach.xdp("eth0", eth0.ifindex), load("xdp_prog"))
        assert "\n" not in str(caught.value)
        assert attacher.attached() == {}
    finally:
        os.close(other)


def test_xdp_that_a_device_can_not_take_is_refused_in_one_line(
    attacher: Attacher, load: Load, inside: str
) -> None:
    with pytest.raises(AttachError, match=r"xdp_prog can't be attached to lo .*native XDP"):
        attacher.attach(attach.xdp("lo", 1), load("xdp_prog"))


def test_our_tc_program_runs_before_those_that_were_there(
    attacher: Attacher, load: Load, eth0: Device
) -> None:
    other = libbpf.link_create(load("tc_prog", DROP).fd, eth0.ifindex, attach.AttachType.TCX_INGRESS)
    try:
        ours = load("tc_prog")
        attacher.attach(attach.tc("eth0", eth0.ifindex), ours)

        order = libbpf.prog_query(eth0.ifindex, attach.AttachType.TCX_INGRESS)
        assert order[0] == ours.info.id
        assert len(order) == 2
    finally:
        os.close(other)


def test_detach_takes_ours_and_leaves_others(
    instance: Instance, attacher: Attacher, load: Load, eth0: Device, cgroup: Path
) -> None:
    other = libbpf.link_create(load("tc_prog", DROP).fd, eth0.ifindex, attach.AttachType.TCX_INGRESS)
    try:
        for program, hook in hooks_of(eth0, cgroup).items():
            attacher.attach(hook, load(program))

        lines = attacher.detach_all()

        assert lines == ["link cgroup-connect_prog", "link tcx-ingress-eth0", "link xdp-eth0"]
        assert list(instance.links.iterdir()) == []
        assert libbpf.xdp_query(eth0.ifindex) == 0
        assert len(libbpf.prog_query(eth0.ifindex, attach.AttachType.TCX_INGRESS)) == 1
        assert attacher.detach_all() == []
    finally:
        os.close(other)


def test_device_names_with_dots_can_be_pinned(attacher: Attacher, load: Load, inside: str) -> None:
    netlink.add_veth("eth0.100", "far")
    hook = attach.tc("eth0.100", netlink.device("eth0.100").ifindex)

    attacher.attach(hook, load("tc_prog"))

    assert list(attacher.attached()) == ["tcx-ingress-eth0%2E100"]


class TestWithoutTcx:
    """Kernels before 6.6: clsact filters."""

    @pytest.fixture
    def attacher(self, instance: Instance) -> Iterator[Attacher]:
        found = Attacher(instance, links_for_tc=False)
        yield found
        found.detach_all()

    def test_a_filter_is_kept_replaced_and_removed_with_its_qdisc(
        self, instance: Instance, attacher: Attacher, load: Load, eth0: Device
    ) -> None:
        ingress, egress = (attach.tc("eth0", eth0.ifindex, egress=e) for e in (False, True))

        assert attacher.attach(ingress, load("tc_prog")) == "attached"
        assert attacher.attach(egress, load("tc_prog")) == "attached"
        assert attacher.attach(ingress, load("tc_prog")) == "kept"
        assert attacher.attach(ingress, load("tc_prog", DROP)) == "replaced"
        assert sorted(attacher.attached()) == ["tcx-egress-eth0", "tcx-ingress-eth0"]

        assert len(attacher.detach_all()) == 2
        assert "clsact" not in tc_output("qdisc")
        assert [path.name for path in instance.folder.iterdir() if path.name.startswith("filter")] == []

    def test_a_filter_that_went_with_its_device_is_forgotten(
        self, instance: Instance, attacher: Attacher, load: Load, eth0: Device
    ) -> None:
        netlink.add_veth("veth1", "veth2")
        for name in ("eth0", "veth1"):
            attacher.attach(attach.tc(name, netlink.device(name).ifindex), load("tc_prog"))
        netlink.delete_device("veth1")

        attacher.forget_gone()

        notes = [path.name for path in instance.folder.iterdir() if path.name.startswith("filter")]
        assert notes == ["filter-tcx-ingress-eth0"]

    def test_a_qdisc_and_filters_of_others_stay(self, attacher: Attacher, load: Load, eth0: Device) -> None:
        libbpf.tc_hook_create(eth0.ifindex)
        libbpf.tc_attach(eth0.ifindex, libbpf.TC_INGRESS, load("tc_prog", DROP).fd, 1, 1)
        attacher.attach(attach.tc("eth0", eth0.ifindex), load("tc_prog"))

        attacher.detach_all()

        assert "clsact" in tc_output("qdisc")
        assert libbpf.tc_query(eth0.ifindex, libbpf.TC_INGRESS, 1, 1) is not None

    def test_a_filter_of_a_device_that_is_gone_is_forgotten(
        self, instance: Instance, attacher: Attacher, load: Load, eth0: Device
    ) -> None:
        attacher.attach(attach.tc("eth0", eth0.ifindex), load("tc_prog"))
        netlink.delete_device("eth0")

        assert attacher.attached() == {}
        assert attacher.detach_all() == []
        assert [path.name for path in instance.folder.iterdir() if path.name.startswith("filter")] == []


def tc_output(what: str) -> str:
    return subprocess.run(["tc", what, "show"], capture_output=True, text=True, check=True).stdout


CLIENT = """
import os, socket, sys
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
print("ready", flush=True)
os.set_blocking(0, False)
slipped = tries = 0
while True:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("127.0.0.1", 1))
            slipped += 1
        except PermissionError:
            pass
    tries += 1
    try:
        if not os.read(0, 1):
            break
    except BlockingIOError:
        pass
print(tries, slipped)
"""


def test_replacing_a_program_leaves_no_gap(attacher: Attacher, load: Load, inside: str, cgroup: Path) -> None:
    """Programs that refuse connect() take each other's place; no connect() slips through meanwhile."""
    hook = attach.cgroup(cgroup, "connect_prog", attach.AttachType.CGROUP_INET4_CONNECT)
    attacher.attach(hook, load("connect_prog", DROP))
    command = [sys.executable, "-c", CLIENT, str(cgroup)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        outcomes = [attacher.attach(hook, load("connect_prog", turn % 2)) for turn in range(1, 20)]
        tries, slipped = map(int, client.communicate()[0].split())

    assert outcomes == ["replaced"] * 19
    assert tries > 0
    assert slipped == 0
