# SPDX-License-Identifier: Apache-2.0
"""The text of one manifest file to objects: YAML (many documents) or JSON (one). Pure.

A file is cut at its document markers first, so that one broken document harms only itself, and so that a
document whose text is as before is not read again: one change in a file of 10,000 costs one document.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import yaml

from netaccel.model.event import Object, ObjectKey
from netaccel.model.policy import Policy
from netaccel.sources.parse import Outcome, Refused, read

YAML_SUFFIXES = frozenset((".yaml", ".yml"))
JSON_SUFFIXES = frozenset((".json",))

_MARKER = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_UNUSUAL = re.compile(r"^(%|\.\.\.(\s|$))", re.MULTILINE)
"""Directives and explicit ends: cutting would part them from their document, so the file is read whole."""

_MAX_DEPTH = 200

_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_VALUE = "tag:yaml.org,2002:value"
_MERGE = "tag:yaml.org,2002:merge"


class Place(NamedTuple):
    """Where an object stands: the file, the document's number from 1, the item of a list or -1."""

    file: str
    document: int
    item: int = -1

    def __str__(self) -> str:
        file = self.file.encode("utf-8", "replace").decode()  # a name need not be UTF-8, a message must
        where = f"{file}#{self.document}" if self.document else file
        return where if self.item < 0 else f"{where} items[{self.item}]"


class Claim(NamedTuple):
    """A file says that this object exists. ``object`` is None where it can't be used, for ``reason``."""

    place: Place
    key: ObjectKey
    object: Object | None
    path: str = ""
    reason: str = ""
    fallback: Policy | None = None
    """What denies the subject of a policy that can't be used."""


class Fault(NamedTuple):
    """Something in a file that can't even be named."""

    place: Place
    path: str
    reason: str


Documents = tuple[tuple[Outcome, ...], ...]


@dataclass(frozen=True, slots=True)
class FileContent:
    """What a file says. With a fault it is incomplete: what it no longer names may be what can't be read."""

    claims: tuple[Claim, ...] = ()
    faults: tuple[Fault, ...] = ()
    cache: Mapping[bytes, Documents] = field(default_factory=dict, compare=False, repr=False)

    @property
    def complete(self) -> bool:
        """Whether all of it could be named."""
        return not self.faults


NOTHING = FileContent()


def unreadable(file: str, reason: str) -> FileContent:
    """A file that can't be read at all."""
    return FileContent(faults=(Fault(Place(file, 0), "", reason),))


def read_file(content: bytes, file: str, previous: FileContent = NOTHING) -> FileContent:
    """Read a file's bytes; documents that stand in ``previous`` unchanged are taken from there."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = content.count(b"\n", 0, err.start) + 1
        return unreadable(file, f"line {line} is not UTF-8: save the file as UTF-8")
    cache: dict[bytes, Documents] = {}
    claims: list[Claim] = []
    faults: list[Fault] = []
    number = 0
    is_json = file.lower().endswith(tuple(JSON_SUFFIXES))
    for line, chunk in [(0, text)] if is_json else _cut(text):
        digest = hashlib.blake2b(chunk.encode("utf-8"), digest_size=16).digest()
        documents = previous.cache.get(digest)
        if documents is None:
            documents = _read_json(chunk) if is_json else _read_yaml(chunk, line)
        if not any(isinstance(one, Refused) and one.key is None for found in documents for one in found):
            cache[digest] = documents  # faults name their line, which other documents' changes move
        for outcomes in documents:
            number += 1
            for outcome in outcomes:
                place = Place(file, number, outcome.item)
                match outcome:
                    case Refused(key=None):
                        faults.append(Fault(place, outcome.path, outcome.reason))
                    case Refused(key=key) if key is not None:
                        why = (outcome.path, outcome.reason, outcome.fallback)
                        claims.append(Claim(place, key, None, *why))
                    case _:
                        assert not isinstance(outcome, Refused)
                        claims.append(Claim(place, outcome.key, outcome.object))
    return FileContent(tuple(claims), tuple(faults), cache)


def _cut(text: str) -> Iterator[tuple[int, str]]:
    """(lines before it, text) of each document. A marker at a line's start always begins a document."""
    if _UNUSUAL.search(text):
        yield 0, text
        return
    starts = [0, *(match.start() for match in _MARKER.finditer(text))]
    line = 0
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        if start < end:
            chunk = text[start:end]
            yield line, chunk
            line += chunk.count("\n")


def _read_json(text: str) -> Documents:
    if not text.strip():
        return ()
    return (tuple(read(text.encode())),)


def _read_yaml(text: str, line: int) -> Documents:
    """All documents of a chunk (one, but for unusual files), empty ones left out."""
    found: list[tuple[Outcome, ...]] = []
    try:
        loader = _Loader(text)
        try:
            while loader.check_data():  # type: ignore[no-untyped-call]
                document = loader.get_data()
                if document is not None:
                    found.append(tuple(read(document)))
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        problem = (err.problem or err.context or "malformed").strip()
        found.append((_fault(problem, line + mark.line + 1 if mark else line + 1),))
    except yaml.reader.ReaderError as err:
        bad = line + text.count("\n", 0, err.position) + 1 if isinstance(err.position, int) else line + 1
        found.append((_fault(f"a character that YAML forbids ({err.reason})", bad),))
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as err:
        # PyYAML's constructors let such errors out for a scalar that contradicts its explicit tag.
        found.append((_fault(str(err) or type(err).__name__, line + 1),))
    except RecursionError:
        found.append((_fault("nested too deeply", line + 1),))
    return tuple(found)


def _fault(problem: str, line: int) -> Refused:
    return Refused(None, f"line {line}", f"is not YAML, {' '.join(problem.split())}: correct it")


class _Loader(yaml.CSafeLoader):
    """PyYAML's C loader, made to read scalars as Kubernetes' tools do, and to refuse a key given twice."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._checked: set[int] = set()
        self._depth = 0

    def descend_resolver(self, current_node: yaml.Node | None, current_index: object) -> None:
        """Bound the depth (for each node; its other use, path resolvers, isn't ours).

        PyYAML's composer recurses on the C stack: a file of 100,000 brackets would end the process.
        """
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            mark = current_node.start_mark if current_node else None
            raise yaml.composer.ComposerError(None, None, "it is nested too deeply", mark)

    def ascend_resolver(self) -> None:
        """Leave a node."""
        self._depth -= 1

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Look for double keys before merge keys (``<<``) are resolved, which makes legitimate ones."""
        if id(node) not in self._checked:
            self._checked.add(id(node))
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                    if key.value in seen:
                        raise yaml.constructor.ConstructorError(
                            None, None, f"the key {key.value!r} is given twice", key.start_mark
                        )
                    seen.add(key.value)
        super().flatten_mapping(node)


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """Implicit types without dates, sexagesimal numbers and ``=``: plain text to Kubernetes' tools."""
    kept: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items():
        kept[first] = [
            (tag, _without_sexagesimal(tag, pattern))
            for tag, pattern in resolvers
            if tag not in (_TIMESTAMP, _VALUE)
        ]
    return kept


def _without_sexagesimal(tag: str, pattern: re.Pattern[str]) -> re.Pattern[str]:
    if tag.endswith((":int", ":float")):
        return re.compile(rf"(?!.*:)(?:{pattern.pattern})", pattern.flags)
    return pattern


_Loader.yaml_implicit_resolvers = _resolvers()


def plain_documents(text: str) -> list[object]:
    """All documents of a YAML text as plain values, for who writes manifests anew (the lab).

    Raises what PyYAML raises: YAMLError, and ValueError, LookupError, AttributeError or TypeError for a
    scalar that contradicts its tag.
    """
    return list(yaml.load_all(text, _Loader))
