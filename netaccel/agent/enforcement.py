# SPDX-License-Identifier: Apache-2.0
"""The agent's share in policy: from devices to endpoints, strict mode's gate, and what is said of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

from netaccel.config import Settings
from netaccel.datapath.gate import Gate
from netaccel.datapath.plane import Plane
from netaccel.datapath.pods import NOWHERE, Placement
from netaccel.errors import DatapathError
from netaccel.model.endpoint import Pod, PodKey
from netaccel.reconcile import PolicyEngine, PolicyReport, Reconciler

log = logging.getLogger(__name__)

_IN_FORCE = 0.2  # seconds that a look at devices waits at most for what follows from it
_STARTING = 5.0  # seconds in which a pod that isn't found may be on its way


class Enforcement:
    """Make it with the engine that the reconciler gets, then give it that reconciler (:meth:`join`)."""

    def __init__(self, settings: Settings, plane: Plane) -> None:
        """DatapathError."""
        self.engine = PolicyEngine(
            plane.loaded.maps, plane.loaded.abi.constants, settings.node_name, strict=settings.strict
        )
        self.revision = 0
        self._node, self._plane = settings.node_name, plane
        self._placement = NOWHERE
        self._missing: dict[PodKey, float] = {}  # since when
        self._reconciler: Reconciler | None = None
        self._gate = Gate(plane.loaded.maps) if settings.strict else None
        self._passed = asyncio.Event()

    def join(self, reconciler: Reconciler) -> None:
        """The reconciler that runs the engine."""
        self._reconciler = reconciler

    def pods(self) -> tuple[Pod, ...]:
        """This node's pods."""
        return self._reconciler.world.pods(self._node) if self._reconciler else ()

    async def placed(self, placement: Placement) -> None:
        """Pods are elsewhere. Returns when that is in force, or has to wait for something else."""
        self._placement = placement
        now = time.monotonic()
        self._missing = {key: self._missing.get(key, now) for key in placement.missing}
        if self._reconciler and self._reconciler.world.synced:  # before that the node's pods aren't known
            self._reconciler.set_devices(placement.devices)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._in_force(self._reconciler), _IN_FORCE)

    async def _in_force(self, reconciler: Reconciler) -> None:
        """Wait for policies' own pass: Services may be busy for longer."""
        while self.engine.due(reconciler.world):
            self._passed.clear()
            await self._passed.wait()

    def reported(self, report: PolicyReport) -> None:
        """A pass is over."""
        self.revision = report.revision
        self._passed.set()
        self.let_through()

    def let_through(self) -> None:
        """In strict mode: let those pods through whose policy is in force at their device, and no others."""
        if self._gate is None or not self.revision:
            return
        try:
            self._gate.set(address for pod in self._guarded() for address in pod.addresses)
            self._plane.close_gate()
        except DatapathError as error:
            log.warning("strict mode's gate: %s; tried again with the next change", error)

    def is_in_force(self, key: PodKey, device: int) -> bool:
        """Whether what a pod sends and gets is judged at this device, as its policies say."""
        return self.engine.placed.get(key) == device and self._is_there(key)

    def _guarded(self) -> list[Pod]:
        """Pods whose device has its programs and an endpoint."""
        attached, placed = self._plane.hooks.pods_attached(), self.engine.placed
        return [
            pod
            for pod in self.pods()
            if not pod.host_network and placed.get(pod.key) in attached and self._is_there(pod.key)
        ]

    def _is_there(self, key: PodKey) -> bool:
        return self._placement.devices.get(key) == self.engine.placed.get(key)

    def warnings(self) -> list[str]:
        """What is not enforced though a policy asks for it, or shut though none does."""
        found = [
            f"pod {key.namespace}/{key.name}: no policy is enforced: the map policy_endpoints is full"
            for key in sorted(self.engine.left_out)
        ]
        if self._gate or (self._reconciler and self._reconciler.world.policies()):
            found += [
                f"pod {key.namespace}/{key.name}: no policy is enforced: {self._placement.missing[key]}"
                for key, since in sorted(self._missing.items())
                if time.monotonic() - since > _STARTING
            ]
        return found + ([self._gate.problem] if self._gate and self._gate.problem else [])

    def status(self) -> dict[str, Any]:
        """For /status."""
        return {
            "strict": self._gate is not None,
            "revision": self.revision,
            "enforced": len(self.engine.placed),
        }
