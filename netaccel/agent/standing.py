# SPDX-License-Identifier: Apache-2.0
"""What an agent knows of itself: its tasks write it, answers and writers read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from netaccel.accelerate.view import Acceleration, Tier
from netaccel.agent.enforcement import Enforcement
from netaccel.agent.peers import PeerWays
from netaccel.agent.takeover import TakeOver
from netaccel.config import Settings
from netaccel.datapath.plane import Plane
from netaccel.datapath.pods import NOWHERE, Placement
from netaccel.datapath.probe import Feature
from netaccel.model.event import Source
from netaccel.observe.conntrack import Census
from netaccel.observe.edges.recorder import EdgeRecorder
from netaccel.observe.flows.station import Flows
from netaccel.reconcile import Reconciler
from netaccel.writers.notices import Notice

Lines = Callable[[], list[str]]


@dataclass(slots=True)
class Standing:
    """One agent, now. ``started``: time.monotonic().

    ``heard_before``: time.time() at which an earlier agent's source was last current, 0: unknown.
    """

    settings: Settings
    plane: Plane
    reconciler: Reconciler
    take_over: TakeOver
    started: float
    heard_before: float = 0.0
    source: Source | None = None
    census: Census = field(default_factory=Census)
    placement: Placement = NOWHERE
    """Where the node's pods are."""
    features: list[Feature] = field(default_factory=list)
    edges: EdgeRecorder | None = None
    """None: policy is off, and nobody tells of flows."""
    policies: Enforcement | None = None
    """None: policy is off."""
    flows: Flows | None = None
    """None where no program tells flows."""
    peers: PeerWays | None = None
    """None: the agent is only being made."""
    acceleration: Acceleration | None = None
    """None: no connection is looked at."""
    warnings: list[Lines] = field(default_factory=list)
    """Who else may know of something that is served less well than asked."""
    notes: list[Lines] = field(default_factory=list)
    """Who else may know of something that is under way, or left undone beside serving the node."""
    notices: list[Callable[[], list[Notice]]] = field(default_factory=list)
    """Who else has something to say of an object, for an Event on it."""

    def peer_tier(self) -> Tier | None:
        """Whether packets go from pod to pod past the node's stack."""
        return self.peers.tier() if self.peers else None

    def through_stack(self) -> tuple[str, ...]:
        """Pods whose packets keep to the plain way though others' don't, and why."""
        found = self.peers.reasons() if self.peers else {}
        return tuple(f"{key.namespace}/{key.name}: {reason}" for key, reason in found.items())

    def written(self) -> tuple[int, int]:
        """Differs after each pass that wrote to the maps, or may have."""
        return self.reconciler.stats.written, self.reconciler.stats.errors
