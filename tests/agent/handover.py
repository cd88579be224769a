# SPDX-License-Identifier: Apache-2.0
"""A node beside a kube-proxy: nftables rules that do what kube-proxy's do, pods, and clients that keep count.

kube-proxy's rules send everything to pod *old*, netaccel's Service to pod *new*, so that whoever answers says
who served the connection, and a packet that takes the wrong way ends it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from typing import Any

from ground import PATIENCE, Node

from netaccel.datapath import libbpf, netlink
from netaccel.datapath.bpfobject import BpfObject

_XDP, _DRIVER = 37, 1 << 2  # BPF_XDP, XDP_FLAGS_DRV_MODE

PODS = {"old": 2, "new": 3, "client": 4}
"""Pods and the numbers of their networks: 10.78.N.0/24, fd78:N::/64; each pod has the second address."""
VIP = {4: "10.96.0.10", 6: "fd00:96::10"}
NODE = {4: "10.77.0.1", 6: "fd77::1"}
NODE_PORT, PORT = 30080, 80
UDP_TIMEOUT = 600

RULES = """
table inet kube-proxy {
  chain services {
    ip daddr 10.77.0.1 meta l4proto { tcp, udp } th dport 30080 meta mark set 0x4000
    ip6 daddr fd77::1 meta l4proto { tcp, udp } th dport 30080 meta mark set 0x4000
    ip daddr 10.77.0.1 tcp dport 30080 dnat ip to 10.78.2.2:8080
    ip daddr 10.77.0.1 udp dport 30080 dnat ip to 10.78.2.2:8080
    ip daddr 10.96.0.10 tcp dport 80 dnat ip to 10.78.2.2:8080
    ip daddr 10.96.0.10 udp dport 80 dnat ip to 10.78.2.2:8080
    ip6 daddr fd77::1 tcp dport 30080 dnat ip6 to [fd78:2::2]:8080
    ip6 daddr fd77::1 udp dport 30080 dnat ip6 to [fd78:2::2]:8080
    ip6 daddr fd00:96::10 tcp dport 80 dnat ip6 to [fd78:2::2]:8080
    ip6 daddr fd00:96::10 udp dport 80 dnat ip6 to [fd78:2::2]:8080
  }
  chain prerouting { type nat hook prerouting priority dstnat; jump services; }
  chain output { type nat hook output priority -100; jump services; }
  chain postrouting {
    type nat hook postrouting priority srcnat
    meta mark 0x4000 masquerade fully-random
  }
  chain forward { type filter hook forward priority filter; ct state invalid drop; }
}
"""

SERVER = """
import hashlib, os, select, socket, sys, threading, time
name = sys.argv[1].encode().ljust(8)
def serve(connection):
    digest = hashlib.sha256()
    connection.sendall(name)
    while not select.select([connection], [], [], 0.05)[0]:
        chunk = os.urandom(5000)
        digest.update(chunk)
        connection.sendall(chunk)
    assert connection.recv(10) == b""
    connection.sendall(digest.digest())
    connection.close()
def echo():
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.bind(("::", 8080))
    while True:
        data, peer = datagrams.recvfrom(100)
        datagrams.sendto(name + data, peer)
threading.Thread(target=echo, daemon=True).start()
listener = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
print("listening", flush=True)
while True:
    threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
"""

CLIENT = """
import hashlib, json, socket, sys, threading
kind, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
def say(**facts):
    print(json.dumps(facts), flush=True)
def download(connection):
    name, digest, tail, total = connection.recv(8, socket.MSG_WAITALL), hashlib.sha256(), b"", 0
    say(served=name.decode().strip())
    lock, state = threading.Lock(), {"total": 0, "error": ""}
    def receive():
        tail = b""
        try:
            while data := connection.recv(1 << 16):
                whole = tail + data
                digest.update(whole[:-32])
                tail = whole[-32:]
                state["total"] += len(data)
        except OSError as error:
            state["error"] = repr(error)
        state["whole"] = tail == digest.digest()
    receiver = threading.Thread(target=receive)
    if kind == "tcp":
        receiver.start()
    for line in sys.stdin:
        if line.strip() == "end":
            break
        say(total=state["total"], error=state["error"])
    if kind == "quiet":  # until now the server could not send, so that nothing has passed
        receiver.start()
    try:
        connection.shutdown(socket.SHUT_WR)
    except OSError as error:
        state["error"] = repr(error)
    receiver.join(60)
    say(**state)
def talk(family):
    datagrams = socket.socket(family, socket.SOCK_DGRAM)
    datagrams.settimeout(1)
    datagrams.connect((address, port))
    sent = 0
    def ask():
        # Tried again, since a machine may be busy. What answers a question of before is not heard.
        nonlocal sent
        first, said = sent, ""
        for _ in range(20):
            try:
                datagrams.send(b"%d" % sent)
                sent += 1
                while True:
                    answer = datagrams.recv(100)
                    if int(answer[8:]) >= first:
                        return answer[:8].decode().strip()
            except OSError as error:
                said = repr(error)
        return said
    say(served=ask())
    for line in sys.stdin:
        say(served=ask())
        if line.strip() == "end":
            break
def churn():
    import collections, time
    counts, errors, threads = collections.Counter(), [], []
    def once():
        began = time.time()
        try:
            with socket.create_connection((address, port), timeout=30) as connection:
                name, digest, tail = connection.recv(8, socket.MSG_WAITALL), hashlib.sha256(), b""
                time.sleep(1)
                connection.shutdown(socket.SHUT_WR)
                while data := connection.recv(1 << 16):
                    digest.update((tail + data)[:-32])
                    tail = (tail + data)[-32:]
                if tail != digest.digest():
                    errors.append("not whole")
            counts[name.decode().strip()] += 1
        except OSError as error:
            errors.append(f"{error!r}, opened at {began:.3f}, failed at {time.time():.3f}")
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), ended.set()), daemon=True).start()
    say(served="")
    while not ended.wait(0.03):
        if sum(thread.is_alive() for thread in threads[-100:]) < 40:  # else a slow machine gets ever slower
            threads.append(threading.Thread(target=once))
            threads[-1].start()
    for thread in threads:
        thread.join(40)
    say(counts=counts, errors=errors)
if kind == "churn":
    churn()
elif kind != "udp":
    download(socket.create_connection((address, port), timeout=30))
else:
    talk(socket.AF_INET6 if ":" in address else socket.AF_INET)
"""


class Client:
    """A download without end (*tcp*; *quiet* reads nothing of it yet), datagrams there and back (*udp*), or
    a new connection every 30 ms, each for a second (*churn*)."""

    def __init__(self, namespace: str, kind: str, address: str, port: int) -> None:
        self.kind = kind
        self.what = f"{kind} to {address}:{port} from {namespace}"
        self._process = subprocess.Popen(
            [
                *("nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-c", CLIENT),
                *(kind, address, str(port)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.served = ""
        self.last: dict[str, Any] = {}
        """What it said last, for a failure's text."""
        self._total = 0

    def begin(self) -> None:
        """Wait until a server answers."""
        self.served = self._hear().get("served", "")

    def goes_on(self) -> bool:
        """More has come since the last question (TCP); the same server answers (UDP)."""
        said = self._ask("go on")
        if self.kind == "udp":
            return bool(said["served"] == self.served)
        assert not said["error"], (self.what, said)
        more, self._total = said["total"] > self._total, said["total"]
        return more

    def end(self) -> None:
        """Everything that was sent has come."""
        said = self._ask("end")
        if self.kind == "udp":
            assert said["served"] == self.served, self.what
        else:
            assert said["whole"], (self.what, said)
            assert not said["error"], (self.what, said)
        self.close()

    def stop(self) -> dict[str, Any]:
        """Of *churn*: connections by who served them, and errors."""
        return self._ask("end")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=PATIENCE)

    def _ask(self, what: str) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, f"{self.what} ended"
        self.last = json.loads(line)
        return self.last


class Handover:
    """The node of the test with its pods, kube-proxy's rules and clients."""

    def __init__(self, node: Node, *, remote: bool) -> None:
        """``remote``: the servers' pods are on another node, behind the uplink; else on this one."""
        self.node = node
        self._remote = remote
        self._stack = ExitStack()
        self.namespaces = {name: f"{node.name}-{name}" for name in PODS}
        self._servers: list[subprocess.Popen[str]] = []
        self._clients: list[Client] = []

    def up(self) -> None:
        for namespace in (self.node.name, self.node.outside):
            with netlink.inside_namespace(namespace):
                for path in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
                    netlink.set_sysctl(path, 1)
        for name, number in PODS.items():
            self._pod(name, number, self.node.outside if self._is_remote(name) else self.node.name)
        with netlink.inside_namespace(self.node.outside):
            netlink.set_offload("eth0", "tx", on=False)  # as packets from a wire have whole checksums
            self._let_frames_in()
        subprocess.run(self.node.command("nft", "-f", "-"), input=RULES, text=True, check=True, timeout=20)
        with netlink.inside_namespace(self.node.name):  # so that a slow machine doesn't end silent flows
            for name in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
                netlink.set_sysctl(f"net.netfilter.{name}", UDP_TIMEOUT)
        for name in ("old", "new"):
            self._serve(name)

    def _is_remote(self, name: str) -> bool:
        return self._remote and name != "client"

    def _let_frames_in(self) -> None:
        """A veth takes what XDP sends back only where its own end has a program too."""
        passing = self._stack.enter_context(BpfObject.named("xdp_pass"))
        passing.load()
        index = netlink.device("eth0").ifindex
        link = libbpf.link_create(passing.program("xdp_pass").fd, index, _XDP, _DRIVER)
        self._stack.callback(os.close, link)

    def _pod(self, name: str, number: int, where: str) -> None:
        """A pod's namespace, its device in ``where``; the other side's way to it leads over the uplink."""
        namespace = self.namespaces[name]
        netlink.create_namespace(namespace)
        with netlink.inside_namespace(where):
            device = f"veth{name[0]}"
            netlink.add_veth(device, "eth0", namespace)
            netlink.set_up(device)
            for address in (f"10.78.{number}.1/24", f"fd78:{number}::1/64"):
                netlink.add_address(device, address)
        with netlink.inside_namespace(namespace):
            netlink.set_up("eth0")
            for address in (f"10.78.{number}.2/24", f"fd78:{number}::2/64"):
                netlink.add_address("eth0", address)
            netlink.add_route("default4", f"10.78.{number}.1")
            netlink.add_route("default6", f"fd78:{number}::1")
        if where == self.node.name:
            with netlink.inside_namespace(self.node.outside):
                netlink.add_route(f"10.78.{number}.0/24", NODE[4])
                netlink.add_route(f"fd78:{number}::/64", NODE[6])

    def _serve(self, name: str) -> None:
        command = ["nsenter", f"--net=/run/netns/{self.namespaces[name]}", sys.executable, "-c", SERVER, name]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._servers.append(server)
        assert server.stdout
        assert server.stdout.readline() == "listening\n"

    def write_service(self) -> None:
        """The Service, of which *new* alone is ready; *old* is there still."""
        spec = {
            "clusterIPs": list(VIP.values()),
            "clusterIP": VIP[4],
            "ipFamilies": ["IPv4", "IPv6"],
            "type": "NodePort",
            "ports": [
                {"name": p.lower(), "protocol": p, "port": PORT, "nodePort": NODE_PORT}
                for p in ("TCP", "UDP")
            ],
        }
        meta = {"name": "web", "namespace": "shop"}
        slices = [
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"web-{kind.lower()}",
                    "namespace": "shop",
                    "labels": {"kubernetes.io/service-name": "web"},
                },
                "addressType": kind,
                "ports": [{"name": p.lower(), "protocol": p, "port": 8080} for p in ("TCP", "UDP")],
                "endpoints": [
                    {
                        "addresses": [place.format(PODS[name])],
                        "conditions": {"ready": name == "new"},
                        "nodeName": "node-2" if self._remote else "node-1",
                    }
                    for name in ("old", "new")
                ],
            }
            for kind, place in (("IPv4", "10.78.{}.2"), ("IPv6", "fd78:{}::2"))
        ]
        self.node.put(
            "web.yaml", {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}, *slices
        )

    def open(self, served: str, *kinds: str) -> list[Client]:
        """One of each kind of connection, from outside and from a pod; all are served by this pod."""
        outside, pod = self.node.outside, self.namespaces["client"]
        found = []
        for family in (4, 6):
            for kind in kinds or ("tcp", "udp"):
                for namespace, address, port in ((outside, NODE, NODE_PORT), (pod, VIP, PORT)):
                    found.append(Client(namespace, kind, address[family], port))
                    self._clients.append(found[-1])
                    found[-1].begin()
        assert {client.what: client.served for client in found} == {c.what: served for c in found}
        return found

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for server in self._servers:
            server.kill()
            server.communicate(timeout=PATIENCE)
        self._stack.close()
        for namespace in self.namespaces.values():
            netlink.delete_namespace(namespace)
