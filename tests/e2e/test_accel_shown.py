# SPDX-License-Identifier: Apache-2.0
"""What is told of acceleration, of a real connection: status, show, flows and metrics agree, and add up with
what the programs counted.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from labworld import BOTH, World, pod, service

from netaccel.errors import LabError
from netaccel.lab.acceltour import Asked, load
from netaccel.lab.figures import total
from netaccel.lab.handle import wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
OPTIONS = {
    "nodes": 1,
    "settings": {
        "timeouts": "closed=1",
        "sweep_interval": "1",
        "accelerate_interval": "0.3",
        "accelerate_rate": "10",  # a busy machine may not do more
    },
}
both_families = pytest.mark.parametrize("family", BOTH, ids=["IPv4", "IPv6"])
PORT = 9000
HOT, COLD = "hot-0", "cold-0"
SERVER = ["python", "-m", "netaccel.lab.load", "--listen", str(PORT)]


def prepare(world: World) -> None:
    def loaded(name: str, app: str, wish: str) -> dict[str, Any]:
        found = pod(name, "node-1", app=app, command=SERVER)
        found["metadata"]["annotations"] = {"netaccel.io/accelerate": wish}
        container = found["spec"]["containers"][0]
        container["readinessProbe"] = {"tcpSocket": {"port": PORT}, "periodSeconds": 1}
        return found

    world.write(
        "pods",
        loaded(HOT, "hot", "enabled"),
        loaded("asks-0", "asks", "enabled"),
        loaded(COLD, "cold", "disabled"),
    )
    world.write("services", service("hot", app="hot", ports=[{"name": "load", "port": PORT}]))


def ask(world: World, *arguments: str) -> str:
    done = world.lab.run("node-1", sys.executable, "-m", "netaccel", *arguments)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def status(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.lab.api("node-1", "/api/v1/accel/status")
    return found


def connection(world: World, port: int, of: str = "asks-0") -> dict[str, Any]:
    found = json.loads(ask(world, "accel", "show", f"pod:default/{of}", "-o", "json"))
    mine = [one for one in found if port in (one["local_port"], one["remote_port"])]
    if len(mine) != 1:
        raise LabError(f"connections with port {port}: {mine}")
    return dict(mine[0])


def carried(world: World, port: int, of: str = "asks-0") -> dict[str, int]:
    return {"sent_bytes": 0, "received_bytes": 0, "sent_messages": 0} | connection(world, port, of)["carried"]


def is_fast(world: World, port: int) -> bool:
    return bool(connection(world, port)["carried"]["path"] == "socket")


@contextmanager
def hot(world: World, family: socket.AddressFamily) -> Iterator[Asked]:
    """A load on the Service that goes from socket to socket."""
    wait_for(lambda: status(world)["socket"]["on"], "tier 1 in force", 120)
    with load(world.lab, "pod:default/asks-0", world.cluster_ip(family, "hot"), port=PORT) as asked:
        wait_for(lambda: is_fast(world, asked.port), "the load accelerated", 60)
        asked.rate()
        yield asked


def metric(world: World, name: str, **labels: str) -> float:
    return total(world.lab.metrics("node-1"), f"netaccel_accel_{name}", **labels)


def receipt(world: World, server: str) -> dict[str, int]:
    """Of all connections with this pod."""
    rows = [one for one in status(world)["receipts"] if one["server"] == f"default/{server}"]
    return {name: sum(row.get(name, 0) for row in rows) for name in ("messages", "bytes", "tcp_bytes")}


@both_families
def test_all_that_is_told_agrees_with_what_the_program_counted(
    world: World, family: socket.AddressFamily
) -> None:
    before = receipt(world, HOT)
    with hot(world, family) as asked:
        wait_for(lambda: metric(world, "pairs", state="live") == _live(world) >= 1, "the pair counted")
        told = connection(world, asked.port)
        assert told["peer"] == f"default/{HOT}"
        assert told["service"] == "default/hot"
        totals = asked.stop()
        mine = carried(world, asked.port)
        assert mine["sent_bytes"] + mine.get("tcp_sent_bytes", 0) == totals["sent"]
        assert mine["received_bytes"] + mine.get("tcp_received_bytes", 0) == totals["received"]
        assert 0 < mine["sent_bytes"] <= totals["sent"]
        theirs = carried(world, asked.port, HOT)
        assert (theirs["sent_bytes"], theirs["received_bytes"]) == (
            mine["received_bytes"],
            mine["sent_bytes"],
        )

        grown = wait_for(lambda: _grown(world, before, mine), "the receipt of the load", 30)
        assert grown["bytes"] == mine["sent_bytes"] + mine["received_bytes"]
        both = {"namespace": "default", "service": "hot", "path": "socket"}
        now = receipt(world, HOT)
        assert metric(world, "bytes_total", **both) == now["bytes"]
        assert metric(world, "messages_total", **both) == now["messages"]
        shown = ask(world, "accel", "show", "pod:default/asks-0")
        assert f"default/{HOT}:{PORT}" in shown
        assert f"{mine['sent_bytes']}/{mine['received_bytes']}" in shown
    closed = _closed(world, totals["port"])
    assert closed["path"] == "socket"
    redirected = closed["total_redirected"]
    assert (redirected["bytes"], redirected["reply_bytes"]) == (mine["sent_bytes"], mine["received_bytes"])


def _live(world: World) -> int:
    return int(status(world)["totals"].get("live", 0))


def _grown(world: World, before: dict[str, int], mine: dict[str, int]) -> dict[str, int] | None:
    """By what the receipt grew, once that is all of the connection's."""
    now = receipt(world, HOT)
    grown = {name: now[name] - before[name] for name in now}
    return grown if grown["bytes"] >= mine["sent_bytes"] + mine["received_bytes"] else None


def _closed(world: World, port: int) -> dict[str, Any]:
    """The record of the end of the connection, as the client's device saw it."""

    def found() -> dict[str, Any] | None:
        wanted = ("--type", "closed", "--path", "socket", "--port", str(port), "--direction", "egress")
        lines = ask(world, "flows", *wanted, "-o", "json").splitlines()
        return json.loads(lines[-1]) if lines else None

    return wait_for(found, "the record of its end", 40) or {}


def test_what_is_not_accelerated_says_why(world: World) -> None:
    wait_for(lambda: status(world)["socket"]["on"], "tier 1 in force", 120)
    address = world.pod_ip(COLD, socket.AF_INET)
    with load(world.lab, "pod:default/asks-0", address, port=PORT) as asked:
        asked.rate()
        told = wait_for(lambda: _refused(world, asked.port), "a reason", 30)
        assert "disabled" in told["reason"]
        assert told["carried"]["path"] in ("peer", "tc")
        assert told["carried"]["tcp_sent_bytes"] > 0
        assert told["reason"] in ask(world, "accel", "show", "pod:default/asks-0")


def _refused(world: World, port: int) -> dict[str, Any] | None:
    found = connection(world, port)
    return found if "disabled" in found.get("reason", "") else None


def test_status_has_the_self_test_and_a_line_in_the_nodes_own(world: World) -> None:
    wait_for(lambda: status(world)["socket"]["on"], "tier 1 in force", 120)
    shown = world.lab.run("node-1", sys.executable, "-m", "netaccel", "accel", "status").stdout
    assert "tier 1, socket: in force" in shown
    checks = {check["name"]: check["ok"] for check in status(world)["checks"]}
    assert checks["order"]
    for name, ok in checks.items():
        assert metric(world, "selftest", check=name) == ok
    assert "acceleration:" in world.lab.run("node-1", sys.executable, "-m", "netaccel", "status").stdout


def test_a_pod_that_is_not_here_is_one_line(world: World) -> None:
    done = world.lab.run("node-1", sys.executable, "-m", "netaccel", "accel", "show", "pod:default/gone-0")
    assert done.returncode == 1
    assert "no pod default/gone-0 runs on this node" in done.stderr
