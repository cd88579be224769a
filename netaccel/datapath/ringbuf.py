# SPDX-License-Identifier: Apache-2.0
"""Samples from a ring buffer map, as bytes, in the order in which the programs wrote them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from netaccel.datapath import libbpf
from netaccel.datapath.bpfmap import KernelMap
from netaccel.errors import DatapathError


class RingBuffer:
    """The one consumer of a ring buffer map. A full ring refuses new samples: programs count those."""

    def __init__(self, ring: KernelMap) -> None:
        """``ring`` stays the caller's, who closes it after this."""
        self._samples: list[bytes] = []
        try:
            self._raw = libbpf.RawRing(ring.fd, self._samples.append)
        except OSError as error:
            raise DatapathError(
                f"ring buffer {ring.name}: can't be opened: {error.strerror}", error.errno or 0
            ) from error

    def read(self) -> list[bytes]:
        """Every sample that is there now; does not wait."""
        try:
            self._raw.consume()
        except OSError as error:
            raise DatapathError(f"ring buffer: can't be read: {error.strerror}", error.errno or 0) from error
        found = list(self._samples)
        self._samples.clear()
        return found

    async def batches(self) -> AsyncIterator[list[bytes]]:
        """Samples as they come, in batches that are never empty."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._raw.epoll_fd, ready.set)
        try:
            while True:
                if found := self.read():
                    yield found
                    continue
                ready.clear()
                await ready.wait()
        finally:
            loop.remove_reader(self._raw.epoll_fd)

    def close(self) -> None:
        """Free the mapping."""
        self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
