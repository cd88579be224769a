# SPDX-License-Identifier: Apache-2.0
"""The gate of strict mode: a pod's sockets send and get nothing before its address is in gate_addresses."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from programs import ROOT, Loaded
from wires import Net

from netaccel.datapath import libbpf
from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.plane import SKB_NETNS, kernel_version
from netaccel.model.address import parse_address
from netaccel.records import Identity, IdentityKey

pytestmark = pytest.mark.root

SO_NETNS_COOKIE = 71
NODE, POD = ("10.9.0.1", "fd00:9::1"), ("10.9.0.2", "fd00:9::2")
SEND, GET = "send", "get"
ACTOR = """
import socket, sys
sys.stdin.readline()
act, own, peer = sys.argv[1:]
made = socket.socket(socket.AF_INET6 if ":" in own else socket.AF_INET, socket.SOCK_DGRAM)
made.bind((own, 5000 if act == "get" else 0))
made.settimeout(2)
try:
    if act == "send":
        made.sendto(b"x", (peer, 5000))
    else:
        print("bound", flush=True)
        made.recv(1)
    print("done", flush=True)
except OSError as error:
    print(type(error).__name__, flush=True)
"""


class Gate(Loaded):
    """The gate's programs over small maps. ``node_cookie``: 0 where the kernel is not asked."""

    def __init__(self, node_cookie: int) -> None:
        self._object = BpfObject(ROOT / "netaccel/objects/gate_pod.o")
        self.abi = self._object.abi
        asked = {"node_cookie": node_cookie, "has_skb_netns": int(bool(node_cookie))}
        self._object.set_constant("settings", asked)
        for name, definition in self._object.map_definitions().items():
            self._object.resize(name, min(definition.max_entries, 256))
        self._object.load()
        self.maps = {name: self._object.map_fd(name) for name in self._object.map_definitions()}
        self.programs = {name: self._object.program(name).fd for name in self._object.program_names()}

    def close(self) -> None:
        self._object.close()


class Ground:
    """A node and a pod on one wire, and a cgroup with the gate on it."""

    def __init__(self, net: Net, cgroup: Path, gate: Gate) -> None:
        self.net, self.cgroup, self.gate = net, cgroup, gate

    def start(self, where: str, act: str, own: str, peer: str) -> subprocess.Popen[str]:
        """A process of the namespace ``where`` in the cgroup, about to act."""
        command = [sys.executable, "-c", ACTOR, act, own, peer]
        process = self.net.inside(
            where,
            lambda: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True),
        )
        (self.cgroup / "cgroup.procs").write_text(str(process.pid))
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
        return process

    def act(self, where: str, act: str, own: str, peer: str) -> str:
        process = self.start(where, act, own, peer)
        try:
            if act == GET:
                assert process.stdout
                assert process.stdout.readline() == "bound\n"
                family = socket.AF_INET6 if ":" in own else socket.AF_INET
                self.net.socket("node", family, socket.SOCK_DGRAM).sendto(b"x", (own, 5000))
            return process.communicate(timeout=60)[0].strip()
        finally:
            process.kill()
            process.wait()

    def open_gate(self, address: str) -> None:
        libbpf.map_update(self.gate.maps["gate_addresses"], parse_address(address), b"\1\0\0\0")


@contextmanager
def ground_in(cgroup: Path, *, by_namespace: bool) -> Iterator[Ground]:
    with ExitStack() as stack:
        net = stack.enter_context(Net())
        net.namespace("node", "pod")
        net.wire(("node", "veth0"), ("pod", "eth0"))
        net.address("node", "veth0", f"{NODE[0]}/24", f"{NODE[1]}/64")
        net.address("pod", "eth0", f"{POD[0]}/24", f"{POD[1]}/64")
        gate = stack.enter_context(Gate(net.inside("node", namespace_cookie) if by_namespace else 0))
        folder = os.open(cgroup, os.O_RDONLY)
        stack.callback(os.close, folder)
        for number, name in enumerate(("ingress", "egress")):  # BPF_CGROUP_INET_INGRESS, _EGRESS
            stack.callback(os.close, libbpf.link_create(gate.programs[f"gate_{name}"], folder, number))
        yield Ground(net, cgroup, gate)


def namespace_cookie() -> int:
    with socket.socket() as made:
        return int.from_bytes(made.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), sys.byteorder)


@pytest.fixture
def ground(cgroup: Path) -> Iterator[Ground]:
    with ground_in(cgroup, by_namespace=False) as made:
        yield made


@pytest.mark.parametrize("v6", [False, True])
def test_a_pod_is_shut_until_its_address_is_let_through(ground: Ground, v6: bool) -> None:
    node, pod = NODE[v6], POD[v6]

    assert ground.act("pod", SEND, pod, node) == "PermissionError"
    assert ground.act("pod", GET, pod, node) == "TimeoutError"
    assert ground.gate.dropped("DROP_POLICY_UNREADY") == 2
    ground.open_gate(pod)
    assert ground.act("pod", SEND, pod, node) == "done"
    assert ground.act("pod", GET, pod, node) == "done"
    assert ground.gate.dropped("DROP_POLICY_UNREADY") == 2


@pytest.mark.parametrize("own", ["127.0.0.1", "::1"])
def test_loopback_is_not_gated(ground: Ground, own: str) -> None:
    assert ground.act("pod", SEND, own, own) == "done"


@pytest.mark.parametrize("v6", [False, True])
def test_the_nodes_own_addresses_pass(ground: Ground, v6: bool) -> None:
    assert ground.act("node", SEND, NODE[v6], POD[v6]) == "PermissionError"
    host = Identity(1, ground.gate.abi.constants["IDENTITY_HOST"])
    ground.gate.write("identities", IdentityKey(128, parse_address(NODE[v6])), host)
    assert ground.act("node", SEND, NODE[v6], POD[v6]) == "done"


@pytest.mark.skipif(kernel_version() < SKB_NETNS, reason="the kernel does not tell a packet's namespace")
def test_the_nodes_sockets_pass_by_their_namespace(cgroup: Path) -> None:
    """With an address, too, that the node was given while no agent ran."""
    with ground_in(cgroup, by_namespace=True) as ground:
        assert ground.act("node", SEND, NODE[0], POD[0]) == "done"
        assert ground.act("pod", SEND, POD[0], NODE[0]) == "PermissionError"
