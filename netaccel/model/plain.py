# SPDX-License-Identifier: Apache-2.0
"""The model as builtins that JSON can hold, and back: how an agent shows its world to a command. Pure.

Fields keep their names, addresses and CIDRs are text, enums their values, and what could be of several
types says which by ``is``. Defaults are left out. Both ends are of one version: a field that the reader does
not know is an error.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from netaccel.model.address import Address, Cidr, cidr_text, parse_address, parse_cidr, text
from netaccel.model.endpoint import EndpointSlice, Namespace, Node, Pod, SliceKey
from netaccel.model.event import Object, Reject, Upsert, object_key
from netaccel.model.policy import Policy
from netaccel.model.service import Service
from netaccel.model.snapshot import World

_T = TypeVar("_T")
_TAG = "is"
_KINDS: dict[str, Any] = {
    "Service": Service,
    "EndpointSlice": EndpointSlice,
    "Pod": Pod,
    "Node": Node,
    "Namespace": Namespace,
    "Policy": Policy,
}


# ------------------------------------------------------------------- the world


class Told(NamedTuple):
    """A world at one moment: what was in it stays as it was."""

    node: str
    synced: bool
    objects: dict[str, tuple[Object, ...]]
    """By the names of the model's types."""
    refused: tuple[Reject, ...]


def told(world: World) -> Told:
    """Every object of a world, and what was refused. Cheap: references only."""
    objects = {kind: tuple(_objects(world, kind)) for kind in _KINDS}
    return Told(world.node_name, world.synced, objects, world.rejections())


def of_told(told: Told) -> World:
    """A world of the same objects."""
    world = World(told.node)
    for objects in told.objects.values():
        for obj in objects:
            world.apply(Upsert(object_key(obj), obj, 0.0))
    for reject in told.refused:
        world.apply(reject)
    world.synced = told.synced
    return world


def world_object(told: Told) -> dict[str, Any]:
    """Builtins of a world."""
    objects = {kind: [plain(one, _KINDS[kind]) for one in found] for kind, found in told.objects.items()}
    refused = [plain(one, Reject) for one in told.refused]
    return {"node": told.node, "synced": told.synced, **objects, "refused": refused}


def read_world(found: Mapping[str, Any]) -> World:
    """The reverse. Raises ValueError for anything else, saying where."""
    try:
        objects = {
            kind: tuple(read(one, kept, f"{kind}[{index}]") for index, one in enumerate(found[kind]))
            for kind, kept in _KINDS.items()
        }
        refused = tuple(read(one, Reject, f"refused[{i}]") for i, one in enumerate(found["refused"]))
        return of_told(Told(found["node"], bool(found["synced"]), objects, refused))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no world: {type(error).__name__} {error}") from error


def _objects(world: World, kind: str) -> Iterator[Object]:
    match kind:
        case "Service":
            found = (world.service(key) for key in sorted(world.services()))
            yield from (service for service in found if service is not None)
        case "EndpointSlice":
            yield from _slices(world)
        case "Pod":
            yield from world.pods()
        case "Node":
            yield from world.nodes()
        case "Namespace":
            yield from world.namespaces()
        case "Policy":
            yield from sorted(world.policies().values(), key=lambda policy: str(policy.key))


def _slices(world: World) -> Iterator[EndpointSlice]:
    for key in sorted(world.services()):
        yield from world.slices(key)
    waiting = (world.slice(SliceKey(one.namespace, one.name)) for one in world.waiting_slices())
    yield from (one for one in waiting if one is not None)


# --------------------------------------------------------------- any of its types


def plain(value: Any, kind: Any) -> Any:
    """Builtins of a value that is of this type."""
    match _form(kind):
        case _Form.ADDRESS:
            return text(value)
        case _Form.CIDR:
            return cidr_text(value)
        case _Form.ENUM:
            return value.value
        case _Form.FLOAT:
            return value if math.isfinite(value) else None
        case _Form.MANY:
            found = [plain(one, typing.get_args(kind)[0]) for one in value]
            return sorted(found) if isinstance(value, frozenset) else found
        case _Form.PAIR:
            return [plain(one, of) for one, of in zip(value, typing.get_args(kind), strict=True)]
        case _Form.RECORD:
            return _plain_record(value, kind)
        case _Form.UNION:
            return _plain_member(value, kind)
        case _Form.AS_IT_IS:
            return value


def read(found: Any, kind: type[_T], where: str = "") -> _T:
    """The reverse of :func:`plain`. Raises ValueError, saying where."""
    try:
        return typing.cast("_T", _read(found, kind, where))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: {type(error).__name__} {error}") from error


class _Form(enum.Enum):
    """How a type is written."""

    ADDRESS = enum.auto()
    CIDR = enum.auto()
    ENUM = enum.auto()
    FLOAT = enum.auto()
    MANY = enum.auto()
    PAIR = enum.auto()
    RECORD = enum.auto()
    UNION = enum.auto()
    AS_IT_IS = enum.auto()


@functools.cache
def _form(kind: Any) -> _Form:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Address:
        return _Form.ADDRESS
    if origin in (types.UnionType, typing.Union):
        return _Form.UNION
    if origin is frozenset or (origin is tuple and arguments[-1] is Ellipsis):
        return _Form.MANY
    if origin is tuple:
        return _Form.PAIR
    if kind is Cidr:
        return _Form.CIDR
    if kind is float:
        return _Form.FLOAT
    if kind in (str, int, bool):
        return _Form.AS_IT_IS
    if issubclass(kind, enum.Enum):
        return _Form.ENUM
    assert _fields(kind), kind
    return _Form.RECORD


@functools.cache
def _fields(kind: Any) -> dict[str, tuple[Any, Any]]:
    """Types and defaults of a dataclass's or NamedTuple's fields."""
    hints = typing.get_type_hints(kind)
    if dataclasses.is_dataclass(kind):
        return {field.name: (hints[field.name], _default(field)) for field in dataclasses.fields(kind)}
    defaults: Mapping[str, Any] = getattr(kind, "_field_defaults", {})
    return {name: (hints[name], defaults.get(name, _NEEDED)) for name in getattr(kind, "_fields", ())}


_NEEDED = object()


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return _NEEDED if field.default_factory is dataclasses.MISSING else field.default_factory()


@functools.cache
def _members(kind: Any) -> tuple[Any, ...]:
    return tuple(one for one in typing.get_args(kind) if one is not type(None))


def _plain_record(value: Any, kind: Any) -> dict[str, Any]:
    return {
        name: plain(getattr(value, name), of)
        for name, (of, default) in _fields(kind).items()
        if getattr(value, name) != default
    }


def _plain_member(value: Any, kind: Any) -> Any:
    if value is None:
        return None
    members = _members(kind)
    if len(members) == 1:
        return plain(value, members[0])
    own: Any = type(value)
    return {_TAG: own.__name__, **_plain_record(value, own)} if _form(own) is _Form.RECORD else value


def _read(found: Any, kind: Any, where: str) -> Any:
    match _form(kind):
        case _Form.ADDRESS:
            return parse_address(found)
        case _Form.CIDR:
            return parse_cidr(found)
        case _Form.ENUM:
            return kind(found)
        case _Form.FLOAT:
            return math.inf if found is None else float(found)
        case _Form.MANY:
            (of, *_), origin = typing.get_args(kind), typing.get_origin(kind)
            return origin(_read(one, of, f"{where}[{index}]") for index, one in enumerate(found))
        case _Form.PAIR:
            return tuple(_read(one, of, where) for one, of in zip(found, typing.get_args(kind), strict=True))
        case _Form.RECORD:
            return _read_record(found, kind, where)
        case _Form.UNION:
            return _read_member(found, kind, where)
        case _Form.AS_IT_IS:
            if not isinstance(found, kind):
                raise ValueError(f"{where}: is a {type(found).__name__}, not {kind.__name__}")
            return found


def _read_record(found: Mapping[str, Any], kind: Any, where: str) -> Any:
    fields = _fields(kind)
    unknown = found.keys() - fields.keys() - {_TAG}
    if unknown:
        raise ValueError(
            f"{where}: no field {', '.join(sorted(unknown))}: is it an agent of another version?"
        )
    return kind(
        **{
            name: _read(one, fields[name][0], f"{where}.{name}")
            for name, one in found.items()
            if name != _TAG
        }
    )


def _read_member(found: Any, kind: Any, where: str) -> Any:
    if found is None:
        return None
    members = _members(kind)
    if len(members) == 1:
        return _read(found, members[0], where)
    if not isinstance(found, dict):
        return found
    (member,) = (one for one in members if one.__name__ == found[_TAG])
    return _read_record(found, member, where)
