# SPDX-License-Identifier: Apache-2.0
"""A disk that is really full: edges wait, are counted, and are all there once there is room."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from netaccel.model.address import parse_address
from netaccel.model.policy import Direction
from netaccel.observe.edges.edge import EdgeKey, End, Verdict, Where
from netaccel.observe.edges.reader import read
from netaccel.observe.edges.recorder import EdgeRecorder
from netaccel.observe.edges.store import Limits

pytestmark = pytest.mark.root
SERVER = End(Where.WORLD, parse_address("10.0.0.1"))


def mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, "size=700k")
    yield folder
    subprocess.run(["umount", folder], check=True)


def edge(number: int) -> EdgeKey:
    client = End(Where.WORLD, parse_address(f"fd00::{number:x}"))
    return EdgeKey(client, SERVER, 6, 80, Direction.INGRESS, Verdict.ALLOWED)


async def test_what_is_told_as_recorded_is_there_and_the_rest_comes_with_room(disk: Path) -> None:
    now = [1e9]
    recorder = EdgeRecorder(disk / "edges/node-1.db", Limits(), wall=lambda: now[0])
    for number in range(6000):
        recorder.add(edge(number), now[0])
        if number % 1000 == 999:
            await recorder.flush()
            now[0] += 61
            assert len(read(recorder.path)[1]) == recorder.tally.recorded
            assert recorder.tally.recorded + recorder.waiting == number + 1
    (said,) = recorder.notes()
    assert "disk is full" in said
    mount(disk, "remount,size=16m")
    await recorder.flush()
    assert recorder.notes() == []
    assert len(read(recorder.path)[1]) == recorder.tally.recorded == 6000
    recorder.close()
