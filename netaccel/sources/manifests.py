# SPDX-License-Identifier: Apache-2.0
"""A directory of manifests as a source of events.

::

    inotify ─▶ _Watcher (thread) ─▶ ManifestSource ─▶ documents ─▶ ledger ─▶ events
                     tree.scan (start, doubt, timer) ─┘

Writers don't write files at once, so a file is looked at until it has been still for QUIET. One that got
worse (objects gone, a part not readable) is believed after SETTLE only: most likely it is being written.
One that was renamed into place is whole and read at once. A file that vanished is believed gone after
VANISH: editors rename a file away before they write it anew.

Changes that inotify does not tell (the target of a link that leads outside) are found by a scan every
RESCAN seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from netaccel.errors import ConfigError
from netaccel.model.event import Event, Forgive, Reject, SourceStatus, Synced
from netaccel.sources import tree
from netaccel.sources.documents import NOTHING, FileContent, read_file, unreadable
from netaccel.sources.ledger import Ledger
from netaccel.sources.watcher import Change, Watcher

QUIET = 0.02
SETTLE = 0.5
VANISH = 0.1
RESTLESS = 1.0
"""A file that is never still is read after so long, torn or not: better than never."""
RESCAN = 5.0
MAX_SIZE = 64 << 20
_READ_AT_ONCE = 64
_SCAN_SHARE = 500
"""A scan may take this part of the time, so that a large tree costs an idle node no more than 0.2 %."""


@dataclass(slots=True)
class _Pending:
    """A file to look at: changed ``first`` and last (``since``) then, next look at ``due``; monotonic."""

    signature: tree.Signature | None
    first: float
    since: float
    due: float
    whole: bool = False
    """It was renamed into place: nobody is still writing it."""


class ManifestSource:
    """Objects from the YAML and JSON files below a directory, watched. Implements model.event.Source.

    One iteration of :meth:`events` at a time.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ledger = Ledger()
        self._signatures: dict[str, tree.Signature] = {}
        self._contents: dict[str, FileContent] = {}
        self._pending: dict[str, _Pending] = {}
        self._doubts: dict[str, Reject] = {}
        self._root: tuple[int, int] | None = None
        self._watcher: Watcher | None = None
        self._next_scan = 0.0

    def status(self) -> SourceStatus:
        """Current as long as the folder can be read."""
        if self._doubts:
            return SourceStatus(
                "manifests", str(self.directory), None, next(iter(self._doubts.values())).reason
            )
        return SourceStatus("manifests", str(self.directory), time.time())

    async def events(self) -> AsyncIterator[tuple[Event, ...]]:
        """Batches in order, for ever. Raises ConfigError where the directory can't be used at the start."""
        try:
            # The watch comes before the scan: what changes during the scan is then told twice, not missed.
            self._watcher = Watcher(self.directory)
            begun = time.monotonic()
            found = await asyncio.to_thread(tree.scan, self.directory)
        except OSError as err:
            self._close()
            raise ConfigError(
                f"manifests {self.directory}: {err.strerror or err}: give a directory that can be read"
            ) from err
        try:
            self._note_scan(found, begun)
            changes = await self._read(sorted(found.files))
            self._signatures = dict(found.files)
            first = self._apply(changes, self._doubt_folders(found))
            yield (*first, Synced())
            while True:
                batch = await self._next_batch()
                if batch:
                    yield batch
        finally:
            self._close()

    # ------------------------------------------------------- one turn

    async def _next_batch(self) -> tuple[Event, ...]:
        """Wait for something to do, and do it."""
        now = time.monotonic()
        due = min((pending.due for pending in self._pending.values()), default=self._next_scan)
        timeout = max(min(due, self._next_scan) - now, 0.0)
        changes = await self._watched(timeout)
        doubts: tuple[Event, ...] = ()
        if self._note_changes(changes) or time.monotonic() >= self._next_scan:
            doubts = await self._rescan()
        ready = await self._look()
        return self._apply(ready, doubts)

    async def _watched(self, seconds: float) -> frozenset[Change]:
        if self._watcher is None:
            await asyncio.sleep(seconds)
            return frozenset()
        return await self._watcher.wait(seconds)

    def _apply(
        self, changes: Mapping[str, FileContent | None], doubts: Iterable[Event] = ()
    ) -> tuple[Event, ...]:
        for file, content in changes.items():
            if content is None:
                self._contents.pop(file, None)
            else:
                self._contents[file] = content
        return (*doubts, *self._ledger.update(changes, time.monotonic()))

    # ------------------------------------------------- what to look at

    def _note_changes(self, changes: frozenset[Change]) -> bool:
        """Put changed files on the list; whether a scan is needed besides."""
        now = time.monotonic()
        tracked = [change for change in changes if self._tracks(change.path)]
        others = [change for change in changes if not self._tracks(change.path)]
        # Renamed into place: one batch tells of the new name and of the end of a temporary one beside it.
        renamed_in = {change.path.parent for change in others if change.gone}
        vanished = self._vanished(self._relative(change.path) for change in tracked if change.gone)
        for change in sorted(tracked, key=lambda change: change.gone):
            whole = change.new and change.path.parent in renamed_in
            self._schedule(self._relative(change.path), now, vanished, whole=whole, forced=True)
        return any(self._may_hold_manifests(change) for change in others)

    def _tracks(self, path: Path) -> bool:
        if not tree.is_manifest(path.name):
            return False
        parts = path.relative_to(self.directory).parts if path.is_relative_to(self.directory) else ()
        return bool(parts) and not any(part.startswith(".") for part in parts)

    def _may_hold_manifests(self, change: Change) -> bool:
        """Whether the change of something that is no manifest may add or remove manifests."""
        path = change.path
        if path == self.directory or path.name.startswith(".."):
            return True
        if not path.is_relative_to(self.directory):
            return True
        if change.gone:
            prefix = f"{self._relative(path)}/"
            return any(file.startswith(prefix) for file in self._signatures)
        return change.new and path.is_dir()

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.directory).as_posix()

    def _vanished(self, files: Iterable[str]) -> frozenset[tree.Signature]:
        """Signatures that files had which are gone now: where one turns up, its file was moved."""
        return frozenset(self._signatures[file] for file in files if file in self._signatures)

    def _schedule(
        self,
        file: str,
        now: float,
        vanished: Set[tree.Signature] = frozenset(),
        *,
        whole: bool = False,
        forced: bool = False,
    ) -> None:
        """Look at a file soon. ``forced``: it changed, whatever its signature says."""
        found = tree.signature(self.directory / file)
        pending = self._pending.get(file)
        if pending is not None and not forced and pending.signature == found:
            return
        first = pending.first if pending is not None else now
        if found is None:
            due = now if self._moved(file) else now + VANISH
        else:
            whole = whole or found in vanished
            due = now if whole else min(now + QUIET, first + RESTLESS)
        self._pending[file] = _Pending(found, first, now, due, whole)

    def _moved(self, file: str) -> bool:
        """Whether a file that vanished is whole under another name already: then both count at once."""
        was = self._signatures.get(file)
        return was is None or any(one.whole and one.signature == was for one in self._pending.values())

    # ------------------------------------------------------------ scans

    async def _rescan(self) -> tuple[Event, ...]:
        """Compare with the directory itself; rejections of what can't be read, and their end."""
        begun = time.monotonic()
        try:
            found = await asyncio.to_thread(tree.scan, self.directory)
            if self._watcher is None or found.root != self._root:
                self._close()
                self._watcher = Watcher(self.directory)
                found = await asyncio.to_thread(tree.scan, self.directory)
        except OSError as err:
            self._close()
            self._next_scan = begun + SETTLE
            # Files that vanished with the directory did not vanish by themselves.
            self._pending = {name: one for name, one in self._pending.items() if one.signature is not None}
            reason = f"{err.strerror or err}: give it back; what was read stays in force"
            return self._doubt({"": Reject(None, str(self.directory), "", reason)})
        self._note_scan(found, begun)
        now = time.monotonic()
        gone = [file for file in self._signatures if file not in found.files and not found.is_hiding(file)]
        vanished = self._vanished(gone)
        for file, signature in found.files.items():
            if self._signatures.get(file) != signature:
                self._schedule(file, now, vanished)
        for file in gone:
            self._schedule(file, now)
        return self._doubt_folders(found)

    def _note_scan(self, found: tree.Scan, begun: float) -> None:
        now = time.monotonic()
        self._root = found.root
        self._next_scan = now + max(RESCAN, (now - begun) * _SCAN_SHARE)

    def _doubt_folders(self, found: tree.Scan) -> tuple[Event, ...]:
        return self._doubt(
            {
                folder: Reject(
                    None, f"{folder}/", "", f"{reason}: make it readable; what was read stays in force"
                )
                for folder, reason in sorted(found.unreadable.items())
            }
        )

    def _doubt(self, doubts: dict[str, Reject]) -> tuple[Event, ...]:
        """Tell which folders can't be read now, and which can again."""
        before, self._doubts = self._doubts, doubts
        ended = (Forgive(None, one.origin) for name, one in before.items() if name not in doubts)
        return (*ended, *(one for name, one in doubts.items() if before.get(name) != one))

    # ------------------------------------------------------------ reading

    async def _look(self) -> dict[str, FileContent | None]:
        """Read the files whose time has come; those to be believed."""
        now = time.monotonic()
        due = sorted(name for name, pending in self._pending.items() if pending.due <= now)
        if any(self._pending[name].signature is None for name in due) and not self.directory.is_dir():
            self._next_scan = now  # not the files vanished, but the directory
            return {}
        ready: dict[str, FileContent | None] = {}
        still: list[str] = []
        for file in due:
            pending = self._pending[file]
            if tree.signature(self.directory / file) != pending.signature:
                self._schedule(file, now)
            elif pending.signature is None:
                del self._pending[file]
                self._signatures.pop(file, None)
                ready[file] = None
            else:
                still.append(file)
        contents = await self._read(still)
        return ready | {file: one for file, one in contents.items() if self._is_believed(file, one, now)}

    def _is_believed(self, file: str, content: FileContent, now: float) -> bool:
        """Whether what was read may count; else the file is looked at once more."""
        pending = self._pending[file]
        signature = tree.signature(self.directory / file)
        if signature is None or signature != pending.signature:
            self._schedule(file, time.monotonic())
            return False
        if self._is_worse(file, content) and not pending.whole and now < pending.since + SETTLE:
            pending.due = pending.since + SETTLE
            return False
        del self._pending[file]
        self._signatures[file] = signature
        return True

    def _is_worse(self, file: str, content: FileContent) -> bool:
        """Whether a file lost objects, or has parts that can't be used and had none."""
        if not self._ledger.names(file) <= {claim.key for claim in content.claims}:
            return True
        bad = not content.complete or any(claim.object is None for claim in content.claims)
        return bad and not self._ledger.faulty(file)

    async def _read(self, files: Sequence[str]) -> dict[str, FileContent]:
        """Read files in a thread, some at a time: parsing a large tree must not stop the rest."""
        found: dict[str, FileContent] = {}
        for start in range(0, len(files), _READ_AT_ONCE):
            group = [
                (file, self._contents.get(file, NOTHING)) for file in files[start : start + _READ_AT_ONCE]
            ]
            found.update(await asyncio.to_thread(_read_group, self.directory, group))
        return found

    def _close(self) -> None:
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None


def _read_group(directory: Path, files: Iterable[tuple[str, FileContent]]) -> dict[str, FileContent]:
    return {file: _read(directory / file, file, previous) for file, previous in files}


def _read(path: Path, file: str, previous: FileContent) -> FileContent:
    """Read and parse a file; blocking."""
    try:
        if path.stat().st_size > MAX_SIZE:
            return unreadable(file, f"is larger than {MAX_SIZE >> 20} MiB: split it")
        content = path.read_bytes()
    except OSError as err:
        return unreadable(file, f"{err.strerror or err}: make it readable")
    return read_file(content, file, previous)
