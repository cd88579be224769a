# SPDX-License-Identifier: Apache-2.0
"""Packets and requests a second through a NodePort of a node without backend, by XDP, by TC, by nftables.

The same lab each time (two nodes, a client behind a router), with netaccel or with the kernel's own DNAT and
masquerade. Packets: a generator (bench/bpf/generator.bpf.c) offers frames on the wire of node-1, which sends
them on towards node-2; they are counted where they arrive on the wire again, so that the node under test
alone is measured. Requests: wrk at the outside client, nginx in a pod of node-2.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from bench.objects import compiled
from bench.results import Result
from netaccel.datapath import netlink
from netaccel.datapath.attach import Attacher, xdp
from netaccel.datapath.instance import Instance
from netaccel.lab import lifecycle
from netaccel.lab.handle import Lab, wait_for
from netaccel.lab.plan import CLIENT4
from netaccel.lab.state import State

SECONDS = 2.0
ROUNDS = 5
FLOWS = 1024
TCP_PORT, UDP_PORT = 30080, 30007
LIVE_FRAMES = 2
ROWS = (
    ("packets", f"UDP through a NodePort, {FLOWS:,} flows", "packets/s"),
    ("requests", "HTTP through a NodePort, kept connections", "requests/s"),
    ("connections", "HTTP through a NodePort, a connection each", "requests/s"),
)
WRK = ("wrk", "-t2", "-c32", "-d4s")
WRK_CLOSE = (*WRK, "-H", "Connection: close")


def run() -> list[Result]:
    """Rows for packets, requests over kept connections, and a connection a request."""
    if missing := [tool for tool in ("nft", "wrk", "nginx") if not shutil.which(tool)]:
        raise SystemExit(f"bench nodeport needs {', '.join(missing)}: scripts/setup bench")
    found = {mode: measure(mode) for mode in ("nftables", "tc", "auto")}
    return [
        Result(
            f"{title}, {path}",
            found[mode][what],
            unit,
            found["nftables"][what],
            "nftables",
            budget=1.0 if what == "packets" else None,  # requests are the client's and the server's cost
            at_least=True,
        )
        for what, title, unit in ROWS
        for mode, path in (("auto", "xdp"), ("tc", "tc"))
    ]


def measure(mode: str) -> dict[str, float]:
    """All three figures for one way of forwarding."""
    with laboratory(mode) as lab:
        if mode == "nftables":
            masquerade(lab)
        url = f"http://{lab.plan.nodes[0].address4}:{TCP_PORT}/"
        wait_for(lambda: lab.curl("client", url), f"{url} by {mode}")
        return {
            "requests": requests(lab, WRK, url),
            "connections": requests(lab, WRK_CLOSE, url),
            "packets": packets(lab),
        }


@contextmanager
def laboratory(mode: str) -> Iterator[Lab]:
    """A lab of two nodes; node-2 has the pod."""
    name = f"bench{os.getpid()}"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "bench.yaml").write_text(yaml.safe_dump_all(objects(folder)))
        state = State(
            name, 2, str(folder), uplink_mode="tc" if mode == "tc" else "auto", agents=mode != "nftables"
        )
        stack.callback(lifecycle.down, name, lambda _: None)
        lifecycle.up(state, lambda _: None)
        yield Lab(name)


def objects(folder: Path) -> list[dict[str, object]]:
    """A pod with nginx on node-2, and its Service."""
    (folder / "nginx.conf").write_text(
        "daemon off; master_process off; worker_processes 1; error_log stderr crit;"
        f" pid {folder}/nginx.pid; events {{ worker_connections 4096; }}"
        " http { access_log off; keepalive_requests 1000000; server { listen 8080; return 200 'ok'; } }"
    )
    command = ["nginx", "-c", f"{folder}/nginx.conf"]
    pod = {"containers": [{"name": "nginx", "image": "nginx", "command": command}], "nodeName": "node-2"}
    ports = [
        {"name": "http", "port": 80, "targetPort": 8080, "nodePort": TCP_PORT},
        {"name": "udp", "port": 7, "targetPort": 8007, "nodePort": UDP_PORT, "protocol": "UDP"},
    ]
    spec = {"type": "NodePort", "clusterIP": "10.96.0.10", "selector": {"app": "web"}, "ports": ports}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": spec,
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
            "spec": pod,
        },
    ]


def masquerade(lab: Lab) -> None:
    """What kube-proxy's nftables mode comes to for one Service with one endpoint."""
    pod = lab.status()["pods"][0]["addresses"][0]
    rules = f"""
        table ip bench {{
            chain prerouting {{
                type nat hook prerouting priority dstnat;
                tcp dport {TCP_PORT} dnat to {pod}:8080
                udp dport {UDP_PORT} dnat to {pod}:8007
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                ip daddr {pod} masquerade
            }}
        }}"""
    done = lab.run("node-1", "nft", "-f", "-", stdin=rules)
    if done.returncode:
        raise SystemExit(f"bench nodeport: nft: {done.stderr.strip()}")


def requests(lab: Lab, command: tuple[str, ...], url: str) -> float:
    """Median requests a second."""
    rates = []
    for _ in range(3):
        out = lab.run("client", *command, url, timeout=60).stdout
        rates.append(float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]))  # type: ignore[index]
    return statistics.median(rates)


def packets(lab: Lab) -> float:
    """Median packets a second that come back on the wire of node-1."""
    node = lab.plan.nodes[0]
    with ExitStack() as stack:
        stack.enter_context(netlink.inside_namespace(node.namespace))
        mac = netlink.device("eth0").mac
        netlink.set_offload("eth0", "gro", on=True)  # a veth takes redirected frames with it alone
        stack.enter_context(netlink.inside_namespace(lab.plan.switch))
        wire = netlink.device(node.name)
        program = stack.enter_context(compiled("generator"))
        program.set_constant("generator_ifindex", wire.ifindex)
        program.set_constant("generator_port_mask", FLOWS - 1)
        program.load()
        # In place of the program that lets all pass.
        Attacher(Instance(lab.paths.far_end)).attach(xdp(node.name, wire.ifindex), program.program("sink"))
        counted = stack.enter_context(program.map("sink_packets"))
        link_layer = Ether(dst=mac, src=wire.mac)
        frame = bytes(
            link_layer / IP(src=CLIENT4, dst=node.address4) / UDP(sport=1024, dport=UDP_PORT, chksum=0)
        )
        frame = frame.ljust(60, b"\0")
        program.map(".data.generator").update(struct.pack("=I", 0), frame[:48])
        generate = program.program("generate")
        rates = []
        for _ in range(ROUNDS):
            before, begin = total(counted.lookup(struct.pack("=I", 0))), time.monotonic()
            while (spent := time.monotonic() - begin) < SECONDS:
                generate.test_run(frame, repeat=1 << 16, flags=LIVE_FRAMES, batch=64, room=0)
            rates.append((total(counted.lookup(struct.pack("=I", 0))) - before) / spent)
        return statistics.median(rates)


def total(value: bytes | None) -> int:
    """Sum of a per-CPU counter."""
    raw = value or b""
    return sum(struct.unpack(f"={len(raw) // 8}Q", raw))
