# SPDX-License-Identifier: Apache-2.0
"""What the status of a policy says, of what all nodes say (docs/decisions/0014-policy-status.md). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from netaccel.explain.policies import Standing
from netaccel.model.policy import Kind
from netaccel.writers.state import Condition
from netaccel.writers.times import rfc3339

ACCEPTED = "Accepted"
THEIRS = "netaccel.io/Accepted"
"""Of ClusterNetworkPolicy, whose conditions others write too."""

# Bounds of policies/crds/trafficpolicies.yaml.
_MAX_WARNINGS, _MAX_PATH, _MAX_MESSAGE = 50, 512, 1024
_SAID = 3  # nodes' and readers' reasons in one message

_ENFORCING = frozenset(("InForce", "Degraded"))


@dataclass(frozen=True, slots=True)
class Reported:
    """What one node's NodeState says of one policy."""

    node: str
    generation: int
    state: str
    message: str = ""
    counts: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class PolicyStatus:
    """All of a status but for the time of the condition's last change."""

    generation: int
    accepted: bool
    reason: str
    message: str
    pods: int = 0
    enforcing: int = 0
    expected: int = 0
    counts: tuple[int, int, int] = (0, 0, 0)
    warnings: tuple[tuple[str, str], ...] = field(default=())

    def matters(self) -> PolicyStatus:
        """The same without counts: what people wait to see when it changes."""
        return replace(self, counts=(0, 0, 0))


def policy_status(standing: Standing, reported: Iterable[Reported]) -> PolicyStatus:
    """Of one policy. ``reported``: by nodes that name it."""
    reports = [one for one in reported if one.node in standing.nodes]
    sums = tuple(sum(one.counts[index] for one in reports) for index in range(3))
    held = [one for one in reports if one.generation == standing.generation and one.state in _ENFORCING]
    refusals = [one for one in reports if one.state not in (*_ENFORCING, "Waiting")]
    reason, message = _verdict(standing)
    return PolicyStatus(
        generation=standing.generation,
        accepted=reason == ACCEPTED,
        reason=reason,
        message=message[:_MAX_MESSAGE],
        pods=standing.pods,
        enforcing=len(held),
        expected=len(standing.nodes),
        counts=(sums[0], sums[1], sums[2]),
        warnings=(*_of_nodes(refusals), *standing.stricter, *standing.warnings)[:_MAX_WARNINGS],
    )


def _verdict(standing: Standing) -> tuple[str, str]:
    if standing.refused:
        stays = "what was in force before stays, or what could be read of its subject is denied"
        return "Invalid", f"{_few(standing.refused)}; {stays}"
    if standing.stricter:
        parts = [f"{path}: {message}" for path, message in standing.stricter]
        return "PartlyInvalid", f"{_few(parts)}; what can't be read allows nothing and denies everything"
    return ACCEPTED, "all of it is understood"


def _of_nodes(refusals: Sequence[Reported]) -> list[tuple[str, str]]:
    """Nodes that don't enforce it, by what they say."""
    by_reason: dict[str, list[str]] = {}
    for one in refusals:
        by_reason.setdefault(one.message or one.state, []).append(one.node)
    return [("", f"not in force on {_few(sorted(nodes))}: {why}") for why, nodes in sorted(by_reason.items())]


def _few(texts: Sequence[str]) -> str:
    more = f" (and {len(texts) - _SAID} more)" if len(texts) > _SAID else ""
    return ", ".join(texts[:_SAID]) + more


def condition(status: PolicyStatus, kind: Kind, before: Mapping[str, str], now: float) -> dict[str, Any]:
    """metav1.Condition. ``before``: the same as it was, its time is kept where the status is."""
    value = "True" if status.accepted else "False"
    same = before.get("status") == value and before.get("lastTransitionTime")
    since = str(before["lastTransitionTime"]) if same else rfc3339(now)
    named = Condition(_type(kind), value, status.reason, _message(status, kind), since)
    found: dict[str, Any] = {name: getattr(named, name) for name in ("type", "status", "reason", "message")}
    found["lastTransitionTime"] = since
    if status.generation:
        found["observedGeneration"] = status.generation
    return found


def _type(kind: Kind) -> str:
    return THEIRS if kind is Kind.CLUSTER_NETWORK else ACCEPTED


def _message(status: PolicyStatus, kind: Kind) -> str:
    if kind is not Kind.CLUSTER_NETWORK:
        return status.message
    allowed, dropped, audited = status.counts
    nodes = f"{status.enforcing} of {status.expected} nodes enforce it"
    counts = f"allowed {allowed}, dropped {dropped}, audited {audited}"
    warned = [f"{path}: {message}" if path else message for path, message in status.warnings]
    figures = f"{status.message}; selects {status.pods} pods; {nodes}; {counts}"
    return f"{figures}; {_few(warned)}" if warned else figures


def applied(
    standing: Standing, status: PolicyStatus, api_version: str, before: Mapping[str, str], now: float
) -> dict[str, Any]:
    """What is applied to the object's status. ``now``: time.time()."""
    kind, namespace, name = standing.key
    body: dict[str, Any] = {"conditions": [condition(status, kind, before, now)]}
    if kind is not Kind.CLUSTER_NETWORK:
        allowed, dropped, audited = status.counts
        body |= {
            "selectedPods": status.pods,
            "nodes": {"enforcing": status.enforcing, "expected": status.expected},
            "counts": {"allowed": allowed, "dropped": dropped, "audited": audited},
            "warnings": [
                {**({"path": path[:_MAX_PATH]} if path else {}), "message": message[:_MAX_MESSAGE]}
                for path, message in status.warnings
            ],
        }
        if status.generation:
            body["observedGeneration"] = status.generation
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": api_version, "kind": kind.value, "metadata": metadata, "status": body}
