# SPDX-License-Identifier: Apache-2.0
"""An object to its policy, or to what stands in for one that can't be used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from netaccel.errors import ObjectError
from netaccel.model.event import ObjectKey
from netaccel.model.policy import Action, Kind, Mode, Policy, PolicyKey, Rule, Subject, Tier
from netaccel.sources import checks, raw
from netaccel.sources.policies import cluster_network, network, traffic

_CONVERSIONS: Mapping[Kind, Callable[[object, PolicyKey], Policy]] = {
    Kind.NETWORK: network.convert,
    Kind.CLUSTER_NETWORK: cluster_network.convert,
    Kind.TRAFFIC: traffic.convert,
    Kind.CLUSTER_TRAFFIC: traffic.convert,
}
_SUBJECTS: Mapping[Kind, Callable[[dict[str, Any]], Subject]] = {
    Kind.NETWORK: network.subject,
    Kind.CLUSTER_NETWORK: cluster_network.subject,
    Kind.TRAFFIC: traffic.subject,
    Kind.CLUSTER_TRAFFIC: traffic.cluster_subject,
}
_OWN = frozenset((Kind.TRAFFIC, Kind.CLUSTER_TRAFFIC))
_EVERYTHING = Rule(Action.DROP, None, None)


def convert(obj: raw.Policy, meta: raw.PolicyMetadata, key: PolicyKey) -> Policy:
    """Validate and convert an object of any kind. Raises ObjectError with the first thing that is wrong."""
    policy = _CONVERSIONS[key.kind](obj.spec, key)
    return replace(
        policy,
        created=checks.timestamp(meta.creation_timestamp, "metadata.creationTimestamp"),
        uid=meta.uid or "",
        generation=meta.generation or 0,
    )


def stand_in(key: ObjectKey, document: object, error: ObjectError) -> Policy | None:
    """What denies the subject of an object that can't be used; None where the subject can't be read.

    ``document``: the object as builtins. Of the rest as much is taken over as can be read; what can't gets
    the stricter reading: the first tier, the first place in it, enforced.
    """
    spec = document.get("spec") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(spec, dict):
        return None
    kind = Kind(key.kind)
    try:
        subject = _SUBJECTS[kind](spec)
    except ObjectError:
        return None
    metadata = document.get("metadata")
    created, uid, generation = _facts(metadata if isinstance(metadata, dict) else {})
    return Policy(
        key=PolicyKey(kind, key.namespace, key.name),
        tier=_tier(kind, spec),
        subject=subject,
        ingress=(_EVERYTHING,),
        egress=(_EVERYTHING,),
        mode=Mode.MONITOR if kind in _OWN and spec.get("mode") == Mode.MONITOR.value else Mode.ENFORCE,
        priority=_priority(kind, spec),
        created=created,
        uid=uid,
        generation=generation,
        denies=str(error),
    )


def _tier(kind: Kind, spec: dict[str, Any]) -> Tier:
    if kind is Kind.CLUSTER_NETWORK:
        return cluster_network.tier(spec)
    return Tier.ADMIN if kind is Kind.CLUSTER_TRAFFIC else Tier.NAMESPACED


def _priority(kind: Kind, spec: dict[str, Any]) -> int:
    given = spec.get("priority")
    if kind not in (Kind.CLUSTER_NETWORK, Kind.CLUSTER_TRAFFIC) or type(given) is not int:
        return 0
    return given if 0 <= given <= traffic.PRIORITY_MAX else 0


def _facts(metadata: dict[str, Any]) -> tuple[float, str, int]:
    """Creation, uid and generation, as far as they can be read."""
    text, uid, generation = (metadata.get(name) for name in ("creationTimestamp", "uid", "generation"))
    try:
        created = checks.timestamp(text if isinstance(text, str) else None, "metadata.creationTimestamp")
    except ObjectError:
        created = math.inf
    return created, uid if isinstance(uid, str) else "", generation if type(generation) is int else 0
