# SPDX-License-Identifier: Apache-2.0
"""Bytes as they arrive, cut into lines. Pure."""

from __future__ import annotations

LONGEST = 64 << 20
"""Bytes. An object of etcd has at most a few MiB; what never ends is no line."""


class LineTooLongError(ValueError):
    """More than LONGEST bytes without an end of line."""


class Lines:
    """Collects chunks; a line is given once its end has arrived, without it. Empty ones are left out."""

    def __init__(self, longest: int = LONGEST) -> None:
        self._longest = longest
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def pending(self) -> int:
        """Bytes of the line that has not ended."""
        return self._size

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take a chunk; the lines that it completes. Raises LineTooLongError."""
        head, newline, rest = chunk.partition(b"\n")
        if not newline:
            self._keep(chunk)
            return []
        first = b"".join((*self._parts, head))
        self._parts, self._size = [], 0
        *lines, tail = rest.split(b"\n")
        if tail:
            self._keep(tail)
        return [line for line in (first, *lines) if line and not line.isspace()]

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._longest:
            raise LineTooLongError(f"a line of more than {self._longest} bytes")
        self._parts.append(part)
