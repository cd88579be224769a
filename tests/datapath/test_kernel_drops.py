# SPDX-License-Identifier: Apache-2.0
"""The kernel's own drops become events, where they concern this node and no program of ours made them."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from programs import ROOT, Loaded
from wires import TCX_INGRESS, Net

from netaccel.datapath import libbpf
from netaccel.datapath.bpfmap import KernelMap
from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.plane import kernel_version
from netaccel.datapath.ringbuf import RingBuffer
from netaccel.lab.handle import wait_for
from netaccel.model.address import parse_address
from netaccel.records import Identity, IdentityKey, PolicyEndpoint

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(kernel_version() < (5, 17), reason="kfree_skb gives no reason"),
]

SO_NETNS_COOKIE = 71
BPF_TRACE_RAW_TP = 23
NODE, POD = ("10.9.0.1", "fd00:9::1"), ("10.9.0.2", "fd00:9::2")
SHOT = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("tc") int shot(struct __sk_buff *skb) { return 2; }
char _license[] SEC("license") = "GPL";
"""


class Watch(Loaded):
    """The program, attached; nodes and pods as in maps."""

    def __init__(self, net: Net, stack: ExitStack) -> None:
        self.net = net
        obj = stack.enter_context(BpfObject(ROOT / "netaccel/objects/trace_drops.o"))
        obj.set_constant("settings", {"node_cookie": net.inside("node", namespace_cookie)})
        for name, definition in obj.map_definitions().items():
            if name != "flow_events":
                obj.resize(name, min(definition.max_entries, 256))
        obj.load()
        self.abi = obj.abi
        self.maps = {name: obj.map_fd(name) for name in obj.map_definitions()}
        ring = stack.enter_context(KernelMap(os.dup(self.maps["flow_events"]), "flow_events"))
        self._ring = stack.enter_context(RingBuffer(ring))
        link = libbpf.link_create(obj.program("trace_kfree_skb").fd, 0, BPF_TRACE_RAW_TP)
        stack.callback(os.close, link)

    def events(self, port: int) -> list[Any]:
        """All since the last time; there is one of this port among them, for which it waits."""
        codec = self.abi.codec("flow_event")
        found: list[Any] = []

        def told() -> bool:
            found.extend(codec.unpack(sample) for sample in self._ring.read())
            return any(event.dport == port for event in found)

        wait_for(told, f"a drop at port {port}", 60)
        return found


def namespace_cookie() -> int:
    with socket.socket() as made:
        return int.from_bytes(made.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), sys.byteorder)


def lay_out(net: Net, node: str, pod: str) -> None:
    net.namespace(node, pod)
    net.wire((node, "veth0"), (pod, "eth0"))
    net.address(node, "veth0", f"{NODE[0]}/24", f"{NODE[1]}/64")
    net.address(pod, "eth0", f"{POD[0]}/24", f"{POD[1]}/64")


@pytest.fixture
def watch() -> Iterator[Watch]:
    with ExitStack() as stack:
        net = stack.enter_context(Net())
        lay_out(net, "node", "pod")
        lay_out(net, "node2", "pod2")  # another node of this machine, with the same addresses
        made = Watch(net, stack)
        for number, flag, places in ((300, "IDENTITY_HOST", NODE), (301, "IDENTITY_POD", POD)):
            who = Identity(number, made.abi.constants[flag])
            for place in places:
                made.write("identities", IdentityKey(128, parse_address(place)), who)
        endpoint = PolicyEndpoint(1, 301, 1, 1, 0, *(parse_address(pod) for pod in POD))
        made.write("policy_endpoints", net.ifindex("node", "veth0"), endpoint)
        yield made


def send(watch: Watch, where: str, target: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    watch.net.socket(where, family, socket.SOCK_DGRAM).sendto(b"x", (target, port))


@pytest.mark.parametrize("v6", [False, True])
def test_a_datagram_without_a_socket_is_told_with_the_pods_device(watch: Watch, v6: bool) -> None:
    send(watch, "node", POD[v6], 5999)

    (event,) = [e for e in watch.events(5999) if e.dport == 5999]
    constants = watch.abi.constants
    assert (event.src, event.dst) == (parse_address(NODE[v6]), parse_address(POD[v6]))
    assert (event.type, event.verdict) == (constants["EVENT_KERNEL_DROP"], constants["VERDICT_DROPPED"])
    assert (event.proto, event.direction) == (socket.IPPROTO_UDP, constants["POLICY_INGRESS"])
    assert (event.identity, event.ifindex) == (300, watch.net.ifindex("node", "veth0"))
    assert event.reason == 3  # SKB_DROP_REASON_NO_SOCKET, the first of the reasons since 5.17
    assert event.location
    seen, exported = (watch.counter(f"COUNTER_EVENT_{name}") for name in ("SEEN", "EXPORTED"))
    assert seen >= exported >= 1


def test_another_nodes_drops_are_not_told(watch: Watch) -> None:
    send(watch, "node2", POD[0], 5998)
    send(watch, "node", POD[0], 5999)

    assert 5998 not in {event.dport for event in watch.events(5999)}


def test_strangers_drops_are_not_told(watch: Watch) -> None:
    watch.net.address("node", "veth0", "10.8.0.1/24")
    watch.net.address("pod", "eth0", "10.8.0.2/24")
    send(watch, "node", "10.8.0.2", 5998)
    send(watch, "node", POD[0], 5999)

    assert 5998 not in {event.dport for event in watch.events(5999)}


def test_programs_drops_are_not_told(watch: Watch, build: Any) -> None:
    with BpfObject(build(SHOT)) as obj:
        obj.load()
        send(watch, "node", POD[0], 5999)
        assert watch.events(5999)
        watch.net.attach("pod", "eth0", TCX_INGRESS, obj.program("shot").fd)
        send(watch, "node", POD[0], 5998)
        send(watch, "node", NODE[0], 5997)

        assert 5998 not in {event.dport for event in watch.events(5997)}


def test_a_drop_at_the_senders_device_is_egress(watch: Watch) -> None:
    """Of pod to pod: the blackhole is on the node, behind the sender's device."""
    other = "10.9.1.2"
    who = Identity(302, watch.abi.constants["IDENTITY_POD"])
    watch.write("identities", IdentityKey(128, parse_address(other)), who)
    watch.net.forwarding("node")
    watch.net.ip("node", f"route add blackhole {other}/32")
    watch.net.ip("pod", f"route add {other}/32 via {NODE[0]}")
    send(watch, "pod", other, 5999)

    (event,) = [e for e in watch.events(5999) if e.dport == 5999]
    assert event.direction == watch.abi.constants["POLICY_EGRESS"]
    assert (event.identity, event.ifindex) == (302, watch.net.ifindex("node", "veth0"))


@pytest.mark.parametrize("v6", [False, True])
def test_what_a_pods_full_socket_loses_is_told(watch: Watch, v6: bool) -> None:
    """No device is known of such packets any more, only whose socket or route it is."""
    slow = watch.net.socket("pod", socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    slow.bind((POD[v6], 5999))
    family = socket.AF_INET6 if v6 else socket.AF_INET
    sender = watch.net.socket("node", family, socket.SOCK_DGRAM)
    for _ in range(20):
        sender.sendto(bytes(1000), (POD[v6], 5999))

    events = [e for e in watch.events(5999) if e.dport == 5999]
    assert {e.ifindex for e in events} == {watch.net.ifindex("node", "veth0")}


def test_what_a_closing_socket_had_not_read_is_not_told(watch: Watch) -> None:
    lazy = watch.net.socket("pod", socket.AF_INET, socket.SOCK_DGRAM)
    lazy.bind((POD[0], 5998))
    send(watch, "node", POD[0], 5998)
    assert lazy.recv(1, socket.MSG_PEEK) == b"x"
    lazy.close()
    send(watch, "node", POD[0], 5999)

    assert {event.dport for event in watch.events(5999)} == {5999}
