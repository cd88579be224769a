# SPDX-License-Identifier: Apache-2.0
"""What clients see of Services: each promise of docs/services.md that shows from outside, in both families.

Backends of web are on node-1 (two) and node-3; node-2 has none of them.
"""

from __future__ import annotations

import hashlib
import socket

import pytest
from labworld import BOTH, CURL_REFUSED, CURL_TIMEOUT, World, pod, service, url

from netaccel.errors import LabError
from netaccel.lab.handle import wait_for
from netaccel.lab.plan import CLIENT4, CLIENT6

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
# A hop completes checksums, as a real card would: without it a wrong partial sum shows nowhere.
MODES = {"xdp": {"hop": True}, "tc": {"hop": True, "uplink_mode": "tc"}}
CLIENT = {socket.AF_INET: CLIENT4, socket.AF_INET6: CLIENT6}
EXTERNAL = {socket.AF_INET: "192.0.2.10", socket.AF_INET6: "2001:db8:2::10"}
CLAIMED = "192.0.2.99"
both_families = pytest.mark.parametrize("family", BOTH, ids=["IPv4", "IPv6"])


def prepare(world: World) -> None:
    world.write(
        "web",
        service(type="LoadBalancer", externalIPs=list(EXTERNAL.values())),
        service("sticky", type="NodePort", sessionAffinity="ClientIP"),
        service("local", type="LoadBalancer", externalTrafficPolicy="Local", internalTrafficPolicy="Local"),
        *(pod(f"web-{i}", node) for i, node in enumerate(("node-1", "node-1", "node-3"))),
    )
    world.write(
        "echo",
        service(
            "echo",
            app="echo",
            type="NodePort",
            ports=[{"name": "echo", "protocol": "UDP", "port": 7, "targetPort": "echo"}],
        ),
        pod("echo-0", "node-3", app="echo", udp=True),
    )
    world.write(
        "rest",
        service("empty", app="nobody", type="NodePort"),
        service("self", app="self"),
        pod("self-0", "node-2", app="self"),
        service(
            "open", type="LoadBalancer", loadBalancerSourceRanges=["198.51.100.77/24", "2001:db8:100::/64"]
        ),
        service("closed", type="LoadBalancer", loadBalancerSourceRanges=["192.0.2.0/24", "2001:db8:2::/64"]),
        service("headless", clusterIP="None"),
        _claiming("older", "2020-01-01T00:00:00Z", "self"),
        _claiming("younger", "2021-01-01T00:00:00Z", "web"),
    )


def _claiming(name: str, created: str, app: str) -> dict[str, object]:
    found = service(name, app=app, externalIPs=[CLAIMED])
    return {**found, "metadata": {"name": name, "creationTimestamp": created}}


@pytest.fixture(autouse=True, scope="module")
def _in_force(world: World) -> None:
    for name, count in (("web", 3), ("sticky", 3), ("local", 3), ("echo", 1), ("self", 1), ("open", 3)):
        world.in_force(name, count)


class TestClusterIP:
    @both_families
    def test_a_pod_is_served_and_the_server_sees_the_pod(
        self, world: World, family: socket.AddressFamily
    ) -> None:
        facts = world.lab.answer("pod:web-0", url(world.cluster_ip(family)))
        assert facts["client"] == world.pod_ip("web-0", family)
        assert facts["local"] == world.pod_ip(facts["pod"], family)

    @both_families
    def test_the_node_itself_is_served(self, world: World, family: socket.AddressFamily) -> None:
        facts = world.lab.answer("node-2", url(world.cluster_ip(family)))
        assert facts["client"] == world.node_ip("node-2", family)

    @both_families
    def test_all_backends_get_connections(self, world: World, family: socket.AddressFamily) -> None:
        found = world.spread("pod:self-0", url(world.cluster_ip(family)), 60)
        assert set(found) == {"web-0", "web-1", "web-2"}

    @both_families
    def test_the_application_sees_the_services_address_as_its_peer(
        self, world: World, family: socket.AddressFamily
    ) -> None:
        code = (
            "s = socket.create_connection((sys.argv[1], 80), 20)\n"
            "s.sendall(b'GET /healthz HTTP/1.0\\r\\n\\r\\n')\n"
            "print(json.dumps([s.getpeername()[0], s.recv(99).decode()]))"
        )
        address = world.cluster_ip(family)
        peer, answer = world.python("pod:web-0", code, address)
        assert peer == address
        assert "200 OK" in answer

    @both_families
    def test_a_pod_reaches_itself(self, world: World, family: socket.AddressFamily) -> None:
        facts = world.lab.answer("pod:self-0", url(world.cluster_ip(family, "self")))
        assert facts["pod"] == "self-0"

    @both_families
    def test_a_port_that_it_does_not_have_is_refused(
        self, world: World, family: socket.AddressFamily
    ) -> None:
        assert world.curl_status("pod:web-0", url(world.cluster_ip(family), 81)) == CURL_REFUSED

    @both_families
    def test_a_service_without_endpoints_is_refused_at_once(
        self, world: World, family: socket.AddressFamily
    ) -> None:
        assert world.curl_status("pod:web-0", url(world.cluster_ip(family, "empty"))) == CURL_REFUSED
        wait_for(lambda: world.drops("node-1", "no_backend") >= 1, "the refusal counted")

    @both_families
    def test_internal_traffic_policy_local_keeps_to_the_node(
        self, world: World, family: socket.AddressFamily
    ) -> None:
        address = url(world.cluster_ip(family, "local"))
        assert set(world.spread("pod:web-0", address, 30)) == {"web-0", "web-1"}
        assert set(world.spread("pod:web-2", address, 10)) == {"web-2"}
        assert world.curl_status("pod:self-0", address) == CURL_TIMEOUT

    def test_a_headless_service_has_no_frontend(self, world: World) -> None:
        assert world.ports("node-1", "headless") == []


class TestNodePort:
    @both_families
    def test_a_node_without_backend_serves_with_its_own_address(
        self, world: World, family: socket.AddressFamily
    ) -> None:
        found = world.spread("client", url(world.node_ip("node-2", family), world.node_port()), 60)
        assert set(found) == {"web-0", "web-1", "web-2"}
        facts = world.lab.answer("client", url(world.node_ip("node-2", family), world.node_port()))
        assert facts["client"] == world.node_ip("node-2", family)

    @both_families
    def test_a_backend_of_the_same_node_sees_the_client(
        self, world: World, family: socket.AddressFamily
    ) -> None:
        address = url(world.node_ip("node-1", family), world.node_port())
        answers = [world.lab.answer("client", address) for _ in range(12)]
        seen = {(a["node"], a["client"]) for a in answers}
        assert ("node-1", CLIENT[family]) in seen
        assert seen <= {("node-1", CLIENT[family]), ("node-3", world.node_ip("node-1", family))}

    @both_families
    def test_packets_go_by_xdp_where_it_is_on(self, world: World, family: socket.AddressFamily) -> None:
        path = "tc" if world.lab.state.uplink_mode == "tc" else "xdp"

        def packets() -> int:
            return sum(p["counters"][path]["request"]["packets"] for p in world.ports("node-2", "web"))

        address = url(world.node_ip("node-2", family), world.node_port())
        world.lab.answer("client", address)
        before = packets()
        world.lab.answer("client", address)
        assert packets() > before

    @both_families
    def test_downloads_and_uploads_arrive_whole(self, world: World, family: socket.AddressFamily) -> None:
        from netaccel.lab.server import digest

        address = url(world.node_ip("node-2", family), world.node_port())
        download = f"curl -sS '{address}/bytes?n=20000000' | sha256sum"
        done = world.lab.run("client", "sh", "-c", download, timeout=120)
        assert done.stdout.split()[0] == digest(20_000_000)
        upload = f"head -c 5000000 /dev/zero | curl -sS --data-binary @- {address}/upload"
        done = world.lab.run("client", "sh", "-c", upload, timeout=120)
        assert done.stdout.split() == ["5000000", hashlib.sha256(bytes(5_000_000)).hexdigest()]

    @both_families
    def test_a_pod_reaches_it_on_its_own_node_and_on_another(
        self, world: World, family: socket.AddressFamily
    ) -> None:
        for node in ("node-1", "node-2"):
            assert world.lab.answer("pod:web-0", url(world.node_ip(node, family), world.node_port()))

    @both_families
    def test_local_policy_keeps_the_client_and_drops_where_there_is_no_backend(
        self, world: World, family: socket.AddressFamily
    ) -> None:
        port = world.node_port("local")
        answers = [world.lab.answer("client", url(world.node_ip("node-1", family), port)) for _ in range(8)]
        assert {(a["node"], a["client"]) for a in answers} == {("node-1", CLIENT[family])}
        before = world.drops("node-2", "no_local_backend")
        assert world.curl_status("client", url(world.node_ip("node-2", family), port)) == CURL_TIMEOUT
        wait_for(lambda: world.drops("node-2", "no_local_backend") > before, "the drop counted")

    @both_families
    def test_local_policy_is_short_circuited_for_the_nodes_own_pods(
        self, world: World, family: socket.AddressFamily
    ) -> None:
        address = url(world.node_ip("node-2", family), world.node_port("local"))
        assert world.lab.answer("pod:self-0", address)["pod"].startswith("web-")
        assert world.lab.answer("node-2", address)["pod"].startswith("web-")

    @both_families
    def test_a_service_without_endpoints_is_refused_by_a_reset(
        self, world: World, family: socket.AddressFamily
    ) -> None:
        address = url(world.node_ip("node-2", family), world.node_port("empty"))
        assert world.curl_status("client", address) == CURL_REFUSED

    @both_families
    def test_its_port_can_not_be_bound_on_the_node(self, world: World, family: socket.AddressFamily) -> None:
        code = (
            "s = socket.socket(int(sys.argv[1]))\n"
            "try:\n"
            "    s.bind(('', int(sys.argv[2]))); print('null')\n"
            "except OSError as error:\n"
            "    print(json.dumps(errno.errorcode[error.errno]))"
        )
        arguments = (int(family), world.node_port())
        assert world.python("node-2", code, *arguments) == "EADDRINUSE"
        assert world.python("pod:self-0", code, *arguments) is None

    @both_families
    def test_affinity_sticks_a_client_to_one_backend(
        self, world: World, family: socket.AddressFamily
    ) -> None:
        address = url(world.node_ip("node-2", family), world.node_port("sticky"))
        assert len(world.spread("client", address, 20)) == 1
        assert len(world.spread("pod:self-0", url(world.cluster_ip(family, "sticky")), 20)) == 1


class TestOutside:
    @both_families
    def test_load_balancer_and_external_addresses(self, world: World, family: socket.AddressFamily) -> None:
        for address in (world.outside_ip(family), EXTERNAL[family]):
            assert set(world.spread("client", url(address), 40)) == {"web-0", "web-1", "web-2"}
            assert world.lab.answer("pod:self-0", url(address))["client"] == world.pod_ip("self-0", family)

    @both_families
    def test_local_policy_keeps_the_client(self, world: World, family: socket.AddressFamily) -> None:
        answers = [world.lab.answer("client", url(world.outside_ip(family, "local"))) for _ in range(8)]
        assert {a["client"] for a in answers} == {CLIENT[family]}
        assert world.lab.answer("pod:self-0", url(world.outside_ip(family, "local")))

    @both_families
    def test_source_ranges(self, world: World, family: socket.AddressFamily) -> None:
        assert world.lab.answer("client", url(world.outside_ip(family, "open")))["pod"]
        assert world.curl_status("client", url(world.outside_ip(family, "closed"))) == CURL_TIMEOUT

    @both_families
    def test_a_port_that_it_does_not_have_is_refused(
        self, world: World, family: socket.AddressFamily
    ) -> None:
        assert world.curl_status("client", url(world.outside_ip(family), 81)) == CURL_REFUSED

    def test_of_two_claims_on_one_frontend_the_older_wins(self, world: World) -> None:
        assert set(world.spread("client", url(CLAIMED), 10)) == {"self-0"}
        refused = world.refused("node-1")
        assert CLAIMED in refused["Service default/younger"]
        assert "Service default/older" not in refused
        assert world.lab.answer("pod:self-0", url(world.cluster_ip(socket.AF_INET, "younger")))


class TestUdp:
    ECHO = (
        "s = socket.socket(int(sys.argv[1]), socket.SOCK_DGRAM); s.settimeout(10)\n"
        "to = (sys.argv[2], int(sys.argv[3])); size = int(sys.argv[5])\n"
        "if sys.argv[4] == 'connected': s.connect(to); s.send(b'x' * size)\n"
        "else: s.sendto(b'x' * size, to)\n"
        "answer, sender = s.recvfrom(65535)\n"
        "print(json.dumps([json.loads(answer), sender[0]]))"
    )

    @both_families
    @pytest.mark.parametrize("kind", ["connected", "unconnected"])
    def test_a_pod_gets_answers_from_the_address_it_asked(
        self, world: World, family: socket.AddressFamily, kind: str
    ) -> None:
        address = world.cluster_ip(family, "echo")
        facts, sender = world.python("pod:web-0", self.ECHO, int(family), address, 7, kind, 5)
        assert (facts["pod"], facts["payload"], sender) == ("echo-0", "xxxxx", address)
        assert facts["client"] == world.pod_ip("web-0", family)

    @both_families
    @pytest.mark.parametrize("size", [5, 4000], ids=["one packet", "fragments"])
    def test_the_client_reaches_a_node_without_backend(
        self, world: World, family: socket.AddressFamily, size: int
    ) -> None:
        address = world.node_ip("node-2", family)
        arguments = (int(family), address, world.node_port("echo"), "connected", size)
        facts, sender = world.python("client", self.ECHO, *arguments)
        assert (facts["pod"], len(facts["payload"]), sender) == ("echo-0", size, address)

    @both_families
    def test_a_port_without_service_is_refused(self, world: World, family: socket.AddressFamily) -> None:
        address = world.cluster_ip(family, "echo")
        with pytest.raises(AssertionError, match=r"ConnectionRefusedError|PermissionError"):
            world.python("pod:web-0", self.ECHO, int(family), address, 8, "connected", 5)


class TestPathMtu:
    @both_families
    def test_a_download_fits_a_narrow_path_behind_a_node_port(
        self, world: World, family: socket.AddressFamily
    ) -> None:
        from netaccel.lab.server import digest

        address = url(world.node_ip("node-2", family), world.node_port())
        world.lab.run("router", "ip", "link", "set", "client", "mtu", "1300")
        try:
            download = f"curl -sS -m 60 '{address}/bytes?n=3000000' | sha256sum"
            done = world.lab.run("client", "sh", "-c", download, timeout=90)
        finally:
            world.lab.run("router", "ip", "link", "set", "client", "mtu", "1500")
        assert done.stdout.split()[0] == digest(3_000_000)


def test_commands_speak_of_their_node(world: World) -> None:
    done = world.lab.run("node-3", "netaccel", "service", "list", "-o", "json")
    assert done.returncode == 0
    assert '"web"' in done.stdout
    with pytest.raises(LabError):
        world.lab.target("node-4")
