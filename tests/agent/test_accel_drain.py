# SPDX-License-Identifier: Apache-2.0
"""A node is drained while connections of its pods are accelerated: each byte arrives, each slot is freed."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from accelworld import FAST, PORT, Load, Pod, accel, connections, endpoints, live, namespace, service
from ground import PATIENCE, Node

from netaccel.datapath import libbpf
from netaccel.datapath.bpfmap import KernelMap

pytestmark = pytest.mark.root

CONNECTIONS = 3
SERVICE = "10.96.0.10"
GRACEFUL = """
import json, selectors, signal, socket, sys
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
serves, place, count, window = sys.argv[2] == "serve", (sys.argv[3], int(sys.argv[4])), int(sys.argv[5]), 8
waits = selectors.DefaultSelector()
ended, busy, deaf, told = False, True, False, None
def end(*_):
    global ended
    ended = True
signal.signal(signal.SIGTERM, end)
class Way:
    def __init__(self, socket):
        self.socket, self.sent, self.got, self.open = socket, 0, 0, True
        socket.setblocking(False)
        socket.setsockopt(6, 1, 1)
        waits.register(socket, selectors.EVENT_READ, self)
    def send(self, data):
        done = self.socket.send(data)
        assert done == len(data), "a window is less than what fits"
        self.sent += done
    def finish(self):
        if self.open: self.socket.shutdown(1)
        self.open = False
    def hear(self):
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return
        if not data:
            self.finish()
            waits.unregister(self.socket)
            self.socket.close()
            return
        wanted = b"".join(b"%063d\\n" % n for n in range(self.got // 64, (self.got + len(data)) // 64 + 1))
        assert wanted[self.got % 64:].startswith(data), "other bytes than were sent"
        self.got += len(data)
        if serves and self.open: self.send(data)
    def ask(self):
        while self.open and self.sent - self.got < 64 * window: self.send(b"%063d\\n" % (self.sent // 64))
ways = []
if serves:
    listener = socket.create_server(place)
    print(flush=True)
    ways = [Way(listener.accept()[0]) for _ in range(count)]
else:
    ways = [Way(socket.create_connection(place, timeout=5)) for _ in range(count)]
    waits.register(sys.stdin, selectors.EVENT_READ)
def tell(**more):
    sent, got = sum(way.sent for way in ways), sum(way.got for way in ways)
    print(json.dumps({"sent": sent, "got": got, **more}), flush=True)
while any(w.socket.fileno() >= 0 for w in ways):
    if ended:
        for way in ways: way.finish()
        if told != "ending": tell(ending=True); told = "ending"
    elif not serves and busy:
        for way in ways: way.ask()
        if deaf:
            if len({key.data for key, _ in waits.select(0.05) if key.data}) == len(ways):
                tell(unread=True)
                sys.stdin.readline()
                busy = deaf = False
            continue
    elif not serves and told != "rested" and all(w.sent == w.got for w in ways):
        tell(rested=True); told = "rested"
    for key, _ in waits.select(0.05):
        if key.data: key.data.hear()
        else:
            command = sys.stdin.readline().strip()
            busy, deaf = command != "rest", command == "deaf"
tell(ended=True)
"""


class Ends:
    """A client and a server that end as told by SIGTERM: they send no more, and read to the end.

    The client rests, goes on, or is deaf: it asks, and when each connection has an answer waits with reading
    for the next word. Then it asks no more.
    """

    def __init__(self, pods: tuple[Pod, Pod]) -> None:
        self.server = pods[1].run(GRACEFUL, "serve", pods[1].address, str(PORT), str(CONNECTIONS))
        assert self.line(self.server) == "\n", "it listens"
        self.client = pods[0].run(GRACEFUL, "ask", SERVICE, str(PORT), str(CONNECTIONS))

    @staticmethod
    def line(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.stderr and process.stderr.read()
        return line

    def say(self, command: str) -> None:
        assert self.client.stdin is not None
        self.client.stdin.write(f"{command}\n")
        self.client.stdin.flush()

    def told(self, process: subprocess.Popen[str], what: str) -> dict[str, int]:
        """What it counted when it came to that."""
        while what not in (found := json.loads(self.line(process))):
            pass
        return dict(found)


@contextmanager
def running(node: Node) -> Iterator[tuple[Pod, Pod]]:
    """A client's pod and that of a Service's backend; nothing runs in them yet."""
    with closing(Pod(node, "a", 1)) as a, closing(Pod(node, "b", 2)) as b:
        node.put("pods.yaml", namespace(), a.manifest(), b.manifest())
        node.put("service.yaml", service(), endpoints(b.address))
        yield a, b


@pytest.fixture
def pods(node: Node) -> Iterator[tuple[Pod, Pod]]:
    with running(node) as both:
        yield both


def terminating(node: Node, *pods: Pod) -> None:
    """The cluster as evictions make it: pods are to end, and their Service sends nobody to them any more."""
    evicted = [pod.manifest() for pod in pods]
    for one in evicted:
        one["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30}
    backend = endpoints(pods[1].address)
    backend["endpoints"][0]["conditions"] = {"ready": False, "serving": True, "terminating": True}
    node.put("service.yaml", service(), backend)
    node.put("pods.yaml", namespace(), *evicted)


def gone(node: Node, *pods: Pod) -> None:
    """Devices vanish with the pods' namespaces, then the objects."""
    for pod in pods:
        pod.close()
    node.put("service.yaml", service(), endpoints())
    node.put("pods.yaml", namespace())


def accelerated(node: Node, pods: tuple[Pod, Pod]) -> tuple[Ends, int]:
    """Ends whose connections go from socket to socket; bytes that receipts don't have, of the time before."""
    agent = node.serve(**FAST)
    ends = Ends(pods)
    node.until(lambda: live(node) == CONNECTIONS, agent)
    ends.say("rest")
    sent = 2 * ends.told(ends.client, "rested")["sent"]
    node.until(lambda: accounted(node)["bytes"] + by_tcp(node) == sent)
    before = sent - sum(accounted(node).values())
    ends.say("go")
    node.until(grows(node))
    return ends, before


def accounted(node: Node) -> dict[str, int]:
    """Bytes of the receipts: from socket to socket, and of the same connections by TCP."""
    receipts = accel(node)["receipts"]
    return {kind: sum(one.get(kind, 0) for one in receipts) for kind in ("bytes", "tcp_bytes")}


def by_tcp(node: Node) -> int:
    carried = [one["carried"] for one in connections(node, "a")]
    return sum(one.get("tcp_sent_bytes", 0) + one.get("tcp_received_bytes", 0) for one in carried)


def grows(node: Node) -> Any:
    """Whether more goes from socket to socket by now than did."""
    before = accounted(node)["bytes"]
    return lambda: accounted(node)["bytes"] > before


def all_is_free(node: Node) -> None:
    """No slot is held, no socket enrolled, and each pair that joined has left."""
    node.until(lambda: not live(node) and not accel(node)["totals"].get("leaving"))
    totals = accel(node)["totals"]
    assert totals["promotions"] == totals["evictions"] == sum(totals["out"].values()) == CONNECTIONS
    with KernelMap.open_pinned(node.pins / "maps" / "accel_map") as sockets:
        assert libbpf.map_next_key(sockets.fd, None, 8) is None


@pytest.mark.parametrize("first", [("client",), ("server",), ("server", "client")], ids="+".join)
def test_pods_that_are_evicted_read_to_the_end(
    node: Node, pods: tuple[Pod, Pod], first: tuple[str, ...]
) -> None:
    ends, before = accelerated(node, pods)
    terminating(node, *pods)
    node.until(grows(node))  # terminating backends keep their connections, and these their path
    assert live(node) == CONNECTIONS
    for name in first:
        getattr(ends, name).send_signal(signal.SIGTERM)
    client, server = (ends.told(end, "ended") for end in (ends.client, ends.server))
    assert [end.wait(PATIENCE) for end in (ends.client, ends.server)] == [0, 0]
    assert server["got"] == client["sent"], "what the client sent is read"
    assert client["got"] == server["sent"], "what the server sent is read"
    gone(node, *pods)
    all_is_free(node)
    node.until(lambda: sum(accounted(node).values()) + before == client["sent"] + server["sent"])


def test_what_a_killed_pod_had_sent_is_read_when_its_device_is_gone(
    node: Node, pods: tuple[Pod, Pod]
) -> None:
    ends, _ = accelerated(node, pods)
    terminating(node, *pods)
    ends.say("deaf")  # it reads nothing until all is over
    ends.told(ends.client, "unread")
    ends.server.send_signal(signal.SIGTERM)
    sent = ends.told(ends.server, "ending")["sent"]
    ends.server.kill()  # the grace period is over
    ends.server.wait(PATIENCE)
    pods[1].close()
    node.until(lambda: live(node) == 0)
    assert accel(node)["totals"]["leaving"] == CONNECTIONS, "for its reader has not read"
    ends.say("go")
    assert ends.told(ends.client, "ended")["got"] == sent
    gone(node, *pods)
    all_is_free(node)


def test_a_node_that_is_used_again_has_all_its_room(node: Node, pods: tuple[Pod, Pod]) -> None:
    ends, _ = accelerated(node, pods)
    terminating(node, *pods)
    ends.server.send_signal(signal.SIGTERM)
    ends.told(ends.client, "ended")
    gone(node, *pods)
    all_is_free(node)
    with running(node) as (a, b):  # others, of the same names and addresses
        b.serve()
        load = Load(a, SERVICE)
        node.until(lambda: live(node) == 1)
        node.until(grows(node))
        load.end()
