# SPDX-License-Identifier: Apache-2.0
"""What ``netaccel flows`` and ``netaccel drops`` say of real traffic: who, what became of it, which rule."""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from typing import Any

import pytest
from labworld import BOTH, World, pod
from reach import OPEN, SILENT, Try, attempt

from netaccel.lab.figures import total
from netaccel.lab.handle import wait_for
from policies import labels, network_policy, pods, sources, traffic_policy

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
OPTIONS = {"nodes": 2, "settings": {"timeouts": "closed=1", "sweep_interval": "1", "peer": "off"}}
both_families = pytest.mark.parametrize("family", BOTH, ids=["IPv4", "IPv6"])

ALLOW_WEB = "NetworkPolicy default/allow-web ingress[0]"
ISOLATED = "NetworkPolicy default/allow-web ingress isolation"
WATCH = "TrafficPolicy default/watch ingress[0]"


def prepare(world: World) -> None:
    world.write(
        "pods",
        pod("web-0", "node-1"),
        pod("db-0", "node-1", app="db"),
        pod("other-0", "node-2", app="other"),
    )
    world.write(
        "policies",
        network_policy(
            "allow-web",
            labels(app="db"),
            ingress=[sources(pods(app="web"), ports=[{"port": 8080}])],
        ),
        traffic_policy(
            "watch",
            labels(app="web"),
            mode="Monitor",
            ingress=[{"action": "Drop", "name": "others", **sources(pods(app="other"))}],
        ),
    )


def netaccel(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "netaccel", *arguments]


def ask(world: World, *arguments: str) -> str:
    done = world.lab.run("node-1", *netaccel(*arguments))
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def last(world: World, *arguments: str) -> dict[str, Any]:
    """The newest flow that these filters want, once there is one."""

    def found() -> dict[str, Any] | None:
        lines = ask(world, "flows", "--last", "1", "-o", "json", *arguments).splitlines()
        return json.loads(lines[-1]) if lines else None

    return wait_for(found, f"a flow {' '.join(arguments)}", 10) or {}


def after(world: World, one: Try, family: socket.AddressFamily) -> None:
    """The traffic, once its policies are in force."""
    wait_for(lambda: attempt(world, one, family) == one.expected, f"{one} {family.name}", 20)


def ends(family: socket.AddressFamily, world: World, source: str, to: str) -> tuple[str, ...]:
    addresses = (f"ip:{world.pod_ip(name, family)}" for name in (source, to))
    return tuple(word for pair in zip(("--from", "--to"), addresses, strict=True) for word in pair)


@both_families
def test_an_allowed_flow_names_the_rule_that_allows_it(world: World, family: socket.AddressFamily) -> None:
    after(world, Try("pod:default/web-0", "pod:default/db-0", "tcp/8080", OPEN), family)
    found = last(world, *ends(family, world, "web-0", "db-0"), "--direction", "ingress", "--type", "new")
    assert (found["source"]["name"], found["destination"]["name"]) == ("web-0", "db-0")
    assert found["source"]["labels"]["app"] == "web"
    assert (found["destination_port"], found["protocol"], found["verdict"]) == (8080, "TCP", "forwarded")
    shown = ask(
        world, "flows", "--to", "pod:default/db-0", "--from", "pod:default/web-0", "--rule", "allow-web"
    )
    assert f"tcp ingress FORWARDED rule {ALLOW_WEB} path=tc" in shown


@both_families
def test_a_dropped_one_names_what_isolates(world: World, family: socket.AddressFamily) -> None:
    after(world, Try("pod:default/other-0", "pod:default/db-0", "tcp/8080", SILENT), family)
    wanted = (*ends(family, world, "other-0", "db-0"), "--verdict", "dropped")
    found = last(world, *wanted)
    assert (found["type"], found["reason"], found["direction"]) == ("drop", "policy_isolated", "ingress")
    assert (found["rule"]["name"], found["rule"]["number"]) == ("allow-web", -1)
    assert ISOLATED in ask(world, "flows", *wanted)
    drops = json.loads(ask(world, "drops", *wanted, "-o", "json"))
    (pair,) = (one for one in drops["pairs"] if one["destination_port"] == 8080)
    assert pair["traffic"]["packets"] >= 1
    assert pair["direction"] == "ingress"
    assert drops["rules"][0]["rule"]["name"] == "allow-web"


@both_families
def test_an_audited_one_names_what_would_drop_it(world: World, family: socket.AddressFamily) -> None:
    after(world, Try("pod:default/other-0", "pod:default/web-0", "tcp/8080", OPEN), family)
    wanted = (*ends(family, world, "other-0", "web-0"), "--verdict", "audited")
    found = last(world, *wanted)
    assert (found["type"], found["direction"]) == ("new", "ingress")
    assert found["shadow_rule"]["rule"] == "others"
    assert f"AUDITED would drop: {WATCH} (others)" in ask(world, "flows", *wanted)


def test_what_the_kernel_drops_stands_beside_it(world: World) -> None:
    after(world, Try("pod:default/other-0", "pod:default/web-0", "udp/9", "refused"), socket.AF_INET)
    found = last(world, "--to", "pod:default/web-0", "--type", "kernel_drop", "--port", "9")
    assert (found["reason"], found["direction"], found["path"]) == ("no_socket", "ingress", "stack")
    assert "no_socket" in ask(world, "drops")


def test_a_follower_sees_what_comes_and_ends_quietly(world: World) -> None:
    with world.lab.popen(
        "node-1", *netaccel("flows", "--follow", "--from", "pod:default/other-0")
    ) as follower:
        assert follower.stdout
        time.sleep(2)
        attempt(world, Try("pod:default/other-0", "pod:default/web-0", "tcp/8080", OPEN), socket.AF_INET)
        assert "default/other-0" in follower.stdout.readline()
        follower.send_signal(signal.SIGINT)
        _, said = follower.communicate(timeout=10)
    assert said == ""


def test_bad_filters_are_one_line(world: World) -> None:
    done = world.lab.run("node-1", *netaccel("flows", "--verdict", "denied"))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "netaccel: verdict 'denied': give forwarded, dropped, audited, redirected, translated"
    ]


@both_families
def test_a_flow_that_ended_says_what_it_carried(world: World, family: socket.AddressFamily) -> None:
    """The sweep takes it some time after its end: the timeouts are short in this lab."""
    after(world, Try("pod:default/web-0", "pod:default/db-0", "tcp/8080", OPEN), family)
    found = last(world, *ends(family, world, "web-0", "db-0"), "--type", "closed")
    assert found["total"]["packets"] >= 3
    assert found["total"]["reply_bytes"] > found["total"]["packets"]


def test_every_event_is_accounted_for(world: World) -> None:
    def balanced() -> bool:
        events = world.lab.api("node-1", "/status")["flows"]["events"]
        assert events["unparsable"] == 0
        told = events["seen"] == events["exported"] + events["aggregated"] + events["lost"]
        return bool(told and events["unaccounted"] == 0)

    wait_for(balanced, "every event accounted for", 10)
    metrics = world.lab.metrics("node-1")
    assert total(metrics, "netaccel_flow_verdicts_total", verdict="audited", namespace="default") > 0
    assert total(metrics, "netaccel_policy_rule_packets_total", policy="allow-web") > 0
