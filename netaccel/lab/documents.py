# SPDX-License-Identifier: Apache-2.0
"""Manifests in, rendered manifests out.

A rendered file has its source's name and its documents in the same order, so that what an agent says of
document 2 of ``web.yaml`` holds for the source. A file that can't be read as YAML is copied as it is: the
agent shall say what is wrong with it.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from netaccel.lab.raw import Object, is_list, unfold
from netaccel.sources.documents import plain_documents

_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True)
class File:
    """One manifest file. ``documents`` is None where it can't be read; ``text`` is what it holds."""

    name: str
    text: bytes
    documents: tuple[Any, ...] | None

    def objects(self) -> list[Object]:
        """All its objects, those in Lists too."""
        return [item for document in self.documents or () for item in unfold(document)]


def parse(name: str, text: bytes) -> File:
    """Read a file's documents."""
    try:
        documents = tuple(plain_documents(text.decode("utf-8-sig")))
        json.dumps(documents)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        return File(name, text, None)
    return File(name, text, documents)


def read(folder: Path, known: Mapping[str, File]) -> dict[str, File]:
    """Read all manifests below a folder by relative name; a file whose text is known isn't parsed again."""
    found: dict[str, File] = {}
    for path in sorted(_files(folder)):
        name = str(path.relative_to(folder))
        try:
            text = path.read_bytes()
        except OSError:  # gone in the meantime, or a link to nowhere
            continue
        before = known.get(name)
        found[name] = before if before is not None and before.text == text else parse(name, text)
    return found


def last_good(now: Mapping[str, File], before: Mapping[str, File]) -> dict[str, File]:
    """Replace files that can't be read by what they last held: half a file stops no pod."""
    return {
        name: before[name] if file.documents is None and name in before else file
        for name, file in now.items()
    }


def render(file: File, change: Callable[[Object], Object]) -> bytes:
    """Write a file's documents with ``change`` applied to each object; JSON is YAML too."""
    if file.documents is None:
        return file.text
    return dump(_changed(document, change) for document in file.documents)


def dump(documents: Iterable[object]) -> bytes:
    """Write documents one after the other."""
    return "---\n".join(json.dumps(document, indent=1) + "\n" for document in documents).encode()


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make ``folder`` hold these files and no others; each change is one rename."""
    for name, text in files.items():
        replace(folder / name, text)
    for path in _files(folder):
        if str(path.relative_to(folder)) not in files:
            path.unlink(missing_ok=True)


def replace(path: Path, text: bytes) -> None:
    """Write a file by rename, if it holds something else."""
    try:
        if path.read_bytes() == text:
            return
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(text)
    fresh.replace(path)


def _changed(document: Any, change: Callable[[Object], Object]) -> Any:
    if not isinstance(document, dict):
        return document
    if is_list(document):
        return {**document, "items": [_changed(item, change) for item in document["items"]]}
    return change(copy.deepcopy(document))


def _files(folder: Path) -> Iterable[Path]:
    """Manifests below a folder; hidden files and folders are editors' and ConfigMaps' own."""
    for where, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.endswith(_SUFFIXES) and not name.startswith("."):
                yield Path(where) / name
