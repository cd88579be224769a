# SPDX-License-Identifier: Apache-2.0
"""The lab by itself, without agents: what it builds, plays and cleans up."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from labworld import BOTH, World, pod, service, unique_name, url

from netaccel.errors import LabError
from netaccel.lab import cgroups, lifecycle, topology
from netaccel.lab.handle import Lab, wait_for
from netaccel.lab.plan import paths
from netaccel.lab.server import digest
from netaccel.lab.state import State

pytestmark = pytest.mark.root
OPTIONS = {"agents": False, "nodes": 2}


def prepare(world: World) -> None:
    world.write("web", service(), pod("web-0", "node-1"), pod("web-1", "node-2", udp=True))


def quiet(_: str) -> None:
    return


@pytest.mark.parametrize("family", BOTH)
def test_pods_of_two_nodes_reach_each_other(world: World, family: socket.AddressFamily) -> None:
    facts = world.lab.answer("pod:web-0", url(world.pod_ip("web-1", family), 8080))
    assert (facts["pod"], facts["node"]) == ("web-1", "node-2")
    assert facts["client"] == world.pod_ip("web-0", family)
    assert facts["local"] == world.pod_ip("web-1", family)


@pytest.mark.parametrize("family", BOTH)
def test_a_node_reaches_pods_by_its_own_address(world: World, family: socket.AddressFamily) -> None:
    for name in ("web-0", "web-1"):
        facts = world.lab.answer("node-1", url(world.pod_ip(name, family), 8080))
        assert facts["client"] == world.node_ip("node-1", family)


@pytest.mark.parametrize("family", BOTH)
def test_the_client_reaches_nodes_and_no_pod(world: World, family: socket.AddressFamily) -> None:
    with world.lab.socket("node-1", family) as server, world.lab.socket("client", family) as client:
        server.bind((world.node_ip("node-1", family), 0))
        server.listen()
        client.settimeout(5)
        client.connect((world.node_ip("node-1", family), server.getsockname()[1]))
    with pytest.raises(LabError, match=r"Failed to connect|Couldn't connect|timed out"):
        world.lab.curl("client", url(world.pod_ip("web-1", family), 8080), timeout=2)


@pytest.mark.parametrize("family", BOTH)
def test_the_server_echoes_datagrams_with_who_answers_whom(
    world: World, family: socket.AddressFamily
) -> None:
    with world.lab.socket("pod:web-0", family, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.sendto(b"hello", (world.pod_ip("web-1", family), 8007))
        facts = json.loads(client.recv(2048))
    assert (facts["pod"], facts["payload"]) == ("web-1", "hello")
    assert facts["client"] == world.pod_ip("web-0", family)


def test_downloads_have_the_content_that_their_length_says(world: World) -> None:
    address = url(world.pod_ip("web-1", socket.AF_INET), 8080)
    done = world.lab.run("pod:web-0", "sh", "-c", f"curl -sS '{address}/bytes?n=1000001' | sha256sum")
    assert done.stdout.split()[0] == digest(1000001)


def test_what_sends_to_a_node_completes_checksums_and_has_native_xdp(world: World) -> None:
    done = world.lab.run("switch", "ip", "-json", "link", "show", "node-1")
    assert json.loads(done.stdout)[0]["xdp"]["mode"] == 1
    done = world.lab.run("switch", "ethtool", "-k", "node-1")
    assert "tx-checksumming: off" in done.stdout


def test_services_get_what_their_manifest_leaves_out(world: World) -> None:
    world.write("lb", service("lb", type="LoadBalancer", externalTrafficPolicy="Local"))
    found = wait_for(lambda: world.rendered("Service", "lb"), "the Service")[0]
    spec = found["spec"]
    assert [":" in address for address in spec["clusterIPs"]] == [False, True]
    assert spec["clusterIP"] == spec["clusterIPs"][0]
    assert spec["ports"][0]["nodePort"] in range(30000, 32768)
    assert spec["healthCheckNodePort"] not in (0, spec["ports"][0]["nodePort"])
    assert len(found["status"]["loadBalancer"]["ingress"]) == 2
    assert found["metadata"]["uid"]
    world.remove("lb")


def test_endpoints_say_where_a_pod_is_and_how(world: World) -> None:
    world.write("slow", service("slow", app="slow"), pod("slow-0", "node-2", app="slow", ready=False))
    world.wait_pod("slow-0", running=True, ready=False)
    (ipv4,) = wait_for(lambda: world.rendered("EndpointSlice", "slow-ipv4"), "the slice")
    (ipv6,) = world.rendered("EndpointSlice", "slow-ipv6")
    assert ipv4["ports"] == [{"name": "http", "protocol": "TCP", "port": 8080}]
    (endpoint,) = wait_for(
        lambda: [e for s in world.rendered("EndpointSlice", "slow-ipv4") for e in s["endpoints"]],
        "the endpoint",
    )
    assert endpoint["conditions"] == {"ready": False, "serving": False, "terminating": False}
    assert (endpoint["nodeName"], endpoint["zone"]) == ("node-2", "zone-b")
    assert endpoint["addresses"] == [world.pod_ip("slow-0", socket.AF_INET)]
    assert ipv6["addressType"] == "IPv6"
    world.remove("slow")
    world.wait_gone("slow-0")


def test_a_removed_pod_terminates_serving_until_its_process_ends(world: World) -> None:
    world.write("end", service("end", app="end"), pod("end-0", "node-1", app="end", drain=30.0))
    world.wait_pod("end-0", ready=True)
    address = url(world.pod_ip("end-0", socket.AF_INET), 8080)
    world.write("end", service("end", app="end"))
    world.wait_pod("end-0", terminating=True, ready=True)

    def conditions() -> object:
        return [e["conditions"] for s in world.rendered("EndpointSlice", "end-ipv4") for e in s["endpoints"]]

    leaving = [{"ready": False, "serving": True, "terminating": True}]
    wait_for(lambda: conditions() == leaving, "a terminating endpoint")
    assert world.lab.answer("node-2", address)["pod"] == "end-0"
    assert [p["metadata"]["deletionTimestamp"] for p in world.rendered("Pod", "end-0")]
    world.kill("end-0")
    world.wait_gone("end-0")
    assert conditions() == []
    assert not any("end-0" in name for name in topology.existing(world.name))
    world.remove("end")


def test_a_pod_that_does_not_end_is_killed_after_its_grace_period(world: World) -> None:
    stubborn = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
    world.write("stubborn", pod("stubborn", "node-1", command=stubborn, terminationGracePeriodSeconds=1))
    world.wait_pod("stubborn", running=True)
    world.remove("stubborn")
    world.wait_gone("stubborn")


def test_a_process_that_dies_is_started_again(world: World) -> None:
    world.write("mortal", pod("mortal", "node-1"))
    world.wait_pod("mortal", ready=True)
    world.kill("mortal")
    world.wait_pod("mortal", ready=True, restarts=1)
    world.remove("mortal")
    world.wait_gone("mortal")


def test_a_broken_file_stops_no_pod_and_is_shown_to_the_agents(world: World) -> None:
    world.write("kept", pod("kept", "node-1"))
    before = world.wait_pod("kept", ready=True)
    (world.folder / "kept.yaml").write_text("kind: Pod\nmetadata: {name: [")
    wait_for(lambda: "kept.yaml" in world.lab.status()["problems"], "the problem told")
    assert (paths(world.name).rendered / "kept.yaml").read_text().endswith("[")
    assert world.pod("kept") == before
    world.remove("kept")
    world.wait_gone("kept")


def test_a_pod_without_a_command_says_that_images_are_not_used(world: World) -> None:
    world.write(
        "image", {**pod("image", "node-1"), "spec": {"containers": [{"name": "x", "image": "nginx"}]}}
    )
    found = wait_for(lambda: (p := world.pod("image")) and p["message"], "the message")
    assert "no images" in str(found)
    world.remove("image")
    world.wait_gone("image")


def test_targets_that_are_not_there_are_named_with_those_that_are(world: World) -> None:
    with pytest.raises(LabError, match="no pod default/nobody; its pods: default/web-0"):
        world.lab.target("pod:nobody")
    with pytest.raises(LabError, match="give node-1, node-2, client, router, switch or pod"):
        world.lab.target("node-9")


def test_the_command_line(world: World) -> None:
    def lab(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "netaccel", "lab", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    status = lab("status", "--name", world.name, "-o", "json")
    assert json.loads(status.stdout)["running"]
    assert "node-2  172.30.0.12,fd00:30::12" in lab("status", "--name", world.name).stdout
    assert world.name in lab("list").stdout
    done = lab("exec", "--name", world.name, "pod:web-0", "--", "sh", "-c", "echo $HOSTNAME; exit 7")
    assert (done.stdout, done.returncode) == ("web-0\n", 7)
    nothing = lab("status", "--name", "nothing")
    assert nothing.stderr == "netaccel: there is no lab nothing: `netaccel lab up --name nothing` makes it\n"
    assert nothing.returncode == 1
    other = lab("up", "--name", world.name, "--nodes", "3", "--manifests", str(world.folder), "--no-agents")
    assert f"lab {world.name} is up with other arguments (nodes 2)" in other.stderr


def test_labs_side_by_side_and_a_half_made_one_that_is_mended(world: World) -> None:
    said: list[str] = []
    name = unique_name()
    other = State(name, 1, str(world.folder), agents=False)
    try:
        lifecycle.up(other, said.append, timeout=180)
        assert world.lab.answer("pod:web-0", url(world.pod_ip("web-1", socket.AF_INET), 8080))
        lifecycle.up(other, said.append)
        assert said == [f"lab {name} is up already"]
        os.kill(Lab(name).status()["controller"], signal.SIGKILL)
        wait_for(lambda: not lifecycle.is_running(name), "the controller dead")
        lifecycle.up(other, said.append, timeout=180)
        assert said[1] == f"lab {name} is half there (no controller): mending it by building it anew"
        assert Lab(name).answer("pod:web-0", url("10.244.1.2", 8080))["pod"] == "web-0"
    finally:
        lifecycle.down(name, quiet)
    assert topology.existing(name) == []
    assert not cgroups.lab_root(name).exists()
    assert not paths(name).root.exists()


def test_down_of_a_lab_that_lost_its_files_finds_all_of_it(tmp_path: Path) -> None:
    name = unique_name()
    lifecycle.up(State(name, 1, str(tmp_path), agents=False), quiet, timeout=180)
    paths(name).state.unlink()
    paths(name).status.unlink()
    assert lifecycle.down(name, quiet)
    assert topology.existing(name) == []
    assert not cgroups.lab_root(name).exists()
    assert not paths(name).root.exists()
    assert not lifecycle.down(name, quiet)
