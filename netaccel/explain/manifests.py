# SPDX-License-Identifier: Apache-2.0
"""A world read once from a folder of manifests, without an agent; and where in the files objects stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from netaccel.errors import ConfigError
from netaccel.model.event import ObjectKey, Reject, Upsert
from netaccel.model.policy import Direction, RuleRef
from netaccel.model.snapshot import World
from netaccel.sources import tree
from netaccel.sources.documents import Place, read_file
from netaccel.sources.ledger import Ledger

_FIELD = {Direction.INGRESS: "ingress", Direction.EGRESS: "egress"}


@dataclass(frozen=True, slots=True)
class Offline:
    """What the files say. ``refused``: what can't be used of them."""

    directory: Path
    world: World
    places: dict[ObjectKey, Place] = field(default_factory=dict)
    refused: tuple[Reject, ...] = ()
    _origins: dict[RuleRef, str] = field(default_factory=dict, repr=False, compare=False)
    _texts: dict[str, list[yaml.Node]] = field(default_factory=dict, repr=False, compare=False)

    def origin(self, rule: RuleRef) -> str:
        """``FILE:LINE`` of a rule, of its policy where the rule is none; "" where that isn't known."""
        found = self._origins.get(rule)
        if found is None:
            found = self._origins[rule] = self._find(rule)
        return found

    def _find(self, rule: RuleRef) -> str:
        key = rule.policy
        place = self.places.get(ObjectKey(key.kind.value, key.namespace, key.name))
        if place is None:
            return ""
        if place.file not in self._texts:
            self._texts[place.file] = _documents(self.directory / place.file)
        line = _line(self._texts[place.file], place, rule)
        return f"{place.file}:{line}" if line else str(place)


def read_world(directory: Path) -> Offline:
    """Read all manifests below a folder. Raises ConfigError where the folder itself can't be read."""
    try:
        found = tree.scan(directory)
    except OSError as error:
        raise ConfigError(
            f"manifests {directory}: {error.strerror or error}: give a directory that can be read"
        ) from error
    contents = {}
    for name in sorted(found.files):
        try:
            contents[name] = read_file((directory / name).read_bytes(), name)
        except OSError as error:
            raise ConfigError(f"{directory / name}: {error.strerror or error}: make it readable") from error
    world = World()
    events = Ledger().update(contents, 0.0)
    world.apply_all(events)
    places: dict[ObjectKey, Place] = {}
    for name in contents:
        for claim in contents[name].claims:
            places.setdefault(claim.key, claim.place)
    told = {event.key for event in events if isinstance(event, Upsert)}
    kept = {key: place for key, place in places.items() if key in told}
    return Offline(directory, world, kept, world.rejections())


def _documents(file: Path) -> list[yaml.Node]:
    """The documents of a file with their lines; none where the text can't be followed."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        return [node for node in yaml.compose_all(text, yaml.CSafeLoader) if _is_something(node)]
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return []


def _line(documents: list[yaml.Node], place: Place, rule: RuleRef) -> int:
    """The line on which a rule begins, or its object; 0 where it isn't found."""
    try:
        node = documents[place.document - 1]
        if place.item >= 0:
            node = _at(node, "items", place.item)
        for step in _path(rule):
            node = _at(node, *step)
    except LookupError:
        return 0
    return int(node.start_mark.line) + 1


def _path(rule: RuleRef) -> Iterator[tuple[str, int]]:
    if rule.number >= 0:
        yield "spec", -1
        yield _FIELD[rule.direction], rule.number


def _at(node: yaml.Node, key: str, index: int = -1) -> yaml.Node:
    """A mapping's value, and of that an item. LookupError where it isn't there."""
    if not isinstance(node, yaml.MappingNode):
        raise KeyError(key)
    value: yaml.Node = next((value for name, value in node.value if name.value == key), None) or _missing(key)
    if index < 0:
        return value
    if not isinstance(value, yaml.SequenceNode):
        raise KeyError(key)
    found: yaml.Node = value.value[index]
    return found


def _missing(key: str) -> yaml.Node:
    raise KeyError(key)


def _is_something(node: yaml.Node | None) -> bool:
    return node is not None and not (isinstance(node, yaml.ScalarNode) and node.value == "")
