# SPDX-License-Identifier: Apache-2.0
"""The kernel's own drops are told, of this node's pods and frontends alone, and ours not twice."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wires import TCX_EGRESS, Net, attach_tc

from netaccel.datapath import libbpf
from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.clock import jiffies_per_second
from netaccel.datapath.kernelbtf import drop_reasons
from netaccel.datapath.maps import KernelMaps
from netaccel.datapath.netlink import netns_cookie
from netaccel.datapath.ringbuf import RingBuffer
from netaccel.model.address import parse_address
from netaccel.records import FlowEvent, Identity, IdentityKey, PolicyEndpoint

REASONS = drop_reasons()
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        "no_socket" not in REASONS.values(), reason="a kernel that gives no reasons (before 5.17)"
    ),
]
POD, POD6, OTHER = "10.7.0.2", "fd07::2", "10.8.0.2"
SMALL = 64


class Watched:
    """A node with a pod behind a veth, the program, and what it told."""

    def __init__(self, net: Net, obj: BpfObject, ring: RingBuffer, maps: KernelMaps) -> None:
        self.net = net
        self.obj = obj
        self.maps = maps
        self._ring = ring
        self._codec = obj.abi.codec("flow_event")

    def events(self, **wanted: object) -> list[FlowEvent]:
        """What came, of this kind; waits a little for the first one."""
        found: list[FlowEvent] = []
        for _ in range(20):
            events = [self._codec.unpack(sample) for sample in self._ring.read()]
            found += [one for one in events if all(getattr(one, k) == v for k, v in wanted.items())]
            if found:
                break
            time.sleep(0.05)
        return found

    def send(self, where: str, address: str, port: int) -> None:
        """One datagram, of 5 bytes."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET

        def act() -> None:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"hello", (address, port))

        self.net.inside(where, act)

    def device(self) -> int:
        return self.net.ifindex("node", "pod")


@pytest.fixture
def watched() -> Iterator[Watched]:
    with Net() as net, BpfObject.named("trace_drops") as obj:
        net.namespace("node", "pod", "other")
        for name, ours, theirs in (
            ("pod", "10.7.0.1/24", f"{POD}/24"),
            ("other", "10.8.0.1/24", f"{OTHER}/24"),
        ):
            net.wire(("node", name), (name, "eth0"))
            net.address("node", name, ours)
            net.address(name, "eth0", theirs)
            net.ip(name, f"route add default via {ours.partition('/')[0]}")
        net.address("node", "pod", "fd07::1/64")
        net.address("pod", "eth0", f"{POD6}/64")
        net.forwarding("node")
        cookie = net.inside("node", netns_cookie)
        obj.set_constant("settings", {"node_cookie": cookie, "hz": jiffies_per_second()})
        for name, definition in obj.map_definitions().items():
            if definition.max_entries > SMALL:
                obj.resize(name, SMALL if name != "flow_events" else 65_536)
        obj.load()
        maps = KernelMaps({name: obj.map(name) for name in obj.map_definitions()}, obj.abi)
        link = libbpf.tracepoint_link(obj.program("kernel_drop").fd)
        with obj.map("flow_events") as events, RingBuffer(events) as ring:
            yield Watched(net, obj, ring, maps)
        os.close(link)
        maps.close()


def reason(name: str) -> int:
    return next(value for value, known in REASONS.items() if known == name)


@pytest.mark.parametrize(("source", "address"), [("10.7.0.1", POD), ("fd07::1", POD6)])
def test_a_drop_inside_a_pod_is_known_by_the_pods_device(watched: Watched, source: str, address: str) -> None:
    watched.send("node", address, 9)
    (event,) = watched.events(reason=reason("no_socket"), dport=9)
    constants = watched.obj.abi.constants
    assert (event.src, event.dst) == (parse_address(source), parse_address(address))
    assert (event.type, event.verdict) == (constants["EVENT_KERNEL_DROP"], constants["VERDICT_DROPPED"])
    assert (event.proto, event.ifindex, event.direction) == (
        17,
        watched.device(),
        constants["POLICY_INGRESS"],
    )
    assert event.sport > 0
    assert event.location > 1 << 32
    assert event.path == constants["PATH_STACK"]


def test_a_drop_on_the_node_of_what_a_pod_sent(watched: Watched) -> None:
    watched.maps.write(
        "policy_endpoints",
        [(watched.device(), PolicyEndpoint(1, 1, 1, 1, 0, parse_address(POD), parse_address(POD6)))],
    )
    watched.net.ip("node", "route add blackhole 192.0.2.0/24")
    watched.send("pod", "192.0.2.1", 9)
    (event,) = watched.events(dport=9)
    assert (event.ifindex, event.direction) == (watched.device(), watched.obj.abi.constants["POLICY_EGRESS"])
    assert event.reason in REASONS


def test_what_the_node_drops_of_its_own_is_not_told(watched: Watched) -> None:
    watched.send("node", "10.7.0.1", 9)
    watched.send("node", POD, 10)
    assert {event.dport for event in watched.events()} == {10}


def test_a_pods_address_makes_it_ours_wherever_the_node_drops_it(watched: Watched) -> None:
    watched.send("other", "10.8.0.1", 9)
    watched.send("other", "10.8.0.1", 9)
    assert watched.events(dport=9) == []
    pod = IdentityKey(128, parse_address(OTHER))
    watched.maps.write("identities", [(pod, Identity(300, watched.obj.abi.constants["IDENTITY_POD"]))])
    watched.send("other", "10.8.0.1", 9)
    (event,) = watched.events(dport=9)
    assert event.direction == watched.obj.abi.constants["POLICY_EGRESS"]


def test_another_nodes_drops_are_not_ours(watched: Watched) -> None:
    with Net() as stranger:
        stranger.namespace("node", "pod")
        stranger.wire(("node", "pod"), ("pod", "eth0"))
        stranger.address("node", "pod", "10.7.0.1/24")
        stranger.address("pod", "eth0", f"{POD}/24")

        def act() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"hello", (POD, 9))

        stranger.inside("node", act)
        time.sleep(0.3)
        assert watched.events(dport=9) == []


TOLD = """
#pragma clang diagnostic ignored "-Wunused-function"
#include "event.h"
#include <bpf/bpf_endian.h>

/* Drops every packet; tells of those to port 9 as a program of ours does. */
SEC("tc") int dropping(struct __sk_buff *skb)
{
	struct packet p = {};
	struct flow_event *e;

	if (skb->protocol != bpf_htons(0x0800))
		return 0;
	bpf_skb_load_bytes(skb, 14 + 12, &p.tuple.src.w[3], 4);
	bpf_skb_load_bytes(skb, 14 + 16, &p.tuple.dst.w[3], 4);
	bpf_skb_load_bytes(skb, 14 + 20, &p.tuple.sport, 4);
	p.tuple.src.w[2] = p.tuple.dst.w[2] = bpf_htonl(0xFFFF);
	p.tuple.proto = 17;
	e = event_compose(&p, skb->ifindex);
	if (p.tuple.dport != bpf_htons(9) || !e)
		return 2;
	e->type = EVENT_DROP;
	e->reason = DROP_POLICY_DENIED;
	event_drop();
	return 2;
}
char _license[] SEC("license") = "Dual BSD/GPL";
"""


def test_what_our_programs_drop_is_told_once(watched: Watched, build: Callable[[str], Path]) -> None:
    watched.maps.write(
        "policy_endpoints",
        [(watched.device(), PolicyEndpoint(1, 1, 1, 1, 0, parse_address(POD), parse_address(POD6)))],
    )
    with BpfObject(build(TOLD)) as ours:
        shared = {"event_scratch": "tc_scratch", "flow_events": "flow_events", "drop_pairs": "drop_pairs"}
        for name, definition in ours.map_definitions().items():
            if name in shared or name in watched.obj.map_definitions():
                ours.reuse(name, watched.obj.map_fd(shared.get(name, name)))
            elif definition.max_entries > SMALL:
                ours.resize(name, SMALL)
        ours.load()
        off = watched.net.inside("node", lambda: attach_tc("pod", TCX_EGRESS, ours.program("dropping").fd))
        watched.send("node", POD, 9)
        watched.send("node", POD, 10)
        events = watched.events(proto=17)
        watched.net.inside("node", off)
    constants = watched.obj.abi.constants
    told = {(event.dport, event.type) for event in events}
    assert told == {(9, constants["EVENT_DROP"]), (10, constants["EVENT_KERNEL_DROP"])}
    (another,) = (event for event in events if event.dport == 10)
    assert another.reason == reason("tc_egress"), "another's program did it"
