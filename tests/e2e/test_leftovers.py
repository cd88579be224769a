# SPDX-License-Identifier: Apache-2.0
"""A lab that served traffic and lost an agent leaves the machine as it found it."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from labworld import World, pod, service, url

from netaccel.datapath import libbpf
from netaccel.datapath.attach import Attacher
from netaccel.datapath.cgroup import processes
from netaccel.datapath.instance import Instance
from netaccel.lab import cgroups, topology
from netaccel.lab.handle import wait_for
from netaccel.lab.plan import paths

pytestmark = pytest.mark.root


def _attached(bpffs: Path) -> tuple[set[int], set[int]]:
    """Ids of links and of their programs."""
    found = [
        info for node in sorted(bpffs.iterdir()) for info in Attacher(Instance(node)).attached().values()
    ]
    return {info.id for info in found}, {info.program for info in found}


def _mounts() -> str:
    return Path("/proc/self/mounts").read_text()


def test_down_leaves_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, nodes=2)
    world.write("web", service(type="NodePort"), pod("web-0", "node-1"))
    try:
        world.up()
        world.in_force("web", 1)
        assert world.lab.answer("client", url(world.node_ip("node-2", socket.AF_INET), world.node_port()))
        assert world.lab.answer("pod:web-0", url(world.cluster_ip(socket.AF_INET6)))
        os.kill(world.agent_pid("node-2"), signal.SIGKILL)
        links, programs = _attached(paths(world.name).bpffs)
        pids = processes(cgroups.lab_root(world.name))
        assert links
        assert programs
        assert world.name in _mounts()
    finally:
        world.down()
    assert topology.existing(world.name) == []
    assert not cgroups.lab_root(world.name).exists()
    assert not paths(world.name).root.exists()
    assert world.name not in _mounts()
    assert [pid for pid in pids if Path(f"/proc/{pid}/cgroup").exists() and _alive(pid)] == []
    wait_for(lambda: not links & set(libbpf.ids("link")), "its links gone", 30)
    wait_for(lambda: not programs & set(libbpf.ids("prog")), "its programs gone", 30)


def _alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
