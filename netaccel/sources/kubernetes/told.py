# SPDX-License-Identifier: Apache-2.0
"""What has been told of one kind, so that only differences are told. Pure.

Objects are compared, not versions of them: a server that was restored from an older state may give the same
version to another content. Nothing is forgotten but by a Delete that the server told, or by its absence from
a list that was complete.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from netaccel.errors import ObjectError
from netaccel.model.event import Delete, Event, Forgive, Object, ObjectKey, Reject, Upsert, object_key
from netaccel.sources import parse
from netaccel.sources.kubernetes import wire
from netaccel.sources.parse import Refused


class Told:
    """The objects of one kind as last told."""

    def __init__(self, kind: str, origin: str) -> None:
        """``origin``: the API's resource, for rejections."""
        self._kind = kind
        self._origin = origin
        self._objects: dict[ObjectKey, Object] = {}
        self._rejects: dict[ObjectKey | None, Reject] = {}
        self._listed: set[ObjectKey] | None = None
        self._unnamed = False

    def __len__(self) -> int:
        return len(self._objects)

    # ------------------------------------------------------------- whole lists

    def begin_list(self) -> None:
        """What follows, up to :meth:`end_list`, is all that there is."""
        self._listed = set()
        self._unnamed = False

    def drop_list(self) -> None:
        """The list broke off: it says nothing of what is not in it."""
        self._listed = None

    def end_list(self, received: float) -> Iterator[Event]:
        """The list was complete: what was not in it is gone.

        Unless something in it had no name that could be read: then any of those may be it.
        """
        listed, self._listed = self._listed, None
        if listed is None or self._unnamed:
            return
        if None in self._rejects:
            del self._rejects[None]
            yield Forgive(None, self._origin)
        for key in [key for key in (*self._objects, *self._rejects) if key is not None and key not in listed]:
            yield from self.gone(key, received)

    # ---------------------------------------------------------- single objects

    def there(self, document: msgspec.Raw, head: wire.Head, received: float) -> Iterator[Event]:
        """An object as the server has it now."""
        if head.kind not in ("", self._kind):
            reason = f"is {head.kind!r} where a {self._kind} was asked for"
            yield from self._reject(head, Refused(None, "kind", reason))
            return
        try:
            obj = parse.decode(document, self._kind)
        except ObjectError as error:
            yield from self._reject(head, parse.refuse(document, self._kind, error))
            return
        assert obj is not None
        key = object_key(obj)
        if self._listed is not None:
            self._listed.add(key)
        if self._objects.get(key) != obj:
            self._objects[key] = obj
            self._rejects.pop(key, None)
            yield Upsert(key, obj, received)
        elif self._rejects.pop(key, None) is not None:
            yield Forgive(key, self._origin)

    def gone(self, key: ObjectKey, received: float) -> Iterator[Event]:
        """An object that the server no longer has."""
        if self._objects.pop(key, None) is not None:
            yield Delete(key, received)
        if self._rejects.pop(key, None) is not None:
            yield Forgive(key, self._origin)

    def key(self, head: wire.Head) -> ObjectKey | None:
        """The key that a head names; None without a name."""
        if not head.name:
            return None
        namespace = "" if self._kind in parse.CLUSTER_SCOPED else head.namespace or parse.DEFAULT_NAMESPACE
        return ObjectKey(self._kind, namespace, head.name)

    def _reject(self, head: wire.Head, refused: Refused) -> Iterator[Event]:
        key = self.key(head)
        if key is None:
            self._unnamed = True
        elif self._listed is not None:
            self._listed.add(key)
        reject = Reject(key, self._origin, refused.path, refused.reason, refused.fallback)
        if self._rejects.get(key) != reject:
            self._rejects[key] = reject
            yield reject
