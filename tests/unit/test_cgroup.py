# SPDX-License-Identifier: Apache-2.0
"""Processes of a cgroup whose groups come and go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netaccel.datapath.cgroup import processes


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A node's group with two pods' groups below it."""
    for name, pids in {"": "1\n", "pods": "", "pods/a": "12\n13\n", "pods/b": "20\n"}.items():
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "cgroup.procs").write_text(pids)
    return tmp_path


def test_processes_of_the_group_and_of_all_below(node: Path) -> None:
    assert sorted(processes(node)) == [1, 12, 13, 20]


def test_a_group_that_is_removed_meanwhile_is_passed_over(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = os.scandir

    def late(path: Any) -> Iterator[os.DirEntry[str]]:
        """It goes between the look at the group above and the look at it."""
        if Path(path).name == "a":
            (Path(path) / "cgroup.procs").unlink()
            Path(path).rmdir()
        return look(path)

    monkeypatch.setattr(os, "scandir", late)
    assert sorted(processes(node)) == [1, 20]


def test_a_group_whose_processes_are_listed_above_is_passed_over(node: Path) -> None:
    (node / "pods/a/cgroup.procs").unlink()
    (node / "pods/a/cgroup.procs").mkdir()  # reading it fails, as that of a threaded group does
    assert sorted(processes(node)) == [1, 20]


def test_no_group_has_no_processes(tmp_path: Path) -> None:
    assert processes(tmp_path / "absent") == []
