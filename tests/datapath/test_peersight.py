# SPDX-License-Identifier: Apache-2.0
"""What keeps a pod's packets on the plain way, as real devices show it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs import ROOT, Loaded
from wires import TCX_EGRESS, TCX_INGRESS, Net

from netaccel.datapath import libbpf, peers, peersight, rtnetlink
from netaccel.datapath.attach import has_tcx
from netaccel.datapath.bpfmap import KernelMap, MapType
from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.peersight import Sight
from netaccel.model.address import Address, parse_address

pytestmark = pytest.mark.root

ADDRESSES = [Address(parse_address(text)) for text in ("10.1.1.2", "fd00:1::2")]
OBJECTS = ROOT / "netaccel/objects"
XDP = 37


@pytest.fixture(params=[False, True], ids=["routed", "bridged"])
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    """A node with a pod whose packets need nothing of the node."""
    with Net() as net:
        net.namespace("node", "pod")
        net.forwarding("node")
        net.wire(("node", "veth0"), ("pod", "eth0"))
        net.address("pod", "eth0", "10.1.1.2/24", "fd00:1::2/64")
        if request.param:
            net.ip("node", "link add br0 type bridge", "link set br0 up", "link set veth0 master br0")
        net.address("node", "br0" if request.param else "veth0", "10.1.1.1/24", "fd00:1::1/64")
        yield net


def look(net: Net) -> tuple[Sight, str]:
    def work() -> Sight | None:
        (device,) = (each for each in rtnetlink.devices() if each.name == "veth0")
        return peersight.look(device, ADDRESSES, rtnetlink.queues())

    sight = net.inside("node", work)
    assert sight
    return sight, peersight.why_not(ADDRESSES, sight)


def test_nothing_is_against_it(net: Net) -> None:
    sight, reason = look(net)
    assert reason == ""
    peer = peersight.peer_of(sight)
    assert peer.ifindex == net.ifindex("node", "veth0")
    assert sight.far
    assert peer.mac == sight.far.device.mac != sight.near.device.mac
    exit_ = sight.bridge or sight.near
    assert peer.gateway == exit_.device.mac
    assert peer.bridge == (sight.bridge.device.ifindex if sight.bridge else 0)


Change = Callable[[Net], object]


def tc(*words: str) -> Change:
    return lambda net: net.execute("node", "tc", "qdisc", "add", "dev", "veth0", *words)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (tc("root", "tbf", "rate", "1mbit", "burst", "9k", "latency", "9ms"), "tbf"),
        (tc("ingress"), "ingress"),
        (lambda net: net.sysctl("node", "net.ipv4.ip_forward=0"), "forwards no packets"),
        (lambda net: net.ip("pod", "addr del 10.1.1.2/24 dev eth0"), "isn't on the other end"),
        (lambda net: net.ip("node", "route add unreachable 10.1.1.2"), "doesn't lead to"),
    ],
    ids=["shaped", "ingress", "no forwarding", "address elsewhere", "route elsewhere"],
)
def test_what_is_against_it(net: Net, change: Change, word: str) -> None:
    change(net)
    assert word in look(net)[1]


def test_programs_of_others(net: Net) -> None:
    with Loaded(OBJECTS / "xdp_pass.o") as xdp:
        net.attach("pod", "eth0", XDP, xdp.programs["xdp_pass"])
        assert "XDP" in look(net)[1]


TWO = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("tc") int ours(struct __sk_buff *skb) { return -1; }
SEC("tc") int theirs(struct __sk_buff *skb) { return -1; }
char _license[] SEC("license") = "GPL";
"""


@pytest.mark.skipif(not has_tcx(), reason="this kernel has no links for tc")
@pytest.mark.parametrize("hook", [TCX_INGRESS, TCX_EGRESS], ids=["ingress", "egress"])
def test_tc_programs_of_others(net: Net, hook: int, build: Callable[[str], Path]) -> None:
    with BpfObject(build(TWO)) as obj:
        obj.load()
        net.attach("node", "veth0", hook, obj.program("ours").fd)
        assert look(net)[1] == ""
        net.attach("node", "veth0", hook, obj.program("theirs").fd)
        assert "tc programs" in look(net)[1]


def test_the_call_of_the_program_comes_and_goes(bpffs: Path, build: Callable[[str], Path]) -> None:
    with BpfObject(build(TWO)) as obj, KernelMap.create(MapType.PROG_ARRAY, "calls", 4, 4, 1) as calls:
        obj.load()
        libbpf.obj_pin(calls.fd, str(bpffs / "peer_program"))
        for _ in range(2):
            peers.arm(bpffs, obj.program("ours"))
            found = calls.lookup(bytes(4))
            assert found
            assert int.from_bytes(found, sys.byteorder) == obj.program("ours").info.id
        for _ in range(2):
            peers.disarm(bpffs)
            assert calls.lookup(bytes(4)) is None
        (bpffs / "peer_program").unlink()
        peers.disarm(bpffs)


def test_a_bridge_that_keeps_ports_apart(net: Net) -> None:
    if look(net)[0].bridge is None:
        pytest.skip("routed")
    net.ip("node", "link set veth0 type bridge_slave isolated on")
    assert "more with its packets" in look(net)[1]
