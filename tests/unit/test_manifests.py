"""A watched directory: files come, change and go in all the ways that editors and tools have."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from netaccel.errors import ConfigError
from netaccel.model.event import Delete, Event, Forgive, ObjectKey, Reject, Synced, Upsert
from netaccel.model.service import Service, ServiceKey
from netaccel.model.snapshot import World
from netaccel.sources import manifests
from netaccel.sources.manifests import ManifestSource

PATIENCE = 60.0
"""Seconds that a test waits for what must come; only a failure uses them up."""

PAUSE = 0.06
"""Seconds between a slow writer's writes: each is a group of changes of its own."""

SHORT = 0.3
"""Seconds in which nothing may come; longer than any group of changes."""


def service(name: str = "web", port: int = 80) -> str:
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec:\n  clusterIP: 10.96.0.1\n  ports: [{{port: {port}}}]\n"
    )


def key(name: str = "web") -> ObjectKey:
    return ObjectKey("Service", "default", name)


class Feed:
    """A source being read: its events so far, and the world that they make."""

    def __init__(self, directory: Path) -> None:
        self.events: list[Event] = []
        self.world = World()
        self._batches = ManifestSource(directory).events()

    async def until(self, done: Callable[[], object]) -> None:
        """Read on until something holds. At least one batch is read."""
        async with asyncio.timeout(PATIENCE):
            while True:
                self._take(await anext(self._batches))
                if done():
                    return

    def _take(self, batch: tuple[Event, ...]) -> None:
        self.events += batch
        self.world.apply_all(batch)

    async def start(self) -> None:
        await self.until(lambda: self.world.synced)
        self.events.clear()

    async def all_within(self, seconds: float) -> None:
        """Take whatever comes in this time, and stop."""

        async def read() -> None:
            async for batch in self._batches:
                self._take(batch)

        task = asyncio.create_task(read())
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        await self._batches.aclose()  # type: ignore[attr-defined]

    def port(self, name: str = "web") -> int | None:
        """The port of a Service, None where there is none."""
        found = self.world.service(ServiceKey("default", name))
        return found.ports[0].port if found else None

    def service(self) -> Service:
        found = self.world.service(ServiceKey("default", "web"))
        assert found is not None
        return found

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]


@pytest.fixture
async def feed(tmp_path: Path) -> AsyncIterator[Feed]:
    feed = Feed(tmp_path)
    yield feed
    await feed.close()


async def test_what_is_there_is_told_first_and_then_synced(feed: Feed, tmp_path: Path) -> None:
    (tmp_path / "team" / "shop").mkdir(parents=True)
    (tmp_path / "team" / "shop" / "b.yml").write_text(service("b"))
    (tmp_path / "a.json").write_text('{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}')
    (tmp_path / "c.yaml").write_text(service("c", 70000))
    for ignored in (".hidden.yaml", "x.yaml~", ".x.yaml.swp", "x.yaml.tmp", "#x.yaml#", "notes.md"):
        (tmp_path / ignored).write_text(service("ignored"))
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.yaml").write_text(service("ignored"))
    await feed.until(lambda: feed.world.synced)
    assert isinstance(feed.events[-1], Synced)
    assert feed.world.counts() == {"Service": 1, "EndpointSlice": 0, "Pod": 0, "Node": 0, "Namespace": 1}
    assert feed.world.rejections() == (
        Reject(
            key("c"), "c.yaml#1", "spec.ports[0].port", "70000 is out of range: give a port from 1 to 65535"
        ),
    )


async def test_an_empty_directory_is_synced_too(feed: Feed) -> None:
    await feed.start()
    assert feed.world.synced


@pytest.mark.parametrize("name", ["missing", "file"])
async def test_a_directory_that_cannot_be_used_is_said_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=f"manifests .*{name}: .*: give a directory"):
        await anext(ManifestSource(tmp_path / name).events())


async def test_a_file_is_written_changed_and_removed(feed: Feed, tmp_path: Path) -> None:
    await feed.start()
    (tmp_path / "web.yaml").write_text(service())
    await feed.until(lambda: feed.port() == 80)
    (tmp_path / "web.yaml").write_text(service(port=81))
    await feed.until(lambda: feed.port() == 81)
    (tmp_path / "web.yaml").unlink()
    await feed.until(lambda: feed.port() is None)
    assert feed.kinds() == ["Upsert", "Upsert", "Delete"]


async def test_an_editor_that_writes_by_rename(feed: Feed, tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(service())
    await feed.start()
    for port in range(81, 86):
        (tmp_path / "4913.tmp").write_text(service(port=port))
        (tmp_path / "4913.tmp").replace(tmp_path / "web.yaml")
        await feed.until(lambda port=port: feed.port() == port)  # type: ignore[misc]
    assert feed.kinds() == ["Upsert"] * 5


async def test_an_editor_that_moves_the_old_file_away_first(
    feed: Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "VANISH", 2.0)
    (tmp_path / "web.yaml").write_text(service())
    await feed.start()

    async def save() -> None:
        (tmp_path / "web.yaml").rename(tmp_path / "web.yaml~")
        await asyncio.sleep(PAUSE)
        (tmp_path / "web.yaml").write_text(service(port=81))
        (tmp_path / "web.yaml~").unlink()

    await asyncio.gather(save(), feed.until(lambda: feed.port() == 81))
    assert feed.kinds() == ["Upsert"]


async def write_in_pieces(path: Path, *pieces: str) -> None:
    """Truncate a file and write it piece by piece, each of which the watcher sees."""
    with path.open("w") as file:
        for piece in pieces:
            await asyncio.sleep(PAUSE)
            file.write(piece)
            file.flush()


async def test_a_file_that_loses_objects_while_it_is_written_loses_none(
    feed: Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "SETTLE", 2.0)
    path = tmp_path / "web.yaml"
    path.write_text(service("a") + "---\n" + service("b"))
    await feed.start()
    second = "---\n" + service("b", 81)
    writing = write_in_pieces(path, service("a", 81), second[:40], second[40:])
    await asyncio.gather(writing, feed.until(lambda: feed.port("a") == feed.port("b") == 81))
    assert feed.kinds() == ["Upsert", "Upsert"]


async def test_an_object_that_is_valid_while_half_written_is_not_seen_so(
    feed: Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "QUIET", 1.0)
    path = tmp_path / "web.yaml"
    path.write_text(service())
    await feed.start()
    writing = write_in_pieces(path, service(port=81), "  selector: {app: web}\n")
    await asyncio.gather(writing, feed.until(lambda: feed.service().selector))
    assert feed.kinds() == ["Upsert"]


async def test_touching_a_file_says_nothing(feed: Feed, tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(service())
    await feed.start()
    (tmp_path / "web.yaml").write_text(service() + "# a remark\n")
    (tmp_path / "web.yaml").touch()
    await feed.all_within(SHORT)
    assert feed.events == []


async def test_a_file_that_breaks_keeps_what_it_said(feed: Feed, tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    path.write_text(service())
    await feed.start()
    path.write_text("kind: Service\n" + service() + "  ports: [\n")
    await feed.until(feed.world.rejections)
    (rejection,) = feed.world.rejections()
    assert rejection.key is None
    assert rejection.origin == "web.yaml#1"
    assert rejection.path.startswith("line ")
    assert feed.port() == 80
    path.write_text(service(port=81))
    await feed.until(lambda: feed.port() == 81)
    assert feed.world.rejections() == ()


async def test_an_object_that_goes_bad_stays_in_its_last_good_version(feed: Feed, tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    path.write_text(service())
    await feed.start()
    path.write_text(service(port=70000))
    await feed.until(feed.world.rejections)
    assert feed.port() == 80
    path.unlink()
    await feed.until(lambda: feed.port() is None)
    assert feed.events[-2:] == [Forgive(key(), "web.yaml#1"), Delete(key(), feed.events[-1].received)]  # type: ignore[union-attr]


async def test_a_moved_file_changes_nothing(feed: Feed, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "web.yaml").write_text(service())
    await feed.start()
    (tmp_path / "a" / "web.yaml").rename(tmp_path / "a" / "moved.yaml")
    await asyncio.sleep(SHORT)
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "z.yaml").write_text(service("z"))
    await feed.until(lambda: feed.port("z"))
    assert [event.key for event in feed.events if isinstance(event, Upsert | Delete)] == [key("z")]
    (tmp_path / "b" / "moved.yaml").write_text(service(port=81))
    await feed.until(lambda: feed.port() == 81)


async def test_new_folders_are_watched_and_removed_ones_forgotten(feed: Feed, tmp_path: Path) -> None:
    await feed.start()
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "web.yaml").write_text(service())
    await feed.until(lambda: feed.port() == 80)
    (tmp_path / "a" / "b" / "web.yaml").write_text(service(port=81))
    await feed.until(lambda: feed.port() == 81)
    shutil.rmtree(tmp_path / "a")
    await feed.until(lambda: feed.port() is None)


async def test_the_same_object_in_two_files(feed: Feed, tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(service(port=81))
    await feed.start()
    (tmp_path / "a.yaml").write_text(service(port=80))
    await feed.until(lambda: feed.port() == 80)
    (rejection,) = feed.world.rejections()
    assert (rejection.origin, rejection.path) == ("b.yaml#1", "metadata.name")
    assert "a.yaml#1" in rejection.reason
    (tmp_path / "a.yaml").unlink()
    await feed.until(lambda: feed.port() == 81)
    assert feed.world.rejections() == ()


async def test_a_config_map_is_swapped_by_its_link(feed: Feed, tmp_path: Path) -> None:
    for version, port in (("..1", 80), ("..2", 81)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "web.yaml").write_text(service(port=port))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "web.yaml").symlink_to("..data/web.yaml")
    await feed.start()
    assert feed.port() == 80
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    await feed.until(lambda: feed.port() == 81)
    assert feed.kinds() == ["Upsert"]


async def test_links_that_lead_back_or_nowhere_end(feed: Feed, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "gone.yaml").symlink_to("nowhere.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "a" / "web.yaml").write_text(service())
    await feed.start()
    assert feed.port() == 80
    assert feed.world.rejections() == ()


async def test_a_directory_that_goes_and_comes_back(tmp_path: Path) -> None:
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "web.yaml").write_text(service())
    feed = Feed(directory)
    await feed.start()
    directory.rename(tmp_path / "away")
    await feed.until(feed.world.rejections)
    (rejection,) = feed.world.rejections()
    assert (rejection.key, rejection.origin) == (None, str(directory))
    assert feed.port() == 80, "what was read stays in force"
    directory.mkdir()
    (directory / "web.yaml").write_text(service(port=81))
    await feed.until(lambda: feed.port() == 81)
    assert feed.world.rejections() == ()
    (directory / "web.yaml").write_text(service(port=82))
    await feed.until(lambda: feed.port() == 82)
    assert "Delete" not in feed.kinds()
    await feed.close()


async def test_ten_thousand_documents_and_the_change_of_one(feed: Feed, tmp_path: Path) -> None:
    documents = [service(f"s{number}") for number in range(10_000)]
    path = tmp_path / "many.yaml"
    path.write_text("---\n".join(documents))
    await feed.start()
    assert feed.world.counts()["Service"] == 10_000
    documents[5000] = service("s5000", 81)
    path.write_text("---\n".join(documents))
    await feed.until(lambda: feed.port("s5000") == 81)
    assert feed.kinds() == ["Upsert"]
