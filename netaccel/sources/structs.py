# SPDX-License-Identifier: Apache-2.0
"""Bytes of JSON, or builtins, to a narrow struct; msgspec's messages in words of ours.

Bytes go straight into structs: fields that are not read are skipped, not built.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias, TypeVar

import msgspec

from netaccel.errors import ObjectError
from netaccel.sources import raw

RawObject: TypeAlias = Any
"""JSON as bytes (or ``msgspec.Raw``), or the builtins that a YAML document gave."""

_BYTES = (bytes, bytearray, memoryview, msgspec.Raw)

_T = TypeVar("_T", bound=raw.Raw)


class _List(raw.Raw):
    """Items stay bytes until their turn, so that a bad one harms only itself."""

    items: list[msgspec.Raw] | None = None


_DECODERS: dict[type[raw.Raw], msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind)
    for kind in (
        _List,
        raw.Head,
        raw.Service,
        raw.EndpointSlice,
        raw.Pod,
        raw.Node,
        raw.Namespace,
        raw.Policy,
    )
}


def decode(document: RawObject, kind: type[_T]) -> _T:
    """One object as a struct. Raises ObjectError."""
    try:
        if isinstance(document, _BYTES):
            found: _T = _DECODERS[kind].decode(document)
            return found
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as err:
        raise _type_error(str(err)) from err
    except msgspec.DecodeError as err:
        raise _json_error(document, err) from err
    except UnicodeError as err:
        raise ObjectError("", "is not UTF-8: save it as UTF-8") from err
    except RecursionError as err:
        raise ObjectError("", "is nested too deeply: flatten it") from err


def items(document: RawObject) -> list[RawObject]:
    """The items of a list object. Raises ObjectError."""
    if isinstance(document, _BYTES):
        return list(decode(document, _List).items or ())
    found = document.get("items")
    if found is None:
        return []
    if not isinstance(found, list):
        raise ObjectError("items", "is not a list: give a list of objects")
    return found


def builtins(document: RawObject) -> RawObject:
    """The document as builtins, None where it is JSON that can't be read."""
    if not isinstance(document, _BYTES):
        return document
    try:
        return msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


_AT = re.compile(r" - at `(?:key in )?\$?(?P<path>[^`]*)`$")
_EXPECTED = re.compile(r"^Expected `(?P<wanted>[^`]*)`, got `(?P<got>[^`]*)`$")
_BYTE = re.compile(r"\(byte (\d+)\)")
_NAMES = {
    "int": "a whole number",
    "str": "text",
    "bool": "true or false",
    "float": "a fraction",
    "null": "nothing",
    "object": "a mapping",
    "dict": "a mapping",
    "array": "a list",
}


def _type_error(message: str) -> ObjectError:
    """``Expected `int`, got `str` - at `$.spec.ports[0].port` `` in our words."""
    at = _AT.search(message)
    path = at["path"].replace("[...]", "").lstrip(".") if at else ""
    text = message[: at.start()] if at else message
    expected = _EXPECTED.match(text)
    if expected is None:
        return ObjectError(path, f"{text[:1].lower()}{text[1:]}: correct it")
    wanted = " or ".join(_NAMES.get(name, name) for name in expected["wanted"].split(" | ") if name != "null")
    got = " or ".join(_NAMES.get(name, name) for name in expected["got"].split(" | "))
    return ObjectError(path, f"is {got}: give {wanted}")


def _json_error(document: RawObject, err: msgspec.DecodeError) -> ObjectError:
    """Malformed JSON: the line, where msgspec knows the byte."""
    text = bytes(document)
    found = _BYTE.search(str(err))
    if found is None:
        return ObjectError("", f"is cut short after {len(text)} bytes: complete it")
    line = text.count(b"\n", 0, int(found[1])) + 1
    reason = str(err).removeprefix("JSON is malformed: ").partition(" (byte")[0]
    return ObjectError(f"line {line}", f"is not JSON, {reason}: correct it")
