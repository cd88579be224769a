# SPDX-License-Identifier: Apache-2.0
"""The manifest files of a directory: which there are, and what identifies a version of one."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from netaccel.sources.documents import JSON_SUFFIXES, YAML_SUFFIXES

_SUFFIXES = tuple(YAML_SUFFIXES | JSON_SUFFIXES)
_TOOL_FILES = frozenset(("kustomization.yaml", "kustomization.yml"))


class Signature(NamedTuple):
    """What changes with a file's content: device, inode, size, time of modification."""

    device: int
    inode: int
    size: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class Scan:
    """The files below a directory by relative path, and the folders (relative) that could not be read."""

    root: tuple[int, int]
    files: dict[str, Signature] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    def is_hiding(self, file: str) -> bool:
        """Whether a file lies in a folder that could not be read, so that its absence means nothing."""
        return any(file.startswith(f"{folder}/") for folder in self.unreadable)


def is_manifest(name: str) -> bool:
    """Whether a file of this name is read: YAML or JSON, not hidden, not an editor's, not a tool's own."""
    lower = name.lower()
    return lower.endswith(_SUFFIXES) and not name.startswith((".", "#")) and lower not in _TOOL_FILES


def signature(path: Path) -> Signature | None:
    """A file's present signature, links followed; None where there is no regular file."""
    try:
        info = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(info.st_mode):
        return None
    return Signature(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)


def scan(directory: Path) -> Scan:
    """Find all manifests. Links are followed, hidden folders are not entered (a ConfigMap's ``..data``).

    Raises OSError where the directory itself can't be read.
    """
    info = directory.stat()
    found = Scan(root=(info.st_dev, info.st_ino))
    _scan_folder(directory, "", found, frozenset((found.root,)))
    return found


def _scan_folder(folder: Path, prefix: str, found: Scan, above: frozenset[tuple[int, int]]) -> None:
    try:
        with os.scandir(folder) as entries:
            listed = list(entries)
    except OSError as err:
        if not prefix:
            raise
        found.unreadable[prefix.rstrip("/")] = err.strerror or str(err)
        return
    for entry in listed:
        name = f"{prefix}{entry.name}"
        try:
            if entry.is_dir():
                if entry.name.startswith("."):
                    continue
                info = entry.stat()
                here = (info.st_dev, info.st_ino)
                if here not in above:  # a link to a folder above would never end
                    _scan_folder(folder / entry.name, f"{name}/", found, above | {here})
            elif is_manifest(entry.name) and entry.is_file():
                info = entry.stat()
                found.files[name] = Signature(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
        except OSError:
            continue  # gone since it was listed
