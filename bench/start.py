# SPDX-License-Identifier: Apache-2.0
"""A real agent in a namespace of its own: how soon it attaches and is ready, what it costs while idle.

Times are from the start of the process (interpreter and imports included) to the first pinned link, and to
the agent's own line. A restart finds everything pinned. Memory and idle CPU are those of an agent that was
told 50,000 endpoints and 10,000 pods.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench import world
from bench.results import Result
from netaccel.datapath import libbpf, netlink
from netaccel.datapath.mounts import find_cgroup

ROUNDS = 5
IDLE = 30.0
PATIENCE = 120.0
TICKS = os.sysconf("SC_CLK_TCK")


def run() -> list[Result]:
    """Every row of the part."""
    return [*starts(), *large()]


class Ground(NamedTuple):
    """Where an agent runs."""

    namespace: str
    bpffs: Path
    cgroup: Path
    manifests: Path


@contextmanager
def ground() -> Iterator[Ground]:
    """A namespace with an uplink, a cgroup, a bpf file system, an empty folder of manifests."""
    name = f"netaccel-bench-{os.getpid()}"
    with ExitStack() as stack:
        manifests = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        netlink.create_namespace(name)
        stack.callback(netlink.delete_namespace, name)
        with netlink.inside_namespace(name):
            netlink.add_veth("eth0", "wire")
            netlink.set_up("eth0")
            netlink.set_up("wire")
            netlink.add_address("eth0", "172.30.0.11/24")
            netlink.add_address("eth0", "fd00:30::11/64")
            netlink.add_route("0.0.0.0/0", "172.30.0.1")
        bpffs, cgroup = Path("/run") / name, find_cgroup(None) / name
        for folder in (bpffs, cgroup):
            folder.mkdir()
            stack.callback(folder.rmdir)
        libbpf.mount("bpf", str(bpffs), "bpf")
        stack.callback(libbpf.unmount, str(bpffs))
        found = Ground(name, bpffs, cgroup, manifests)
        stack.callback(lambda: netaccel(found, "detach").wait(PATIENCE))
        yield found


def netaccel(where: Ground, *arguments: str) -> subprocess.Popen[str]:
    """Start a netaccel command in the namespace."""
    settings = {
        "NETACCEL_NODE_NAME": "node-1",
        "NETACCEL_BPFFS": str(where.bpffs),
        "NETACCEL_CGROUP": str(where.cgroup),
        "NETACCEL_MANIFESTS": str(where.manifests),
        "NETACCEL_STATE": str(where.manifests / ".state"),
    }
    command = [sys.executable, "-m", "netaccel", *arguments]
    with netlink.inside_namespace(where.namespace):
        return subprocess.Popen(
            command,
            env=os.environ | settings,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )


@contextmanager
def agent(where: Ground) -> Iterator[tuple[int, float]]:
    """An agent: its pid, seconds to ready."""
    begin = time.monotonic()
    process = netaccel(where, "agent")
    try:
        wait_for_line(process, "ready after")
        yield process.pid, time.monotonic() - begin
    finally:
        process.kill()
        process.communicate()


def first_attached(where: Ground) -> float:
    """Seconds until an agent, started now, has pinned its first link."""
    begin, links = time.monotonic(), where.bpffs / "netaccel" / "links"
    process = netaccel(where, "agent")
    try:
        while not (links.is_dir() and any(links.iterdir())):
            if process.poll() is not None or time.monotonic() - begin > PATIENCE:
                raise RuntimeError(f"the agent attached nothing: {process.communicate()[1]}")
            time.sleep(0.002)
        return time.monotonic() - begin
    finally:
        process.kill()
        process.communicate()


def wait_for_line(process: subprocess.Popen[str], words: str) -> None:
    """Read the agent's log as far as these words."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return
    raise RuntimeError(f"the agent ended: {''.join(lines)}")


def starts() -> Iterator[Result]:
    """First starts and restarts."""
    rows: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        with ground() as where:
            rows.setdefault("first start to first program attached", []).append(first_attached(where))
        with ground() as where:
            for which in ("first start", "restart"):
                with agent(where) as (_, ready):
                    rows.setdefault(f"{which} to ready", []).append(ready)
    for name, seconds in rows.items():
        yield Result(f"agent, {name}", statistics.median(seconds), "s", budget=1)


def large() -> Iterator[Result]:
    """Memory and idle CPU with a large world."""
    with ground() as where:
        put(where, "services.json", "Service", [world.service(i) for i in range(1_000)])
        put(where, "slices.json", "EndpointSlice", [world.endpoint_slice(i, 50) for i in range(1_000)])
        put(where, "pods.json", "Pod", [world.pod(i) for i in range(10_000)])
        with agent(where) as (pid, ready):
            yield Result("agent told 50,000 endpoints, 10,000 pods: ready", ready, "s")
            time.sleep(5)
            before, begin = cpu(pid), time.monotonic()
            time.sleep(IDLE)
            share = (cpu(pid) - before) / (time.monotonic() - begin)
            yield Result("agent idle with these", 100 * share, "% of a core", budget=0.5)
            yield Result("agent's memory with these", resident(pid), "MB RSS", budget=200)
        with agent(where) as (_, ready):
            yield Result("agent restarted with these: ready", ready, "s")


def put(where: Ground, name: str, kind: str, items: list[dict[str, object]]) -> None:
    """Write one list as a manifest."""
    (where.manifests / name).write_bytes(world.listing(kind, items))


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(pid: int) -> float:
    """Resident memory in MB (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} is gone")
