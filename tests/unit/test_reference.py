# SPDX-License-Identifier: Apache-2.0
"""Pages made from the code are current, and name everything."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(PROJECT), *sys.path])


def test_the_configuration_reference_is_current() -> None:
    from deploy.reference import settings

    written = (PROJECT / "docs/configuration.md").read_text(encoding="utf-8")
    assert written == settings.page(), "run `python -m deploy.reference`"


def test_the_image_has_what_the_package_asks_for() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (PROJECT / "deploy/image/requirements.txt").read_text(encoding="utf-8")
    asked = {plain(re.split(r"[<>=!~ ]", line)[0]) for line in project["dependencies"]}
    locked = {plain(name) for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}
    assert asked <= locked, "run `python -m deploy.image lock`"


def plain(name: str) -> str:
    """A package's name as PEP 503 normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.root
def test_every_map_of_the_capacity_table_is_explained() -> None:
    from deploy.reference import capacity

    table = capacity.table(capacity.measure())
    assert "| `flows4` |" in table
    assert "|  |" not in table, "say in deploy/reference/capacity.py what the map holds"
