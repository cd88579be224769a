# SPDX-License-Identifier: Apache-2.0
"""Ring buffers."""

from __future__ import annotations

import ctypes as c
import errno
from collections.abc import Callable

from netaccel.datapath.libbpf.library import INT, PTR, SIZE, check, lib

_SampleCallback = c.CFUNCTYPE(INT, PTR, PTR, SIZE)


class RawRing:
    """A consumer of one ring buffer map; keeps its callback alive."""

    def __init__(self, fd: int, take: Callable[[bytes], None]) -> None:
        self._left = 0

        def on_sample(_context: int, data: int, size: int) -> int:
            take(c.string_at(data, size))
            self._left -= 1
            return 0 if self._left else -errno.ECANCELED  # this sample is consumed, the next one is not

        self._callback = _SampleCallback(on_sample)
        self._ring = lib().ring_buffer__new(fd, self._callback, None, None)
        if not self._ring:
            raise OSError(c.get_errno(), "ring buffer could not be opened")
        self.epoll_fd = check(lib().ring_buffer__epoll_fd(self._ring))

    def consume(self, limit: int) -> None:
        """Hand over the samples that are there, ``limit`` at most: writers may be faster than we are."""
        self._left = limit
        found = lib().ring_buffer__consume(self._ring)
        if found != -errno.ECANCELED:
            check(found)

    def close(self) -> None:
        """Free the mapping."""
        if self._ring:
            lib().ring_buffer__free(self._ring)
            self._ring = None
