# SPDX-License-Identifier: Apache-2.0
"""Keeps the policy maps what policies, pods and nodes ask for. Without clock, threads or asyncio.

The reconciler runs it beside the engine of Services (``Reconciler(policies=...)``): it tells it of the
world's changes, and of the node's addresses. From the agent it needs ``Reconciler.set_devices``: the ifindex
of each pod of this node that has a device. What is in ``placed`` after the next pass (``on_policy_report``,
``settled``) has its policy in force: then the gate may let its addresses through.

The first pass, one after a write that failed, and one now and then on a timer read the maps first. A pass
ends with a new ``policy_revision``: then flows that were judged under another one are judged again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field

from netaccel.compile.diff import Step, Write
from netaccel.compile.policy import MAPS, Compiler, Image, Limits, differences, everything
from netaccel.errors import DatapathError, MapFullError
from netaccel.model.address import Address
from netaccel.model.endpoint import PodKey
from netaccel.model.event import ObjectKey
from netaccel.model.policy import Policy, PolicyKey
from netaccel.model.snapshot import World
from netaccel.reconcile.collector import quiet_gc
from netaccel.reconcile.dump import Maps
from netaccel.reconcile.status import Condition, State
from netaccel.records import PolicyRevision

_REVISIONS = (1 << 32) - 1
_LARGE = 50
"""Changes from which on a pass may take longer than an event loop should wait."""


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """One pass that succeeded."""

    changes: int = 0
    """Objects that were looked at."""
    written: int = 0
    """Entries written and removed."""
    drift: Counter[str] = field(default_factory=Counter)
    """Entries, rows and tables found other than written, by map."""
    compared: bool = False
    """The maps were read first."""
    revision: int = 0
    """What the map ``policy_revision`` holds now."""
    duration: float = 0.0
    """Seconds that the pass took."""
    latency: float | None = None
    """Seconds from the oldest event's arrival to the last write; None: no event led to it."""


class PolicyEngine:
    """Holds what is compiled, and what is still to do."""

    def __init__(
        self, maps: Maps, constants: Mapping[str, int], node_name: str, *, strict: bool = False
    ) -> None:
        """``constants``: enumerators of abi.h by name. ``strict``: pods without an endpoint carry nothing."""
        self.placed: Mapping[PodKey, int] = {}
        """Pods whose policy is in force, with the ifindex of their device."""
        self._maps = maps
        self._compiler = Compiler(constants, node_name, Limits.of(maps.capacity))
        self._strict = strict
        self._revision = 0
        self._devices: dict[PodKey, int] = {}
        self._knows_devices = False  # else a pass after a start would take away what is enforced
        self._host: frozenset[Address] = frozenset()
        self._changed: set[ObjectKey] = set()
        self._started = False
        self._trusted = False  # the maps are as the compiler thinks
        self._compare = False
        self._stirred = False  # devices or addresses are others
        self._again = False  # flows are to be judged anew, whatever is written
        self._full = ""  # the map that was full in the last pass

    # ------------------------------------------------------------- what is to do

    def take(self, world: World) -> int:
        """Note what has changed in the world; how many objects."""
        changed = world.drain_changes()
        self._changed |= changed
        return len(changed)

    def set_devices(self, devices: Mapping[PodKey, int]) -> None:
        """Pods of this node with the ifindex of their device on the node; without those that have none."""
        if devices != self._devices or not self._knows_devices:
            self._devices, self._knows_devices = dict(devices), True
            self._stirred = True

    def set_host(self, addresses: Iterable[Address]) -> None:
        """All addresses of this node's own devices, 16 bytes each."""
        found = frozenset(addresses)
        if found != self._host:
            self._host = found
            self._stirred = True

    def set_strict(self, strict: bool) -> None:
        """Whether pods without an endpoint carry nothing; written by the next pass."""
        if strict != self._strict:
            self._strict = strict
            self._trusted = False

    def judge_again(self) -> None:
        """Established flows are judged anew: whether a program translates them may be otherwise now."""
        self._again = True

    def request_compare(self) -> None:
        """Read the maps in the next pass, repair what is other than written, try again what was refused."""
        self._compare = True

    def due(self, world: World) -> bool:
        """Whether a pass has something to do. Never before all objects, and all devices, were told."""
        if not (world.synced and self._knows_devices):
            return False
        to_do = self._changed or self._stirred or self._again or self._compare
        return bool(to_do or not self._trusted)

    @property
    def heavy(self) -> bool:
        """Whether the next pass may take longer than an event loop should wait."""
        return self._compare or not self._trusted or len(self._changed) > _LARGE

    # ----------------------------------------------------------------- questions

    @property
    def selected(self) -> Counter[PolicyKey]:
        """How many of this node's pods each policy selects, as last compiled."""
        return self._compiler.selected

    @property
    def left_out(self) -> frozenset[PodKey]:
        """Pods for which the map ``policy_endpoints`` has no room: they are not enforceable."""
        return self._compiler.left_out

    def conditions(self, world: World) -> dict[PolicyKey, Condition]:
        """What became of every policy, as last compiled."""
        return {key: self._condition(policy) for key, policy in world.policies().items()}

    def _condition(self, policy: Policy) -> Condition:
        why = self._compiler.refused.get(policy.key) or self._compiler.closed
        if why:
            return Condition(State.REJECTED, (f"{why}; what it selects is denied until it fits",))
        if policy.denies:
            return Condition(State.REJECTED, (f"{policy.denies}; what it selects is denied",))
        reasons = tuple(f"{path}: {reason}" if path else reason for path, reason in policy.warnings)
        return Condition(State.DEGRADED if reasons else State.ACCEPTED, reasons)

    # -------------------------------------------------------------------- a pass

    def run(self, world: World) -> PolicyReport:
        """Do what is to do. Raises DatapathError: the next pass then reads the maps and does it again."""
        if not self.due(world):
            return PolicyReport(revision=self._revision)
        heavy = self.heavy
        compare, self._compare, self._stirred = self._compare, False, False
        try:
            with quiet_gc() if heavy else nullcontext():
                report = self._run(world, compare)
        except DatapathError as error:
            self._trusted = False
            if not isinstance(error, MapFullError):
                self._full = ""
            raise
        self._trusted, self._full = True, ""
        return report

    def _run(self, world: World, compare: bool) -> PolicyReport:
        trusted = self._trusted
        again, self._again = self._again, False
        compared = compare or not trusted
        drift = self._read() if compared else Counter()
        changed = self._changed if self._started else everything(world)
        looked_at = len(changed)
        if compare:
            self._compiler.limit(Limits.of(self._maps.capacity))
            changed = changed | {_object(key) for key in self._compiler.refused}
        self._trusted, self._started, self._changed = False, True, set()
        todo = self._compiler.update(world, changed, self._devices, self._host)
        written = self._apply(todo)
        if todo or again or not trusted or "policy_revision" in drift:
            self._bump()
            written += 1
        self._compiler.commit()
        self.placed = self._compiler.placed
        return PolicyReport(looked_at, written, drift, compared, self._revision)

    def _read(self) -> Counter[str]:
        """Take what the maps hold for what was written; how far it was not."""
        found = Image.of({name: self._maps.dump(name) for name in MAPS})
        revision = self._maps.dump("policy_revision").get(0, PolicyRevision(0, 0))
        drift: Counter[str] = Counter()
        if self._trusted:
            drift = differences(self._compiler.held, found)
            if revision != PolicyRevision(self._revision, int(self._strict)):
                drift["policy_revision"] += 1
            if not drift:
                return drift
        self._revision = max(self._revision, revision.revision)
        self._compiler.adopt(found, full=bool(self._full))
        return drift

    def _apply(self, todo: Iterable[Step]) -> int:
        written = 0
        for step in todo:
            if isinstance(step, Write):
                self._write(step)
                written += len(step.entries)
            else:
                self._maps.delete(step.map, step.keys)
                written += len(step.keys)
        return written

    def _write(self, step: Write) -> None:
        """A map that is full has room made in the next pass; if that was done, it is smaller than it says."""
        try:
            self._maps.write(step.map, step.entries)
        except MapFullError:
            if self._full:
                self._compiler.limit(self._compiler.limits.at_most(step.map, len(self._maps.dump(step.map))))
            self._full = step.map
            raise

    def _bump(self) -> None:
        """What was judged before is judged again. 0 is what the map holds before anything is judged."""
        revision = self._revision % _REVISIONS + 1
        self._maps.write("policy_revision", [(0, PolicyRevision(revision, int(self._strict)))])
        self._revision = revision


def _object(key: PolicyKey) -> ObjectKey:
    return ObjectKey(key.kind.value, key.namespace, key.name)
