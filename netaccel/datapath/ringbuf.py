# SPDX-License-Identifier: Apache-2.0
"""Samples from a ring buffer map, as bytes, in the order in which the programs wrote them."""

from __future__ import annotations

import asyncio
import mmap
import struct
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from netaccel.datapath import libbpf
from netaccel.datapath.bpfmap import KernelMap
from netaccel.errors import DatapathError

_BATCH = 65_536
_HEADER = 8  # bytes before each sample (BPF_RINGBUF_HDR_SZ), which is rounded up to eight


def room(size: int) -> int:
    """Bytes that a sample of ``size`` takes in a ring."""
    return _HEADER + (size + 7) // 8 * 8


class RingBuffer:
    """The one consumer of a ring buffer map. A full ring refuses new samples: programs count those."""

    def __init__(self, ring: KernelMap) -> None:
        """``ring`` stays the caller's, who closes it after this."""
        self._samples: list[bytes] = []
        try:
            self._raw = libbpf.RawRing(ring.fd, self._samples.append)
            # The kernel's first two pages of a ring: the consumer's position and the producers'.
            self._pages = mmap.mmap(ring.fd, 2 * mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ)
        except OSError as error:
            raise DatapathError(
                f"ring buffer {ring.name}: can't be opened: {error.strerror}", error.errno or 0
            ) from error

    def waiting(self) -> int:
        """Bytes that were written and not read yet (:func:`room` each)."""
        consumed, produced = (
            struct.unpack_from("Q", self._pages, page * mmap.PAGESIZE)[0] for page in (0, 1)
        )
        return int(produced - consumed)

    def read(self, limit: int = _BATCH) -> list[bytes]:
        """The samples that are there now, ``limit`` at most; does not wait."""
        try:
            self._raw.consume(limit)
        except OSError as error:
            raise DatapathError(f"ring buffer: can't be read: {error.strerror}", error.errno or 0) from error
        found = list(self._samples)
        self._samples.clear()
        return found

    async def batches(self, limit: int = _BATCH, pause: float = 0.0) -> AsyncIterator[list[bytes]]:
        """Samples as they come, in batches that are never empty, ``limit`` at most.

        ``pause``: seconds in which what comes joins one batch, so that ``limit`` / ``pause`` a second is the
        most that is read.
        """
        while True:
            if found := self.read(limit):
                yield found
            else:
                await self._something()
            if pause:
                await asyncio.sleep(pause)

    async def _something(self) -> None:
        """Wait for a sample. The loop looks only meanwhile: what is left unread would wake it for ever."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._raw.epoll_fd, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._raw.epoll_fd)

    def close(self) -> None:
        """Free the mapping."""
        self._pages.close()
        self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
