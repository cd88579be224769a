# SPDX-License-Identifier: Apache-2.0
"""One of many is elected by a Lease (coordination.k8s.io/v1); a loop of our own (docs/decisions/0011).

The rule is client-go's (tools/leaderelection): whoever holds the Lease renews it; whoever does not looks
whether it changes, and takes it when it did not for as long as its holder promised. All of that is measured
by this process's own monotonic clock: times in the Lease are for people, clocks of nodes differ.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus

import msgspec

from netaccel.apiserver.api import Api
from netaccel.errors import ApiError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Terms:
    """Seconds. A holder stops its duty ``deadline`` after it last renewed, before others may begin theirs.

    Those that wait ask about once in ``duration``: with thousands of nodes that is what loads the server.
    """

    duration: float = 45.0
    """A whole number: so long nobody else takes the Lease."""
    deadline: float = 30.0
    renew: float = 10.0
    refused: float = 300.0
    """Between tries of what a person must mend."""


class _Managed(msgspec.Struct):
    time: datetime | None = None


class _Metadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    managed_fields: list[_Managed] = msgspec.field(default_factory=list)


class _Spec(msgspec.Struct, rename="camel"):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class _Lease(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    spec: _Spec = msgspec.field(default_factory=_Spec)


class Election:
    """One candidate. Create, :meth:`run` in a task."""

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        identity: str,
        name: str = "netaccel",
        terms: Terms | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``identity``: unlike every other candidate's, also after a restart: the node's name and the pid."""
        self.identity = identity
        self.problem = ""
        """What a person must mend before this one can be elected, in one line; "" where all is well."""
        self._api = api
        self._folder = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._namespace, self._name = namespace, name
        self._terms = terms or Terms()
        self._clock = clock
        self._seen: _Lease | None = None
        self._since = 0.0  # when this state of the Lease was seen first
        self._renewed = float("-inf")
        self._server: tuple[float, float] | None = None  # the server's clock, and when it was so

    @property
    def leads(self) -> bool:
        """Whether this one is elected, and can be sure of it."""
        return self._clock() < self._renewed + self._terms.deadline

    @property
    def holder(self) -> str:
        """Who is elected, as last seen; "" for nobody."""
        return (self._seen.spec.holder_identity if self._seen else None) or ""

    def server_time(self) -> float | None:
        """The API server's clock now, in seconds since the epoch, to a second or two; None: never heard.

        It is taken from what the server noted itself when the Lease was last written.
        """
        if self._server is None:
            return None
        stamp, at = self._server
        return stamp + (self._clock() - at)

    async def run(self, duty: Callable[[], Awaitable[None]]) -> None:
        """Stand for election for ever; when elected do ``duty``, which is cancelled when the Lease is lost.

        Cancelled itself, it ends the duty, then gives the Lease back. Raises what the duty raises.
        """
        while True:
            wait = await self._stand()
            if not self.leads:
                await asyncio.sleep(wait)
                continue
            log.info("elected: %s holds Lease %s/%s", self.identity, self._namespace, self._name)
            try:
                await self._lead(duty)
            finally:
                await self._resign()
            log.info("no longer elected: Lease %s/%s was lost", self._namespace, self._name)

    # ------------------------------------------------------------------- leading

    async def _lead(self, duty: Callable[[], Awaitable[None]]) -> None:
        """Do the duty and renew, until it ends or the Lease is lost."""
        work = asyncio.ensure_future(duty())
        try:
            while not work.done():
                until = self._renewed + self._terms.deadline
                await asyncio.wait((work,), timeout=min(self._terms.renew, until - self._clock()))
                if work.done() or not await self._renew(until):
                    break
        finally:
            work.cancel()
            await asyncio.wait((work,))
        if not work.cancelled():
            work.result()

    async def _renew(self, until: float) -> bool:
        """Renew; where the server does not answer, try until then. False: the Lease is lost."""
        while (left := until - self._clock()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._stand()
            if self.leads and self._renewed + self._terms.deadline > until:
                return True
            if self._seen and self.holder != self.identity:
                break
            await asyncio.sleep(min(self._terms.renew / 5, max(0.0, until - self._clock())))
        self._renewed = float("-inf")
        return False

    async def _resign(self) -> None:
        """Give the Lease back so that the next one need not wait; where that fails they wait."""
        held, self._renewed = self.leads, float("-inf")
        if not held or self._seen is None:
            return
        spec = msgspec.structs.replace(self._seen.spec, holder_identity="", lease_duration_seconds=1)
        try:
            async with asyncio.timeout(self._terms.renew / 2):
                await self._put(self._seen.metadata.resource_version, spec)
        except (ApiError, TimeoutError) as error:
            log.info("Lease %s/%s was not given back: %s", self._namespace, self._name, error)

    # ------------------------------------------------------------------ standing

    async def _stand(self) -> float:
        """Take or renew the Lease where that may be; seconds until it is worth another try."""
        try:
            wait = await self._try()
        except ApiError as error:
            return self._failed(error)
        if self.problem:
            log.info("mended: %s", self.problem)
        self.problem = ""
        return wait * random.uniform(1.0, 1.2)

    async def _try(self) -> float:
        asked = self._clock()
        found = await self._get()
        if found is None:
            await self._put("", self._claim(None))
        else:
            self._note(found)
            left = self._left(found.spec)
            if left > 0:
                self._renewed = float("-inf")
                return left
            await self._put(found.metadata.resource_version, self._claim(found.spec))
        self._renewed = asked  # others count from the write, which came later
        return self._terms.renew

    def _left(self, spec: _Spec) -> float:
        """Seconds for which this Lease is another's."""
        if not spec.holder_identity or spec.holder_identity == self.identity:
            return 0.0
        return self._since + (spec.lease_duration_seconds or self._terms.duration) - self._clock()

    def _claim(self, before: _Spec | None) -> _Spec:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        mine = before is not None and before.holder_identity == self.identity
        return _Spec(
            holder_identity=self.identity,
            lease_duration_seconds=max(1, round(self._terms.duration)),
            acquire_time=before.acquire_time if before and mine else now,
            renew_time=now,
            lease_transitions=((before.lease_transitions or 0) + (not mine)) if before else 0,
        )

    def _failed(self, error: ApiError) -> float:
        if error.status in (HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND):
            problem = f"Lease {self._namespace}/{self._name} can't be had: {error}"
            if problem != self.problem:
                log.warning("%s", problem)
            self.problem = problem
            return self._terms.refused * random.uniform(0.8, 1.2)
        # No answer, or another one was faster.
        log.debug("Lease %s/%s: %s", self._namespace, self._name, error)
        return max(error.retry_after or 0.0, self._terms.renew * random.uniform(0.5, 1.5))

    # ----------------------------------------------------------------- the server

    async def _get(self) -> _Lease | None:
        try:
            return _decode(await self._api.request("GET", f"{self._folder}/{self._name}"))
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return None

    async def _put(self, version: str, spec: _Spec) -> None:
        """Create it (``version`` ""), or replace what has this version. Raises ApiError."""
        metadata = {"name": self._name, **({"resourceVersion": version} if version else {})}
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        method, path = ("PUT", f"{self._folder}/{self._name}") if version else ("POST", self._folder)
        answer = _decode(await self._api.request(method, path, body=msgspec.json.encode(lease)))
        self._note(answer)
        stamps = [managed.time.timestamp() for managed in answer.metadata.managed_fields if managed.time]
        if stamps:
            self._server = max(stamps), self._clock()

    def _note(self, lease: _Lease) -> None:
        if self._seen is None or self._seen.metadata.resource_version != lease.metadata.resource_version:
            self._since = self._clock()
        self._seen = lease


def _decode(answer: bytes) -> _Lease:
    try:
        return msgspec.json.decode(answer, type=_Lease)
    except msgspec.DecodeError as error:
        raise ApiError(f"the API server's answer is no Lease: {error}") from error
