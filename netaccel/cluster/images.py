# SPDX-License-Identifier: Apache-2.0
"""Images of static binaries, without a registry: docker archives in the cache, named by their content.

The format is ``docker save``'s (moby, image specification v1.2): a layer, a configuration, a manifest.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netaccel.cluster.binaries import Binaries
from netaccel.cluster.build import Say, cache_folder
from netaccel.errors import LabError

PAUSE = "local/pause:1"
AGNHOST = "local/agnhost:1.34"
COREDNS = "local/coredns:1.12"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_KEPT_SECONDS = 24 * 3600
_TOOLS = ("curl", "ip", "ss", "nc")
"""What tests ask for in a pod beside agnhost; each with its libraries, where it is installed."""

File = Path | str | bytes
"""A file's content: that of another file, the target of a symbolic link, or itself."""


@dataclass(frozen=True)
class Image:
    """One layer, and what runs. ``files``: content by path below the root."""

    name: str
    files: Mapping[str, File]
    config: Mapping[str, Any]
    folders: Mapping[str, int] = field(default_factory=dict)


def standard(binaries: Binaries) -> list[Image]:
    """The images that every cluster has."""
    user = {"Entrypoint": ["/pause"], "User": "65535:65535"}
    return [
        Image(PAUSE, {"pause": binaries.path("pause")}, user),
        agnhost(binaries.path("agnhost")),
        Image(
            COREDNS,
            {"coredns": binaries.path("coredns")},
            {"Entrypoint": ["/coredns"]},
            {"tmp": 0o1777},
        ),
    ]


def agnhost(binary: Path) -> Image:
    """Kubernetes' test server, with a shell and network tools of this machine's."""
    files: dict[str, File] = {
        "agnhost": binary,
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
        "etc/group": b"root:x:0:\n",
        "etc/nsswitch.conf": b"passwd: files\nhosts: files dns\n",
    }
    files.update(_shell())
    for tool in _TOOLS:
        files.update(_with_libraries(tool))
    config = {
        "Entrypoint": ["/agnhost"],
        "Cmd": ["pause"],
        "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
    }
    return Image(AGNHOST, files, config, {"tmp": 0o1777, "uploads": 0o777, "root": 0o700})


def archives(images: Sequence[Image], say: Say = lambda _: None) -> list[Path]:
    """Return each image's file, made on first use. Raises LabError."""
    folder = cache_folder() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return [_archive(image, folder, say) for image in images]


def _archive(image: Image, folder: Path, say: Say) -> Path:
    stem = image.name.rpartition("/")[2].partition(":")[0]
    final = folder / f"{stem}-{_key(image)}.tar"
    if not final.exists():
        say(f"making image {image.name}")
        temporary = folder / f".{stem}-{os.getpid()}"
        try:
            _pack(image, temporary)
            temporary.rename(final)
        except OSError as error:
            raise LabError(f"image {image.name}: {error}") from error
        finally:
            temporary.unlink(missing_ok=True)
    final.touch()
    for older in folder.glob(f"{stem}-*.tar"):  # another checkout may be about to import its own
        with suppress(FileNotFoundError):
            if older.stat().st_mtime < time.time() - _KEPT_SECONDS:
                older.unlink()
    return final


def _key(image: Image) -> str:
    """A digest of content, but of other files' sizes and dates: reading 100 MB each time takes too long."""
    found = hashlib.sha256(json.dumps([image.name, dict(image.config), dict(image.folders)]).encode())
    for name, content in sorted(image.files.items()):
        found.update(f"\0{name}\0{type(content).__name__}\0".encode())
        if isinstance(content, Path):
            stat = content.stat()
            found.update(f"{content} {stat.st_size} {stat.st_mtime_ns}".encode())
        else:
            found.update(content if isinstance(content, bytes) else content.encode())
    return found.hexdigest()[:16]


def _pack(image: Image, target: Path) -> None:
    layer = _layer(image)
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": image.config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    digest = hashlib.sha256(config).hexdigest()
    manifest = [{"Config": f"{digest}.json", "RepoTags": [image.name], "Layers": ["layer.tar"]}]
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        _add(archive, f"{digest}.json", config)
        _add(archive, "layer.tar", layer)
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def _layer(image: Image) -> bytes:
    """A tar with every folder before what is in it; owned by root, without dates."""
    buffer = io.BytesIO()
    parents = {str(p) for name in image.files for p in Path(name).parents if str(p) != "."}
    folders = {**dict.fromkeys(parents, 0o755), **image.folders}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, mode in sorted(folders.items()):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            archive.addfile(entry)
        for name, content in sorted(image.files.items()):
            if isinstance(content, str):
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, content, 0o777
                archive.addfile(entry)
            else:
                _add(archive, name, content.read_bytes() if isinstance(content, Path) else content)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o755
    archive.addfile(entry, io.BytesIO(content))


def _shell() -> dict[str, File]:
    """Busybox under all its names, where a static one is installed; else dash or whatever ``sh`` is."""
    busybox = shutil.which("busybox")
    if busybox is None or _libraries(Path(busybox)):
        return _with_libraries("sh")
    done = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=False)
    # Its own sh would run busybox' tools in place of the real ones.
    real = {"busybox", "sh", "ash", *(tool for tool in _TOOLS if shutil.which(tool))}
    names = [name for name in done.stdout.split() if name not in real]
    applets: dict[str, File] = {f"bin/{name}": "busybox" for name in names}
    return {**applets, "bin/busybox": Path(busybox), "bin/sh": "/usr/bin/sh", **_with_libraries("sh")}


def _with_libraries(tool: str) -> dict[str, File]:
    found = shutil.which(tool)
    if found is None:
        return {}
    real = Path(found).resolve()
    return {
        f"usr/bin/{tool}": real,
        **{str(path).lstrip("/"): path.resolve() for path in _libraries(real)},
    }


def _libraries(binary: Path) -> list[Path]:
    """The shared libraries that a program loads, its loader too; none of a static one (ldd(1))."""
    done = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False)
    words = [word for line in done.stdout.splitlines() for word in line.split()]
    return [Path(word) for word in words if word.startswith("/") and not word.endswith(":")]
