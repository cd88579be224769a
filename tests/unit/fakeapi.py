# SPDX-License-Identifier: Apache-2.0
"""An API whose answers a test writes: for faults that no real server shows on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager

from netaccel.apiserver.api import JSON


class FakeApi:
    """`netaccel.apiserver.api.Api` with one method left to write: `answer`."""

    where = "https://192.0.2.1:6443"

    def answer(self, method: str, body: bytes) -> bytes:
        """Return the answer's body, or raise ApiError."""
        raise NotImplementedError

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = JSON,
    ) -> bytes:
        await asyncio.sleep(0)  # as any server's, an answer lets others run first
        return self.answer(method, body or b"")

    def stream(
        self, path: str, query: Mapping[str, str], *, silence: float
    ) -> AbstractAsyncContextManager[AsyncIterator[list[bytes]]]:
        raise NotImplementedError
