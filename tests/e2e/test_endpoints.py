# SPDX-License-Identifier: Apache-2.0
"""Endpoints that come, end and go, and agents that are killed: what clients notice of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time

import pytest
from downloads import download, under_way
from labworld import BOTH, CURL_REFUSED, World, pod, service, url

from netaccel.lab.handle import wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
both_families = pytest.mark.parametrize("family", BOTH, ids=["IPv4", "IPv6"])
NODES = ("node-1", "node-1", "node-3")


def prepare(world: World) -> None:
    whole(world)


def whole(world: World) -> None:
    """Three ready replicas of web, TCP and UDP, none on node-2; a pod on node-2 that asks."""
    ports = [
        {"name": "http", "port": 80, "targetPort": "http"},
        {"name": "echo", "protocol": "UDP", "port": 7, "targetPort": "echo"},
    ]
    world.write("web", service(type="NodePort", ports=ports))
    for number, node in enumerate(NODES):
        world.write(f"web-{number}", pod(f"web-{number}", node, udp=True))
    world.write("client", pod("client-0", "node-2", app="client"))


@pytest.fixture(autouse=True)
def _restored(world: World) -> None:
    """Each test begins with all three."""
    whole(world)
    for number in range(len(NODES)):
        world.wait_pod(f"web-{number}", ready=True, terminating=False)
    world.in_force("web", 3)


class TestEndpoints:
    def test_one_that_is_not_ready_gets_nothing_new_and_comes_back(self, world: World) -> None:
        backend = url(world.pod_ip("web-1", socket.AF_INET), 8080)
        address = url(world.node_ip("node-2", socket.AF_INET), world.node_port())
        world.lab.curl("node-1", f"{backend}/unready")
        world.in_force("web", 2)
        assert set(world.spread("client", address, 40)) == {"web-0", "web-2"}
        world.lab.curl("node-1", f"{backend}/ready")
        world.in_force("web", 3)
        assert set(world.spread("client", address, 60)) == {"web-0", "web-1", "web-2"}

    @both_families
    def test_with_none_left_clients_are_refused(self, world: World, family: socket.AddressFamily) -> None:
        for number in range(3):
            world.remove(f"web-{number}")
        for number in range(3):
            world.wait_gone(f"web-{number}")
        world.in_force("web", 0)
        assert world.curl_status("pod:client-0", url(world.cluster_ip(family))) == CURL_REFUSED
        address = url(world.node_ip("node-2", family), world.node_port())
        assert world.curl_status("client", address) == CURL_REFUSED

    def test_downloads_from_one_that_terminates_end_well(self, world: World) -> None:
        world.write("only", service("only", app="only", type="NodePort"), pod("only-0", "node-3", app="only"))
        world.wait_pod("only-0", ready=True)
        world.in_force("only", 1)
        address = url(world.node_ip("node-2", socket.AF_INET), world.node_port("only"))
        inside = url(world.cluster_ip(socket.AF_INET, "only"))
        with download(world, "client", address), download(world, "pod:client-0", inside):
            wait_for(lambda: under_way(world, "only-0") == 2, "both under way")
            world.write("only", service("only", app="only", type="NodePort"))
            world.wait_pod("only-0", terminating=True)
            time.sleep(2)  # its drain, and more
        world.wait_gone("only-0")
        world.remove("only")

    def test_when_all_terminate_those_that_serve_get_new_connections(self, world: World) -> None:
        world.write(
            "last",
            service("last", app="last", type="NodePort"),
            pod("last-0", "node-3", app="last", drain=30),
        )
        world.wait_pod("last-0", ready=True)
        world.in_force("last", 1)
        address = url(world.node_ip("node-2", socket.AF_INET), world.node_port("last"))
        world.write("last", service("last", app="last", type="NodePort"))

        def terminating() -> bool:
            states = {b["state"] for p in world.ports("node-2", "last") for b in p["backends"]}
            return states == {"terminating"}

        wait_for(terminating, "its backend terminating in the maps")
        assert world.lab.answer("client", address)["pod"] == "last-0"
        assert world.lab.answer("pod:client-0", url(world.cluster_ip(socket.AF_INET, "last")))
        world.kill("last-0")
        world.wait_gone("last-0")
        world.remove("last")

    def test_an_established_connection_to_one_that_vanished_is_reset(self, world: World) -> None:
        """The pod is cut off first, so that it can't say goodbye itself."""
        world.write("lost", service("lost", app="lost", type="NodePort"), pod("lost-0", "node-3", app="lost"))
        world.wait_pod("lost-0", ready=True)
        world.in_force("lost", 1)
        request = b"GET /healthz HTTP/1.1\r\n\r\n"
        address = (world.node_ip("node-2", socket.AF_INET), world.node_port("lost"))
        with world.lab.socket("client", socket.AF_INET) as client:
            client.settimeout(20)
            client.connect(address)
            client.sendall(request)
            answer = b""
            while not answer.endswith(b"ok\n"):
                answer += client.recv(999)
            world.lab.run("pod:lost-0", "ip", "link", "set", "eth0", "down")
            world.write("lost", service("lost", app="lost", type="NodePort"))
            world.wait_gone("lost-0")
            world.in_force("lost", 0)
            client.sendall(request)
            with pytest.raises(ConnectionResetError):
                client.recv(999)
        world.remove("lost")

    def test_a_connected_datagram_socket_is_told_that_its_backend_went(self, world: World) -> None:
        """A DNS client must not stick to a dead server: the next call fails, a new socket is served."""
        code = (
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(10)\n"
            "s.connect((sys.argv[1], 7)); s.send(b'a')\n"
            "print(json.loads(s.recv(2048))['pod'], flush=True)\n"
            "sys.stdin.readline()\n"
            "try:\n"
            "    s.send(b'b'); s.recv(2048); print('null', flush=True)\n"
            "except OSError as error:\n"
            "    print(errno.errorcode.get(error.errno, 'timeout'), flush=True)\n"
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(10)\n"
            "s.connect((sys.argv[1], 7)); s.send(b'c'); print(json.loads(s.recv(2048))['pod'], flush=True)\n"
        )
        process = world.lab.popen(
            "pod:client-0",
            "python3",
            "-c",
            "import errno, json, socket, sys\n" + code,
            world.cluster_ip(socket.AF_INET),
            stdin=subprocess.PIPE,
        )
        assert process.stdout
        assert process.stdin
        try:
            first = process.stdout.readline().strip()
            world.remove(first)
            world.wait_gone(first)
            world.in_force("web", 2)
            process.stdin.write("\n")
            process.stdin.flush()
            told, second = process.stdout.readline().strip(), process.stdout.readline().strip()
        finally:
            process.kill()
            process.communicate()
        assert told not in ("null", "timeout", "")
        assert second != first
        assert second.startswith("web-")


class TestAgent:
    @both_families
    def test_killed_again_and_again_costs_no_request(
        self, world: World, family: socket.AddressFamily
    ) -> None:
        address = url(world.node_ip("node-2", family), world.node_port())
        inside = url(world.cluster_ip(family))
        with download(world, "client", address, 60_000_000):
            for _ in range(3):
                pid = world.agent_pid("node-2")
                os.kill(pid, signal.SIGKILL)
                while not world.is_ready_again("node-2", pid):
                    assert sum(world.spread("client", address, 10).values()) == 10
                    assert sum(world.spread("pod:client-0", inside, 10).values()) == 10

    def test_stopped_and_started_it_learns_what_it_missed(self, world: World) -> None:
        pid = world.agent_pid("node-2")
        os.kill(pid, signal.SIGSTOP)
        try:
            world.remove("web-0")
            world.wait_gone("web-0")
        finally:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: world.is_ready_again("node-2", pid), "the agent's successor", 60)
        world.in_force("web", 2)
        address = url(world.node_ip("node-2", socket.AF_INET), world.node_port())
        assert set(world.spread("client", address, 40)) == {"web-1", "web-2"}

    def test_a_broken_change_keeps_the_last_good_version(self, world: World) -> None:
        text = json.dumps(service(type="NodePort", ports=[{"name": "http", "port": 80000}]))
        (world.folder / "web.yaml").write_text(text)
        wait_for(lambda: "Service default/web" in world.refused("node-2"), "the refusal told")
        assert "80000" in world.refused("node-2")["Service default/web"]
        assert world.lab.answer("pod:client-0", url(world.cluster_ip(socket.AF_INET)))
        whole(world)
        wait_for(lambda: "Service default/web" not in world.refused("node-2"), "the refusal gone")
