# SPDX-License-Identifier: Apache-2.0
"""Which namespace is which pod's, found by the processes below a node's cgroup."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from netaccel.accelerate.facts import LocalPod
from netaccel.accelerate.visits import NO_PROCESS, TWO_PLACES, Visits
from netaccel.datapath import netlink
from netaccel.datapath.mounts import find_cgroup
from netaccel.model.address import parse_address
from netaccel.model.endpoint import PodKey

pytestmark = pytest.mark.root

KEY = PodKey("shop", "a")
PODS = {KEY: LocalPod(KEY, (parse_address("10.9.0.5"),))}
SLEEP = "import sys; open(sys.argv[1] + '/cgroup.procs', 'w').write('0'); print(flush=True); sys.stdin.read()"


class World:
    """A cgroup, and namespaces with a process each."""

    def __init__(self, name: str, cgroup: Path) -> None:
        self.name, self.cgroup = name, cgroup
        self.visits = Visits(cgroup)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.namespaces: list[str] = []

    def add(self) -> str:
        """A namespace with a process; its name."""
        name = f"{self.name}{len(self.namespaces)}"
        netlink.create_namespace(name)
        self.namespaces.append(name)
        self.run("nsenter", f"--net=/run/netns/{name}")
        return name

    def run(self, *before: str) -> None:
        command = [*before, sys.executable, "-c", SLEEP, str(self.cgroup)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.processes.append(process)
        assert process.stdout is not None
        process.stdout.readline()

    def look(self) -> list[PodKey | None]:
        """Of each namespace, its pod."""
        self.visits.walk()
        self.visits.meet(PODS)
        return [one.pod for one in self.visits.there.values()]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        for name in self.namespaces:
            netlink.delete_namespace(name)


@pytest.fixture
def world() -> Iterator[World]:
    name = f"nv{os.getpid()}{uuid.uuid4().hex[:4]}"
    cgroup = find_cgroup(None) / name
    cgroup.mkdir()
    made = World(name, cgroup)
    try:
        yield made
    finally:
        made.close()
        cgroup.rmdir()


def give_address(namespace: str) -> None:
    with netlink.inside_namespace(namespace):
        netlink.add_address("lo", "10.9.0.5/32")


def test_a_namespace_that_gets_its_address_late_is_known_then(world: World) -> None:
    name = world.add()
    assert world.look() == [None]
    assert world.visits.unreachable(PODS) == {KEY: NO_PROCESS}
    give_address(name)
    assert world.look() == [KEY]
    assert world.visits.unreachable(PODS) == {}
    (place,) = world.visits.places(PODS).items()
    with netlink.inside_namespace(name):
        assert place == (netlink.netns_cookie(), (KEY, PODS[KEY].addresses))


def test_an_address_in_two_namespaces_is_nobodys(world: World) -> None:
    for _ in range(2):
        give_address(world.add())
    assert world.look() == [None, None]
    assert world.visits.unreachable(PODS) == {KEY: TWO_PLACES}


def test_the_nodes_own_namespace_is_left_alone(world: World) -> None:
    world.run()
    assert world.look() == []


def test_a_namespace_without_processes_is_forgotten(world: World) -> None:
    give_address(world.add())
    assert world.look() == [KEY]
    process = world.processes[0]
    process.kill()
    process.wait()
    assert world.look() == []
    assert world.visits.unreachable(PODS) == {KEY: NO_PROCESS}


def test_busy_means_segments_of_its_own(world: World) -> None:
    name = world.add()
    give_address(name)
    world.look()
    (namespace,) = world.visits.there.values()
    assert not world.visits.busy(namespace, 50.0, 100.0, turn=0)
    with netlink.inside_namespace(name):
        listener = socket.create_server(("127.0.0.1", 0))
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for _ in range(60):
        near.send(b"x")
        far.recv(1)
    assert world.visits.busy(namespace, 50.0, 101.0, turn=1)
    assert not world.visits.busy(namespace, 50.0, 102.0, turn=2)
    for one in (near, far, listener):
        one.close()
