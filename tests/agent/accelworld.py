# SPDX-License-Identifier: Apache-2.0
"""Two pods of a node, with a request/response load between them that checks every byte."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from typing import Any

from ground import PATIENCE, Node

from netaccel.datapath import netlink

PORT = 8080
FAST = {"accelerate_interval": "0.2", "accelerate_rate": "50"}
SERVER = """
import os, selectors, socket, sys
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
family = socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET
listener = socket.create_server((sys.argv[2], int(sys.argv[3])), family=family)
listener.setblocking(False)
waits = selectors.DefaultSelector()
waits.register(listener, selectors.EVENT_READ)
print(flush=True)
while True:
    for key, _ in waits.select():
        if key.fileobj is listener:
            peer, _ = listener.accept()
            peer.setblocking(False)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            waits.register(peer, selectors.EVENT_READ)
            continue
        try:
            data = key.fileobj.recv(1 << 16)
        except BlockingIOError:
            continue
        except OSError:
            data = b""
        if data:
            key.fileobj.send(data)
        else:
            waits.unregister(key.fileobj)
            key.fileobj.close()
"""
CLIENT = """
import json, select, socket, sys, time
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
way = socket.create_connection((sys.argv[2], int(sys.argv[3])), timeout=5)
way.setblocking(False)
way.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
readable = select.poll(); readable.register(way, select.POLLIN)
commands = select.poll(); commands.register(sys.stdin, select.POLLIN)
done, told, busy = 0, 0.0, True
def tell(**more):
    print(json.dumps({"exchanges": done, "bytes": 128 * done, **more}), flush=True)
while True:
    if commands.poll(0 if busy else 10):
        line = sys.stdin.readline().strip()
        if line == "rest": busy = False
        elif line == "go": busy = True
        else: break
    if not busy:
        tell(resting=True)
        continue
    message = (b"%063d\\n" % done)
    way.send(message)
    got = b""
    started = time.monotonic()
    while len(got) < len(message):
        readable.poll(200)
        try:
            part = way.recv(1 << 16)
        except BlockingIOError:
            if time.monotonic() - started > 1: tell(stuck=True)
            continue
        if not part: sys.exit("the server closed")
        got += part
    if got != message: sys.exit(f"{got!r} is not {message!r}")
    done += 1
    if time.monotonic() - told > 0.1: tell(); told = time.monotonic()
tell(ended=True)
"""


class Pod:
    """A namespace with a wire to the node; ``number`` makes its addresses."""

    def __init__(self, node: Node, name: str, number: int) -> None:
        self.node, self.name, self.number = node, name, number
        self.namespace = f"{node.name}{name}"
        self.address, self.address6 = f"10.244.{number}.5", f"fd00:244:{number}::5"
        self.processes: list[subprocess.Popen[str]] = []
        netlink.create_namespace(self.namespace)
        with netlink.inside_namespace(node.name):
            netlink.set_sysctl("net.ipv4.ip_forward", 1)
            netlink.set_sysctl("net.ipv6.conf.all.forwarding", 1)
            netlink.add_veth(f"veth{name}", "eth0", self.namespace)
            netlink.set_up(f"veth{name}")
            netlink.add_address(f"veth{name}", f"10.244.{number}.1/24")
            netlink.add_address(f"veth{name}", f"fd00:244:{number}::1/64")
        with netlink.inside_namespace(self.namespace):
            netlink.set_up("eth0")
            netlink.add_address("eth0", f"{self.address}/24")
            netlink.add_address("eth0", f"{self.address6}/64")
            netlink.add_route("default4", f"10.244.{number}.1")
            netlink.add_route("default6", f"fd00:244:{number}::1")

    def run(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """Run a Python program in it; its first argument is the node's cgroup."""
        command = ["nsenter", f"--net=/run/netns/{self.namespace}", sys.executable, "-c", program]
        started = subprocess.Popen(
            [*command, str(self.node.cgroup), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(started)
        return started

    def serve(self, address: str = "") -> None:
        """An echo server; returns when it listens."""
        process = self.run(SERVER, address or self.address, str(PORT))
        assert process.stdout is not None
        assert process.stdout.readline(), process.stderr and process.stderr.read()

    def manifest(self, **annotations: str) -> dict[str, Any]:
        named = {"netaccel.io/accelerate": annotations["accelerate"]} if "accelerate" in annotations else {}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": "shop",
                "labels": {"app": self.name},
                "annotations": named,
            },
            "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": self.address}, {"ip": self.address6}]},
        }

    def close(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.communicate()
        netlink.delete_namespace(self.namespace)


class Load:
    """A client in a pod; what it said last is in ``told``."""

    def __init__(self, pod: Pod, address: str) -> None:
        self.process = pod.run(CLIENT, address, str(PORT))
        self.told: dict[str, Any] = {"exchanges": 0}
        self.seen = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.told = json.loads(line)

    def say(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def grows(self) -> bool:
        """Whether exchanges were made since it was asked last, or at all, as far as it told them."""
        before, self.seen = self.seen, self.told["exchanges"]
        self.check()
        return self.seen > before

    def check(self) -> None:
        """It has not failed."""
        assert self.process.poll() in (None, 0), self.process.stderr and self.process.stderr.read()

    def end(self) -> dict[str, Any]:
        """End it; what it counted."""
        self.say("end")
        self.process.wait(PATIENCE)
        self._reader.join()
        self.check()
        assert self.told.get("ended"), self.told
        return self.told


def namespace(accelerate: str = "enabled") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "shop", "annotations": {"netaccel.io/accelerate": accelerate}},
    }


def service() -> dict[str, Any]:
    """At 10.96.0.10."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"name": "load", "port": PORT}]},
    }


def endpoints(*addresses: str) -> dict[str, Any]:
    """Of that Service."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "load", "port": PORT}],
        "endpoints": [{"addresses": [address]} for address in addresses],
    }


def accel(node: Node) -> dict[str, Any]:
    """What the agent says of acceleration."""
    found: dict[str, Any] = json.loads(node.get("/api/v1/accel/status"))
    return found


def connections(node: Node, pod: str) -> list[dict[str, Any]]:
    """Of a pod of namespace shop."""
    found: list[dict[str, Any]] = json.loads(node.get(f"/api/v1/accel/connections?pod=shop/{pod}"))
    return found


def stop_before_reading(node: Node, server: subprocess.Popen[str], load: Load) -> None:
    """Stop the server while it waits, then have a message sent to it, which stays unread."""
    load.say("rest")
    node.until(lambda: load.told.get("resting"))
    server.send_signal(signal.SIGSTOP)
    load.say("go")
    node.until(lambda: load.told.get("stuck"))


def live(node: Node) -> int:
    """Pairs that are live."""
    return int(accel(node)["totals"].get("live", 0))
