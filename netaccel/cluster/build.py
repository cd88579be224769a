# SPDX-License-Identifier: Apache-2.0
"""Builds the cluster's programs from Go modules, once per user."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from netaccel.cluster import golang
from netaccel.cluster.golang import Say as Say
from netaccel.errors import LabError

VERSION = "1.34.4"
_SOURCES = Path(__file__).parent / "programs"
_READ_BY_GO = (".go", ".mod", ".sum")
_UNFINISHED = ".building-"
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
        for file in sorted(f for f in self.source.iterdir() if f.suffix in _READ_BY_GO):
            digest.update(f"{file.name}\0".encode() + file.read_bytes() + b"\0")
        digest.update("\0".join((self.package, self.linker, golang.FLAGS, *self.names)).encode())
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
            "up to 2,800 packages, 6 minutes on 2 cores and 5 GB in Go's caches where those are empty "
            f"(`go clean -cache -modcache` frees them again); 0.25 GB stay in {cache_folder()}"
        )
        for abandoned in cache_folder().glob(f"{_UNFINISHED}*"):  # by a builder that was killed
            shutil.rmtree(abandoned)
        go = golang.toolchain(cache_folder() / "go", say)
        for recipe in missing:
            started = time.monotonic()
            say(f"building {recipe.name} ...")
            _build(go, recipe, say)
            say(f"built {recipe.name} in {time.monotonic() - started:.0f} s")


def _build(go: str, recipe: Recipe, say: Say) -> None:
    """Build into a folder beside the final one, and rename it: there is never half of it."""
    final = cache_folder() / recipe.key()
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=cache_folder()) as made:
        folder = Path(made) / "done"
        folder.mkdir()
        out = ["-o", str(folder / recipe.name)]
        try:
            line = [go, "build", "-v", f"-ldflags={recipe.linker}", *out, recipe.package]
            golang.compile_package(line, recipe.source, say)
        except LabError as error:
            raise LabError(f"{recipe.name} can't be built: {error}") from error
        for name in recipe.names:
            if name != recipe.name:
                (folder / name).symlink_to(recipe.name)
        folder.rename(final)


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
