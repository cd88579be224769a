# SPDX-License-Identifier: Apache-2.0
"""Where a cluster's programs are: found, or built.

::

    python -m netaccel.cluster.binaries [NAME...]  # each program and where it is; builds what is missing

Looked for in ``KUBEBUILDER_ASSETS`` (as envtest fills it), then ``PATH``, then the user's cache, then built
there (`build`). A program of Kubernetes is taken from the first two only if it is of the same minor version
as the one that would be built, kubectl if it is at most one away (kubernetes.io, "Version Skew Policy"),
etcd from 3.5: tests rely on what that version does. What goes into images (agnhost, coredns, pause) must
need no library, so it is always built.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from netaccel.cluster import build
from netaccel.cluster.build import RECIPES, VERSION, Recipe
from netaccel.cluster.golang import Say
from netaccel.errors import LabError

ASSETS = "KUBEBUILDER_ASSETS"
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
ALL = tuple(name for recipe in RECIPES for name in recipe.names)
_MINOR = int(VERSION.split(".")[1])
_OLDEST_ETCD = (3, 5)
_IN_IMAGES = ("agnhost", "coredns", "pause")
_VERSION_COMMANDS = {"kubectl": ("version", "--client")}


@dataclass(frozen=True)
class Binaries:
    """Programs by name."""

    paths: Mapping[str, Path]

    def path(self, name: str) -> Path:
        """Where a program is. Raises LabError for one that was not asked for."""
        try:
            return self.paths[name]
        except KeyError as error:
            raise LabError(f"{name}: not among the programs found: {', '.join(self.paths)}") from error


def find_or_build(names: Iterable[str] = ALL, say: Say = lambda _: None) -> Binaries:
    """Find programs, build those that are nowhere. ``say`` is told before that. Raises LabError."""
    wanted = list(names)
    found = {name: path for name in wanted if (path := _given(name))}
    recipes = [r for r in RECIPES if any(n in r.names and n not in found for n in wanted)]
    if any(build.built(recipe) is None for recipe in recipes):
        build.build(recipes, say)
    for recipe in recipes:
        found.update(_cached(recipe, wanted, found))
    unknown = [name for name in wanted if name not in found]
    if unknown:
        raise LabError(f"{', '.join(unknown)}: no program of a cluster; known are {', '.join(ALL)}")
    return Binaries(found)


def _cached(recipe: Recipe, wanted: list[str], found: Mapping[str, Path]) -> dict[str, Path]:
    folder = build.built(recipe)
    assert folder is not None
    return {name: folder / name for name in recipe.names if name in wanted and name not in found}


def _given(name: str) -> Path | None:
    """Return what the user has already, if its version will do."""
    if name not in ALL or name in _IN_IMAGES:
        return None
    for path in (os.environ.get(ASSETS), os.environ.get("PATH")):
        found = shutil.which(name, path=path) if path else None
        if found and fits(name, _version(name, found)):
            return Path(found)
    return None


def fits(name: str, version: tuple[int, int]) -> bool:
    """Whether a program of that (major, minor) serves a cluster of this project's."""
    if name == "etcd":
        return version >= _OLDEST_ETCD
    if name == "kubectl":
        return version[0] == 1 and abs(version[1] - _MINOR) <= 1
    return version == (1, _MINOR)


def _version(name: str, path: str) -> tuple[int, int]:
    """Ask a program for its version; (0, 0) where it says none."""
    command = [path, *_VERSION_COMMANDS.get(name, ("--version",))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    match = re.search(r"(\d+)\.(\d+)\.\d+", done.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def main(names: Sequence[str]) -> int:
    """Print each program and where it is."""
    try:
        found = find_or_build(names or ALL, say=lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201
    except LabError as error:
        print(f"binaries: {error}", file=sys.stderr)  # noqa: T201
        return 1
    for name, path in found.paths.items():
        print(f"{name:24} {path}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
