# SPDX-License-Identifier: Apache-2.0
"""What NodeState says: the snapshot that an agent gives, and the object that is made of it. Pure."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from netaccel.writers.times import rfc3339

API_VERSION = "netaccel.io/v1alpha1"
PATH = "/apis/netaccel.io/v1alpha1/nodestates"
READY = "Ready"

# Bounds of policies/crds/nodestates.yaml.
MAX_WARNINGS = 50
MAX_POLICIES = 64
_MAX_POLICY_MESSAGE = 256
_MAX_OBJECT, _MAX_REASON, _MAX_MESSAGE, _MAX_TEXT = 512, 128, 1024, 128

_FIGURE = re.compile(r"\d+")


class Mode(enum.Enum):
    """How the agent serves its node."""

    BESIDE = "beside"
    INSTEAD = "instead"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Warned:
    """One thing that is refused or limited. ``object``: as "Service default/web", "" for the node itself.

    ``reason``: one word, as Rejected. ``message``: a sentence.
    """

    object: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PolicyState:
    """One policy that selects pods of this node. ``policy``: as "TrafficPolicy shop/web".

    ``state``: InForce, Degraded, Refused, Waiting or Off. ``counts``: packets allowed, dropped and audited
    since the node's maps were made (docs/decisions/0014-policy-status.md).
    """

    policy: str
    generation: int
    state: str
    message: str = ""
    counts: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """One node as its agent sees it now. Counters of traffic are metrics; those of policies ride along.

    ``services`` counts service ports, ``frontends`` and ``backends`` entries, all in the kernel's maps.
    ``drift``: entries repaired since the start. ``last_sync``: time.time() at which what is known was last
    known to be current, None for never. ``not_ready``: reasons; empty where the node is served.
    """

    version: str
    kernel: str
    mode: Mode
    not_ready: tuple[str, ...] = ()
    services: int = 0
    frontends: int = 0
    backends: int = 0
    drift: int = 0
    last_sync: float | None = None
    warnings: tuple[Warned, ...] = ()
    policies: tuple[PolicyState, ...] = ()
    acceleration: tuple[str, ...] = ()
    """Paths between the node's pods that are in force, of ``peer`` and ``socket``."""

    def matters(self) -> NodeSnapshot:
        """The same without figures and times, those in texts too: what people wait to see when it changes."""
        warnings = tuple(replace(w, message=_FIGURE.sub("", w.message)) for w in self.warnings)
        reasons = tuple(_FIGURE.sub("", reason) for reason in self.not_ready)
        return replace(
            self,
            services=0,
            frontends=0,
            backends=0,
            drift=0,
            last_sync=None,
            warnings=warnings,
            not_ready=reasons,
            policies=(),
        )

    def stands(self) -> NodeSnapshot:
        """The same without what goes on by itself."""
        policies = tuple(replace(one, counts=(0, 0, 0)) for one in self.policies)
        return replace(self, last_sync=None, policies=policies)


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    """metav1.Condition."""

    type: str
    status: str
    reason: str
    message: str
    last_transition_time: str


class OwnerReference(msgspec.Struct, frozen=True, rename="camel"):
    """metav1.OwnerReference to a Node."""

    name: str
    uid: str
    kind: str = "Node"
    api_version: str = "v1"


def ready(snapshot: NodeSnapshot, before: Condition | None, now: float) -> Condition:
    """The condition Ready; it keeps the time of its last transition where its status is as ``before``."""
    status = "False" if snapshot.not_ready else "True"
    if snapshot.not_ready:
        reason, message = "NotServing", "; ".join(snapshot.not_ready)
    elif snapshot.mode is Mode.DRAINING:
        reason, message = "Draining", "open flows are served, new ones are left to the node's stack"
    else:
        reason, message = "Serving", "the node's Services are in force"
    since = before.last_transition_time if before and before.status == status else rfc3339(now)
    return Condition(READY, status, reason, message[:_MAX_MESSAGE], since)


def node_state(
    node: str, owner: str, snapshot: NodeSnapshot, condition: Condition, now: float
) -> dict[str, object]:
    """What is applied. ``owner``: the Node's uid, "" where there is no such Node. ``now``: time.time()."""
    metadata: dict[str, object] = {"name": node}
    if owner:
        metadata["ownerReferences"] = [OwnerReference(node, owner)]
    status: dict[str, object] = {
        "version": snapshot.version[:_MAX_TEXT],
        "kernel": snapshot.kernel[:_MAX_TEXT],
        "mode": snapshot.mode.value,
        "services": snapshot.services,
        "frontends": snapshot.frontends,
        "backends": snapshot.backends,
        "drift": snapshot.drift,
        "heartbeat": rfc3339(now),
        "conditions": [condition],
        "warningCount": len(snapshot.warnings),
        "warnings": _warnings(snapshot.warnings),
    }
    if snapshot.acceleration:
        status["acceleration"] = ",".join(snapshot.acceleration)
    if snapshot.policies:
        status["policies"] = _policies(snapshot.policies)
    if snapshot.last_sync is not None:
        status["lastSync"] = rfc3339(snapshot.last_sync)
    return {"apiVersion": API_VERSION, "kind": "NodeState", "metadata": metadata, "status": status}


def _policies(policies: Sequence[PolicyState]) -> dict[str, object]:
    return {
        "more": max(0, len(policies) - MAX_POLICIES),
        "held": [
            {
                "policy": one.policy,
                "generation": one.generation,
                "state": one.state,
                **({"message": one.message[:_MAX_POLICY_MESSAGE]} if one.message else {}),
                **dict(zip(("allowed", "dropped", "audited"), one.counts, strict=True)),
            }
            for one in policies[:MAX_POLICIES]
        ],
    }


def _warnings(warnings: Sequence[Warned]) -> list[dict[str, str]]:
    return [
        {
            **({"object": warned.object[:_MAX_OBJECT]} if warned.object else {}),
            "reason": warned.reason[:_MAX_REASON],
            "message": warned.message[:_MAX_MESSAGE],
        }
        for warned in warnings[:MAX_WARNINGS]
    ]
