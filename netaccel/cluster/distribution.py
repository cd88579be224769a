# SPDX-License-Identifier: Apache-2.0
"""Parts of a node that the distribution has: fetched by apt and unpacked in the cache, never installed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from netaccel.cluster.build import alone, cache_folder
from netaccel.cluster.golang import Say
from netaccel.errors import LabError

NODE = ("containerd", "runc", "containernetworking-plugins", "busybox-static")
"""Container runtime, CNI plugins (in ``usr/lib/cni``), and a static shell for images."""


def unpack(packages: Sequence[str] = NODE, say: Say = lambda _: None) -> Path:
    """Return a folder that holds the packages' files as ``/`` would; fetched once. Raises LabError.

    What they depend on is the machine's: these need no more than libc and libseccomp.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise LabError(f"{tool} is not there: nodes take {', '.join(packages)} from Debian or Ubuntu")
    folder = cache_folder() / _key(packages)
    with alone(say):
        if not folder.is_dir():
            say(f"fetching {', '.join(packages)} from the distribution (about 40 MB)")
            _fetch(packages, folder)
    return folder


def _key(packages: Sequence[str]) -> str:
    """A name for these packages of this release of the distribution."""
    release = Path("/etc/os-release")
    text = release.read_text(encoding="utf-8") if release.exists() else ""
    digest = hashlib.sha256("\0".join((text, *sorted(packages))).encode())
    return f"distribution-{digest.hexdigest()[:16]}"


def _fetch(packages: Sequence[str], folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder.parent) as made:
        fetched, root = Path(made) / "packages", Path(made) / "root"
        fetched.mkdir()
        complaint = _download(packages, fetched)
        if complaint and os.geteuid() == 0:  # no lists of packages, or old ones
            _run(["apt-get", "update", "-qq"], fetched)
            complaint = _download(packages, fetched)
        if complaint:
            raise LabError(f"{', '.join(packages)}: not fetched: {complaint}; run `apt-get update` as root")
        for package in sorted(fetched.glob("*.deb")):
            complaint = _run(["dpkg-deb", "--extract", str(package), str(root)], fetched)
            if complaint:
                raise LabError(f"{package.name}: not unpacked: {complaint}")
        root.rename(folder)


def _download(packages: Sequence[str], folder: Path) -> str:
    # Its sandbox user could not write into root's cache.
    return _run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *packages], folder)


def _run(command: Sequence[str], folder: Path) -> str:
    """Return the last line of its complaint, "" where it has none."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return lines[-1] if done.returncode else ""
