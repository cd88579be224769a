# SPDX-License-Identifier: Apache-2.0
"""Sources → wheel → root file system → an OCI archive that containerd imports.

mmdebstrap makes the root file system (``rootfs.sh``, as the Dockerfile does), umoci the image. The same
sources give the same bytes while the mirror has the same packages: everything is dated by the last commit
that touched them. Where nothing changed since the last time, nothing is done.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from netaccel import __version__

NAME = f"docker.io/library/netaccel:{__version__}"
ARCHIVE = Path("dist/netaccel-image.tar")
_INPUTS = ("netaccel", "bpf", "deploy/image", "pyproject.toml")
_IGNORED = {"__pycache__", ".gitignore"}
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# What `ctr` and the kubelet call it; the OCI annotation alone would be the tag.
_CONTAINERD_NAME = "io.containerd.image.name"
_OCI_NAME = "org.opencontainers.image.ref.name"


def build(project: Path, *, force: bool = False) -> None:
    """Make ``dist/netaccel-image.tar`` and say how to import it. CalledProcessError where a tool fails."""
    archive = project / ARCHIVE
    stamp = project / "build/image.inputs"
    inputs = fingerprint(project)
    if not force and archive.exists() and stamp.exists() and stamp.read_text(encoding="ascii") == inputs:
        _say(f"{ARCHIVE} is up to date")
    else:
        started = time.monotonic()
        _make(project, archive)
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_text(inputs, encoding="ascii")
        _say(f"{ARCHIVE} made in {time.monotonic() - started:.0f} s")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    _say(f"{NAME}, {archive.stat().st_size / 2**20:.1f} MiB compressed, sha256 {digest}")
    _say(f"on each node:  ctr -n k8s.io images import {ARCHIVE.name}")


def fingerprint(project: Path) -> str:
    """SHA-256 over names and contents of everything that the image is made from."""
    found = hashlib.sha256(platform.machine().encode())
    for path in sorted(_files(project)):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        found.update(f"{path.relative_to(project)} {content}\n".encode())
    return found.hexdigest()


def _files(project: Path) -> Iterator[Path]:
    for name in _INPUTS:
        path = project / name
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file() and not _IGNORED & set(file.parts):
                yield file


def _make(project: Path, archive: Path) -> None:
    epoch = source_date(project)
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch)
    archive.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="netaccel-image-") as folder:
        work = Path(folder)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
        _run(*pip, "--wheel-dir", work, project)
        layer = work / "layer.tar"
        _run(
            "env", f"PYTHON={sys.executable}", project / "deploy/image/rootfs.sh", *work.glob("*.whl"), layer
        )
        image = work / "image"
        _image(image, layer, epoch)
        fresh = archive.with_suffix(".new")
        pack(image, fresh, epoch)
        fresh.replace(archive)


def source_date(project: Path) -> int:
    """Seconds since 1970 of SOURCE_DATE_EPOCH, else of the last commit that touched the image's sources."""
    if told := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(told)
    command = ["git", "-C", str(project), "log", "-1", "--format=%ct", "--", *_INPUTS]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _image(image: Path, layer: Path, epoch: int) -> None:
    """An OCI layout of one layer, tagged with the version."""
    date = datetime.fromtimestamp(epoch, UTC).isoformat()
    tagged = f"{image}:{__version__}"
    _run("umoci", "init", "--layout", image)
    _run("umoci", "new", "--image", tagged)
    _run("umoci", "raw", "add-layer", "--image", tagged, "--history.created", date, layer)
    labels = {
        "title": "netaccel",
        "version": __version__,
        "licenses": "Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)",
    }
    config = {
        "--config.entrypoint": "/usr/bin/netaccel",
        "--config.cmd": "agent",
        "--config.env": "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        "--config.workingdir": "/",
        "--created": date,
        "--history.created": date,
        "--os": "linux",
        "--architecture": _ARCHITECTURES[platform.machine()],
    }
    told = [part for pair in config.items() for part in pair]
    told += [
        part for k, v in labels.items() for part in ("--config.label", f"org.opencontainers.image.{k}={v}")
    ]
    _run("umoci", "config", "--image", tagged, *told)
    _run("umoci", "gc", "--layout", image)


def pack(image: Path, archive: Path, epoch: int) -> None:
    """Name the layout's image in full, and write the layout as a tar file: sorted, dated, owned by root."""
    index = json.loads((image / "index.json").read_text(encoding="utf-8"))
    (manifest,) = index["manifests"]
    manifest["annotations"] = {_CONTAINERD_NAME: NAME, _OCI_NAME: __version__}
    (image / "index.json").write_text(json.dumps(index, sort_keys=True), encoding="utf-8")

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime = epoch
        entry.mode = 0o755 if entry.isdir() else 0o644
        return entry

    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(image.rglob("*")):
            tar.add(path, str(path.relative_to(image)), recursive=False, filter=plain)


def _run(*command: str | Path) -> None:
    subprocess.run(list(map(str, command)), check=True)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
