# SPDX-License-Identifier: Apache-2.0
"""Changes below a directory, by inotify (watchfiles' Rust half, which collects them in a thread).

It is used directly because the watch must stand before the first scan. Asking it for changes polls: a wake
every STEP milliseconds. So the step is short while things change and long when nothing does: an idle
node pays for fifty wakes a second, and only the first change after a while waits for the long one.
"""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import NamedTuple

from watchfiles import Change as Kind
from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

STEP_MS = 1
IDLE_STEP_MS = 20
BUSY_SECONDS = 2.0
_GROUP_MS = 5
_POLL_MS = 300
_TURN_MS = 1000


class Change(NamedTuple):
    """Something happened to a path; ``new``: it appeared, ``gone``: it disappeared, neither: written."""

    path: Path
    new: bool
    gone: bool


class Watcher:
    """Watches a directory and all below it. Raises OSError where that isn't possible."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # The kernel tells real paths; ours may lead through links.
        self._real = directory.resolve(strict=True)
        try:
            self._notify = RustNotify([str(self._real)], False, False, _POLL_MS, True, True)
        except WatchfilesRustInternalError as err:
            raise OSError(f"it can't be watched ({err}), raise fs.inotify.max_user_watches") from err
        self._loop = asyncio.get_running_loop()
        self._changes: set[Change] = set()
        self._arrived = asyncio.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._collect, name="manifests", daemon=True)
        self._thread.start()

    async def wait(self, seconds: float) -> frozenset[Change]:
        """What changed since the last call, at once if something did; else empty after ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        except TimeoutError:
            return frozenset()
        self._arrived.clear()
        changes, self._changes = frozenset(self._changes), set()
        return changes

    def close(self) -> None:
        """Stop watching. The thread ends by itself within a step."""
        self._stop.set()

    def _collect(self) -> None:
        """The thread: group changes and hand them to the loop."""
        busy_until = 0.0
        with self._notify as notify:
            while not self._stop.is_set():
                step = STEP_MS if time.monotonic() < busy_until else IDLE_STEP_MS
                turn = int(BUSY_SECONDS * 1000) if step == STEP_MS else _TURN_MS
                try:
                    found = notify.watch(_GROUP_MS, step, turn, self._stop)
                except WatchfilesRustInternalError:
                    # The root went, or events were lost: a look at the directory itself tells.
                    found = {(Kind.modified, str(self._real))}
                    self._stop.wait(BUSY_SECONDS)
                if isinstance(found, set):
                    busy_until = time.monotonic() + BUSY_SECONDS
                    self._hand_over(found)

    def _hand_over(self, found: set[tuple[int, str]]) -> None:
        changes = frozenset(
            Change(self._path(text), kind == Kind.added, kind == Kind.deleted) for kind, text in found
        )
        try:
            self._loop.call_soon_threadsafe(self._arrive, changes)
        except RuntimeError:
            self._stop.set()  # the loop has ended: nobody listens any more

    def _path(self, text: str) -> Path:
        path = Path(text)
        return self._directory / path.relative_to(self._real) if path.is_relative_to(self._real) else path

    def _arrive(self, changes: frozenset[Change]) -> None:
        self._changes |= changes
        self._arrived.set()
