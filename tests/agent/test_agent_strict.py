# SPDX-License-Identifier: Apache-2.0
"""Strict mode: nothing of a pod gets through before its policy is in force, with no agent there too.

The pod sends to two ports of the neighbour from its first instruction, before it even has a device; its
policy allows one of them.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ground import PATIENCE, Node

from netaccel.datapath import netlink

pytestmark = pytest.mark.root

FAR = {socket.AF_INET: "10.77.0.2", socket.AF_INET6: "fd77::2"}
POD = {socket.AF_INET: "10.244.1.5", socket.AF_INET6: "fd00:244::5"}
ALLOWED, DENIED = 9, 10
BLINK = 100  # datagrams in a row: an outage of a tenth of a second; a busy machine may lose some
SO_RCVBUFFORCE = 33
SENDER = """
import socket, sys, time
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
senders = [(socket.socket(family, socket.SOCK_DGRAM), far) for family, far in
           ((socket.AF_INET, "10.77.0.2"), (socket.AF_INET6, "fd77::2"))]
print(flush=True)
number = 0
while True:
    number += 1
    for sender, far in senders:
        for port in (9, 10):
            try:
                sender.sendto(b"%d" % number, (far, port))
            except OSError:
                pass
    time.sleep(0.0005)
"""
UNREADY = 'netaccel_dropped_packets_total{reason="policy_unready"}'
ASK = "import socket, sys; open(sys.argv[1] + '/cgroup.procs', 'w').write('0')\n" + (
    "socket.create_connection((sys.argv[2], int(sys.argv[3])), timeout=5)"
)


def pod() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address} for address in POD.values()]},
    }


def policy() -> dict[str, Any]:
    rule = {"ports": [{"protocol": "UDP", "port": ALLOWED}]}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "one-port", "namespace": "shop"},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [rule]},
    }


class Pod:
    """A namespace with a process that sends; its wire comes later."""

    def __init__(self, node: Node) -> None:
        self.node, self.namespace = node, f"{node.name}p"
        netlink.create_namespace(self.namespace)
        with netlink.inside_namespace(node.outside):
            self.sinks = {(family, port): sink(family, port) for family in FAR for port in (ALLOWED, DENIED)}
        command = ["nsenter", f"--net=/run/netns/{self.namespace}", sys.executable, "-c", SENDER]
        self.process = subprocess.Popen([*command, str(node.cgroup)], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.process.stdout.readline()
        self.last: dict[tuple[socket.AddressFamily, int], int] = {}
        self.missed = 0
        """At most in a row, of what came before and after."""

    def bear(self) -> None:
        """Wire it as the bridge plugin or a routed CNI would: addresses last."""
        with netlink.inside_namespace(self.node.name):
            netlink.set_sysctl("net.ipv4.ip_forward", 1)
            netlink.set_sysctl("net.ipv6.conf.all.forwarding", 1)
            netlink.add_veth("veth1", "eth0", self.namespace)
            netlink.set_up("veth1")
            netlink.add_address("veth1", "10.244.1.1/24")
            netlink.add_address("veth1", "fd00:244::1/64")
        with netlink.inside_namespace(self.namespace):
            netlink.set_up("eth0")
            netlink.add_address("eth0", "10.244.1.5/24")
            netlink.add_address("eth0", "fd00:244::5/64")
            netlink.add_route("default4", "10.244.1.1")
            netlink.add_route("default6", "fd00:244::1")

    def got(self, port: int) -> dict[str, int]:
        """Datagrams that came to the neighbour since it was asked last, by family."""
        found = {place: drain(sink) for place, sink in self.sinks.items() if place[1] == port}
        for place, numbers in found.items():
            for number in numbers:
                self.missed = max(self.missed, number - self.last.get(place, number) - 1)
                self.last[place] = number
        return {family.name: len(numbers) for (family, _), numbers in found.items()}

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        for open_sink in self.sinks.values():
            open_sink.close()
        netlink.delete_namespace(self.namespace)


def sink(family: socket.AddressFamily, port: int) -> socket.socket:
    found = socket.socket(family, socket.SOCK_DGRAM)
    found.setblocking(False)
    found.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)  # for a reader that comes late
    found.bind((FAR[family], port))
    return found


def drain(open_sink: socket.socket) -> list[int]:
    """Numbers of what came."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while data := open_sink.recv(64):
            found.append(int(data))
    return found


@pytest.fixture
def newborn(node: Node) -> Iterator[Pod]:
    """A pod that sends and has no wire yet."""
    with netlink.inside_namespace(node.outside):
        netlink.add_route("10.244.1.0/24", "10.77.0.1")
        netlink.add_route("fd00:244::/64", "fd77::1")
    made = Pod(node)
    try:
        yield made
    finally:
        made.close()


def drops(node: Node) -> str:
    """Packets of pods whose policy was not in force, as /metrics tells it."""
    lines = node.get("/metrics").splitlines()
    return next(line for line in lines if line.startswith(UNREADY))


def all_of(found: dict[str, int]) -> bool:
    return all(found.values())


def gates(node: Node) -> set[str]:
    return {path.name for path in (node.pins / "links").iterdir() if "gate" in path.name}


def test_nothing_slips_through_at_birth(node: Node, newborn: Pod) -> None:
    node.put("pods.yaml", pod(), policy())
    agent = node.serve(strict="true")
    node.until(lambda: gates(node) == {"cgroup-gate_egress", "cgroup-gate_ingress"}, agent)
    newborn.bear()
    node.until(lambda: all_of(newborn.got(ALLOWED)), agent)
    time.sleep(0.5)
    newborn.got(ALLOWED)
    node.until(lambda: all_of(newborn.got(ALLOWED)), agent)  # what is allowed goes on
    assert newborn.got(DENIED) == {"AF_INET": 0, "AF_INET6": 0}
    status = node.status()
    assert status is not None
    assert status["policy"]["strict"]
    assert status["policy"]["enforced"] == 1


def test_a_pod_that_is_born_while_no_agent_is_there_waits_for_one(node: Node, newborn: Pod) -> None:
    node.put("pods.yaml", pod(), policy())
    agent = node.serve(strict="true")
    node.until(lambda: bool(gates(node)), agent)
    node.stop(agent, signal.SIGKILL)
    newborn.bear()
    time.sleep(2)
    for port in (ALLOWED, DENIED):
        assert newborn.got(port) == {"AF_INET": 0, "AF_INET6": 0}
    with netlink.inside_namespace(node.outside), socket.create_server((FAR[socket.AF_INET], 8080)):
        done = subprocess.run(
            node.command(sys.executable, "-c", ASK, str(node.cgroup), FAR[socket.AF_INET], "8080"),
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, "the node's own sockets are not shut"
    agent = node.serve(strict="true")
    node.until(lambda: all_of(newborn.got(ALLOWED)), agent)
    assert newborn.got(DENIED) == {"AF_INET": 0, "AF_INET6": 0}


def test_a_restart_cuts_nobody_off(node: Node, newborn: Pod) -> None:
    node.put("pods.yaml", pod(), policy())
    agent = node.serve(strict="true")
    newborn.bear()
    node.until(lambda: all_of(newborn.got(ALLOWED)), agent)
    unready = drops(node)
    newborn.got(ALLOWED)
    newborn.missed = 0
    node.stop(agent, signal.SIGKILL)
    node.serve(strict="true")
    newborn.got(ALLOWED)
    node.until(lambda: all_of(newborn.got(ALLOWED)))
    assert newborn.missed < BLINK
    assert newborn.got(DENIED) == {"AF_INET": 0, "AF_INET6": 0}
    assert drops(node) == unready, "its endpoint was there all the time"


def test_the_gate_goes_with_the_setting_and_with_detach(node: Node) -> None:
    agent = node.serve(strict="true")
    node.until(lambda: bool(gates(node)), agent)
    node.stop(agent)
    agent = node.serve()
    assert gates(node) == set()
    node.stop(agent)
    node.serve(strict="true")
    node.until(lambda: bool(gates(node)))
    done = node.netaccel("detach", "--stop-agent")
    assert done.returncode == 0, done.stderr
    assert "cgroup-gate_egress" in done.stdout
    assert not node.pins.exists()


def test_policy_can_be_left_out(node: Node, newborn: Pod) -> None:
    node.put("pods.yaml", pod(), policy())
    agent = node.serve(policy="off", strict="true")
    newborn.bear()
    node.until(lambda: all_of(newborn.got(DENIED)), agent)
    assert gates(node) == set()
    status = node.status()
    assert status is not None
    assert status["policy"] is None
    assert "policy: off" in node.netaccel("status").stdout
