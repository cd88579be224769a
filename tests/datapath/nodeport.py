# SPDX-License-Identifier: Apache-2.0
"""A client, a router, a node with programs on its uplink and on its pod's device, and a remote backend.

::

    client ── router ── node ── pod
                 └──── remote

Frontends of the node, each over TCP and UDP and both families: port 30080 leads to the remote backend
(source translated), 30081 to the pod. A Service's address of its own leads nowhere: port 81 has no backend,
other ports are none of it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Self

from programs import ROOT, Loaded
from wires import TCX_EGRESS, TCX_INGRESS, Net

from netaccel.model.address import parse_address as mapped
from netaccel.records import Backend, Frontend, FrontendKey, Node

XDP = 37
OBJECTS = ROOT / "netaccel/objects"
SIZES = {"maglev": 64, "frontends4": 64, "frontends6": 64, "backends": 64, "service_counters": 64}
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
REMOTE_PORT, POD_PORT, BACKEND_PORT = 30080, 30081, 8080
FAMILIES = {False: socket.AF_INET, True: socket.AF_INET6}

CLIENT = {False: "198.51.100.7", True: "2001:db8:c::7"}
NODE = {False: "192.0.2.10", True: "2001:db8:a::10"}
REMOTE = {False: "10.9.0.2", True: "fd00:9::2"}
POD = {False: "10.1.0.2", True: "fd00:1::2"}
SERVICE = {False: "203.0.113.1", True: "2001:db8:f::1"}
NETWORKS = {
    "client": {False: "198.51.100.0/24", True: "2001:db8:c::/64"},
    "node": {False: "192.0.2.0/24", True: "2001:db8:a::/64"},
    "remote": {False: "10.9.0.0/24", True: "fd00:9::/64"},
    "pod": {False: "10.1.0.0/24", True: "fd00:1::/64"},
}
_WIRES = {
    "client": ("198.51.100.7/24", "198.51.100.1/24", "2001:db8:c::7/64", "2001:db8:c::1/64"),
    "node": ("192.0.2.10/24", "192.0.2.1/24", "2001:db8:a::10/64", "2001:db8:a::1/64"),
    "remote": ("10.9.0.2/24", "10.9.0.1/24", "fd00:9::2/64", "fd00:9::1/64"),
}


class Site:
    """All of it, for the length of the ``with``."""

    def __init__(self, *, xdp: bool) -> None:
        self.net = Net()
        self._xdp = xdp
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.net)
            self._wires()
            share: dict[str, int] = {}
            for name in ("tc_uplink", "tc_pod", "xdp_uplink", "xdp_pass"):
                loaded = stack.enter_context(Loaded(OBJECTS / f"{name}.o", share, SIZES))
                share |= loaded.maps
                setattr(self, name, loaded)
            self._fill()
            self._attach()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    tc_uplink: Loaded
    tc_pod: Loaded
    xdp_uplink: Loaded
    xdp_pass: Loaded

    def _wires(self) -> None:
        net = self.net
        net.namespace("client", "router", "node", "remote", "pod")
        net.forwarding("router", "node")
        for name, (own4, router4, own6, router6) in _WIRES.items():
            net.wire((name, "eth0"), ("router", name))
            net.address(name, "eth0", own4, own6)
            net.address("router", name, router4, router6)
            for gateway in (router4, router6):
                flag = "-6 " if ":" in gateway else ""
                net.ip(name, f"{flag}route add default via {gateway.partition('/')[0]}")
        net.wire(("node", "pod0"), ("pod", "eth0"))
        net.address("node", "pod0", "10.1.0.1/24", "fd00:1::1/64")
        net.address("pod", "eth0", "10.1.0.2/24", "fd00:1::2/64")
        net.ip("pod", "route add default via 10.1.0.1", "-6 route add default via fd00:1::1")
        for v6, (pods, service) in {
            False: ("10.1.0.0/24", SERVICE[False]),
            True: ("fd00:1::/64", SERVICE[True]),
        }.items():
            flag = "-6 " if v6 else ""
            net.ip("router", f"{flag}route add {pods} via {NODE[v6]}")
            net.ip("router", f"{flag}route add {service} via {NODE[v6]}")

    def _fill(self) -> None:
        loaded = self.tc_uplink
        c = loaded.abi.constants
        loaded.write("node", 0, Node(mapped(NODE[False]), mapped(NODE[True])))
        backend = 0
        for v6 in (False, True):
            table = "frontends6" if v6 else "frontends4"
            for proto in (TCP, UDP):
                for port, address, flags in (
                    (REMOTE_PORT, REMOTE[v6], 0),
                    (POD_PORT, POD[v6], c["BACKEND_LOCAL"]),
                ):
                    backend += 1
                    state = c["BACKEND_ACTIVE"]
                    value = Backend(mapped(address), BACKEND_PORT, proto, state, flags, 0, 0, backend, 1)
                    loaded.write("backends", backend, value)
                    loaded.write("maglev", backend, backend)
                    value = Frontend(backend, 0, c["FRONTEND_NODE_PORT"], 0, backend, 1, backend, 1, 0)
                    loaded.write(table, FrontendKey(mapped(NODE[v6]), port, proto), value)
                key = FrontendKey(mapped(SERVICE[v6]), 81, proto)
                loaded.write(table, key, Frontend(40, 0, c["FRONTEND_CLUSTER_IP"], 0, 0, 0, 0, 0, 0))
            key = FrontendKey(mapped(SERVICE[v6]), 0, 0)
            loaded.write(table, key, Frontend(40, 0, c["FRONTEND_WILDCARD"], 0, 0, 0, 0, 0, 0))

    def _attach(self) -> None:
        net = self.net
        # The node sends as over a real wire: checksums that its programs left pending are completed, and
        # what they broke shows.
        for device in ("eth0", "pod0"):
            net.offloads_off("node", device, "tx")
        net.attach("node", "eth0", TCX_INGRESS, self.tc_uplink.programs["tc_uplink_ingress"])
        net.attach("node", "eth0", TCX_EGRESS, self.tc_uplink.programs["tc_uplink_egress"])
        net.attach("node", "pod0", TCX_INGRESS, self.tc_pod.programs["tc_pod_ingress"])
        net.attach("node", "pod0", TCX_EGRESS, self.tc_pod.programs["tc_pod_egress"])
        if self._xdp:  # the far end of a veth has to help (see README of the lab): XDP_TX, checksums
            net.offloads_off("router", "node", "tx")
            net.attach("router", "node", XDP, self.xdp_pass.programs["xdp_pass"])
            net.attach("node", "eth0", XDP, self.xdp_uplink.programs["xdp_uplink"])

    # ------------------------------------------------------------- what tests do with it

    def narrow(self, where: str, towards: str, mtu: int) -> None:
        """Packets through namespace ``where`` towards a network must not be larger than ``mtu``."""
        for v6 in (False, True):
            flag, metric = ("-6 ", " metric 256") if v6 else ("", "")  # that of the device's own route
            if where == "router" or towards == "pod":
                hop = f"dev {'pod0' if towards == 'pod' else towards}{metric}"
            else:
                hop = f"via {_WIRES[where][3 if v6 else 1].partition('/')[0]} dev eth0"
            self.net.ip(where, f"{flag}route replace {NETWORKS[towards][v6]} {hop} mtu lock {mtu}")

    @contextmanager
    def serving(
        self, name: str, v6: bool, kind: int, handle: Callable[[socket.socket], None]
    ) -> Iterator[None]:
        """A server on the backends' port of a namespace: ``handle`` in a thread; it has to end first."""
        with self.net.socket(name, FAMILIES[v6], kind) as sock:
            if v6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", BACKEND_PORT))
            if kind == socket.SOCK_STREAM:
                sock.listen()
            thread = threading.Thread(target=handle, args=(sock,), daemon=True)
            thread.start()
            yield
            thread.join(60)
            assert not thread.is_alive()

    def client(self, v6: bool, kind: int, address: str, port: int, name: str = "client") -> socket.socket:
        """A connected socket of a namespace."""
        sock = self.net.socket(name, FAMILIES[v6], kind)
        sock.connect((address, port))
        return sock

    def no_checksum_errors(self) -> bool:
        names = ("TcpInCsumErrors", "UdpInCsumErrors", "IcmpInCsumErrors", "Icmp6InCsumErrors")
        names += ("Udp6InCsumErrors", "IpReasmFails", "Ip6ReasmFails")
        return not any(self.net.snmp(n, c) for n in ("client", "remote", "pod", "node") for c in names)
