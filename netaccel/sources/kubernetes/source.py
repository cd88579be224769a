# SPDX-License-Identifier: Apache-2.0
"""The API server as a source of events: a reflector for each watched kind, joined into one stream."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from netaccel.apiserver.api import Api
from netaccel.model.event import Event, SourceStatus, Synced
from netaccel.sources.kubernetes.joint import Joint
from netaccel.sources.kubernetes.kinds import POLICIES, watched
from netaccel.sources.kubernetes.reflector import Reflector
from netaccel.sources.kubernetes.standing import Timings


class KubernetesSource:
    """Objects from an API server. Implements model.event.Source.

    Synced follows once every watched kind was listed. One that is of use but not needed (``Watched.needed``)
    and that the server refuses is not waited for.

    Pods and Nodes are this node's own until the first policy appears, and then all: a policy's peers may be
    anywhere. It is told after them, so that nobody is denied for not being known yet.
    """

    def __init__(
        self,
        api: Api,
        *,
        node_name: str,
        proxy_name: str,
        policy: bool = True,
        timings: Timings | None = None,
    ) -> None:
        """``node_name``: whose Node and Pods are watched. ``proxy_name``: the setting serviceProxyName.

        ``policy``: whether policies are enforced, and so watched.
        """
        self._api = api
        self._kinds = watched(node_name, proxy_name, policy=policy)
        self._timings = timings or Timings()
        self._reflectors: tuple[Reflector, ...] = ()

    def status(self) -> SourceStatus:
        """The oldest kind's last proof of being current, and the problem that matters most."""
        now = time.monotonic()
        standings = [
            (one.watched, one.standing)
            for one in self._reflectors
            if one.watched.needed or not one.standing.refused
        ]
        times = [standing.heard for _, standing in standings]
        known = [heard for heard in times if heard is not None]
        # Counted back from now: the clock on the wall may have been set meanwhile.
        heard = time.time() - (now - min(known)) if known and len(known) == len(times) else None
        ill = [one for one in self._reflectors if one.standing.problem]
        ill.sort(key=lambda one: not one.watched.needed)
        problem = ""
        if ill:
            worst = ill[0].standing
            problem = f"{ill[0].watched.name}: {worst.problem} (for {now - worst.since:.0f} s)"
        return SourceStatus("kubernetes", self._api.where, heard, problem)

    async def events(self) -> AsyncIterator[tuple[Event, ...]]:
        """Batches in order, for ever; one iteration at a time."""
        joint = Joint(self._widen, self._is_wide, patience=self._timings.hold)
        self._reflectors = tuple(
            Reflector(
                self._api, kind, joint.tell_policies if kind.kind in POLICIES else joint.tell, self._timings
            )
            for kind in self._kinds
        )
        tasks = [asyncio.create_task(one.run(), name=one.watched.name) for one in self._reflectors]
        for task in tasks:
            task.add_done_callback(lambda _: joint.arrived.set())
        synced = False
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(joint.holds_for()):
                        await joint.arrived.wait()
                for task in tasks:
                    if task.done():
                        task.result()  # a defect: it ends by raising only
                batch = joint.take()
                if not synced and self._complete():
                    synced = True
                    batch = (*batch, Synced())
                if batch:
                    yield batch
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _complete(self) -> bool:
        """Whether every kind was listed, or refused where it isn't needed."""
        return all(_is_settled(one) for one in self._reflectors)

    def _widen(self) -> None:
        """There is a policy: ask for all that its peers may be."""
        for one in self._reflectors:
            if one.watched.widens:
                one.widen()

    def _is_wide(self) -> bool:
        """Whether all that peers may be is known, or won't be."""
        return all(_is_settled(one) for one in self._reflectors if one.watched.widens)


def _is_settled(one: Reflector) -> bool:
    return one.standing.listed or (one.standing.refused and not one.watched.needed)
