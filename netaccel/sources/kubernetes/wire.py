# SPDX-License-Identifier: Apache-2.0
"""Lists and watch events as they come from the API server; objects in them stay bytes. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from netaccel.errors import ApiError

INITIAL_EVENTS_END = "k8s.io/initial-events-end"


class _Meta(msgspec.Struct, rename="camel"):
    name: str | None = None
    namespace: str | None = None
    resource_version: str | None = None
    annotations: dict[str, str | None] | None = None


class _Object(msgspec.Struct, rename="camel"):
    kind: str | None = None
    metadata: _Meta | None = None


class _Event(msgspec.Struct):
    type: str | None = None
    object: msgspec.Raw = msgspec.Raw(b"null")


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str | None = None
    next: str | None = msgspec.field(name="continue", default=None)


class _List(msgspec.Struct):
    kind: str | None = None
    metadata: _ListMeta | None = None
    items: list[msgspec.Raw] | None = None


_OBJECTS = msgspec.json.Decoder(_Object)
_EVENTS = msgspec.json.Decoder(_Event)
_LISTS = msgspec.json.Decoder(_List)
_BROKEN = (msgspec.DecodeError, UnicodeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Head:
    """What an object says of itself. ``name`` is "" where it can't be read."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    version: str = ""
    """metadata.resourceVersion"""
    ends_initial: bool = False
    """The bookmark after the last of the initial events (KEP-3157)."""


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of a list. ``next``: the continue token, "" on the last page."""

    items: list[msgspec.Raw]
    version: str
    next: str


def event(line: bytes) -> tuple[str, msgspec.Raw]:
    """One line of a watch: its type and its object. Raises ApiError where it is no event."""
    try:
        found = _EVENTS.decode(line)
    except _BROKEN as error:
        raise ApiError(f"a watch's line is no event: {_shown(line)}") from error
    if not found.type:
        raise ApiError(f"a watch's line has no type: {_shown(line)}")
    return found.type, found.object


def head(document: msgspec.Raw) -> Head:
    """The head of an object; an empty one where not even that can be read."""
    try:
        found = _OBJECTS.decode(document)
    except _BROKEN:
        return Head()
    meta = found.metadata or _Meta()
    return Head(
        found.kind or "",
        meta.namespace or "",
        meta.name or "",
        meta.resource_version or "",
        (meta.annotations or {}).get(INITIAL_EVENTS_END) == "true",
    )


def page(body: bytes, kind: str) -> Page:
    """One answer of a list of ``kind``. Raises ApiError."""
    try:
        found = _LISTS.decode(body)
    except _BROKEN as error:
        raise ApiError(f"a list of {kind}s is none: {_shown(body)}") from error
    meta = found.metadata
    if found.kind != f"{kind}List" or meta is None or not meta.resource_version:
        raise ApiError(f"a list of {kind}s was asked for, {found.kind or 'something else'} came")
    return Page(found.items or [], meta.resource_version, meta.next or "")


def _shown(text: bytes) -> str:
    """The beginning of what can't be read, on one line."""
    return ascii(text[:60].decode("utf-8", "replace"))
