# SPDX-License-Identifier: Apache-2.0
"""``netaccel accel``: what people and programs read of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from accelground import FAST, SLOW, STATUS, Fake, agent
from click.testing import CliRunner, Result
from msgspec.structs import replace

from netaccel.accelerate import accounts, clearance, engine, evidence, obstacles, pairing
from netaccel.accelerate.view import Check, Status, Tier
from netaccel.cli import netaccel
from netaccel.commands import doctor
from netaccel.datapath.accel import selftest

DOCS = Path(__file__).parents[2] / "docs/acceleration.md"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(netaccel, arguments, prog_name="netaccel")


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def at(fake: Fake) -> Iterator[str]:
    with agent(fake) as found:
        yield found


def words(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines()]


def test_status_has_tiers_self_test_pairs_and_receipts(at: str) -> None:
    result = run("accel", "status", "--http", at)
    assert result.exit_code == 0, result.output
    for said in (
        "node node-1\n  tier 0, peer: in force\n  tier 1, socket: in force\n",
        "pairs: 1 live of 4096, 0 leaving",
        "4 accelerated, 3 left (rate 2, closed 1), 1 of them waited for a reader",
        "not accelerated: may splice 7, blocking 2",
        "left with TCP: programs that may do what this kernel gets wrong: splice",
        "out of reach: shop/far-0: no process of it is seen",
        "packets go through the node's stack: shop/idle-0: veth3 has a queueing discipline (tbf)",
    ):
        assert said in result.output
    rows = words(result.output)
    assert ["splice", "FAILED", "EAGAIN", "while", "poll", "says", "readable"] in rows
    receipt = ["shop/db", "shop/web-0", "shop/db-0", "2", "1000", "64000", "640", "unread", "8,full", "2"]
    assert receipt in rows


def test_status_in_json_is_the_agents(at: str) -> None:
    result = run("accel", "status", "--http", at, "-o", "json")
    assert msgspec.convert(json.loads(result.output), Status) == STATUS


def test_a_tier_that_is_asked_for_and_not_in_force_is_degraded(at: str, fake: Fake) -> None:
    fake.now = Status("node-1", Tier(True), Tier(False, "self-test: order: bytes came twice"))
    result = run("accel", "status", "--http", at)
    assert result.exit_code == 3
    assert "tier 1, socket: NOT IN FORCE: self-test: order: bytes came twice" in result.output
    assert "no receipts" in result.output


def test_what_the_settings_turn_off_is_no_failure() -> None:
    with agent(None) as at:
        result = run("accel", "status", "--http", at)
    assert result.exit_code == 0
    assert "tier 1, socket: off: the setting accelerate is disabled" in result.output


def test_show_has_each_connection_with_its_path_and_reason(at: str) -> None:
    result = run("accel", "show", "pod:shop/web-0", "--http", at)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("pod shop/web-0: 2 TCP connections, 1 from socket to socket\n")
    rows = words(result.output)
    assert [
        "43210",
        "shop/db-0:5432,shop/db",
        "socket",
        "32000/32000",
        "320/320",
        "peer",
        "by",
        "TCP:",
        "unread",
        "8",
    ] in rows
    slow = next(row for row in rows if row[:1] == ["43211"])
    assert slow[1:5] == ["[fd00::9]:80", "tc", "0/0", "70/900"]
    assert " ".join(slow[5:]) == "the other end is no pod of this node"
    found = json.loads(run("accel", "show", "pod:shop/web-0", "--http", at, "-o", "json").output)
    assert found[0] == msgspec.to_builtins(FAST)


def test_a_pod_without_connections(at: str) -> None:
    output = run("accel", "show", "pod:shop/db-0", "--http", at).output
    assert output == "pod shop/db-0: 0 TCP connections, 0 from socket to socket\n"


def test_show_says_why_packets_go_through_the_nodes_stack(at: str, fake: Fake) -> None:
    shaped = "packets go through the node's stack: shop/idle-0: veth3 has a queueing discipline (tbf)"
    output = run("accel", "show", "pod:shop/idle-0", "--http", at).output
    assert output.splitlines()[1:] == [f"  {shaped}"]
    fake.ends = [replace(FAST, tcp_reason=STATUS.through_stack[0]), SLOW]  # the other end's pod keeps to it
    output = run("accel", "show", "pod:shop/web-0", "--http", at).output
    assert output.count(shaped) == 1


@pytest.mark.parametrize(
    ("pod", "said"),
    [
        ("pod:web-0", "no pod default/web-0 runs on this node"),
        ("service:shop/db", "give pod:NAMESPACE/NAME"),
        ("pod:shop/web-0:80", "give pod:NAMESPACE/NAME"),
        ("web-0", "give pod:NS/NAME"),
    ],
)
def test_what_is_no_pod_of_this_node_is_one_line(at: str, pod: str, said: str) -> None:
    result = run("accel", "show", pod, "--http", at)
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_doctor_tells_what_keeps_it_off_and_what_is_left_with_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [Check(name, name not in ("splice", "order"), "odd") for name in selftest.NAMES]
    monkeypatch.setattr(selftest, "run", lambda: checks)
    monkeypatch.setattr(doctor, "probe", lambda *_: [])
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = {
        row["name"]: row for row in json.loads(run("doctor", "--http", "127.0.0.1:1", "-o", "json").output)
    }
    assert not found["socket to socket"]["ok"]
    assert found["socket to socket: order"]["instead"] == "no acceleration"
    checks = [Check(name, name != "splice", "odd") for name in selftest.NAMES]
    result = run("doctor", "--http", "127.0.0.1:1", "-o", "json")
    found = {row["name"]: row for row in json.loads(result.output)}
    assert (found["socket to socket"]["ok"], result.exit_code) == (True, 3)
    assert found["socket to socket: splice"]["instead"] == "programs that may do this stay with TCP"


REASONS = (clearance, engine, evidence, obstacles, pairing)


def reasons() -> set[str]:
    """Why a connection isn't accelerated, as the engine says it: what its modules name in capitals."""
    found = {
        value
        for module in REASONS
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str) and not name.startswith("_")
    }
    return found | set(obstacles.OF_FLAGS.values())


def test_the_documentation_has_a_row_for_every_reason_and_pass() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert not {said for said in (*reasons(), *accounts.PASSES) if f"`{said}`" not in text}


def test_without_an_agent_one_line_says_so() -> None:
    result = run("accel", "status", "--http", "127.0.0.1:1")
    assert result.exit_code == 1
    assert result.stderr.startswith("netaccel: no agent listens at 127.0.0.1:1")
