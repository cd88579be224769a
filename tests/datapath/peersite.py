# SPDX-License-Identifier: Apache-2.0
"""A node with two pods and programs at their devices: routed as most CNIs do it, or on a bridge.

::

    a ── pod-a  node  pod-b ── b          the node routes, or br0 switches

The Service's address leads, on port 80 of TCP and UDP, to b. What netfilter sees of packets between the pods
is counted (:meth:`PeerSite.stack`).
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import ExitStack
from typing import Any, Self

from policytables import SUBJECT, PolicyTables
from programs import ROOT, SMALL, Loaded
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest
from scapy.layers.l2 import Dot1Q, Ether
from wires import TCX_EGRESS, TCX_INGRESS, Net

from netaccel.datapath import libbpf
from netaccel.datapath.bpfmap import KernelMap
from netaccel.datapath.peers import hints
from netaccel.datapath.ringbuf import RingBuffer
from netaccel.model.address import parse_address as mapped
from netaccel.records import Backend, Frontend, FrontendKey, PodPeer, PodPeerKey

OBJECTS = ROOT / "netaccel/objects"
SIZES = SMALL | {"flow_events": 65536, "policy_rows": 8192}
FAMILIES = {False: socket.AF_INET, True: socket.AF_INET6}
A = {False: "10.1.1.2", True: "fd00:1::2"}
B = {False: "10.1.2.2", True: "fd00:2::2"}
SERVICE = {False: "203.0.113.1", True: "2001:db8:f::1"}
PORT, SERVICE_PORT = 8080, 80
_COUNT = """
table inet seen {
  counter between { }
  chain forward {
    type filter hook forward priority 0;
    meta l4proto { tcp, udp } counter name between
    icmp type { echo-request, echo-reply } counter name between
    icmpv6 type { echo-request, echo-reply } counter name between
  }
}
"""


class PeerSite:
    """All of it, for the length of the ``with``; at first policy allows everything, and peers are on."""

    def __init__(self, *, bridged: bool = False) -> None:
        self.net = Net()
        self.bridged = bridged
        self._open: list[socket.socket] = []
        self._stack = ExitStack()

    tc_pod: Loaded
    tc_peer: Loaded

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.net)
            self._wires()
            self.tc_pod = stack.enter_context(Loaded(OBJECTS / "tc_pod.o", None, SIZES))
            self.tc_peer = stack.enter_context(Loaded(OBJECTS / "tc_peer.o", self.tc_pod.maps, SIZES))
            fd = self.tc_peer.programs["tc_pod_peer"]
            libbpf.map_update(self.tc_pod.maps["peer_program"], bytes(4), fd.to_bytes(4, "little"))
            self._ring = RingBuffer(
                stack.enter_context(KernelMap(os.dup(self.tc_pod.maps["flow_events"]), "flow_events"))
            )
            stack.callback(self._ring.close)
            self.index = {pod: self.net.ifindex("node", f"pod-{pod}") for pod in "ab"}
            self._policies = {
                (pod, v6): PolicyTables(
                    self.tc_pod,
                    self.index[pod],
                    {"a": A[v6], "b": B[v6]},
                    subject=SUBJECT + 1 + 2 * number + v6,
                )
                for number, pod in enumerate("ab")
                for v6 in (False, True)
            }
            self._fill()
            self.peers(on=True)
            for pod in "ab":
                for hook, program in ((TCX_INGRESS, "tc_pod_ingress"), (TCX_EGRESS, "tc_pod_egress")):
                    self.net.attach("node", f"pod-{pod}", hook, self.tc_pod.programs[program])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _wires(self) -> None:
        net = self.net
        net.namespace("node", "a", "b")
        net.forwarding("node")
        for pod, own in (("a", A), ("b", B)):
            net.wire(("node", f"pod-{pod}"), (pod, "eth0"))
            net.offloads_off("node", f"pod-{pod}", "tx")  # what programs break of checksums shows
            net.address(pod, "eth0", f"{own[False]}/16", f"{own[True]}/16")
            if self.bridged:
                continue
            for flag, address, gateway in (("", own[False], "169.254.1.1"), ("-6 ", own[True], "fe80::1")):
                net.ip(pod, f"{flag}addr flush dev eth0 scope global")
                length = 128 if flag else 32
                net.ip(pod, f"{flag}addr add {address}/{length} dev eth0" + (" nodad" if flag else ""))
                net.ip(
                    "node", f"{flag}addr add {gateway}/{length} dev pod-{pod}" + (" nodad" if flag else "")
                )
                net.ip(
                    pod,
                    f"{flag}route add {gateway} dev eth0",
                    f"{flag}route add default via {gateway} dev eth0",
                )
                net.ip("node", f"{flag}route add {address} dev pod-{pod}")
        if self.bridged:
            net.ip("node", "link add br0 type bridge forward_delay 0 mcast_snooping 0", "link set br0 up")
            net.ip("node", "link set pod-a master br0", "link set pod-b master br0")
            net.address("node", "br0", "10.1.0.1/16", "fd00::1/16")
            for pod in "ab":
                net.ip(pod, "route add default via 10.1.0.1", "-6 route add default via fd00::1")
        net.execute("node", "nft", _COUNT)

    def _link(self, name: str, device: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.net.ip(name, f"-j link show {device}"))[0]
        return found

    def peers(self, *, on: bool) -> None:
        """Have both pods in ``pod_peers``, or none."""
        addresses = [own[v6] for own in (A, B) for v6 in (False, True)]
        for address in addresses:
            if on:
                self._write_peer(address, self._peer("a" if address in A.values() else "b"))
            else:
                self._remove_peer(address)
        self.tc_pod.write(
            "peer_hints", 0, hints(map(mapped, addresses) if on else (), self.tc_pod.abi.constants)
        )

    def leave_out(self, pod: str, v6: bool) -> None:
        """No entry for one pod; until peers() again."""
        self._remove_peer((A if pod == "a" else B)[v6])

    def misplace(self, pod: str, v6: bool, ifindex: int) -> None:
        """An entry with another device; until peers() again."""
        self._write_peer((A if pod == "a" else B)[v6], self._peer(pod)._replace(ifindex=ifindex))

    def _peer(self, pod: str) -> PodPeer:
        near = self._link("node", "br0" if self.bridged else f"pod-{pod}")
        bridge = self.net.ifindex("node", "br0") if self.bridged else 0
        return PodPeer(self.index[pod], bridge, _mac(self._link(pod, "eth0")), _mac(near))

    def _write_peer(self, address: str, value: PodPeer) -> None:
        self.tc_pod.write("pod_peers", PodPeerKey(mapped(address)), value)

    def _remove_peer(self, address: str) -> None:
        key = self.tc_pod.abi.maps["pod_peers"].key.pack(PodPeerKey(mapped(address)))
        libbpf.map_delete(self.tc_pod.maps["pod_peers"], key)

    def _fill(self) -> None:
        loaded, c = self.tc_pod, self.tc_pod.abi.constants
        number = 0
        for v6 in (False, True):
            for proto in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
                number += 1
                local = c["BACKEND_LOCAL"]
                value = Backend(mapped(B[v6]), PORT, proto, c["BACKEND_ACTIVE"], local, 0, 0, number, 1)
                loaded.write("backends", number, value)
                loaded.write("maglev", number, number)
                front = Frontend(number, 0, c["FRONTEND_CLUSTER_IP"], 0, number, 1, number, 1, 0)
                table = "frontends6" if v6 else "frontends4"
                loaded.write(table, FrontendKey(mapped(SERVICE[v6]), SERVICE_PORT, proto), front)
        for v6 in (False, True):
            self.policy(v6)

    # ------------------------------------------------------------- what tests do with it

    def policy(self, v6: bool, **described: Any) -> None:
        """Policies of one family: ``a`` and ``b`` as policytables.py says; the other pod has an identity."""
        for pod in "ab":
            other = "b" if pod == "a" else "a"
            number = {"a": 300, "b": 301}
            said = {"pod": pod, "identities": {other: f"{number[other]} POD"}, **described.get(pod, {})}
            self._policies[pod, v6].write(said)

    def settle(self) -> None:
        """Forget flows, events and sockets of before."""
        for sock in self._open:
            sock.close()
        self._open.clear()
        for table in ("policy_flows4", "policy_flows6", "drop_pairs"):
            for key in self.tc_pod.keys(table):
                libbpf.map_delete(self.tc_pod.maps[table], self.tc_pod.abi.maps[table].key.pack(key))
        self.events()

    def stack(self) -> int:
        """Packets between the pods that netfilter has seen, as it forwards."""
        told = self.net.execute("node", "nft", "-j", "list", "counter", "inet", "seen", "between")
        found: int = json.loads(told)["nftables"][1]["counter"]["packets"]
        return found

    def peer(self) -> int:
        """Packets that went past the stack."""
        return self.tc_pod.counter("COUNTER_PEER_PACKETS")

    def events(self) -> list[Any]:
        """Records of flow_events since the last time."""
        codec = self.tc_pod.abi.codec("flow_event")
        return [codec.unpack(bytes(sample)) for sample in self._ring.read()]

    def flows(self, v6: bool) -> dict[tuple[str, int, int], Any]:
        """Entries of policy_flows by pod, its port and the peer's."""
        table = "policy_flows6" if v6 else "policy_flows4"
        names = {index: pod for pod, index in self.index.items()}
        return {
            (names[key.ifindex], key.pod_port, key.peer_port): self.tc_pod.read(table, key)
            for key in self.tc_pod.keys(table)
        }

    def server(self, v6: bool, kind: int, pod: str = "b") -> socket.socket:
        """A socket on the port of a pod; it listens where it can."""
        sock = self._socket(pod, v6, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(((A if pod == "a" else B)[v6], PORT))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        return sock

    def client(self, v6: bool, kind: int, address: str, port: int = PORT) -> socket.socket:
        """A socket of pod a, connected."""
        sock = self._socket("a", v6, kind)
        sock.connect((address, port))
        return sock

    def ping(self, v6: bool, address: str, number: int) -> None:
        """Echo requests of pod a, each answered."""
        proto = socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP
        made = self.net.inside("a", lambda: socket.socket(FAMILIES[v6], socket.SOCK_RAW, proto))
        with made as sock:
            sock.settimeout(5)
            for sequence in range(number):
                request = bytes(ICMPv6EchoRequest(id=7, seq=sequence) if v6 else ICMP(id=7, seq=sequence))
                sock.sendto(request, (address, 0))
                while True:
                    answer = sock.recv(100)[0 if v6 else 20 :]
                    if answer[0] == (129 if v6 else 0) and answer[4:8] == request[4:8]:
                        break

    def send_tagged(self) -> None:
        """A datagram of pod a to pod b in a frame with a VLAN tag."""
        to = _mac(self._link("b", "eth0"))
        frame = Ether(dst=to, src=_mac(self._link("a", "eth0"))) / Dot1Q(vlan=7)
        frame /= IP(src=A[False], dst=B[False]) / UDP(sport=4000, dport=PORT) / b"x"
        made = self.net.inside("a", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        with made as sock:
            sock.bind(("eth0", 0))
            sock.send(bytes(frame))

    def received(self, pod: str) -> int:
        """Packets that have come to a pod's device."""
        told = json.loads(self.net.ip(pod, "-s -j link show eth0"))[0]
        return int(told["stats64"]["rx"]["packets"])

    def _socket(self, pod: str, v6: bool, kind: int) -> socket.socket:
        sock = self.net.socket(pod, FAMILIES[v6], kind)
        self._open.append(sock)
        return sock

    def no_checksum_errors(self) -> bool:
        names = ("TcpInCsumErrors", "UdpInCsumErrors", "IcmpInCsumErrors", "Icmp6InCsumErrors")
        return not any(self.net.snmp(n, c) for n in ("a", "b") for c in (*names, "Udp6InCsumErrors"))


def _mac(link: dict[str, Any]) -> bytes:
    return bytes.fromhex(str(link["address"]).replace(":", ""))
