# SPDX-License-Identifier: Apache-2.0
"""ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2; KEP-2091, NPEP-122 and what followed).

Peers that aren't known fail closed, as the API demands of implementations; ``domainNames`` are such.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from netaccel.errors import ObjectError
from netaccel.model.policy import (
    Action,
    NamedPort,
    NodePeer,
    Peer,
    PodPeer,
    Policy,
    PolicyKey,
    Port,
    PortRange,
    Rule,
    Subject,
    Tier,
    UnknownPeer,
)
from netaccel.model.service import Protocol
from netaccel.sources.policies.blocks import block, port_name, port_range
from netaccel.sources.policies.forms import Form, OpenForm, given, read, unknown
from netaccel.sources.policies.rules import Warnings, rule
from netaccel.sources.policies.selectors import LabelSelector, selector

_MOST = 25
_ACTIONS = {"Accept": Action.ALLOW, "Deny": Action.DROP, "Pass": Action.PASS}
_TIERS = {"Admin": Tier.ADMIN, "Baseline": Tier.BASELINE}
PRIORITY_MAX = 1000


class NamespacedPod(Form):
    """pods. A missing namespaceSelector selects all namespaces."""

    namespace_selector: LabelSelector | None = None
    pod_selector: LabelSelector


class SubjectForm(Form):
    """subject."""

    namespaces: LabelSelector | None = None
    pods: NamespacedPod | None = None


class IngressPeer(OpenForm):
    """from[]."""

    namespaces: LabelSelector | None = None
    pods: NamespacedPod | None = None


class EgressPeer(OpenForm):
    """to[]."""

    namespaces: LabelSelector | None = None
    pods: NamespacedPod | None = None
    nodes: LabelSelector | None = None
    networks: Annotated[list[str], Field(min_length=1, max_length=_MOST)] | None = None
    domain_names: Annotated[list[str], Field(min_length=1, max_length=_MOST)] | None = None


class Range(Form):
    """range."""

    start: int
    end: int


class DestinationPort(Form):
    """destinationPort."""

    number: int | None = None
    range: Range | None = None


class Transport(Form):
    """tcp, udp, sctp."""

    destination_port: DestinationPort | None = None


class ProtocolForm(OpenForm):
    """protocols[]."""

    tcp: Transport | None = None
    udp: Transport | None = None
    sctp: Transport | None = None
    destination_named_port: str | None = None


Protocols = Annotated[list[ProtocolForm], Field(min_length=1, max_length=_MOST)]
ActionName = Literal["Accept", "Deny", "Pass"]


class IngressRule(Form):
    """ingress[]."""

    name: str | None = Field(None, max_length=100)
    action: ActionName
    peers: list[IngressPeer] = Field(alias="from", min_length=1, max_length=_MOST)
    protocols: Protocols | None = None


class EgressRule(Form):
    """egress[]."""

    name: str | None = Field(None, max_length=100)
    action: ActionName
    peers: list[EgressPeer] = Field(alias="to", min_length=1, max_length=_MOST)
    protocols: Protocols | None = None


class Spec(Form):
    """spec."""

    tier: Literal["Admin", "Baseline"]
    priority: int = Field(ge=0, le=PRIORITY_MAX)
    subject: SubjectForm
    ingress: list[IngressRule] | None = Field(None, max_length=_MOST)
    egress: list[EgressRule] | None = Field(None, max_length=_MOST)


def convert(spec: object, key: PolicyKey) -> Policy:
    """Validate and convert. Raises ObjectError."""
    if spec is None:
        raise ObjectError("spec", "is missing: give it")
    form = read(Spec, spec, "spec")
    warnings = Warnings()
    return Policy(
        key=key,
        tier=_TIERS[form.tier],
        subject=_subject(form.subject),
        ingress=_rules(form.ingress or [], "spec.ingress", "from", warnings),
        egress=_rules(form.egress or [], "spec.egress", "to", warnings),
        priority=form.priority,
        warnings=tuple(warnings.found),
    )


def subject(spec: dict[str, Any]) -> Subject:
    """The subject of a spec that can't be used as a whole. Raises ObjectError where it can't be read."""
    return _subject(read(SubjectForm, spec.get("subject"), "spec.subject"))


def tier(spec: dict[str, Any]) -> Tier:
    """The tier of a spec that can't be used as a whole: the first one where it can't be read."""
    given = spec.get("tier")
    return _TIERS.get(given, Tier.ADMIN) if isinstance(given, str) else Tier.ADMIN


def _subject(form: SubjectForm) -> Subject:
    peer = _pods(form.pods, form.namespaces, "spec.subject")
    if peer is None:
        raise ObjectError("spec.subject", "is empty: give namespaces or pods")
    return Subject(peer.pods, peer.namespaces)


def _pods(pods: NamespacedPod | None, namespaces: LabelSelector | None, path: str) -> PodPeer | None:
    """Pods by ``pods`` or by ``namespaces``; None where neither is there."""
    if pods is not None and namespaces is not None:
        raise ObjectError(path, "has both namespaces and pods: give one of them")
    if namespaces is not None:
        return PodPeer((), selector(namespaces, f"{path}.namespaces"))
    if pods is None:
        return None
    inner = pods.namespace_selector
    return PodPeer(
        selector(pods.pod_selector, f"{path}.pods.podSelector"),
        selector(inner, f"{path}.pods.namespaceSelector") if inner else (),
    )


def _rules(
    forms: Sequence[IngressRule | EgressRule], path: str, side: str, warnings: Warnings
) -> tuple[Rule, ...]:
    found: list[Rule] = []
    for index, form in enumerate(forms):
        where = f"{path}[{index}]"
        action = _ACTIONS[form.action]
        entries: Sequence[IngressPeer | EgressPeer] = form.peers
        peers = [
            one for place, peer in enumerate(entries) for one in _peers(peer, f"{where}.{side}[{place}]")
        ]
        ports, closed = _ports(form, where)
        if closed and action is not Action.ALLOW:
            action, ports = Action.DROP, None
        effect = "it allows nothing" if action is Action.ALLOW else "the rule denies all ports"
        for path_of_one in closed:
            warnings.say(path_of_one, f"names no known protocol: {effect}; correct it, or update netaccel")
        found.append(rule(action, peers, ports, form.name or "", warnings))
    return tuple(found)


def _peers(form: IngressPeer | EgressPeer, path: str) -> tuple[Peer, ...]:
    """One entry of from or to: several CIDRs are several peers."""
    strange = unknown(form)
    if strange:
        return (UnknownPeer(path, f"{', '.join(strange)} is unknown here: correct it, or update netaccel"),)
    ways = given(form)
    if not ways:
        return (UnknownPeer(path, "names no peer: give one, or update netaccel"),)
    if len(ways) > 1:
        raise ObjectError(path, f"has both {' and '.join(ways)}: make a peer of each")
    pods = _pods(form.pods, form.namespaces, path)
    if pods is not None:
        return (pods,)
    assert isinstance(form, EgressPeer)
    if form.nodes is not None:
        return (NodePeer(selector(form.nodes, f"{path}.nodes")),)
    if form.domain_names is not None:
        return (UnknownPeer(f"{path}.domainNames", "domainNames isn't enforced yet: give networks"),)
    texts = enumerate(form.networks or ())
    return tuple(block(text, (), path, name=f"networks[{index}]") for index, text in texts)


def _ports(form: IngressRule | EgressRule, path: str) -> tuple[list[Port] | None, list[str]]:
    """The ports (None: all), and the paths of entries that hold nothing that is known."""
    if form.protocols is None:
        return None, []
    podless = isinstance(form, EgressRule) and any(
        peer.pods is None and peer.namespaces is None for peer in form.peers
    )
    found: list[Port] = []
    strange: list[str] = []
    for index, entry in enumerate(form.protocols):
        where = f"{path}.protocols[{index}]"
        port = _port(entry, where)
        if isinstance(port, NamedPort) and podless:
            reason = "stands beside peers that aren't pods: give numbers"
            raise ObjectError(f"{where}.destinationNamedPort", reason)
        if port is None:
            strange.append(where)
        else:
            found.append(port)
    return found, strange


def _port(form: ProtocolForm, path: str) -> Port | None:
    """One entry of protocols; None where it holds nothing that is known."""
    ways = given(form)
    if unknown(form) or not ways:
        return None
    if len(ways) > 1:
        raise ObjectError(path, f"has both {' and '.join(ways)}: make an entry of each")
    if form.destination_named_port is not None:
        return NamedPort(port_name(form.destination_named_port, f"{path}.destinationNamedPort"), None)
    name = ways[0]
    transport: Transport = getattr(form, name)
    protocol = Protocol[name.upper()]
    where = f"{path}.{name}.destinationPort"
    if transport.destination_port is None:
        raise ObjectError(where, "is missing: give it")
    return _destination(transport.destination_port, protocol, where)


def _destination(form: DestinationPort, protocol: Protocol, path: str) -> PortRange:
    if (form.number is None) == (form.range is None):
        raise ObjectError(path, "needs one of number and range: give one of them")
    if form.number is not None:
        return port_range(protocol, form.number, None, f"{path}.number", last_name="")
    assert form.range is not None
    start, end = form.range.start, form.range.end
    found = port_range(protocol, start, end, f"{path}.range.start", last_name=f"{path}.range.end")
    if start == end:
        raise ObjectError(f"{path}.range.end", f"{end} is the start too: give number: {end}")
    return found
