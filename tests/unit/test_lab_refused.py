# SPDX-License-Identifier: Apache-2.0
"""``netaccel lab status``: what agents refuse stands there once, with the nodes that do."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from click.testing import CliRunner

from netaccel.cli import netaccel
from netaccel.errors import LabError
from netaccel.lab import commands

BAD = {
    "object": "NetworkPolicy shop/bad",
    "state": "rejected",
    "where": "bad.yaml#1 spec.ingres",
    "reason": "is no field of it: remove it",
}
FULL = {"object": "Service shop/web", "state": "degraded", "where": "", "reason": "the map is full"}


class Fake:
    """A lab of three nodes: two refuse something, one agent has just ended."""

    answers: ClassVar[dict[str, Any]] = {"node-1": {"refused": [BAD]}, "node-2": {"refused": [BAD, FULL]}}

    def __init__(self, name: str) -> None:
        self.name = name

    def status(self) -> dict[str, Any]:
        agent = {"pid": 1, "ready": True, "restarts": 0, "message": ""}
        names = ("node-1", "node-2", "node-3")
        nodes = [{"name": name, "addresses": ["172.30.0.1"], "zone": "a", "agent": agent} for name in names]
        idle = {"name": "node-4", "addresses": [], "zone": "a", "agent": None}
        return {"nodes": [*nodes, idle], "pods": [], "services": [], "problems": {"x.yaml": "odd"}}

    def api(self, node: str, path: str) -> Any:
        if node not in self.answers or path != "/status":
            raise LabError("Connection refused")
        return self.answers[node]


@pytest.fixture(autouse=True)
def _a_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "Lab", Fake)
    monkeypatch.setattr("netaccel.lab.lifecycle.is_running", lambda _: True)
    monkeypatch.setattr("os.geteuid", lambda: 0)


def status() -> str:
    result = CliRunner().invoke(netaccel, ["lab", "status"])
    assert result.exit_code == 0, result.output
    return result.output


def test_each_refusal_is_one_line_with_its_nodes() -> None:
    lines = status().splitlines()
    (bad,) = (line for line in lines if line.startswith("NetworkPolicy shop/bad"))
    assert bad.split("  ") == [*BAD.values(), "node-1,node-2"]
    (full,) = (line for line in lines if line.startswith("Service shop/web"))
    assert full.split()[-1] == "node-2"


def test_an_agent_that_does_not_answer_is_told_beside_other_problems() -> None:
    said = status()
    assert "agent of node-3: does not say what it refuses: Connection refused" in said
    assert "x.yaml: odd" in said


def test_where_nothing_is_refused_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fake, "answers", {f"node-{n}": {"refused": []} for n in (1, 2, 3)})
    assert "OBJECT" not in status()


def test_who_is_not_root_sees_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "node-4" in status()
    assert "refuse" not in status()
