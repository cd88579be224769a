# SPDX-License-Identifier: Apache-2.0
"""When an agent takes over from a kube-proxy, and what it says of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_takeover_flows import ABI, FRONTEND, HZ, FlowTables, connection, flows

from netaccel.agent.takeover import TakeOver
from netaccel.config import Settings
from netaccel.datapath import conntrack
from netaccel.errors import DatapathError
from netaccel.observe.conntrack import Census, Fill
from netaccel.reconcile import Mode

CLUSTER: dict[str, Any] = {"node_name": "node-1"}
FILES: dict[str, Any] = {**CLUSTER, "manifests": Path("/manifests")}
SWEPT = {"flows4": Fill(0, 10)}


def plane(settings: Settings, maps: FlowTables) -> Any:
    loaded = SimpleNamespace(maps=maps, abi=ABI)
    return SimpleNamespace(settings=settings, loaded=loaded, hz=HZ, clock=SimpleNamespace(now=lambda: 0))


def begun(settings: dict[str, Any], flags: str | None = None) -> TakeOver:
    """``flags``: of the one frontend that is there; None: there is none."""
    made = Settings(**settings)
    bits = ABI.constants[flags] if flags else 0
    table = {} if flags is None else {1: FRONTEND._replace(flags=bits)}
    return TakeOver.begin(made, plane(made, FlowTables(frontends=table)))


@pytest.mark.parametrize(
    ("settings", "flags", "translated", "mode"),
    [
        (FILES, None, True, Mode.TAKE_OVER),
        (FILES, None, False, Mode.SERVE),
        (FILES, "", True, Mode.SERVE),
        (FILES, "FRONTEND_DRAIN", True, Mode.TAKE_OVER),
        (FILES, "FRONTEND_TAKEOVER", True, Mode.TAKE_OVER),
        (CLUSTER, None, False, Mode.TAKE_OVER),
        (CLUSTER, "", True, Mode.TAKE_OVER),
        (CLUSTER, "", False, Mode.SERVE),
        ({**CLUSTER, "kube_proxy": "instead"}, None, True, Mode.TAKE_OVER),
        ({**CLUSTER, "kube_proxy": "instead"}, None, False, Mode.SERVE),
        ({**CLUSTER, "kube_proxy": "instead"}, "", True, Mode.SERVE),
        ({**FILES, "drain": True}, None, True, Mode.DRAIN),
    ],
)
def test_how_an_agent_begins(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], flags: str | None, translated: bool, mode: Mode
) -> None:
    monkeypatch.setattr(conntrack, "has_translated", lambda: translated)
    if settings.get("kube_proxy") == "instead":
        settings = {**settings, "api_servers": ["192.0.2.1:6443"]}
    assert begun(settings, flags).mode is mode


def test_a_table_that_cannot_be_read_is_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> bool:
        raise DatapathError("the kernel's conntrack can't be read", 1)

    monkeypatch.setattr(conntrack, "has_translated", refused)
    made = begun(FILES)
    assert made.mode is Mode.SERVE
    (warning,) = made.warnings()
    assert "can't be read" in warning


def test_what_it_says_while_it_drains() -> None:
    made = begun({**FILES, "drain": True})
    assert made.notes(Census()) == ["draining: flows are being counted"]
    assert made.notes(Census(fill=SWEPT, open=3)) == [
        "draining: 3 flows left; new ones go to the node's stack"
    ]
    assert made.notes(Census(fill=SWEPT)) == ["draining: no flow left; `netaccel detach` ends none"]


def test_it_says_how_many_flows_are_the_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conntrack, "has_translated", lambda: False)
    made = begun(FILES)
    assert made.notes(Census(fill=SWEPT)) == []
    assert "2 flows" in made.notes(Census(fill=SWEPT, stack=2))[0]


async def test_flows_to_removed_backends_are_looked_for_where_the_stack_has_some() -> None:
    settings = Settings(**FILES, drain=True)
    there = flows(connection(17))
    maps = FlowTables(flows4=dict(there), flows6={}, backends={})
    made = TakeOver(plane(settings, maps), Mode.SERVE)
    await made.forget_gone(Census(fill=SWEPT))
    assert maps.tables["flows4"] == there, "the sweep saw none"
    await made.forget_gone(Census(fill=SWEPT, stack=1))
    assert maps.tables["flows4"] == {}
