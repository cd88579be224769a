# SPDX-License-Identifier: Apache-2.0
"""What ``netaccel flows`` and ``netaccel drops`` say of real traffic: who, what became of it, which rule."""

from __future__ import annotations

import json
import select
import signal
import socket
import sys
from typing import IO, Any

import pytest
from labworld import BOTH, World, pod
from reach import OPEN, REFUSED, SILENT, Try, address_of, attempt

from netaccel.lab.figures import total
from netaccel.lab.handle import wait_for
from policies import labels, network_policy, pods, sources, traffic_policy

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
OPTIONS = {"nodes": 2, "settings": {"timeouts": "closed=1", "sweep_interval": "1", "peer": "off"}}
both_families = pytest.mark.parametrize("family", BOTH, ids=["IPv4", "IPv6"])

ALLOWED = Try("pod:default/web-0", "pod:default/db-0", "tcp/8080", OPEN)
DROPPED = Try("pod:default/other-0", "pod:default/db-0", "tcp/8080", SILENT)
AUDITED = Try("pod:default/other-0", "pod:default/web-0", "tcp/8080", OPEN)
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


def last(world: World, one: Try, family: socket.AddressFamily, *wanted: str) -> dict[str, Any]:
    """The newest flow of this traffic that the filters want.

    It is sent until one is told: what is sent first may be told otherwise, or not at all, for policies may
    still be on their way to its pods.
    """

    def found() -> dict[str, Any] | None:
        if attempt(world, one, family) != one.expected:
            return None
        lines = ask(world, "flows", "--last", "1", "-o", "json", *wanted).splitlines()
        return json.loads(lines[-1]) if lines else None

    return wait_for(found, f"{one} {family.name} {' '.join(wanted)}", 30) or {}


def ends(family: socket.AddressFamily, world: World, one: Try) -> tuple[str, ...]:
    addresses = (f"ip:{address_of(world, end, family)}" for end in (one.source, one.destination))
    return tuple(word for pair in zip(("--from", "--to"), addresses, strict=True) for word in pair)


@both_families
def test_an_allowed_flow_names_the_rule_that_allows_it(world: World, family: socket.AddressFamily) -> None:
    wanted = (*ends(family, world, ALLOWED), "--direction", "ingress", "--rule", "allow-web")
    found = last(world, ALLOWED, family, *wanted, "--type", "new")
    assert (found["source"]["name"], found["destination"]["name"]) == ("web-0", "db-0")
    assert found["source"]["labels"]["app"] == "web"
    assert (found["destination_port"], found["protocol"], found["verdict"]) == (8080, "TCP", "forwarded")
    shown = ask(
        world, "flows", "--to", "pod:default/db-0", "--from", "pod:default/web-0", "--rule", "allow-web"
    )
    assert f"tcp ingress FORWARDED rule {ALLOW_WEB} path=tc" in shown


@both_families
def test_a_dropped_one_names_what_isolates(world: World, family: socket.AddressFamily) -> None:
    wanted = (*ends(family, world, DROPPED), "--verdict", "dropped")
    found = last(world, DROPPED, family, *wanted)
    assert (found["type"], found["reason"], found["direction"]) == ("drop", "policy_isolated", "ingress")
    assert (found["rule"]["name"], found["rule"]["number"]) == ("allow-web", -1)
    assert ISOLATED in ask(world, "flows", *wanted)
    drops = wait_for(lambda: _counted(world, *wanted), "the pair counted")
    (pair,) = (one for one in drops["pairs"] if one["destination_port"] == 8080)
    assert pair["traffic"]["packets"] >= 1
    assert pair["direction"] == "ingress"
    assert drops["rules"][0]["rule"]["name"] == "allow-web"


def _counted(world: World, *wanted: str) -> dict[str, Any] | None:
    """What was dropped, once any of it is counted: that is read once a second at most."""
    found: dict[str, Any] = json.loads(ask(world, "drops", *wanted, "-o", "json"))
    return found if found["pairs"] else None


@both_families
def test_an_audited_one_names_what_would_drop_it(world: World, family: socket.AddressFamily) -> None:
    wanted = (*ends(family, world, AUDITED), "--verdict", "audited", "--type", "new")
    found = last(world, AUDITED, family, *wanted)
    assert (found["type"], found["direction"]) == ("new", "ingress")
    assert found["shadow_rule"]["rule"] == "others"
    assert f"AUDITED would drop: {WATCH} (others)" in ask(world, "flows", *wanted)


def test_what_the_kernel_drops_stands_beside_it(world: World) -> None:
    one = Try("pod:default/other-0", "pod:default/web-0", "udp/9", REFUSED)
    wanted = ("--to", "pod:default/web-0", "--type", "kernel_drop", "--port", "9")
    found = last(world, one, socket.AF_INET, *wanted)
    assert (found["reason"], found["direction"], found["path"]) == ("no_socket", "ingress", "stack")
    wait_for(lambda: "no_socket" in ask(world, "drops"), "it counted")


def test_a_follower_sees_what_comes_and_ends_quietly(world: World) -> None:
    heeding = ("env", "--default-signal=INT")  # tests in the background ignore it, and so their children
    follow = netaccel("flows", "--follow", "--from", "pod:default/other-0")
    with world.lab.popen("node-1", *heeding, *follow) as follower:
        try:
            assert follower.stdout
            wait_for(lambda: _sees(world, follower.stdout), "a line", 60)
            assert "default/other-0" in follower.stdout.readline()
            follower.send_signal(signal.SIGINT)
            _, said = follower.communicate(timeout=60)
        finally:
            follower.kill()
    assert said == ""


def _sees(world: World, told: IO[str]) -> bool:
    """Whether a follower has said anything of one try more: it may just be starting."""
    attempt(world, AUDITED, socket.AF_INET)
    return bool(select.select([told], [], [], 1)[0])


def test_bad_filters_are_one_line(world: World) -> None:
    done = world.lab.run("node-1", *netaccel("flows", "--verdict", "denied"))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "netaccel: verdict 'denied': give forwarded, dropped, audited, redirected, translated"
    ]


@both_families
def test_a_flow_that_ended_says_what_it_carried(world: World, family: socket.AddressFamily) -> None:
    """The sweep takes it some time after its end: the timeouts are short in this lab."""
    found = last(world, ALLOWED, family, *ends(family, world, ALLOWED), "--type", "closed")
    assert found["total"]["packets"] >= 3
    assert found["total"]["reply_bytes"] > found["total"]["packets"]


def test_every_event_is_accounted_for(world: World) -> None:
    for one, verdict in ((ALLOWED, "forwarded"), (AUDITED, "audited")):
        last(world, one, socket.AF_INET, *ends(socket.AF_INET, world, one), "--verdict", verdict)

    def balanced() -> bool:
        events = world.lab.api("node-1", "/status")["flows"]["events"]
        assert events["unparsable"] == 0
        told = events["seen"] == events["exported"] + events["aggregated"] + events["lost"]
        return bool(told and events["unaccounted"] == 0)

    wait_for(balanced, "every event accounted for", 30)
    metrics = world.lab.metrics("node-1")
    assert total(metrics, "netaccel_flow_verdicts_total", verdict="audited", namespace="default") > 0
    assert total(metrics, "netaccel_policy_rule_packets_total", policy="allow-web") > 0
