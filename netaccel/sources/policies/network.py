# SPDX-License-Identifier: Apache-2.0
"""NetworkPolicy (networking.k8s.io/v1), with the API server's defaults and checks.

Files have no API server: what it fills in (policyTypes, protocol) and refuses is done here as it does
(pkg/apis/networking/v1/defaults.go, pkg/apis/networking/validation).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from netaccel.errors import ObjectError
from netaccel.model.policy import (
    Action,
    Direction,
    Peer,
    PodPeer,
    Policy,
    PolicyKey,
    Port,
    Rule,
    Subject,
    Tier,
    UnknownPeer,
)
from netaccel.sources import checks
from netaccel.sources.policies.blocks import block, port_or_name
from netaccel.sources.policies.forms import Form, OpenForm, read, unknown
from netaccel.sources.policies.rules import Warnings, rule
from netaccel.sources.policies.selectors import LabelSelector, selector


class IPBlock(Form):
    """ipBlock."""

    cidr: str | None = None
    excepts: list[str] | None = Field(None, alias="except")


class NetworkPeer(OpenForm):
    """from[] and to[]."""

    pod_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None
    ip_block: IPBlock | None = None


class NetworkPort(Form):
    """ports[]."""

    protocol: str | None = None
    port: Any = None
    end_port: int | None = None


class IngressRule(Form):
    """ingress[]. An empty ``from`` or ``ports`` means the same as none: all."""

    peers: list[NetworkPeer] | None = Field(None, alias="from")
    ports: list[NetworkPort] | None = None


class EgressRule(Form):
    """egress[]."""

    peers: list[NetworkPeer] | None = Field(None, alias="to")
    ports: list[NetworkPort] | None = None


class Spec(Form):
    """spec. A missing podSelector selects all pods of the namespace."""

    pod_selector: LabelSelector | None = None
    policy_types: list[Literal["Ingress", "Egress"]] | None = Field(None, max_length=2)
    ingress: list[IngressRule] | None = None
    egress: list[EgressRule] | None = None


class _SubjectOnly(OpenForm):
    pod_selector: LabelSelector | None = None


def convert(spec: object, key: PolicyKey) -> Policy:
    """Validate and convert. Raises ObjectError."""
    form = read(Spec, {} if spec is None else spec, "spec")
    warnings = Warnings()
    isolates = _isolates(form)
    ingress = _rules(form.ingress or (), "spec.ingress", "from", warnings)
    egress = _rules(form.egress or (), "spec.egress", "to", warnings)
    for direction, rules in ((Direction.INGRESS, ingress), (Direction.EGRESS, egress)):
        if rules and direction not in isolates:
            name = direction.name.capitalize()
            warnings.say(f"spec.{name.lower()}", f"has no effect: add {name} to policyTypes, or remove it")
    return Policy(
        key=key,
        tier=Tier.NAMESPACED,
        subject=_subject(form.pod_selector),
        ingress=ingress if Direction.INGRESS in isolates else (),
        egress=egress if Direction.EGRESS in isolates else (),
        isolates=isolates,
        warnings=tuple(warnings.found),
    )


def subject(spec: dict[str, Any]) -> Subject:
    """The subject of a spec that can't be used as a whole. Raises ObjectError where it can't be read.

    A missing podSelector says all pods only where it can't be that its name is misspelt.
    """
    form = read(_SubjectOnly, spec, "spec")
    known = {info.alias or name for name, info in Spec.model_fields.items()}
    if form.pod_selector is None and set(spec) - known:
        raise ObjectError("spec.podSelector", "is missing: give it")
    return _subject(form.pod_selector)


def _subject(form: LabelSelector | None) -> Subject:
    return Subject(selector(form, "spec.podSelector") if form else (), None)


def _isolates(form: Spec) -> frozenset[Direction]:
    """The directions of policyTypes; without: ingress, and egress where it has rules."""
    if form.policy_types:
        return frozenset(Direction[name.upper()] for name in form.policy_types)
    return frozenset((Direction.INGRESS, Direction.EGRESS) if form.egress else (Direction.INGRESS,))


def _rules(
    forms: Sequence[IngressRule | EgressRule], path: str, side: str, warnings: Warnings
) -> tuple[Rule, ...]:
    found: list[Rule] = []
    for index, form in enumerate(forms):
        where = f"{path}[{index}]"
        peers = [_peer(peer, f"{where}.{side}[{place}]") for place, peer in enumerate(form.peers or ())]
        ports = [_port(port, f"{where}.ports[{place}]") for place, port in enumerate(form.ports or ())]
        found.append(rule(Action.ALLOW, peers or None, ports or None, "", warnings))
    return tuple(found)


def _peer(form: NetworkPeer, path: str) -> Peer:
    if strange := unknown(form):
        return UnknownPeer(path, f"{', '.join(strange)} is unknown here: correct it, or update netaccel")
    pods, namespaces = form.pod_selector, form.namespace_selector
    if form.ip_block is not None:
        if pods is not None or namespaces is not None:
            raise ObjectError(path, "has ipBlock beside a selector: make two peers of them")
        return block(form.ip_block.cidr, form.ip_block.excepts or (), f"{path}.ipBlock")
    if pods is None and namespaces is None:
        return UnknownPeer(path, "names no peer: give podSelector, namespaceSelector or ipBlock")
    return PodPeer(
        selector(pods, f"{path}.podSelector") if pods else (),
        selector(namespaces, f"{path}.namespaceSelector") if namespaces else None,
    )


def _port(form: NetworkPort, path: str) -> Port:
    protocol = checks.protocol(form.protocol, f"{path}.protocol")
    return port_or_name(form.port, protocol, form.end_port, path)
