# SPDX-License-Identifier: Apache-2.0
"""What a source tells: typed events, the same from files and from an API server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from netaccel.model.endpoint import EndpointSlice, Namespace, Node, Pod
from netaccel.model.policy import Policy
from netaccel.model.service import Service

Object = Service | EndpointSlice | Pod | Node | Namespace | Policy


class ObjectKey(NamedTuple):
    """Kind, namespace ("" where the kind has none) and name."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


def object_key(obj: Object) -> ObjectKey:
    """The key under which events speak of an object."""
    match obj:
        case Service():
            return ObjectKey("Service", *obj.key)
        case EndpointSlice():
            return ObjectKey("EndpointSlice", *obj.key)
        case Pod():
            return ObjectKey("Pod", *obj.key)
        case Node():
            return ObjectKey("Node", "", obj.name)
        case Namespace():
            return ObjectKey("Namespace", "", obj.name)
        case Policy():
            return ObjectKey(obj.key.kind.value, obj.key.namespace, obj.key.name)


@dataclass(frozen=True, slots=True)
class Upsert:
    """The object is there and valid; it replaces what was there, and ends all rejections of it.

    Where one still holds (the same object in a second file), its Reject follows again.
    """

    key: ObjectKey
    object: Object
    received: float
    """time.monotonic() at which the source had read it."""


@dataclass(frozen=True, slots=True)
class Delete:
    """The object is gone. Rejections of it that no longer hold are forgiven by an event of their own."""

    key: ObjectKey
    received: float


@dataclass(frozen=True, slots=True)
class Reject:
    """The object can't be used; its last good version stays in force.

    ``origin``: the file (and document) or the API's resource. ``path``: where in the object. ``key`` is
    None where not even that could be read.
    ``fallback``: of a policy, what stands in where there is no good version: it denies what could be read of
    the subject (design: Policy, bad objects).
    """

    key: ObjectKey | None
    origin: str
    path: str
    reason: str
    fallback: Policy | None = None


@dataclass(frozen=True, slots=True)
class Forgive:
    """A rejection with this origin and key no longer holds, and no Upsert says so (file mended or gone)."""

    key: ObjectKey | None
    origin: str


@dataclass(frozen=True, slots=True)
class Synced:
    """All that existed when the source started has been told."""


Event = Upsert | Delete | Reject | Forgive | Synced


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """What a source says of itself."""

    kind: str
    """``manifests`` or ``kubernetes``."""
    where: str
    """The folder, or the API server that answers now (the first one tried where none does)."""
    heard: float | None = None
    """time.time() at which what was told was last known to be current; None: never in this process."""
    problem: str = ""
    """Why it isn't current now, in one line; "" where all is well."""


class Source(Protocol):
    """Where objects come from. Implemented by manifests and by Kubernetes."""

    def status(self) -> SourceStatus:
        """How it is now; cheap, and from the event loop's thread."""
        ...

    def events(self) -> AsyncIterator[tuple[Event, ...]]:
        """Batches in order, for ever; the first ones end with Synced. Never raises for a bad object."""
        ...
