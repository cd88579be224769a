# SPDX-License-Identifier: Apache-2.0
"""The API server's judgement of policies: the cases of tests/cases/crds, and the examples that ship."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from feed import PATHS
from writers import REPOSITORY, connected, install_kinds

from netaccel.apiserver.connection import Connection
from netaccel.cluster.controlplane import ControlPlane
from netaccel.errors import ApiError

CASES_DIR = REPOSITORY / "tests" / "cases" / "crds"
CASES = [
    pytest.param(case, id=f"{file.stem}: {case['title']}")
    for file in sorted(CASES_DIR.glob("*.yaml"))
    for case in yaml.safe_load(file.read_text())
]
EXAMPLES = sorted((REPOSITORY / "policies" / "examples").glob("*.yaml"))


@pytest.fixture(scope="session")
def kinds(control_plane: ControlPlane) -> None:
    """The kinds of netaccel.io."""
    install_kinds(control_plane.kubectl)


@pytest.fixture
async def api(control_plane: ControlPlane, kinds: None) -> AsyncIterator[Connection]:
    async with connected(control_plane.admin) as found:
        yield found


@pytest.mark.parametrize("case", CASES)
async def test_case(api: Connection, case: dict[str, Any]) -> None:
    kind = case["kind"]
    content = {"apiVersion": "netaccel.io/v1alpha1", "kind": kind, "metadata": {"name": "p"}}
    if case["spec"] is not None:
        content["spec"] = case["spec"]
    folder = PATHS[kind].format(namespace="default", name="").rstrip("/")
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    asking = api.request("POST", folder, query=query, body=json.dumps(content).encode())
    wanted = case.get("refuse", {}).get("server")
    if wanted is None:
        await asking
        return
    with pytest.raises(ApiError) as refused:
        await asking
    assert refused.value.status in (400, 422)
    assert wanted in str(refused.value)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
async def test_an_example_is_taken_as_it_stands(
    kinds: None, kubectl: Callable[..., str], namespace: str, file: Path
) -> None:
    words = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-n", namespace)
    said = await asyncio.to_thread(kubectl, *words, "-f", str(file))
    assert "serverside-applied" in said


STATUS = {
    "observedGeneration": 1,
    "selectedPods": 3,
    "nodes": {"enforcing": 1, "expected": 2},
    "counts": {"allowed": 10, "dropped": 20, "audited": 30, "since": "2026-01-01T00:00:00Z"},
    "conditions": [
        {
            "type": "Accepted",
            "status": "True",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "reason": "Accepted",
            "message": "",
        }
    ],
    "warnings": [{"path": "spec.ingress[0].from[0]", "message": "selects nothing"}],
}
SHOWN = {
    "tp": ("default-deny-monitor", {"MODE": "Monitor"}),
    "ctp": ("block-client", {"MODE": "Enforce", "PRIORITY": "10"}),
}


@pytest.mark.parametrize("short", SHOWN)
async def test_what_kubectl_shows(
    kinds: None, kubectl: Callable[..., str], namespace: str, short: str
) -> None:
    example, wanted = SHOWN[short]
    file = REPOSITORY / "policies" / "examples" / f"{example}.yaml"
    name = yaml.safe_load(file.read_text())["metadata"]["name"]

    def shown() -> list[list[str]]:
        kubectl("apply", "--server-side", "-n", namespace, "-f", str(file))
        try:
            words = ("patch", short, name, "-n", namespace, "--type=merge", "--subresource=status")
            kubectl(*words, "-p", json.dumps({"status": STATUS}))
            table = kubectl("get", short, name, "-n", namespace)
        finally:
            kubectl("delete", short, name, "-n", namespace)
        return [line.split() for line in table.splitlines()]

    header, row = await asyncio.to_thread(shown)
    cells = dict(zip(header, row, strict=True))
    assert cells.pop("AGE")
    assert cells == {
        "NAME": name,
        **wanted,
        "ACCEPTED": "True",
        "PODS": "3",
        "ENFORCING": "1",
        "NODES": "2",
        "ALLOWED": "10",
        "DROPPED": "20",
        "AUDITED": "30",
    }
