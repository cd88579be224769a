# SPDX-License-Identifier: Apache-2.0
"""Pages made from the code are current, and name everything."""

from __future__ import annotations

import sys
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


@pytest.mark.root
def test_every_map_of_the_capacity_table_is_explained() -> None:
    from deploy.reference import capacity

    table = capacity.table(capacity.measure())
    assert "| `flows4` |" in table
    assert "|  |" not in table, "say in deploy/reference/capacity.py what the map holds"
