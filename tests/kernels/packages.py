# SPDX-License-Identifier: Apache-2.0
"""Kernels from Debian's archive, by apt with folders of its own: the system's sources stay as they are."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_ARCHIVE = "http://deb.debian.org/debian/"


class Wanted(NamedTuple):
    """The Debian suite that has a kernel; ``security`` suites lie in an archive of their own."""

    suite: str
    security: bool = False


SERIES = {
    "5.10": Wanted("bullseye-security", security=True),
    "6.1": Wanted("bookworm"),
    "6.12": Wanted("bookworm-backports"),
}


class Kernel(NamedTuple):
    """An unpacked package."""

    series: str
    package: str
    release: str
    """As ``uname -r`` says it."""
    version: str
    image: Path
    modules: Path


class PackageError(Exception):
    """The archive can't be reached, or lacks the kernel."""


def cache_folder() -> Path:
    """Where packages and unpacked kernels stay."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "netaccel/kernels"


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other run uses the cache: one machine at a time is enough for a small computer."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fetch(series: str) -> Kernel:
    """The newest kernel of a series; downloads and unpacks unless the cache has one."""
    folder = cache_folder() / series
    with alone():
        if not (folder / "done").exists():
            _download(SERIES[series], series, folder)
    package, version = (folder / "done").read_text().split()
    image = next((folder / "root/boot").glob("vmlinuz-*"))
    release = image.name.removeprefix("vmlinuz-")
    modules = next(path for path in folder.glob(f"root/**/modules/{release}") if path.is_dir())
    return Kernel(series, package, release, version, image, modules)


def _download(wanted: Wanted, series: str, folder: Path) -> None:
    if not KEYRING.exists():
        raise PackageError(f"{KEYRING} is not there: install debian-archive-keyring")
    apt = _Apt(folder / "apt", wanted)
    apt.run("apt-get", "update", "-qq")
    pattern = rf"^linux-image-{re.escape(series)}\.[0-9]+([-+][0-9a-z.+-]+)?-amd64$"
    names = [line.split()[0] for line in apt.run("apt-cache", "search", "--names-only", pattern).splitlines()]
    plain = [name for name in names if not re.search(r"-(cloud|rt|unsigned)", name)]
    if not plain:
        raise PackageError(f"suite {wanted.suite} has no kernel {series}")
    package = max(plain, key=_version_key)
    apt.run("apt-get", "download", "-qq", package, folder=folder)
    archive = next(folder.glob(f"{package}_*.deb"))
    subprocess.run(["dpkg-deb", "-x", str(archive), str(folder / "root")], check=True)
    version = subprocess.run(
        ["dpkg-deb", "-f", str(archive), "Version"], check=True, capture_output=True, text=True
    ).stdout.strip()
    archive.unlink()
    (folder / "done").write_text(f"{package} {version}\n")


def _version_key(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


class _Apt:
    def __init__(self, folder: Path, wanted: Wanted) -> None:
        for name in ("lists/partial", "cache/archives/partial", "parts"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        archive = _configured_archive()
        if wanted.security:
            archive = re.sub(r"debian/$", "debian-security/", archive)
        (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {archive} {wanted.suite} main\n")
        (folder / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{folder}/sources.list";\n'
            f'Dir::Etc::sourceparts "{folder}/parts";\n'
            f'Dir::State::lists "{folder}/lists";\n'
            f'Dir::Cache "{folder}/cache";\n'
            'APT::Sandbox::User "";\n'
        )
        self._environment = {**os.environ, "APT_CONFIG": str(folder / "apt.conf")}

    def run(self, *command: str, folder: Path | None = None) -> str:
        done = subprocess.run(
            command, env=self._environment, cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PackageError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout


def _configured_archive() -> str:
    """The archive that this machine uses, where it is a Debian."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return next((line for line in done.stdout.splitlines() if line.endswith("/debian/")), _ARCHIVE)
