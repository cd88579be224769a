# SPDX-License-Identifier: Apache-2.0
"""TrafficPolicy and ClusterTrafficPolicy (netaccel.io/v1alpha1): this project's own kinds.

``policies/crds/`` says the same in OpenAPI and CEL; ``tests/cases/crds/`` holds the two together. What the
API server refuses is refused here too: an object of a file has met no API server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from netaccel.errors import ObjectError
from netaccel.model.policy import (
    Action,
    Direction,
    Entity,
    EntityPeer,
    Kind,
    Mode,
    Peer,
    PodPeer,
    Policy,
    PolicyKey,
    Rule,
    ServicePeer,
    Subject,
    Tier,
)
from netaccel.model.service import ServiceKey
from netaccel.sources import checks
from netaccel.sources.policies import transports
from netaccel.sources.policies.blocks import block, strict_cidr
from netaccel.sources.policies.forms import Form, read
from netaccel.sources.policies.rules import Warnings, rule
from netaccel.sources.policies.selectors import BoundedSelector, selector

PRIORITY_MAX = 1000
RULES_MAX, PEERS_MAX, PORTS_MAX, EXCEPTS_MAX = 50, 30, 30, 50
NAME_MAX = 100


class NamespacedSubject(Form):
    """subject of a TrafficPolicy. Missing or empty ``pods``: all pods of its namespace."""

    pods: BoundedSelector | None = None


class ClusterSubject(Form):
    """subject of a ClusterTrafficPolicy. Empty ``namespaces``: all."""

    namespaces: BoundedSelector
    pods: BoundedSelector | None = None


class ServiceReference(Form):
    """service. Without a namespace: the policy's own."""

    namespace: str | None = None
    name: str


class PeerForm(Form):
    """from[] and to[]: one of selectors, a CIDR, a Service and an entity."""

    pod_selector: BoundedSelector | None = None
    namespace_selector: BoundedSelector | None = None
    cidr: str | None = None
    excepts: Annotated[list[str], Field(max_length=EXCEPTS_MAX)] | None = Field(None, alias="except")
    service: ServiceReference | None = None
    entity: Literal["host", "node", "world"] | None = None


Peers = Annotated[list[PeerForm], Field(min_length=1, max_length=PEERS_MAX)]
Ports = Annotated[list[transports.PortForm], Field(min_length=1, max_length=PORTS_MAX)]
RuleName = Annotated[str, Field(max_length=NAME_MAX)]
NamespacedAction = Literal["Allow", "Drop", "Reject", "Monitor"]
ClusterAction = Literal["Allow", "Drop", "Reject", "Monitor", "Pass"]


class IngressRule(Form):
    """ingress[]. Without ``from``: from everywhere. Without ``ports``: every protocol and port."""

    name: RuleName | None = None
    action: NamespacedAction
    peers: Peers | None = Field(None, alias="from")
    ports: Ports | None = None


class EgressRule(Form):
    """egress[]."""

    name: RuleName | None = None
    action: NamespacedAction
    peers: Peers | None = Field(None, alias="to")
    ports: Ports | None = None


class ClusterIngressRule(IngressRule):
    """ingress[] of the cluster kind."""

    action: ClusterAction  # type: ignore[assignment]  # it has one more


class ClusterEgressRule(EgressRule):
    """egress[] of the cluster kind."""

    action: ClusterAction  # type: ignore[assignment]  # it has one more


class NamespacedSpec(Form):
    """spec of a TrafficPolicy."""

    mode: Literal["Enforce", "Monitor"] | None = None
    subject: NamespacedSubject
    ingress: Annotated[list[IngressRule], Field(max_length=RULES_MAX)] | None = None
    egress: Annotated[list[EgressRule], Field(max_length=RULES_MAX)] | None = None


class ClusterSpec(Form):
    """spec of a ClusterTrafficPolicy."""

    mode: Literal["Enforce", "Monitor"] | None = None
    priority: int = Field(ge=0, le=PRIORITY_MAX)
    subject: ClusterSubject
    ingress: Annotated[list[ClusterIngressRule], Field(max_length=RULES_MAX)] | None = None
    egress: Annotated[list[ClusterEgressRule], Field(max_length=RULES_MAX)] | None = None


def convert(spec: object, key: PolicyKey) -> Policy:
    """Validate and convert. Raises ObjectError."""
    if spec is None:
        raise ObjectError("spec", "is missing: give it")
    clusterwide = key.kind is Kind.CLUSTER_TRAFFIC
    form = read(ClusterSpec, spec, "spec") if clusterwide else read(NamespacedSpec, spec, "spec")
    warnings = Warnings()
    if form.ingress is None and form.egress is None:
        warnings.say("spec", "has neither ingress nor egress, so it does nothing: give one of them")
    rules = {
        Direction.INGRESS: _rules(form.ingress or [], Direction.INGRESS, key, warnings),
        Direction.EGRESS: _rules(form.egress or [], Direction.EGRESS, key, warnings),
    }
    given = {Direction.INGRESS: form.ingress, Direction.EGRESS: form.egress}
    isolates = frozenset(one for one in Direction if not clusterwide and _isolating(given[one], rules[one]))
    return Policy(
        key=key,
        tier=Tier.ADMIN if clusterwide else Tier.NAMESPACED,
        subject=_subject(form.subject),
        ingress=rules[Direction.INGRESS],
        egress=rules[Direction.EGRESS],
        isolates=isolates,
        mode=Mode(form.mode) if form.mode else Mode.ENFORCE,
        priority=form.priority if isinstance(form, ClusterSpec) else 0,
        warnings=tuple(warnings.found),
    )


def subject(spec: dict[str, Any]) -> Subject:
    """A TrafficPolicy's subject, of a spec that can't be used as a whole. Raises ObjectError."""
    return _subject(read(NamespacedSubject, spec.get("subject"), "spec.subject"))


def cluster_subject(spec: dict[str, Any]) -> Subject:
    """A ClusterTrafficPolicy's subject, of a spec that can't be used as a whole. Raises ObjectError."""
    return _subject(read(ClusterSubject, spec.get("subject"), "spec.subject"))


def _subject(form: NamespacedSubject | ClusterSubject) -> Subject:
    pods = selector(form.pods, "spec.subject.pods") if form.pods else ()
    if isinstance(form, ClusterSubject):
        return Subject(pods, selector(form.namespaces, "spec.subject.namespaces"))
    return Subject(pods, None)


def _isolating(given: object, rules: tuple[Rule, ...]) -> bool:
    """Whether a direction's field is there and empty, or holds an Allow."""
    return given is not None and (not rules or any(one.action is Action.ALLOW for one in rules))


def _rules(
    forms: Sequence[IngressRule | EgressRule],
    direction: Direction,
    key: PolicyKey,
    warnings: Warnings,
) -> tuple[Rule, ...]:
    side = "from" if direction is Direction.INGRESS else "to"
    found: list[Rule] = []
    for index, form in enumerate(forms):
        path = f"spec.{direction.name.lower()}[{index}]"
        action = Action(form.action)
        peers = _each(form.peers, f"{path}.{side}", lambda peer, where: _peer(peer, key, where))
        ports = _each(form.ports, f"{path}.ports", transports.ports)
        host = EntityPeer(Entity.HOST)
        if direction is Direction.INGRESS and action is not Action.ALLOW and host in (peers or ()):
            assert peers is not None
            place = f"{path}.{side}[{peers.index(host)}].entity"
            raise ObjectError(
                place, f"host always reaches its pods, {form.action} can't change that: remove it"
            )
        flat = None if ports is None else [port for group in ports for port in group]
        found.append(rule(action, peers, flat, form.name or "", warnings))
    return tuple(found)


def _each(forms: list[Any] | None, path: str, read_one: Callable[[Any, str], Any]) -> list[Any] | None:
    if forms is None:
        return None
    return [read_one(form, f"{path}[{index}]") for index, form in enumerate(forms)]


def _peer(form: PeerForm, key: PolicyKey, path: str) -> Peer:
    selects = form.pod_selector is not None or form.namespace_selector is not None
    ways = (selects, form.cidr is not None, form.service is not None, form.entity is not None)
    if sum(ways) != 1:
        amount = "none" if not any(ways) else "several"
        raise ObjectError(
            path, f"has {amount} of selectors, cidr, service and entity: give one, and a peer for each other"
        )
    if form.excepts is not None and form.cidr is None:
        raise ObjectError(f"{path}.except", "has no cidr that it is an exception of: give cidr")
    if selects:
        return _pods(form, key, path)
    if form.cidr is not None:
        strict_cidr(form.cidr, f"{path}.cidr")
        for index, text in enumerate(form.excepts or ()):
            strict_cidr(text, f"{path}.except[{index}]")
        return block(form.cidr, form.excepts or (), path)
    if form.service is not None:
        return _service(form.service, key, f"{path}.service")
    return EntityPeer(Entity(form.entity))


def _pods(form: PeerForm, key: PolicyKey, path: str) -> PodPeer:
    namespaces = form.namespace_selector
    if namespaces is None and key.kind is Kind.CLUSTER_TRAFFIC:
        raise ObjectError(f"{path}.namespaceSelector", "is missing: give it, {} for all namespaces")
    return PodPeer(
        selector(form.pod_selector, f"{path}.podSelector") if form.pod_selector else (),
        selector(namespaces, f"{path}.namespaceSelector") if namespaces else None,
    )


def _service(form: ServiceReference, key: PolicyKey, path: str) -> ServicePeer:
    if not form.namespace and key.kind is Kind.CLUSTER_TRAFFIC:
        raise ObjectError(f"{path}.namespace", "is missing: give the Service's namespace")
    namespace = checks.dns_label(form.namespace, f"{path}.namespace") if form.namespace else key.namespace
    return ServicePeer(ServiceKey(namespace, checks.dns_label(form.name, f"{path}.name")))
