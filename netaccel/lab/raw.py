# SPDX-License-Identifier: Apache-2.0
"""Reading objects as people write them: nothing may be assumed of their shape. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

Object = dict[str, Any]


class Name(NamedTuple):
    """Namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def mapping(value: object) -> Object:
    """Return the value where it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def sequence(value: object) -> list[Any]:
    """Return the value where it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def mappings(value: object) -> list[Object]:
    """Return those items of a list that are mappings."""
    return [item for item in sequence(value) if isinstance(item, dict)]


def strings(value: object) -> list[str]:
    """Return those items of a list that are strings and not empty."""
    return [item for item in sequence(value) if isinstance(item, str) and item]


def string(value: object) -> str:
    """Return the value where it is a string, else ""."""
    return value if isinstance(value, str) else ""


def number(value: object, default: int = 0) -> int:
    """Return the value where it is an integer (no boolean), else ``default``."""
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def labels(value: object) -> dict[str, str]:
    """Return a mapping's entries of strings."""
    return {k: v for k, v in mapping(value).items() if isinstance(k, str) and isinstance(v, str)}


def metadata(item: Object) -> Object:
    """Return ``metadata``, empty where there is none."""
    return mapping(item.get("metadata"))


def spec(item: Object) -> Object:
    """Return ``spec``, empty where there is none."""
    return mapping(item.get("spec"))


def name_of(item: Object) -> Name | None:
    """Namespace (``default`` where none is given) and name; None where it has no usable name."""
    found = string(metadata(item).get("name"))
    return Name(string(metadata(item).get("namespace")) or "default", found) if found else None


def is_list(item: Object) -> bool:
    """Whether the object is a List of objects."""
    return string(item.get("kind")).endswith("List") and isinstance(item.get("items"), list)


def unfold(document: object) -> Iterator[Object]:
    """Yield the objects of a document: itself, or a List's items."""
    if isinstance(document, dict):
        if is_list(document):
            for item in document["items"]:
                yield from unfold(item)
        else:
            yield document


def of_kind(kind: str, documents: list[Object]) -> dict[Name, Object]:
    """Objects of a kind by name; of several with one name the first."""
    found: dict[Name, Object] = {}
    for item in documents:
        if item.get("kind") == kind and (name := name_of(item)):
            found.setdefault(name, item)
    return found
