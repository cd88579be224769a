# SPDX-License-Identifier: Apache-2.0
"""What the rest of the house may ask of an API server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

JSON = "application/json"
APPLY = "application/apply-patch+yaml"
"""Server-side apply (KEP-555); its body may be JSON."""
MERGE_PATCH = "application/merge-patch+json"


class Api(Protocol):
    """An API server, or several of which one answers. Paths begin with ``/api/v1/…`` or ``/apis/…``.

    Everything raises ApiError where the server says no, ApiUnreachableError where there is no answer.
    """

    @property
    def where(self) -> str:
        """URL of the server that is asked now."""
        ...

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = JSON,
    ) -> bytes:
        """One request; the whole answer's body."""
        ...

    def stream(
        self, path: str, query: Mapping[str, str], *, silence: float
    ) -> AbstractAsyncContextManager[AsyncIterator[list[bytes]]]:
        """GET whose body is lines of JSON without end (a watch): those that have arrived, at least one.

        ``silence``: seconds without a byte after which the connection counts as dead
        (ApiUnreachableError). A body that ends is the end of the iterator.
        """
        ...
