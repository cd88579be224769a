# SPDX-License-Identifier: Apache-2.0
"""From pod to pod past the node's stack, with real sockets: what passes, what doesn't, what is told."""

from __future__ import annotations

import errno
import hashlib
import select
import socket
import threading
from collections.abc import Iterator

import pytest
from peersite import PORT, SERVICE, SERVICE_PORT, A, B, PeerSite
from policytables import describe_event

from netaccel.lab.handle import wait_for

pytestmark = pytest.mark.root

DATA = hashlib.sha256(b"netaccel").digest() * (1 << 14)  # 512 KiB
families = pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module", params=[False, True], ids=["routed", "bridged"])
def any_site(request: pytest.FixtureRequest) -> Iterator[PeerSite]:
    with PeerSite(bridged=request.param) as site:
        yield site


@pytest.fixture
def site(any_site: PeerSite) -> PeerSite:
    """All is allowed, nothing was told yet; no flow of an earlier test is known."""
    for v6 in (False, True):
        any_site.policy(v6)
    any_site.settle()
    return any_site


def echo_stream(listener: socket.socket) -> None:
    """What came, back; when the client has no more."""
    served, _ = listener.accept()
    with served:
        served.settimeout(20)
        data = b"".join(iter(lambda: served.recv(1 << 16), b""))
        served.sendall(data)


def error_of(sock: socket.socket) -> int:
    """What the kernel has to say of a datagram that was sent."""
    poll = select.poll()
    poll.register(sock, 0)
    poll.poll(20_000)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def talk(site: PeerSite, v6: bool, address: str, port: int = PORT) -> bytes:
    """DATA to a server of pod b, and what it answers."""
    listener = site.server(v6, socket.SOCK_STREAM)
    thread = threading.Thread(target=echo_stream, args=(listener,))
    thread.start()
    with site.client(v6, socket.SOCK_STREAM, address, port) as client:
        client.settimeout(20)
        client.sendall(DATA)
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(1 << 16), b""))
    thread.join(20)
    listener.close()
    return answer


@families
class TestWhatPasses:
    @pytest.mark.parametrize("service", [False, True], ids=["pod", "service"])
    def test_streams(self, site: PeerSite, v6: bool, service: bool) -> None:
        seen, before = site.stack(), site.peer()
        address, port = (SERVICE[v6], SERVICE_PORT) if service else (B[v6], PORT)
        assert talk(site, v6, address, port) == DATA
        assert site.stack() == seen
        assert site.peer() > before
        assert site.no_checksum_errors()

    @pytest.mark.parametrize("service", [False, True], ids=["pod", "service"])
    def test_datagrams(self, site: PeerSite, v6: bool, service: bool) -> None:
        seen, before = site.stack(), site.peer()
        server = site.server(v6, socket.SOCK_DGRAM)
        address, port = (SERVICE[v6], SERVICE_PORT) if service else (B[v6], PORT)
        client = site.client(v6, socket.SOCK_DGRAM, address, port)
        for size in (0, 1, 1400):
            client.send(b"d" * size)
            data, peer = server.recvfrom(1 << 16)
            assert (data, peer[0]) == (b"d" * size, A[v6])
            server.sendto(data, peer)
            assert client.recv(1 << 16) == data
        assert site.stack() == seen
        assert site.peer() == before + 6
        assert site.no_checksum_errors()

    def test_echo_requests(self, site: PeerSite, v6: bool) -> None:
        seen, before = site.stack(), site.peer()
        site.ping(v6, B[v6], 3)
        assert site.stack() == seen
        assert site.peer() == before + 6

    def test_off_the_stack_has_all(self, site: PeerSite, v6: bool) -> None:
        site.peers(on=False)
        try:
            seen, before = site.stack(), site.peer()
            assert talk(site, v6, SERVICE[v6], SERVICE_PORT) == DATA
            assert site.peer() == before
            assert site.stack() > seen or site.bridged
        finally:
            site.peers(on=True)

    def test_switched_amid_a_connection(self, site: PeerSite, v6: bool) -> None:
        listener = site.server(v6, socket.SOCK_STREAM)
        client = site.client(v6, socket.SOCK_STREAM, SERVICE[v6], SERVICE_PORT)
        served, _ = listener.accept()
        served.settimeout(20)
        try:
            for on in (False, True, False, True):
                site.peers(on=on)
                before = site.peer()
                client.sendall(b"ping")
                assert served.recv(4) == b"ping"
                served.sendall(b"pong")
                assert client.recv(4) == b"pong"
                assert (site.peer() > before) == on
        finally:
            client.close()
            served.close()
            site.peers(on=True)


@families
class TestPolicyOfBothEnds:
    @pytest.mark.parametrize(
        ("pod", "direction", "told"),
        [
            ("a", "egress", "egress DROPPED 9 POLICY_DENIED"),
            ("b", "ingress", "ingress DROPPED 9 POLICY_DENIED"),
        ],
    )
    def test_denied(self, site: PeerSite, v6: bool, pod: str, direction: str, told: str) -> None:
        site.policy(v6, **{pod: {direction: {"any": "drop 9"}}})
        before = site.tc_pod.dropped("DROP_POLICY_DENIED")
        server = site.server(v6, socket.SOCK_DGRAM)
        site.client(v6, socket.SOCK_DGRAM, B[v6]).send(b"x")
        wait_for(lambda: site.tc_pod.dropped("DROP_POLICY_DENIED") > before, "the datagram dropped")
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.recv(1)
        assert site.tc_pod.dropped("DROP_POLICY_DENIED") == before + 1
        wait_for(lambda: told in [say(site, event) for event in site.events()], "the drop told")

    @pytest.mark.parametrize(("pod", "direction"), [("a", "egress"), ("b", "ingress")])
    def test_rejected(self, site: PeerSite, v6: bool, pod: str, direction: str) -> None:
        site.policy(v6, **{pod: {direction: {"any": "reject 9"}}})
        listener = site.server(v6, socket.SOCK_STREAM)
        for address, port in ((B[v6], PORT), (SERVICE[v6], SERVICE_PORT)):
            with pytest.raises(ConnectionRefusedError):
                site.client(v6, socket.SOCK_STREAM, address, port)
            client = site.client(v6, socket.SOCK_DGRAM, address, port)
            client.send(b"x")
            assert error_of(client) in (errno.EHOSTUNREACH, errno.EACCES)
        listener.close()

    def test_audited(self, site: PeerSite, v6: bool) -> None:
        site.policy(v6, b={"ingress": {"any": "allow 3 / drop 4"}})
        assert talk(site, v6, B[v6]) == DATA
        told = {(say(site, event), path(site, event)) for event in site.events()}
        assert told == {("egress FORWARDED 0", "peer"), ("ingress AUDITED 3/4", "peer")}

    def test_told_with_their_path(self, site: PeerSite, v6: bool) -> None:
        assert talk(site, v6, SERVICE[v6], SERVICE_PORT) == DATA
        assert {path(site, event) for event in site.events()} == {"peer"}
        site.peers(on=False)
        try:
            assert talk(site, v6, B[v6]) == DATA
            assert {path(site, event) for event in site.events()} == {"tc"}
        finally:
            site.peers(on=True)

    def test_a_change_takes_hold_on_open_connections(self, site: PeerSite, v6: bool) -> None:
        server = site.server(v6, socket.SOCK_DGRAM)
        client = site.client(v6, socket.SOCK_DGRAM, B[v6])
        client.send(b"1")
        assert server.recv(1) == b"1"
        site.policy(v6, b={"ingress": {"any": "drop 9"}})
        client.send(b"2")
        flow = ("b", PORT, client.getsockname()[1])
        denied = site.tc_pod.abi.constants["POLICY_FLOW_DENIED"]
        wait_for(
            lambda: site.flows(v6)[flow].flags & denied, "the datagram judged"
        )  # a busy kernel judges it a moment later
        site.policy(v6, b={"ingress": {"any": "allow 8"}})
        client.send(b"3")
        assert server.recv(1) == b"3"

    def test_both_ends_count_alike(self, site: PeerSite, v6: bool) -> None:
        server = site.server(v6, socket.SOCK_DGRAM)
        client = site.client(v6, socket.SOCK_DGRAM, B[v6])
        for number in range(10):
            client.send(b"d" * number)
            data, peer = server.recvfrom(100)
            server.sendto(data, peer)
            client.recv(100)
        port = client.getsockname()[1]
        flows = site.flows(v6)
        a, b = flows["a", port, PORT], flows["b", PORT, port]
        header = 48 if v6 else 28
        expected = (10, 10 * header + 45)
        assert (a.sent_packets, a.sent_bytes) == (a.received_packets, a.received_bytes) == expected
        assert (b.sent_packets, b.sent_bytes) == (b.received_packets, b.received_bytes) == expected


def say(site: PeerSite, event: object) -> str:
    return describe_event(event, site.tc_pod.abi.enums)


def path(site: PeerSite, event: object) -> str:
    return site.tc_pod.abi.labels("flow_path")[event.path]  # type: ignore[attr-defined]


@families
class TestWhatGoesThePlainWay:
    def test_larger_than_the_receivers_device_takes(self, site: PeerSite, v6: bool) -> None:
        """The stack answers what is too big; what fits goes past it."""
        site.net.ip("node", "link set pod-b mtu 1300")
        try:
            before = site.peer()
            server = site.server(v6, socket.SOCK_DGRAM)
            client = site.client(v6, socket.SOCK_DGRAM, B[v6])
            client.send(b"d" * 1200)
            assert len(server.recv(2000)) == 1200
            assert site.peer() == before + 1
            if not site.bridged:
                client.send(b"d" * 1400)
                assert error_of(client) == errno.EMSGSIZE
                assert site.peer() == before + 1
                assert talk(site, v6, B[v6]) == DATA
        finally:
            site.net.ip("node", "link set pod-b mtu 1500")

    def test_fragments(self, site: PeerSite, v6: bool) -> None:
        before = site.peer()
        server = site.server(v6, socket.SOCK_DGRAM)
        client = site.client(v6, socket.SOCK_DGRAM, B[v6])
        client.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: fragment
        client.send(b"d" * 4000)
        assert len(server.recv(8000)) == 4000
        assert site.peer() == before

    def test_a_hop_limit_that_ends_here(self, site: PeerSite, v6: bool) -> None:
        if site.bridged:
            pytest.skip("a bridge spends no hops")
        before = site.peer()
        server = site.server(v6, socket.SOCK_DGRAM)
        client = site.client(v6, socket.SOCK_DGRAM, B[v6])
        client.setsockopt(*((socket.IPPROTO_IPV6, 25) if v6 else (socket.IPPROTO_IP, 11)), 1)  # RECVERR
        for limit, arrives in ((1, False), (2, True)):
            option = (
                (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS) if v6 else (socket.IPPROTO_IP, socket.IP_TTL)
            )
            client.setsockopt(*option, limit)
            client.send(b"x")
            if arrives:
                assert server.recv(1) == b"x"
            else:
                assert error_of(client) == errno.EHOSTUNREACH
                assert not select.select([server], [], [], 0.3)[0]
        assert site.peer() == before + 1

    def test_a_refusal_by_the_other_pod(self, site: PeerSite, v6: bool) -> None:
        """ICMP's errors belong to the flow; they come by the stack."""
        client = site.client(v6, socket.SOCK_DGRAM, B[v6], PORT + 1)
        client.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            client.recv(1)
        with pytest.raises(ConnectionRefusedError):
            site.client(v6, socket.SOCK_STREAM, B[v6], PORT + 1)

    def test_one_of_both_alone(self, site: PeerSite, v6: bool) -> None:
        """Neither direction goes past the stack where one pod is left out."""
        site.leave_out("b", v6)
        try:
            before = site.peer()
            assert talk(site, v6, B[v6]) == DATA
            assert site.peer() == before
        finally:
            site.peers(on=True)

    def test_a_device_that_is_gone(self, site: PeerSite, v6: bool) -> None:
        """An entry that outlived its device doesn't swallow what goes to the address now."""
        site.misplace("b", v6, 1 << 20)
        try:
            before = site.peer()
            server = site.server(v6, socket.SOCK_DGRAM)
            site.client(v6, socket.SOCK_DGRAM, B[v6]).send(b"x")
            assert server.recv(1) == b"x"
            assert site.peer() == before
        finally:
            site.peers(on=True)


def test_neighbours_groups_and_tags_are_left_alone(site: PeerSite) -> None:
    before = site.peer()
    for name in "ab":
        site.net.ip(name, "neigh flush all")
    group = site.net.socket("a", socket.AF_INET6, socket.SOCK_DGRAM)
    group.sendto(b"x", ("ff02::1", PORT, 0, site.net.ifindex("a", "eth0")))
    received = site.received("b")
    site.send_tagged()
    if site.bridged:
        wait_for(lambda: site.received("b") > received, "the tagged frame")
    assert site.peer() == before
    for v6 in (False, True):
        site.ping(v6, B[v6], 1)
    assert site.peer() == before + 4
