# SPDX-License-Identifier: Apache-2.0
"""From bytes of JSON, or builtins, to objects of the model or refusals. Every source reads through here.

::

    bytes or builtins ──structs─▶ raw (narrow structs) ──services, endpoints, policies──▶ model

Kinds: Service, EndpointSlice, Pod, Node, Namespace, the four of policies, and lists of them (``List``,
``ServiceList``, ...). Any other object is none of ours. One bad object, or one bad item of a list, harms
only itself; a policy that can't be used denies its subject where there is no earlier one (``fallback``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from sys import intern
from typing import NamedTuple

from netaccel.errors import ObjectError
from netaccel.model.endpoint import PodKey, SliceKey
from netaccel.model.event import Object, ObjectKey, object_key
from netaccel.model.policy import Kind, Policy, PolicyKey
from netaccel.model.service import ServiceKey
from netaccel.sources import checks, endpoints, policies, raw, services, structs
from netaccel.sources.structs import RawObject

API_VERSIONS = {
    "Service": "v1",
    "EndpointSlice": "discovery.k8s.io/v1",
    "Pod": "v1",
    "Node": "v1",
    "Namespace": "v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "ClusterNetworkPolicy": "policy.networking.k8s.io/v1alpha2",
    "TrafficPolicy": "netaccel.io/v1alpha1",
    "ClusterTrafficPolicy": "netaccel.io/v1alpha1",
}
"""Kinds that are read, and the one version of each."""

CLUSTER_SCOPED = frozenset(("Node", "Namespace", "ClusterNetworkPolicy", "ClusterTrafficPolicy"))
POLICIES = frozenset(kind.value for kind in Kind)
DEFAULT_NAMESPACE = "default"

_TYPES: dict[str, type[raw.Named] | type[raw.Policy]] = {
    "Service": raw.Service,
    "EndpointSlice": raw.EndpointSlice,
    "Pod": raw.Pod,
    "Node": raw.Node,
    "Namespace": raw.Namespace,
    **dict.fromkeys(POLICIES, raw.Policy),
}
_FORMER_GROUPS = {"NetworkPolicy": "extensions"}
_NEARLY = 0.85  # of a name's letters (difflib's ratio): Sevice is a Service, Endpoints no EndpointSlice
_BY_FOLDED_NAME = {kind.lower(): kind for kind in (*API_VERSIONS, "List")}
_LISTS = {"List": "", **{f"{kind}List": kind for kind in API_VERSIONS}}


class Parsed(NamedTuple):
    """A valid object. ``item``: its place in a list, -1 where it stands alone."""

    key: ObjectKey
    object: Object
    item: int = -1


class Refused(NamedTuple):
    """An object that can't be used. ``key`` is None where not even that could be read.

    ``fallback``: of a policy, what denies its subject; None where the subject can't be read.
    """

    key: ObjectKey | None
    path: str
    reason: str
    item: int = -1
    fallback: Policy | None = None


Outcome = Parsed | Refused


@dataclass(frozen=True, slots=True)
class _Item:
    """One object before it is read. ``kind`` is known where a typed list gave it."""

    raw: RawObject
    kind: str
    index: int


def read(document: RawObject, kind: str = "") -> Iterator[Outcome]:
    """Read one document: an object of ours, a list of such, or something else (nothing then).

    ``kind`` says what it is where the object itself doesn't (items of an API server's list). Never
    raises for what it is given.
    """
    try:
        items = _unfold(document, kind)
    except ObjectError as err:
        yield refuse(document, kind, err)
        return
    for item in items:
        try:
            obj = decode(item.raw, item.kind)
        except ObjectError as err:
            yield refuse(item.raw, item.kind, err, item.index)
        else:
            if obj is not None:
                yield Parsed(object_key(obj), obj, item.index)


def refuse(document: RawObject, kind: str, error: ObjectError, item: int = -1) -> Refused:
    """The refusal of an object, with as much of its key, and of a policy's subject, as can be read."""
    document = structs.builtins(document)
    key = key_of(document, kind)
    if key is None or key.kind not in POLICIES:
        return Refused(key, error.path, error.reason, item)
    return Refused(key, error.path, error.reason, item, policies.stand_in(key, document, error))


def decode(document: RawObject, kind: str = "") -> Object | None:
    """Read one object that is no list; None where its kind is none of ours.

    Raises ObjectError: where in the object, why, and the remedy.
    """
    kind = kind or _kind(document)
    if kind not in _TYPES:
        return None
    obj = structs.decode(document, _TYPES[kind])
    if obj.kind is not None and obj.kind != kind:
        raise ObjectError("kind", f"is {obj.kind!r} where a {kind} belongs: put it elsewhere")
    if isinstance(obj, raw.Policy):
        about = obj.metadata or raw.PolicyMetadata()
        name = checks.dns_subdomain(about.name, "metadata.name")
        return policies.convert(obj, about, PolicyKey(Kind(kind), _namespace(kind, about.namespace), name))
    meta = obj.metadata or raw.Metadata()
    namespace = _namespace(kind, meta.namespace)
    path = "metadata.name"
    match obj:
        case raw.EndpointSlice():
            slice_key = SliceKey(namespace, checks.dns_subdomain(meta.name, path))
            return endpoints.convert_slice(obj, meta, slice_key)
        case raw.Service():
            return services.convert(obj, meta, ServiceKey(namespace, checks.dns_label(meta.name, path)))
        case raw.Pod():
            return endpoints.convert_pod(obj, meta, PodKey(namespace, checks.dns_subdomain(meta.name, path)))
        case raw.Node():
            return endpoints.convert_node(obj, meta, checks.dns_subdomain(meta.name, path))
        case raw.Namespace():
            return endpoints.convert_namespace(obj, meta, checks.dns_label(meta.name, path))
    raise AssertionError(f"no conversion of {kind}")


def _namespace(kind: str, given: str | None) -> str:
    """The namespace of an object: none of cluster kinds, ``default`` where none is given."""
    if kind in CLUSTER_SCOPED:
        return ""
    return intern(checks.dns_label(given, "metadata.namespace")) if given else DEFAULT_NAMESPACE


def key_of(document: RawObject, kind: str = "") -> ObjectKey | None:
    """As much of the key as can be read of an object that is refused; None without a kind or a name."""
    document = structs.builtins(document)
    if not isinstance(document, dict):
        return None
    meta = document.get("metadata")
    named = kind or document.get("kind")
    name = meta.get("name") if isinstance(meta, dict) else None
    if not (isinstance(named, str) and named in _TYPES and isinstance(name, str) and name):
        return None
    namespace = meta.get("namespace") if isinstance(meta, dict) else None
    if named in CLUSTER_SCOPED:
        namespace = ""
    elif not (isinstance(namespace, str) and namespace):
        namespace = DEFAULT_NAMESPACE
    return ObjectKey(named, namespace, name)


# ------------------------------------------------------------------ the head


def _unfold(document: RawObject, kind: str) -> list[_Item]:
    """The document itself, or the items of a list of objects of ours. Lists in lists are the API's no."""
    found = kind or _kind(document)
    if found not in _LISTS:
        return [_Item(document, found, -1)] if found else []
    item_kind = _LISTS[found]
    return [_Item(item, item_kind, index) for index, item in enumerate(structs.items(document))]


def _kind(document: RawObject) -> str:
    """The kind of an object of ours or of a list of them; "" for all others.

    The same kind in another group is another kind (Knative has Services too). A wrong version in the
    right group, or none, is a mistake that is said.
    """
    head = structs.decode(document, raw.Head)
    if not head.kind:
        raise ObjectError("kind", "is missing: say what it is, such as kind: Service")
    kind, version = head.kind, head.api_version or ""
    if kind not in _LISTS and kind not in API_VERSIONS:
        known = _BY_FOLDED_NAME.get(kind.lower())
        if known is not None and version in ("", API_VERSIONS.get(known, "v1")):
            raise ObjectError("kind", f"{kind!r} is written {known}: correct it")
        meant = get_close_matches(kind, API_VERSIONS, 1, _NEARLY)
        if meant and version == API_VERSIONS[meant[0]]:
            raise ObjectError("kind", f"there is no {kind!r} in {version}: did you mean {meant[0]}?")
        return ""
    wanted = API_VERSIONS.get(_LISTS.get(kind, kind), "v1")
    if version == wanted:
        return kind
    group = version.rpartition("/")[0]
    if group in ("", "core", wanted.rpartition("/")[0], _FORMER_GROUPS.get(kind)):
        given = f"{version!r} is not served" if version else "is missing"
        raise ObjectError("apiVersion", f"{given}: give apiVersion: {wanted} for a {kind}")
    return ""
