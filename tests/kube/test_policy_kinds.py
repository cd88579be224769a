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
