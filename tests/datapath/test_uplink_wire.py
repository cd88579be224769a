# SPDX-License-Identifier: Apache-2.0
"""Downloads over real devices: a client, a router, two nodes with a pod each; the client knows node 1 alone.

The router's ends complete checksums before they send, so that what a node gets is as from a wire.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from balance import Balance
from programs import ROOT, Loaded
from wires import TCX_EGRESS, TCX_INGRESS, Net, attach_tc

from netaccel.datapath import libbpf

pytestmark = pytest.mark.root

XDP = 37
OBJECTS = ROOT / "netaccel/objects"
SMALL = dict.fromkeys(
    ("maglev", "frontends4", "frontends6", "backends", "service_counters", "flows4", "flows6", "services"),
    256,
)
SHARED = {"connects", "flows4", "flows6"}
MEGABYTES = 50
BLOCK = hashlib.sha256(b"netaccel").digest() * 2048
CHECKSUM_ERRORS = ("TcpInCsumErrors", "UdpInCsumErrors", "Udp6InCsumErrors", "IpInHdrErrors")

SERVER = """
import hashlib, http.server, socket
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *a): pass
    def do_GET(self):
        block = hashlib.sha256(b"netaccel").digest() * 2048
        self.send_response(200)
        self.send_header("X-Client", self.client_address[0])
        self.end_headers()
        for _ in range(int(self.path[1:]) * 16):
            self.wfile.write(block)
server = Server(("::", 8080), Handler)
print("ready", flush=True)
server.serve_forever()
"""

DESCRIBED = {
    "node": ["10.0.1.2", "fd00:1::2"],
    "services": [
        {"frontend": "10.0.1.2:30080", "backends": ["10.244.2.2:8080"]},
        {"frontend": "[fd00:1::2]:30080", "backends": ["[fd00:f4:2::2]:8080"]},
        {"frontend": "10.0.1.2:30081", "backends": ["10.244.1.2:8080 local"], "flags": ["WIRE_LOCAL"]},
        {"frontend": "[fd00:1::2]:30081", "backends": ["[fd00:f4:1::2]:8080 local"], "flags": ["WIRE_LOCAL"]},
    ],
}
REMOTE, LOCAL = 30080, 30081


def lay_out(net: Net) -> None:
    """client - router - node n - pod n, n in 1, 2; both families."""
    net.namespace("client", "router", "node1", "node2", "pod1", "pod2")
    net.forwarding("router", "node1", "node2")
    net.wire(("client", "eth0"), ("router", "client"))
    net.address("client", "eth0", "198.51.100.2/24", "2001:db8::2/64")
    net.address("router", "client", "198.51.100.1/24", "2001:db8::1/64")
    net.ip("client", "route add default via 198.51.100.1", "-6 route add default via 2001:db8::1")
    for n in "12":
        net.wire((f"node{n}", "eth0"), ("router", f"node{n}"))
        net.address(f"node{n}", "eth0", f"10.0.{n}.2/24", f"fd00:{n}::2/64")
        net.address("router", f"node{n}", f"10.0.{n}.1/24", f"fd00:{n}::1/64")
        net.ip(f"node{n}", f"route add default via 10.0.{n}.1", f"-6 route add default via fd00:{n}::1")
        net.wire((f"node{n}", "pod"), (f"pod{n}", "eth0"))
        net.address(f"node{n}", "pod", f"10.244.{n}.1/24", f"fd00:f4:{n}::1/64")
        net.address(f"pod{n}", "eth0", f"10.244.{n}.2/24", f"fd00:f4:{n}::2/64")
        net.ip(f"pod{n}", f"route add default via 10.244.{n}.1", f"-6 route add default via fd00:f4:{n}::1")
        net.ip("router", f"route add 10.244.{n}.0/24 via 10.0.{n}.2")
        net.ip("router", f"-6 route add fd00:f4:{n}::/64 via fd00:{n}::2")
    for device in ("client", "node1", "node2"):
        net.execute("router", "ethtool", "-K", device, "tx", "off")


@contextlib.contextmanager
def serving(net: Net, *pods: str) -> Iterator[None]:
    """An HTTP server in each pod: GET /N answers with N megabytes."""
    servers = []
    try:
        for pod in pods:
            command = ["ip", "netns", "exec", net._full(pod), sys.executable, "-c", SERVER]
            server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            servers.append(server)
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
        yield
    finally:
        for server in servers:
            server.kill()
            server.communicate()


class Node1:
    """The programs of node 1 and the maps that they share."""

    def __init__(self, stack: ExitStack) -> None:
        self.xdp = stack.enter_context(Loaded(OBJECTS / "xdp_uplink.o", sizes=SMALL))
        shared = {n: fd for n, fd in self.xdp.maps.items() if not n.startswith(".")}
        self.tc = stack.enter_context(Loaded(OBJECTS / "tc_uplink.o", share=shared, sizes=SMALL))
        self.passing = stack.enter_context(Loaded(OBJECTS / "xdp_pass.o"))
        Balance(self.xdp, DESCRIBED)

    def counted(self, service: int) -> dict[str, int]:
        values = self.xdp.read("service_counters", service)
        return {f: sum(getattr(v, f) for v in values) for f in values[0]._fields}


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with Net() as made:
        lay_out(made)
        with serving(made, "pod1", "pod2"):
            yield made


@pytest.fixture(params=["xdp", "tc"])
def node(request: pytest.FixtureRequest, net: Net) -> Iterator[tuple[str, Node1]]:
    """Node 1 with XDP and TC on its uplink, or with TC alone."""
    with ExitStack() as stack:
        loaded = Node1(stack)

        def attach(name: str, device: str, hook: int, fd: int) -> None:
            if hook == XDP:
                link = net.inside(name, lambda: libbpf.link_create(fd, socket.if_nametoindex(device), hook))
                stack.callback(os.close, link)
            else:
                stack.callback(net.inside, name, net.inside(name, lambda: attach_tc(device, hook, fd)))

        if request.param == "xdp":
            attach("router", "node1", XDP, loaded.passing.programs["xdp_pass"])
            attach("node1", "eth0", XDP, loaded.xdp.programs["xdp_uplink"])
        attach("node1", "eth0", TCX_INGRESS, loaded.tc.programs["tc_uplink_ingress"])
        attach("node1", "eth0", TCX_EGRESS, loaded.tc.programs["tc_uplink_egress"])
        yield request.param, loaded


def download(net: Net, url: str) -> tuple[str, str]:
    """SHA-256 of what came, and the client's address as the server saw it."""
    command = f"curl -gsS --max-time 120 -D /dev/stderr {url} | sha256sum"
    done = subprocess.run(
        ["ip", "netns", "exec", net._full("client"), "sh", "-c", command],
        capture_output=True,
        text=True,
        check=True,
    )
    seen = [line.split()[1] for line in done.stderr.splitlines() if line.lower().startswith("x-client:")]
    assert seen, done.stderr
    return done.stdout.split()[0], seen[0]


def checksum_errors(net: Net) -> list[int]:
    return [net.snmp(ns, c) for ns in ("client", "node1", "node2", "pod1", "pod2") for c in CHECKSUM_ERRORS]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("port", [REMOTE, LOCAL])
def test_a_download_through_a_node_port_arrives_whole(
    net: Net, node: tuple[str, Node1], family: int, port: int
) -> None:
    mode, loaded = node
    before = checksum_errors(net)
    host = "10.0.1.2" if family == 4 else "[fd00:1::2]"
    digest, seen = download(net, f"http://{host}:{port}/{MEGABYTES}")

    assert digest == hashlib.sha256(BLOCK * 16 * MEGABYTES).hexdigest()
    assert checksum_errors(net) == before
    client = {4: "::ffff:198.51.100.2", 6: "2001:db8::2"}
    self = {4: "::ffff:10.0.1.2", 6: "fd00:1::2"}
    assert seen == (client if port == LOCAL else self)[family]
    counted = loaded.counted((1 if port == REMOTE else 3) + (family == 6))
    replies = "tc" if port == LOCAL else mode
    assert counted[f"{mode}_request_packets"] > 100
    assert counted[f"{replies}_reply_bytes"] > MEGABYTES << 20
