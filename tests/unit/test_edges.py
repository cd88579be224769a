# SPDX-License-Identifier: Apache-2.0
"""Recorded edges: added up, kept in bounded space, over restarts, broken files and full disks."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from netaccel.errors import ConfigError
from netaccel.model.address import parse_address
from netaccel.model.endpoint import ContainerPort
from netaccel.model.policy import Direction, Kind, PolicyKey, RuleRef
from netaccel.model.service import Protocol
from netaccel.observe.edges import recorder as recording
from netaccel.observe.edges import store as storing
from netaccel.observe.edges.edge import Edge, EdgeKey, End, Verdict, Where, edge_object, read_edge
from netaccel.observe.edges.metrics import families
from netaccel.observe.edges.reader import Reader, read
from netaccel.observe.edges.recorder import EdgeRecorder
from netaccel.observe.edges.store import BATCH, Limits, Store

DAY = 86400.0
NOW = 1_700_000_000.0
RULE = RuleRef(PolicyKey(Kind.TRAFFIC, "shop", "web"), Direction.INGRESS, 0)
WEB = End(
    Where.POD,
    parse_address("10.0.0.2"),
    "shop",
    "web-0",
    "node-1",
    (("app", "web"), ("tier", "front")),
    (ContainerPort("http", Protocol.TCP, 8080),),
)


def client(number: int) -> End:
    return End(Where.WORLD, parse_address(f"fd00::{number:x}"))


def edge_key(number: int = 1, verdict: Verdict = Verdict.ALLOWED, rule: RuleRef | None = None) -> EdgeKey:
    return EdgeKey(client(number), WEB, 6, 8080, Direction.INGRESS, verdict, rule)


def met(number: int, at: float) -> Edge:
    return Edge(edge_key(number), at, at)


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def damage_from(path: Path, offset: int) -> None:
    whole = path.read_bytes()
    with path.open("r+b") as file:  # in place: whoever has it open sees it
        file.seek(offset)
        file.write(b"\xff" * (len(whole) - offset))


def others_rights(path: Path) -> int:
    return path.stat().st_mode & 0o077


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "edges" / "node-1.db"


@pytest.fixture
def now() -> list[float]:
    return [NOW]


@pytest.fixture
def recorder(path: Path, now: list[float]) -> Iterator[EdgeRecorder]:
    made = EdgeRecorder(path, Limits(), wall=lambda: now[0])
    yield made
    made.close()


def store(path: Path, limits: Limits | None = None) -> Store:
    made = Store(path, limits or Limits())
    made.open(NOW)
    return made


# ------------------------------------------------------------------- recording


async def test_an_edge_met_again_is_one_edge_with_its_count_and_times(
    recorder: EdgeRecorder, path: Path, now: list[float]
) -> None:
    recorder.add(edge_key(), NOW)
    recorder.add(edge_key(), NOW + 3)
    await recorder.flush()
    recorder.add(edge_key(), NOW + 9, count=4)
    await recorder.flush()
    _, edges = read(path)
    assert edges == [Edge(edge_key(), NOW, NOW + 9, 6)]
    assert recorder.tally.recorded == 6


async def test_another_verdict_or_rule_is_another_edge(recorder: EdgeRecorder, path: Path) -> None:
    keys = [edge_key(), edge_key(verdict=Verdict.DENIED), edge_key(verdict=Verdict.AUDITED, rule=RULE)]
    for key in keys:
        recorder.add(key, NOW)
    await recorder.flush()
    assert {edge.key for edge in read(path)[1]} == set(keys)


def test_json_and_back_is_the_same_edge() -> None:
    icmp = EdgeKey(WEB, client(7), 58, 128 << 8, Direction.EGRESS, Verdict.DENIED, RULE)
    for key in (edge_key(), icmp):
        assert read_edge(edge_object(Edge(key, NOW, NOW + 1, 2))) == Edge(key, NOW, NOW + 1, 2)


async def test_what_was_recorded_survives_a_restart(path: Path, now: list[float]) -> None:
    for at in (NOW, NOW + 1000):
        now[0] = at
        one = EdgeRecorder(path, Limits(), wall=lambda: now[0])
        task = asyncio.create_task(one.run())
        await asyncio.sleep(0)
        one.add(edge_key(), at)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    window, edges = read(path)
    assert edges == [Edge(edge_key(), NOW, NOW + 1000, 2)], "what waited at the end was written"
    assert window.gaps == ((NOW, NOW + 1000),), "nobody recorded in between, and it is said"


async def test_only_the_owner_may_read_who_talks_to_whom(recorder: EdgeRecorder, path: Path) -> None:
    await recorder.flush()
    assert others_rights(path) == others_rights(path.parent) == 0


async def test_a_reader_sees_a_moment_ago_while_the_writer_goes_on(
    recorder: EdgeRecorder, path: Path
) -> None:
    recorder.add(edge_key(1), NOW)
    await recorder.flush()
    reader = Reader(path)
    edges = reader.edges(since=NOW)
    recorder.add(edge_key(2), NOW)
    await recorder.flush()
    assert next(edges).key == edge_key(1)
    reader.close()


def test_edges_since_are_those_last_met_then_or_later(path: Path) -> None:
    one = store(path)
    one.write([met(1, NOW - 100), met(2, NOW), met(3, NOW + 100)], NOW)
    one.close()
    assert {edge.last for edge in read(path, since=NOW)[1]} == {NOW, NOW + 100}


# ---------------------------------------------------------------------- bounds


def test_edges_go_when_they_are_too_old_and_the_window_says_so(path: Path) -> None:
    one = store(path, Limits(days=7))
    one.write([met(1, NOW - 8 * DAY), met(2, NOW - DAY)], NOW)
    one.prune(NOW)
    assert one.removed == 1
    one.close()
    window, edges = read(path)
    assert [edge.last for edge in edges] == [NOW - DAY]
    assert window.forgotten == NOW - 8 * DAY
    (ends,) = sqlite3.connect(path).execute("SELECT count(*) FROM ends").fetchone()
    assert ends == 2, "ends that no edge names go too"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Limits:
    """Room for a few thousand edges."""
    monkeypatch.setattr(storing, "_LEAST", 1 << 20)
    return Limits(bytes=1)


def test_the_oldest_go_for_room_and_the_file_stays_in_its_bounds(path: Path, small: Limits) -> None:
    one = store(path, small)
    written = 0
    while one.removed < 2 * BATCH:
        batch = [met(written + i, NOW + written + i) for i in range(BATCH)]
        one.write(batch, NOW)
        written += BATCH
        one.make_room()
        assert one.size() <= small.database + (5 << 20), "the file and its log"
        assert path.stat().st_size <= small.database
    one.close()
    window, edges = read(path)
    gone = one.removed
    assert len(edges) == written - gone
    assert window.forgotten == NOW + gone - 1
    assert min(edge.last for edge in edges) == NOW + gone, "the newest are those that are left"


def test_a_batch_that_does_not_fit_drives_the_oldest_out(path: Path, small: Limits) -> None:
    one = store(path, small)
    for start in range(0, 8 * BATCH, BATCH):
        one.write([met(start + i, NOW + start + i) for i in range(BATCH)], NOW)
    one.close()
    window, edges = read(path)
    assert NOW + 8 * BATCH - 1 in {edge.last for edge in edges}
    assert window.forgotten is not None


def test_memory_is_bounded_and_what_has_no_room_is_counted(
    recorder: EdgeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MOST_WAITING", 2)
    for number in (1, 2, 3, 1):
        recorder.add(edge_key(number), NOW)
    assert recorder.tally.lost == 1
    assert len(recorder._waiting) == 2


async def test_what_was_lost_is_in_the_window(recorder: EdgeRecorder, path: Path) -> None:
    recorder.lose(5)
    await recorder.flush()
    assert read(path)[0].lost == 5


async def test_metrics_say_what_became_of_flows(recorder: EdgeRecorder) -> None:
    recorder.add(edge_key(1), NOW, count=4)
    await recorder.flush()
    recorder.add(edge_key(2), NOW)
    recorder.lose(2)
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families(recorder)
        for sample in family.samples
    }
    assert found["netaccel_edge_flows_total", "recorded"] == 4
    assert found["netaccel_edge_flows_total", "lost"] == 2
    assert found[("netaccel_edges_waiting",)] == 1
    assert found[("netaccel_edges_bytes",)] > 4096


async def test_what_programs_could_not_tell_is_lost_too(recorder: EdgeRecorder, path: Path) -> None:
    missed = [7]
    recorder.missed = lambda: missed[0]
    await recorder.flush()
    assert recorder.tally.lost == 0, "before this agent's time"
    missed[0] = 10
    await recorder.flush()
    await recorder.flush()
    assert recorder.tally.lost == read(path)[0].lost == 3


# ------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("damage", [b"no database at all" * 400, b"SQLite format 3\0" + b"\xff" * 5000])
async def test_a_broken_file_is_set_aside_and_edges_start_anew(
    recorder: EdgeRecorder, path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    put(path, damage)
    recorder.add(edge_key(), NOW)
    with caplog.at_level(logging.WARNING):
        await recorder.flush()
    (aside,) = path.parent.glob("node-1.db.broken-*")
    assert aside.name == "node-1.db.broken-20231114T221320Z"
    assert aside.read_bytes() == damage
    assert len(read(path)[1]) == 1
    assert any("was broken" in line and aside.name in line for line in recorder.notes())
    assert "was broken" in caplog.text


async def test_a_file_that_breaks_while_it_is_open_is_set_aside_too(
    recorder: EdgeRecorder, path: Path
) -> None:
    recorder.add(edge_key(1), NOW)
    await recorder.flush()
    recorder._store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore[union-attr]
    damage_from(path, 4096)
    recorder.close()
    recorder._store._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    recorder.add(edge_key(2), NOW)
    await recorder.flush()
    assert [edge.key for edge in read(path)[1]] == [edge_key(2)]
    assert len(list(path.parent.glob("*.broken-*"))) == 1


def test_a_file_of_another_layout_is_set_aside(path: Path) -> None:
    store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigError, match="layout is version 99"):
        Reader(path)
    one = store(path)
    assert "version 99" in one.broke
    one.close()


def test_few_broken_files_are_kept(path: Path) -> None:
    for at in range(4):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"nonsense" * 1000)
        one = Store(path, Limits())
        one.open(NOW + at)
        one.close()
    kept = sorted(aside.name for aside in path.parent.glob("*.broken-*"))
    assert [name[-3:] for name in kept] == ["22Z", "23Z"]


async def test_where_nothing_can_be_written_it_is_said_once_and_flows_go_on(
    path: Path, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.parent.mkdir(parents=True)
    path.parent.write_text("a file where the folder belongs")
    one = EdgeRecorder(path, Limits(), wall=lambda: now[0])
    with caplog.at_level(logging.INFO):
        for turn in range(3):
            one.add(edge_key(turn), NOW)
            await one.flush()
            now[0] += 61
        assert [r.levelname for r in caplog.records] == ["WARNING"]
        (line,) = one.notes()
        assert str(path) in line
        path.parent.unlink()
        await one.flush()
    assert one.notes() == []
    assert len(read(path)[1]) == 3, "what waited is not lost"
    one.close()


async def test_a_full_disk_is_said_and_edges_come_back_with_room(
    recorder: EdgeRecorder, path: Path, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    await recorder.flush()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_write", full)
        recorder.add(edge_key(), NOW)
        await recorder.flush()
    assert "disk is full" in recorder.notes()[0]
    now[0] += 61
    await recorder.flush()
    assert recorder.notes() == []
    assert len(read(path)[1]) == 1


def test_no_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.db: there is no such file"):
        Reader(tmp_path / "nothing.db")


def test_a_file_that_is_no_record_is_an_error_of_one_line(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"nonsense" * 1000)
    with pytest.raises(ConfigError, match="can't be read"):
        read(path)
