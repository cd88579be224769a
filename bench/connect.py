# SPDX-License-Identifier: Apache-2.0
"""connect() through socket load balancing beside connect() to the backend itself, in turn, one process.

A node's process connects over a veth to a server in another namespace, and resets the connection. The two
targets take turns in blocks; the ratio is the median of the ratios of neighbouring blocks.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.results import Result
from netaccel.datapath import libbpf, netlink
from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.maps import KernelMaps
from netaccel.datapath.mounts import find_cgroup
from netaccel.model.address import parse_address
from netaccel.records import Backend, Frontend, FrontendKey

SIZES = (10, 1_000, 10_000)
BLOCKS = 60
CONNECTS = 250
TCP = 6
ADDRESSES = {socket.AF_INET: ("172.31.0.1", "172.31.0.2"), socket.AF_INET6: ("fd00:31::1", "fd00:31::2")}
PORT = 8080


def run() -> list[Result]:
    """One row a size and family, and how flat it is."""
    results: list[Result] = []
    with ground() as (cgroup, maps, constants):
        for family in ADDRESSES:
            medians = []
            for size in SIZES:
                fill(maps, constants, family, size)
                direct, through, ratio = measure(cgroup, family, size)
                medians.append(ratio)
                name = f"connect() IPv{4 if family == socket.AF_INET else 6}, {size:,} Services"
                results.append(Result(name, ratio * direct, "µs", direct, "direct", 1.03))
                del through
            name = f"connect() IPv{4 if family == socket.AF_INET else 6}, ratio at {SIZES[-1]:,} Services"
            results.append(Result(name, medians[-1], "", medians[0], f"at {SIZES[0]}", 1.03))
    return results


@contextmanager
def ground() -> Iterator[tuple[Path, KernelMaps, dict[str, int]]]:
    """A cgroup with the socket programs, and two namespaces with a wire; the thread is in the first."""
    names = [f"netaccel-bench-{os.getpid()}-{end}" for end in ("client", "server")]
    with ExitStack() as stack:
        for name in names:
            netlink.create_namespace(name)
            stack.callback(netlink.delete_namespace, name)
        with netlink.inside_namespace(names[0]):
            netlink.add_veth("eth0", "eth0", names[1])
        for end, name in enumerate(names):
            with netlink.inside_namespace(name):
                netlink.set_up("eth0")
                for family, pair in ADDRESSES.items():
                    netlink.add_address("eth0", f"{pair[end]}/{24 if family == socket.AF_INET else 64}")
        stack.enter_context(server(names[1]))
        cgroup = find_cgroup(None) / names[0]
        cgroup.mkdir()
        stack.callback(remove_cgroup, cgroup)
        programs = stack.enter_context(BpfObject.named("sock_cgroup"))
        programs.load()
        attach(programs, cgroup, stack)
        maps = KernelMaps({n: programs.map(n) for n in programs.map_definitions()}, programs.abi)
        stack.callback(maps.close)
        stack.enter_context(netlink.inside_namespace(names[0]))
        yield cgroup, maps, dict(programs.abi.constants)


def attach(programs: BpfObject, cgroup: Path, stack: ExitStack) -> None:
    """Every program of the object on the cgroup, until the stack unwinds."""
    folder = os.open(cgroup, os.O_RDONLY)
    stack.callback(os.close, folder)
    for name in programs.program_names():
        link = libbpf.link_create(programs.program(name).fd, folder, programs.attach_type(name))
        stack.callback(os.close, link)


def remove_cgroup(cgroup: Path) -> None:
    """Remove the cgroup once its last process is gone."""
    for _ in range(100):
        if not (cgroup / "cgroup.procs").read_text():
            break
        time.sleep(0.01)
    cgroup.rmdir()


def fill(maps: KernelMaps, constants: dict[str, int], family: int, size: int) -> None:
    """``size`` Services; each has the one backend."""
    state, kind = constants["BACKEND_ACTIVE"], constants["FRONTEND_CLUSTER_IP"]
    target = parse_address(ADDRESSES[socket.AddressFamily(family)][1])
    ids = range(1, size + 1)
    maps.write("backends", [(i, Backend(target, PORT, TCP, state, 0, 0, 0, i, 1)) for i in ids])
    maps.write("maglev", [(i, i) for i in ids])
    keys = (FrontendKey(parse_address(vip(family, i)), 80, TCP) for i in ids)
    maps.write(
        "frontends", [(k, Frontend(i, 0, kind, 0, i, 1, i, 1, 0)) for i, k in zip(ids, keys, strict=True)]
    )


def vip(family: int, number: int) -> str:
    """The address of a Service."""
    return f"10.96.{number >> 8}.{number & 255}" if family == socket.AF_INET else f"fd00:96::{number:x}"


@contextmanager
def server(namespace: str) -> Iterator[None]:
    """A process that accepts and closes, for both families."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=serve, args=(namespace, ready), daemon=True)
    process.start()
    ready.wait(10)
    try:
        yield
    finally:
        process.kill()
        process.join()


def serve(namespace: str, ready: multiprocessing.synchronize.Event) -> None:
    """The server's process."""
    with netlink.inside_namespace(namespace):
        listener = socket.create_server(
            ("::", PORT), family=socket.AF_INET6, backlog=4096, dualstack_ipv6=True
        )
    ready.set()
    while True:
        listener.accept()[0].close()


def measure(cgroup: Path, family: int, size: int) -> tuple[float, float, float]:
    """Median microseconds direct and through Services, and the median ratio of neighbouring blocks."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=client, args=(cgroup, family, size, theirs))
    process.start()
    rows: list[tuple[float, float]] = ours.recv()
    process.join()
    direct, through = (statistics.median(column) for column in zip(*rows, strict=True))
    return direct, through, statistics.median(b / a for a, b in rows)


def client(cgroup: Path, family: int, size: int, out: multiprocessing.connection.Connection) -> None:
    """The client's process, in the cgroup. Blocks alternate which target goes first."""
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))
    backend = (ADDRESSES[socket.AddressFamily(family)][1], PORT)
    services = itertools.cycle([(vip(family, i), 80) for i in range(1, size + 1)])
    direct: Callable[[], tuple[str, int]] = lambda: backend  # noqa: E731
    through = services.__next__
    rows = []
    for number in range(BLOCKS):
        if number % 2:
            b = block(family, through)
            rows.append((block(family, direct), b))
        else:
            rows.append((block(family, direct), block(family, through)))
    out.send(rows[2:])


def block(family: int, target: Callable[[], tuple[str, int]]) -> float:
    """Microseconds a connect()."""
    linger = struct.pack("ii", 1, 0)
    spent = 0
    for _ in range(CONNECTS):
        address = target()
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        begin = time.perf_counter_ns()
        sock.connect(address)
        spent += time.perf_counter_ns() - begin
        sock.close()
    return spent / CONNECTS / 1000
