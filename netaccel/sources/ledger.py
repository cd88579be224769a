# SPDX-License-Identifier: Apache-2.0
"""Which file's version of an object counts, and what has been told of it. Pure.

Rules: of several files that name an object the first counts (by path, then by place in it), whether it is
valid or not; the others are rejected. An object that can't be used keeps its last good version. A file
that is incomplete (see FileContent) goes on claiming what it claimed before. All changes of a batch count
at once, so an object that moves from one file to another is never gone in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from netaccel.model.event import Delete, Event, Forgive, Object, ObjectKey, Reject, Upsert
from netaccel.sources.documents import Claim, FileContent, Place


class _Standing(NamedTuple):
    """A claim that counts; ``stale`` where the file is incomplete and no longer says so itself."""

    claim: Claim
    stale: bool


class Ledger:
    """The files' claims and what the source has told of them so far."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[_Standing, ...]] = {}
        self._claims: dict[ObjectKey, dict[Place, _Standing]] = {}
        self._told: dict[ObjectKey, Object] = {}
        self._complaints: dict[ObjectKey, dict[str, Reject]] = {}
        self._faults: dict[str, tuple[Reject, ...]] = {}

    def names(self, file: str) -> frozenset[ObjectKey]:
        """Keys of the objects that a file claims."""
        return frozenset(standing.claim.key for standing in self._files.get(file, ()))

    def faulty(self, file: str) -> bool:
        """Whether a file has a part that can't be used."""
        if file in self._faults:
            return True
        return any(standing.claim.object is None for standing in self._files.get(file, ()))

    def update(self, changes: Mapping[str, FileContent | None], received: float) -> tuple[Event, ...]:
        """Take files' new contents (None: the file is gone); the events that follow, in a stable order."""
        touched: set[ObjectKey] = set()
        events: list[Event] = []
        for file in sorted(changes):
            touched |= self._replace(file, changes[file])
            events.extend(self._tell_faults(file, changes[file]))
        for key in sorted(touched):
            events.extend(self._settle(key, received))
        return tuple(events)

    def _replace(self, file: str, content: FileContent | None) -> set[ObjectKey]:
        """Swap a file's claims; the keys whose claims differ."""
        old = self._files.pop(file, ())
        new = self._standing(old, content)
        if new:
            self._files[file] = new
        before = {(one.claim.key, one.claim.place): one for one in old}
        after = {(one.claim.key, one.claim.place): one for one in new}
        touched: set[ObjectKey] = set()
        for key, place in before:
            if (key, place) not in after:
                touched.add(key)
                of_key = self._claims[key]
                del of_key[place]
                if not of_key:
                    del self._claims[key]
        for (key, place), standing in after.items():
            # Objects of unchanged documents are the same ones, so this compares identities mostly.
            if before.get((key, place)) != standing:
                touched.add(key)
                self._claims.setdefault(key, {})[place] = standing
        return touched

    @staticmethod
    def _standing(old: tuple[_Standing, ...], content: FileContent | None) -> tuple[_Standing, ...]:
        if content is None:
            return ()
        new = tuple(_Standing(claim, stale=False) for claim in content.claims)
        if content.complete:
            return new
        named = {claim.key for claim in content.claims}
        kept = (one.claim for one in old if one.claim.key not in named)
        return new + tuple(_Standing(claim, stale=True) for claim in kept)

    def _tell_faults(self, file: str, content: FileContent | None) -> Iterator[Event]:
        """Rejections of what can't be named, and the end of earlier ones."""
        old = self._faults.pop(file, ())
        faults = content.faults if content else ()
        new = tuple(Reject(None, str(fault.place), fault.path, fault.reason) for fault in faults)
        if new:
            self._faults[file] = new
        origins = {reject.origin for reject in new}
        yield from (Forgive(None, reject.origin) for reject in old if reject.origin not in origins)
        yield from (reject for reject in new if reject not in old)

    def _settle(self, key: ObjectKey, received: float) -> Iterator[Event]:
        """Bring what was told of one object up to what its claims say."""
        claims = self._claims.get(key)
        standing = [claims[place] for place in sorted(claims)] if claims else []
        told = self._told.get(key)
        wanted = (standing[0].claim.object or told) if standing else None
        before = self._complaints.pop(key, {})
        now = {reject.origin: reject for reject in _complaints(key, standing)}
        if now:
            self._complaints[key] = now
        upsert = wanted is not None and wanted != told
        if upsert and wanted is not None:
            self._told[key] = wanted
            yield Upsert(key, wanted, received)
        else:
            yield from (Forgive(key, origin) for origin in before if origin not in now)
        if wanted is None and told is not None:
            del self._told[key]
            yield Delete(key, received)
        yield from (reject for origin, reject in now.items() if upsert or before.get(origin) != reject)


def _complaints(key: ObjectKey, standing: list[_Standing]) -> Iterator[Reject]:
    """What is wrong with the claims of one object: the first can't be used, the others are too many."""
    for rank, (claim, stale) in enumerate(standing):
        if stale and (rank or claim.fallback is None):
            continue  # what stands in for a policy stays until the file says otherwise
        if rank:
            first = standing[0].claim.place
            reason = f"{first} has {key} too and comes first: remove one of them"
            yield Reject(key, str(claim.place), "metadata.name", reason)
        elif claim.object is None:
            yield Reject(key, str(claim.place), claim.path, claim.reason, claim.fallback)
