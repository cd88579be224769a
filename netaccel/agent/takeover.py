# SPDX-License-Identifier: Apache-2.0
"""From a kube-proxy to this agent and back, without a connection lost: which mode the frontends are in, when.

docs/decisions/0012-taking-over.md has the order of steps and why it is that one.
"""

from __future__ import annotations

import asyncio
import logging

from netaccel.config import Settings
from netaccel.datapath import conntrack
from netaccel.datapath.plane import Plane
from netaccel.errors import DatapathError, MapFullError
from netaccel.observe import takeover
from netaccel.observe.conntrack import Census
from netaccel.observe.takeover import Codes
from netaccel.reconcile import Mode, Reconciler
from netaccel.records import Flow, FlowKey

log = logging.getLogger(__name__)

SETTLE = 0.5
"""Seconds in which what was on its way through the stack is in conntrack: it takes microseconds."""


class TakeOver:
    """Make it with :meth:`begin` before the reconciler, then :meth:`run` beside it."""

    def __init__(self, plane: Plane, mode: Mode, warnings: tuple[str, ...] = ()) -> None:
        self.mode = mode
        """What the reconciler has to begin with."""
        self._plane = plane
        self._maps, self._abi = plane.loaded.maps, plane.loaded.abi
        self._codes = _codes(plane)
        self._warnings = list(warnings)
        self._imported = False
        self._uncounted: Census | None = None  # the first that was seen after an import: it may be older

    @classmethod
    def begin(cls, settings: Settings, plane: Plane) -> TakeOver:
        """Decide how to begin. Blocking; reads the kernel's table up to its first translated entry."""
        if settings.drain:
            return cls(plane, Mode.DRAIN)
        beside = settings.kube_proxy == "beside" and settings.manifests is None
        fresh = takeover.is_fresh(plane.loaded.maps, _codes(plane))
        if not (fresh or beside):
            return cls(plane, Mode.SERVE)
        try:
            needed = conntrack.has_translated() or (fresh and beside)
        except DatapathError as error:
            warning = f"connections that kube-proxy serves may be reset: {error}"
            log.warning("%s", warning)
            return cls(plane, Mode.SERVE, (warning,))
        return cls(plane, Mode.TAKE_OVER if needed else Mode.SERVE)

    async def run(self, reconciler: Reconciler) -> None:
        """Import what the kernel translates, then serve as ever. Returns when that is done."""
        if self.mode is not Mode.TAKE_OVER:
            return
        await reconciler.ready.wait()
        await asyncio.sleep(SETTLE)
        try:
            known = await asyncio.to_thread(self._import)
            flows = sum(key.direction == self._codes.forward for key in known)
            log.info("taking over: %d flows go on through the node's stack", flows)
        except DatapathError as error:
            self._warn(error)
        reconciler.set_mode(Mode.SERVE)
        await reconciler.settled()
        await asyncio.sleep(SETTLE)
        try:
            known = await asyncio.to_thread(self._import)
            await asyncio.to_thread(takeover.forget_unknown, self._maps, self._abi, self._codes, known)
        except DatapathError as error:
            self._warn(error)
        self.mode = Mode.SERVE

    async def forget_gone(self, census: Census) -> None:
        """After backends were removed: the stack's UDP flows to them are ours. DatapathError.

        ``census``: of the last sweep; where that has seen no flow of the stack's there is nothing to do.
        """
        if self._imported and self._uncounted is None:
            self._uncounted = census
        if census.stack or not census.fill or census is self._uncounted:
            await asyncio.to_thread(takeover.forget_gone, self._maps, self._abi, self._codes)

    async def forget_ended(self, census: Census) -> None:
        """Now and then: the stack's flows whose end nobody saw. DatapathError.

        ``census``: of the last sweep.
        """
        if census.stack and self.mode is not Mode.TAKE_OVER:
            await asyncio.to_thread(self._forget_ended)

    def _forget_ended(self) -> None:
        takeover.forget_ended(self._maps, self._abi, self._codes, self._translated().keys())

    def warnings(self) -> list[str]:
        """What could not be done."""
        return list(self._warnings)

    def notes(self, census: Census) -> list[str]:
        """Lines for a person: what is under way. ``census``: of the last sweep."""
        if self.mode is Mode.DRAIN:
            if not census.fill:
                return ["draining: flows are being counted"]
            if census.open:
                return [f"draining: {census.open} flows left; new ones go to the node's stack"]
            return ["draining: no flow left; `netaccel detach` ends none"]
        found = ["taking over from kube-proxy"] if self.mode is Mode.TAKE_OVER else []
        if census.stack:
            found.append(f"{census.stack} flows from before go on through the node's stack")
        return found

    def _translated(self) -> dict[FlowKey, Flow]:
        """Both halves of all flows of frontends that the kernel translates now."""
        frontends = self._maps.dump("frontends")
        connections = conntrack.read(takeover.places(frontends))
        return dict(takeover.flows_of(connections, frontends, self._codes, self._plane.clock.now()))

    def _import(self) -> set[FlowKey]:
        """Keys of all flows of frontends that the kernel translates; those that are missing are added."""
        entries = self._translated()
        self._imported = self._imported or bool(entries)
        done = takeover.import_flows(self._maps, self._abi, entries.items())
        if done.left_out:
            raise MapFullError(
                f"{done.left_out} entries of {len(entries)} have no room: raise mapSizes flows", 0, done.added
            )
        return set(entries)

    def _warn(self, error: DatapathError) -> None:
        warning = f"connections that kube-proxy serves may be reset: {error}"
        if warning not in self._warnings:
            log.warning("%s", warning)
            self._warnings.append(warning)


def _codes(plane: Plane) -> Codes:
    return Codes(plane.settings.timeouts, plane.loaded.abi.constants, plane.hz)
