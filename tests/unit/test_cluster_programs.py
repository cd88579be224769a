# SPDX-License-Identifier: Apache-2.0
"""Where a cluster's programs are looked for, in which order, and what is built."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from netaccel.cluster import binaries, build, golang
from netaccel.cluster.build import RECIPES, Recipe
from netaccel.errors import LabError

PAUSE = next(recipe for recipe in RECIPES if recipe.name == "pause")
KUBERNETES = next(recipe for recipe in RECIPES if recipe.name == "kubernetes")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no assets, and a PATH without a cluster's programs or Go."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.delenv(binaries.ASSETS, raising=False)
    monkeypatch.setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    return folder / "netaccel/cluster"


@pytest.fixture
def recipes_built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what would be built; made as empty files instead."""
    made: list[str] = []

    def build_nothing(recipes: list[Recipe], say: object) -> None:
        for recipe in recipes:
            made.append(recipe.name)
            cached(recipe)

    monkeypatch.setattr(build, "build", build_nothing)
    return made


def cached(recipe: Recipe) -> Path:
    folder = build.cache_folder() / recipe.key()
    folder.mkdir(parents=True)
    for name in recipe.names:
        (folder / name).touch()
    return folder


def program(folder: Path, name: str, version: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{name} version v{version}'\n")
    path.chmod(0o755)
    return path


def test_what_was_built_is_taken_from_the_cache(recipes_built: list[str]) -> None:
    folder = cached(KUBERNETES)
    found = binaries.find_or_build(["etcd", "kubectl"])
    assert found.path("etcd") == folder / "etcd"
    assert found.path("kubectl") == folder / "kubectl"
    assert recipes_built == []


def test_what_is_nowhere_is_built_and_nothing_else(recipes_built: list[str]) -> None:
    binaries.find_or_build(["kube-apiserver", "pause"])
    assert recipes_built == ["kubernetes", "pause"]


def test_envtests_folder_comes_before_path_and_both_before_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipes_built: list[str]
) -> None:
    folder = cached(KUBERNETES)
    assets, path = tmp_path / "assets", tmp_path / "path"
    apiserver = program(assets, "kube-apiserver", "1.34.1")
    program(path, "kube-apiserver", "1.34.2")
    etcd = program(path, "etcd", "3.5.9")
    monkeypatch.setenv(binaries.ASSETS, str(assets))
    monkeypatch.setenv("PATH", f"{path}:/usr/bin:/bin")
    found = binaries.find_or_build(["etcd", "kube-apiserver", "kubectl"])
    assert found.paths == {"kube-apiserver": apiserver, "etcd": etcd, "kubectl": folder / "kubectl"}


def test_a_program_of_another_minor_version_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipes_built: list[str]
) -> None:
    program(tmp_path / "path", "kube-apiserver", "1.31.4")
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/usr/bin:/bin")
    found = binaries.find_or_build(["kube-apiserver"])
    assert found.path("kube-apiserver").is_relative_to(build.cache_folder())


def test_what_goes_into_images_is_built_whatever_path_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipes_built: list[str]
) -> None:
    program(tmp_path / "path", "coredns", "1.12.0")
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/usr/bin:/bin")
    binaries.find_or_build(["coredns"])
    assert recipes_built == ["coredns"]


@pytest.mark.parametrize(
    ("name", "version", "fits"),
    [
        ("kubelet", (1, 34), True),
        ("kubelet", (1, 33), False),
        ("kubectl", (1, 33), True),
        ("kubectl", (1, 35), True),
        ("kubectl", (1, 32), False),
        ("kubectl", (0, 0), False),
        ("etcd", (3, 5), True),
        ("etcd", (3, 4), False),
    ],
)
def test_which_versions_serve(name: str, version: tuple[int, int], fits: bool) -> None:
    assert binaries.fits(name, version) is fits


def test_an_unknown_program_is_named() -> None:
    with pytest.raises(LabError, match="kube-dns: no program of a cluster; known are etcd, "):
        binaries.find_or_build(["kube-dns"])


def test_a_program_that_was_not_asked_for_is_not_there() -> None:
    cached(PAUSE)
    with pytest.raises(LabError, match="etcd: not among the programs found: pause"):
        binaries.find_or_build(["pause"]).path("etcd")


def test_other_sources_or_flags_are_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = PAUSE.key()
    assert before == PAUSE.key()
    shutil.copytree(PAUSE.source, tmp_path / "programs/pause")
    monkeypatch.setattr(build, "_SOURCES", tmp_path / "programs")
    assert before == PAUSE.key()
    monkeypatch.setattr(golang, "FLAGS", "-race")
    assert (other := PAUSE.key()) != before
    (tmp_path / "programs/pause/main.go").write_text("package main\n")
    assert PAUSE.key() not in (before, other)


def test_a_build_says_first_what_it_takes_and_leaves_only_whole_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """Go itself is played by a script: it makes the file that it was asked for."""
    script = program(tmp_path / "bin", "go", "0")
    script.write_text('#!/bin/sh\n[ "$1" = env ] && echo go1.26.0 && exit\necho made >"$5"\n')
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    (cache / ".building-killed/done").mkdir(parents=True)
    said: list[str] = []
    build.build([PAUSE], said.append)
    assert "minutes" in said[0]
    assert "GB" in said[0]
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [PAUSE.key()]
    assert (cache / PAUSE.key() / "pause").read_text() == "made\n"


def test_a_build_that_fails_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    script = program(tmp_path / "bin", "go", "0")
    complaint = "main.go:3:1: syntax error: unexpected name"
    script.write_text(f'#!/bin/sh\n[ "$1" = env ] && echo go1.26.0 && exit\necho "{complaint}" >&2; exit 1\n')
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    with pytest.raises(LabError, match=f"^pause can't be built: {complaint}$"):
        build.build([PAUSE], lambda _: None)
    assert [path.name for path in cache.iterdir()] == ["lock"]


def test_an_old_go_does_not_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, own = tmp_path / "path", tmp_path / "own"
    program(path, "go", "0").write_text("#!/bin/sh\necho go1.19.8\n")
    own.mkdir()
    fetched = program(own / "bin", "go", "0")
    fetched.write_text("#!/bin/sh\necho go1.25.1\n")
    monkeypatch.setenv("PATH", f"{path}:/usr/bin:/bin")
    assert golang.toolchain(own, lambda _: None) == str(fetched)


def test_a_second_builder_waits_for_the_first(cache: Path) -> None:
    waits = "from netaccel.cluster import build\nwith build.alone(lambda line: print(line, flush=True)): pass"
    with build.alone(lambda _: None):
        second = subprocess.Popen([sys.executable, "-c", waits], stdout=subprocess.PIPE, text=True)
        assert second.stdout
        assert "waiting for it" in second.stdout.readline()
        assert second.poll() is None
    with second:
        assert second.wait(timeout=60) == 0
