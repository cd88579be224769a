# SPDX-License-Identifier: Apache-2.0
"""Policy and connections that live: changes in the middle, agents that die, Services on the way.

web and its Service are on node-1, and so is near; far is on node-2.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from downloads import download, under_way
from labworld import BOTH, CURL_REFUSED, CURL_TIMEOUT, PROBE_TIMEOUT, World, pod, service, url
from reach import OPEN, REFUSED, SILENT, Try, expect, hold

from netaccel.lab.handle import wait_for
from policies import destinations, labels, network_policy, pods, sources, traffic_policy

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
MODES: dict[str, dict[str, Any]] = {
    "xdp": {"nodes": 2, "hop": True},
    "tc": {"nodes": 2, "hop": True, "uplink_mode": "tc"},
}
WEB, NEAR, FAR = "pod:default/web", "pod:default/near", "pod:default/far"
HTTP, ECHO = "tcp/8080", "udp/8007"
both_families = pytest.mark.parametrize("family", BOTH, ids=["IPv4", "IPv6"])


def prepare(world: World) -> None:
    world.write(
        "pods",
        pod("web", "node-1", udp=True),
        pod("near", "node-1", app="client", udp=True),
        pod("far", "node-2", app="client", labels={"tier": "far"}, udp=True),
        service("web", type="NodePort"),
        service("local", type="NodePort", externalTrafficPolicy="Local"),
    )


@pytest.fixture(autouse=True)
def _no_policy_left(world: World) -> Iterator[None]:
    for name in ("web", "local"):
        world.in_force(name, 1)
    yield
    if (world.folder / "policies.yaml").exists():
        world.remove("policies")
    ways = [(a, b) for a in (WEB, NEAR, FAR) for b in (WEB, NEAR, FAR) if a != b]
    expect(world, *(Try(a, b, what, OPEN) for a, b in ways for what in (HTTP, ECHO)))


def kill_agents(world: World) -> dict[str, int]:
    killed = {node.name: world.agent_pid(node.name) for node in world.lab.plan.nodes}
    for pid in killed.values():
        os.kill(pid, signal.SIGKILL)
    return killed


def restarted(world: World, killed: dict[str, int]) -> None:
    wait_for(lambda: all(world.is_ready_again(*one) for one in killed.items()), "agents again", 60)


@contextlib.contextmanager
def paused(world: World) -> Iterator[None]:
    """Agents that do nothing, as if they were dead, and that nobody restarts."""
    pids = [world.agent_pid(node.name) for node in world.lab.plan.nodes]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


class Line:
    """A TCP connection from a pod to web's server, which says what it is asked."""

    def __init__(self, world: World, source: str, family: socket.AddressFamily) -> None:
        self.socket = world.lab.socket(source, family)
        self.socket.settimeout(10)
        self.socket.connect((world.pod_ip("web", family), 8080))

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def answer(self) -> bool:
        """Read one to its end; False where the connection ends before."""
        data = b""
        while not data.endswith(b"ok\n"):
            piece = self.socket.recv(2048)
            if not piece:
                return False
            data += piece
        return True

    def ask(self, wait: float = 10) -> str:
        """A request and its answer on the connection: OPEN, SILENT or REFUSED."""
        self.socket.settimeout(wait)
        try:
            self.socket.sendall(b"GET /healthz HTTP/1.1\r\nHost: web\r\n\r\n")
            return OPEN if self.answer() else REFUSED
        except TimeoutError:
            return SILENT
        except ConnectionError:
            return REFUSED


class TestChangesInTheMiddle:
    @both_families
    def test_a_connection_that_is_no_longer_allowed_stops_and_others_go_on(
        self, world: World, family: socket.AddressFamily
    ) -> None:
        address = url(world.pod_ip("web", family), 8080)
        policy = traffic_policy("p", labels(app="web"), ingress=[sources(pods(tier="far"), action="Drop")])
        with Line(world, FAR, family) as far, Line(world, NEAR, family) as near:
            assert (far.ask(), near.ask()) == (OPEN, OPEN)
            with download(world, NEAR, address) as running:
                wait_for(lambda: under_way(world, "web"), "the download under way")
                world.write("policies", policy)
                expect(world, Try(FAR, WEB, HTTP, SILENT), Try(NEAR, WEB, HTTP, OPEN))
                assert (far.ask(2), near.ask()) == (SILENT, OPEN)
                assert running.poll() is None, "the download ended before anything changed"

    @both_families
    def test_many_changes_that_allow_a_download_do_it_no_harm(
        self, world: World, family: socket.AddressFamily
    ) -> None:
        way_in = network_policy(
            "in", labels(app="web"), ingress=[sources(pods(tier="far"), ports=[{"port": 8080}])]
        )
        with download(world, FAR, url(world.pod_ip("web", family), 8080)) as running:
            wait_for(lambda: under_way(world, "web"), "the download under way")
            for turn in range(8):
                more = [network_policy(f"more-{i}", labels(app="client"), ingress=[{}]) for i in range(turn)]
                world.write("policies", network_policy("deny", policyTypes=["Ingress"]), way_in, *more)
                time.sleep(0.2)
            assert running.poll() is None, "the download ended before anything changed"
        expect(world, Try(NEAR, WEB, HTTP, SILENT))

    def test_a_connection_goes_on_when_it_is_allowed_again(self, world: World) -> None:
        with Line(world, FAR, socket.AF_INET) as line:
            assert line.ask() == OPEN
            world.write("policies", network_policy("deny", policyTypes=["Ingress"]))
            expect(world, Try(FAR, WEB, HTTP, SILENT))
            assert line.ask(2) == SILENT
            world.remove("policies")
            line.socket.settimeout(60)  # what was not acknowledged is sent again, ever more seldom
            assert line.answer()

    def test_replies_pass_though_their_pod_may_not_open_anything(self, world: World) -> None:
        world.write("policies", network_policy("out", labels(app="web"), policyTypes=["Egress"]))
        expect(world, Try(WEB, FAR, HTTP, SILENT), Try(WEB, FAR, ECHO, SILENT))
        expect(world, Try(FAR, WEB, HTTP, OPEN), Try(FAR, WEB, ECHO, OPEN), Try(FAR, WEB, "icmp", OPEN))
        with download(world, FAR, url(world.pod_ip("web", socket.AF_INET6), 8080), 2_000_000):
            pass


class TestAgentsThatDie:
    def test_verdicts_stay_while_no_agent_is_there(self, world: World) -> None:
        world.write(
            "policies",
            network_policy("in", labels(app="web"), ingress=[sources(pods(tier="far"))]),
            traffic_policy(
                "out", labels(app="web"), egress=[destinations(pods(app="client"), action="Reject")]
            ),
        )
        verdicts = (
            *(Try(FAR, WEB, what, OPEN) for what in (HTTP, ECHO)),
            *(Try(NEAR, WEB, what, SILENT) for what in (HTTP, ECHO)),
            *(Try(WEB, FAR, what, REFUSED) for what in (HTTP, ECHO)),
        )
        expect(world, *verdicts)
        with paused(world):
            hold(world, *verdicts)
        hold(world, *verdicts)

    @both_families
    def test_a_restart_disturbs_nothing(self, world: World, family: socket.AddressFamily) -> None:
        world.write("policies", network_policy("in", labels(app="web"), ingress=[sources(pods(tier="far"))]))
        verdicts = (Try(NEAR, WEB, HTTP, SILENT), Try(FAR, WEB, HTTP, OPEN), Try("node-1", WEB, HTTP, OPEN))
        expect(world, *verdicts)
        with download(world, FAR, url(world.pod_ip("web", family), 8080)):
            wait_for(lambda: under_way(world, "web"), "the download under way")
            killed = kill_agents(world)
            hold(world, *verdicts)
            restarted(world, killed)
            hold(world, *verdicts)


class TestServices:
    """Policy sees who is behind a Service, on every way to it."""

    @both_families
    def test_a_pod_s_connect_is_judged_by_the_backend(
        self, world: World, family: socket.AddressFamily
    ) -> None:
        address = url(world.cluster_ip(family))
        assert world.curl_status(FAR, address) == 0
        world.write(
            "policies",
            traffic_policy(
                "out", labels(tier="far"), egress=[destinations(pods(app="web"), action="Reject")]
            ),
        )
        expect(world, Try(FAR, WEB, HTTP, REFUSED))
        assert world.curl_status(FAR, address) == CURL_REFUSED
        assert world.curl_status(NEAR, address) == 0

    @both_families
    def test_allowing_a_service_s_pods_is_enough(self, world: World, family: socket.AddressFamily) -> None:
        world.write(
            "policies",
            network_policy(
                "out",
                labels(app="client"),
                policyTypes=["Egress"],
                egress=[destinations(pods(app="web"), ports=[{"port": 8080}])],
            ),
        )
        expect(world, Try(FAR, NEAR, HTTP, SILENT))
        for source in (FAR, NEAR):
            assert world.curl_status(source, url(world.cluster_ip(family))) == 0

    @both_families
    def test_a_node_port_is_no_way_round_ingress(self, world: World, family: socket.AddressFamily) -> None:
        ways = {
            name: url(world.node_ip(node, family), world.node_port(name))
            for name, node in (("web", "node-2"), ("local", "node-1"))
        }
        assert [world.curl_status("client", way) for way in ways.values()] == [0, 0]
        world.write("policies", network_policy("in", labels(app="web"), ingress=[sources(pods(tier="far"))]))
        expect(world, Try(NEAR, WEB, HTTP, SILENT))
        for way in ways.values():
            assert world.curl_status("client", way) == CURL_TIMEOUT
        assert world.curl_status(FAR, ways["web"]) == 0, "a pod's own address is what policy sees"

    @both_families
    def test_a_client_whose_address_is_kept_is_judged_by_it(
        self, world: World, family: socket.AddressFamily
    ) -> None:
        outside = [{"ipBlock": {"cidr": cidr}} for cidr in ("198.51.100.0/24", "2001:db8:100::/64")]
        world.write("policies", network_policy("in", labels(app="web"), ingress=[sources(*outside)]))
        expect(world, Try(NEAR, WEB, HTTP, SILENT))
        kept = url(world.node_ip("node-1", family), world.node_port("local"))
        assert world.curl_status("client", kept) == 0
        hidden = url(world.node_ip("node-2", family), world.node_port())
        assert world.curl_status("client", hidden) == CURL_TIMEOUT, "node-2's own address is what web sees"

    @both_families
    def test_the_node_s_own_clients_reach_its_pods_by_service(
        self, world: World, family: socket.AddressFamily
    ) -> None:
        world.write("policies", network_policy("deny", policyTypes=["Ingress"]))
        expect(world, Try(NEAR, WEB, HTTP, SILENT))
        assert world.curl_status("node-1", url(world.cluster_ip(family))) == 0
        assert world.curl_status("node-2", url(world.cluster_ip(family))) == CURL_TIMEOUT


def test_probes_of_the_node_keep_a_denied_pod_ready(world: World) -> None:
    world.write("policies", network_policy("deny", policyTypes=["Ingress", "Egress"]))
    expect(world, Try(FAR, WEB, HTTP, SILENT), Try(WEB, FAR, HTTP, SILENT))
    time.sleep(PROBE_TIMEOUT + 2.5)  # two periods of its readiness probe, and what it waits for an answer
    assert world.wait_pod("web", ready=True)["ready"]


def test_pods_that_come_later_are_judged_too(world: World) -> None:
    world.write("policies", network_policy("deny", labels(app="late"), policyTypes=["Ingress", "Egress"]))
    world.write("late", pod("late", "node-2", app="late", udp=True))
    world.wait_pod("late", ready=True)
    late = "pod:default/late"
    expect(world, Try(FAR, late, HTTP, SILENT), Try(late, WEB, ECHO, SILENT), Try("node-2", late, HTTP, OPEN))
    world.write("late", pod("late", "node-2", app="client", udp=True))
    expect(world, Try(FAR, late, HTTP, OPEN), Try(late, WEB, ECHO, OPEN))
    world.remove("late")
    world.wait_gone("late")
